"""Tags a sentence with the best parameters of a run."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from dqk.data import TaggedSentence, collate
from dqk.errors import InvalidInputError
from dqk.training import checkpoint
from dqk.training.models import build_tagger
from dqk.training.run_folder import RunFolder


@dataclass(frozen=True)
class Prediction:
    """A tagged sentence.

    Attributes:
        words: as given.
        tags: the most probable tag of each.
        probabilities: of those tags, according to the model.
        unknown: whether each word is one that training has not seen.
        model: the kind of network.
        run_dir: the run that it comes from.
    """

    words: tuple[str, ...]
    tags: tuple[str, ...]
    probabilities: tuple[float, ...]
    unknown: tuple[bool, ...]
    model: str
    run_dir: str


def predict_tags(run: str | os.PathLike[str], text: str, last: bool = False) -> Prediction:
    """Tags the words of a text.

    Args:
        run: folder of a training run.
        text: words between spaces; punctuation marks are words of their own.
        last: uses the parameters of the last epoch instead of those of the best one.

    Raises:
        InvalidInputError: if there is no word, or an unknown one and the model has no row for such.
        CheckpointError: if the folder is not a run or is damaged.
    """
    words = tuple(text.split())
    if not words:
        raise InvalidInputError(f"the text is {text!r}, expected words with spaces between them")
    folder = RunFolder.open(run)
    config, vocabulary, _ = folder.read_setup()
    rows = vocabulary.encode_words(words)
    path = folder.last if last else folder.best
    remedy = "restore it from a copy or start a new run" if last else folder.remedy_for_best
    tensors, _ = checkpoint.load_checkpoint(path, remedy)
    model = build_tagger(config, vocabulary).eval()
    checkpoint.load_model(model, tensors, path)
    batch = collate([TaggedSentence(words, words)], vocabulary)  # the tags are not used
    with torch.no_grad():
        probabilities, numbers = model(batch.words, batch.lengths)[0].softmax(-1).max(-1)
    return Prediction(
        words,
        tuple(vocabulary.tags[number] for number in numbers.tolist()),
        tuple(probabilities.tolist()),
        tuple(row == vocabulary.unknown_index for row in rows),
        config.model,
        str(folder.path),
    )
