"""Part-of-speech tagging from options to a result: data, model, loop, final test."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

from safetensors.torch import load, save

from dqk.data import PAPER_SENTENCES, TaggedSentence, Vocabulary, read_conllu
from dqk.data.batches import encode
from dqk.data.sentences import digest
from dqk.errors import CheckpointError, InvalidInputError
from dqk.nn import SequenceTagger
from dqk.training._tensorboard import require_tensorboard
from dqk.training.completion import complete
from dqk.training.config import TrainConfig, continued, resolve
from dqk.training.group import ALONE, Group
from dqk.training.loop import Trainer
from dqk.training.metrics import evaluate, most_frequent_tag_accuracy
from dqk.training.models import build_tagger, count_parameters, kernel_of, require_measurable
from dqk.training.plots import draw_curves
from dqk.training.run_folder import RunFolder
from dqk.training.state import Reporter, State
from dqk.training.tagging import Tagging

Prepare = Callable[[SequenceTagger], None]
"""Is given the model before training, for instance to have workers compute its kernels (`QKLSTM.set_executor`)."""


@dataclass(frozen=True)
class Corpus:
    """The sentences of a run.

    Attributes:
        train: to train on.
        held_out: to choose the best epoch by; empty if none are held out.
        test: for the final test; empty without one.
    """

    train: tuple[TaggedSentence, ...]
    held_out: tuple[TaggedSentence, ...] = ()
    test: tuple[TaggedSentence, ...] = ()

    @property
    def digests(self) -> dict[str, str]:
        """SHA-256 of the data and of the test data."""
        digests = {"data": digest(self.train + self.held_out)}
        return {**digests, "test": digest(self.test)} if self.test else digests


def load_corpus(config: TrainConfig) -> Corpus:
    """Reads the data of a run and splits off what is held out, from the end.

    Raises:
        DataFileError: if a file cannot be used.
        InvalidInputError: if nothing would be left to train on.
    """
    if config.data is None:
        return Corpus(PAPER_SENTENCES)
    sentences = read_conllu(config.data)
    n_held_out = math.ceil(round(len(sentences) * config.held_out, 6))
    if n_held_out >= len(sentences):
        raise InvalidInputError(
            f"--held-out: {config.held_out:g} of {config.data} ({len(sentences)} sentences) leaves none to train on; "
            "give a smaller part, 0 for none"
        )
    cut = len(sentences) - n_held_out
    test = read_conllu(config.test) if config.test is not None else []
    corpus = Corpus(tuple(sentences[:cut]), tuple(sentences[cut:]), tuple(test))
    known = _tags(corpus.train)
    for name, part in (("held-out part", corpus.held_out), ("test file", corpus.test)):
        if part and known.isdisjoint(_tags(part)):
            raise InvalidInputError(
                f"no tag of the {name} ({', '.join(sorted(_tags(part))[:5])}) occurs in the sentences to train on "
                f"({', '.join(sorted(known)[:5])}); do the files use the same tags?"
            )
    return corpus


def _tags(sentences: Iterable[TaggedSentence]) -> set[str]:
    return {tag for sentence in sentences for tag in sentence.tags}


def train_pos(
    given: Mapping[str, Any],
    out: str | os.PathLike[str] | None = None,
    reporter: Reporter | None = None,
    take_over: bool = False,
    group: Group = ALONE,
    prepare: Prepare | None = None,
) -> dict[str, Any]:
    """Trains a tagger from the start.

    Args:
        given: options by name, see `dqk.training.config.TrainConfig`.
        out: run folder, missing or empty; None for a new one under `runs`.
        reporter: hears how it goes.
        take_over: takes the folder from a process on another machine that may still hold it.
        group: the ranks that train together, each of which makes this call; all but rank 0 do what rank 0 was told.
        prepare: see `Prepare`.

    Returns:
        The result, plain data for JSON.

    Raises:
        InvalidInputError: lists everything that is wrong with the options; or the folder has content.
        DataFileError: if a data file cannot be used.
        LeaseError: if another process trains into the folder.
        CheckpointError: if the folder cannot be written, with the command that goes on afterwards.
        Interrupted: after Ctrl-C, SIGTERM or SIGUSR1, once the state is saved.
        LostRankError: if another rank is gone.
        RankEnded: on other ranks, where rank 0 raises one of the errors above.
    """
    if not group.leads:
        return _follow(group)
    config = resolve(given)
    if config.tensorboard:
        require_tensorboard()
    if config.data is not None:  # a run can be resumed from another working folder
        config = replace(config, data=str(Path(config.data).absolute()))
    if config.test is not None:
        config = replace(config, test=str(Path(config.test).absolute()))
    reporter = reporter or Reporter()
    corpus = load_corpus(config)
    vocabulary = Vocabulary.of(corpus.train, open=config.data is not None)
    reporter.preparing(config)
    model = build_tagger(config, vocabulary)  # before there is a folder, so that a mistake leaves none behind
    if prepare is not None:
        prepare(model)
    require_measurable(model)
    with RunFolder.create(out, config, take_over) as folder:
        folder.write_setup(config, corpus.digests, vocabulary)
        return _complete(_trainer(config, model, vocabulary, corpus, folder, reporter, group), corpus)


def resume_pos(
    run: str | os.PathLike[str],
    given: Mapping[str, Any],
    reporter: Reporter | None = None,
    take_over: bool = False,
    group: Group = ALONE,
    prepare: Prepare | None = None,
) -> dict[str, Any]:
    """Goes on with a run, to the same numbers as if it had never stopped.

    Args:
        run: its folder.
        given: options; they must be those of the run, except that there may be more epochs.
        reporter: hears how it goes.
        take_over: takes the run from a process on another machine that may still hold it.
        group: the ranks that go on with it, as in `train_pos`, however many there were before.
        prepare: see `Prepare`.

    Returns:
        The result; of a finished run the one that it has.

    Raises:
        InvalidInputError: lists every option that contradicts the run.
        DataFileError: if a data file cannot be used any more.
        LeaseError: if another process trains into the folder.
        CheckpointError: if the folder is not a run, or damaged, or cannot be written, or its data have changed.
        Interrupted: after Ctrl-C, SIGTERM or SIGUSR1, once the state is saved.
        LostRankError: if another rank is gone.
        RankEnded: on other ranks, where rank 0 raises one of the errors above.
    """
    if not group.leads:
        return _follow(group)
    with RunFolder.open_to_write(run, take_over) as folder:
        return _resume(folder, given, reporter or Reporter(), group, prepare)


def _resume(
    folder: RunFolder, given: Mapping[str, Any], reporter: Reporter, group: Group, prepare: Prepare | None
) -> dict[str, Any]:
    before, vocabulary, digests = folder.read_setup()
    config = continued(before, given)
    corpus = load_corpus(config)
    changed = [name for name, value in corpus.digests.items() if digests.get(name) != value]
    if changed:
        paths = ", ".join(f"{name} ({getattr(config, name)})" for name in changed)
        raise CheckpointError(f"cannot go on with {folder.path}: it began with other sentences than are now in {paths}")
    reporter.preparing(config)
    model = build_tagger(config, vocabulary)
    if prepare is not None:
        prepare(model)
    trainer = _trainer(config, model, vocabulary, corpus, folder, reporter, group)
    trainer.restore()
    result = folder.read_result()
    if result is not None and trainer.finished:
        return cast(dict[str, Any], group.share_json({"result": {**result, "run_dir": str(folder.path)}})["result"])
    if config != before:
        folder.write_setup(config, digests, vocabulary)
    return _complete(trainer, corpus)


def _trainer(
    config: TrainConfig,
    model: SequenceTagger,
    vocabulary: Vocabulary,
    corpus: Corpus,
    folder: RunFolder,
    reporter: Reporter,
    group: Group,
) -> Trainer:
    task = Tagging(config, vocabulary, corpus.train, corpus.held_out or corpus.train)
    return Trainer(config, model, task, folder, reporter, group)


def _lead(trainer: Trainer, corpus: Corpus) -> None:
    """Gives the other ranks all that they need: they read no file, so that they may be on machines which do not have it."""
    setup = {
        "options": {name: value for name, value in trainer.config.to_dict().items() if value is not None},
        "vocabulary": cast(Tagging, trainer.task).vocabulary.to_dict(),
        "train": [[sentence.words, sentence.tags] for sentence in corpus.train],
        "held_out": [[sentence.words, sentence.tags] for sentence in corpus.held_out],
        "folder": str(trainer.folder.path),
        "state": asdict(trainer.state),
    }
    trainer.group.share_json(setup)
    trainer.group.share(save(trainer.tensors()))


def _follow(group: Group) -> dict[str, Any]:
    """What ranks other than 0 do: train with it, and come to its result."""
    setup = group.share_json()
    if "result" in setup:
        return cast(dict[str, Any], setup["result"])
    config, vocabulary = resolve(setup["options"]), Vocabulary.from_dict(setup["vocabulary"])
    train, held_out = (
        tuple(TaggedSentence(tuple(words), tuple(tags)) for words, tags in setup[part])
        for part in ("train", "held_out")
    )
    folder = RunFolder(Path(setup["folder"]))  # for messages
    model = build_tagger(config, vocabulary)
    trainer = _trainer(config, model, vocabulary, Corpus(train, held_out), folder, Reporter(), group)
    trainer.adopt(load(group.share(None)), State(**setup["state"]))
    trainer.run()
    if config.profile:
        trainer.profile()
    return cast(dict[str, Any], group.share_json())


def _complete(trainer: Trainer, corpus: Corpus) -> dict[str, Any]:
    if trainer.group.size > 1:
        _lead(trainer, corpus)
    return complete(trainer, lambda: _draw(trainer, corpus), lambda: _result(trainer, corpus))


def _draw(trainer: Trainer, corpus: Corpus) -> None:
    best = trainer.state.best
    assert best is not None
    config = trainer.config
    what = "held-out sentences" if corpus.held_out else "training sentences"
    title = f"{config.model}, {count_parameters(trainer.model)} parameters, seed {config.seed}"
    draw_curves(trainer.folder.curves, trainer.state.history, title, what, best["epoch"])


def _result(trainer: Trainer, corpus: Corpus) -> dict[str, Any]:
    config, folder, state = trainer.config, trainer.folder, trainer.state
    best = state.best
    assert best is not None
    evaluated = corpus.held_out or corpus.train
    n_tokens = sum(map(len, evaluated))
    result = {
        "task": "pos",
        "model": config.model,
        "preset": config.preset,
        "parameters": count_parameters(trainer.model),
        "accuracy": best["eval_accuracy"],
        "loss": best["eval_loss"],
        "evaluated_on": "held-out sentences" if corpus.held_out else "training sentences",
        "correct": round(best["eval_accuracy"] * n_tokens),
        "tokens": n_tokens,
        "most_frequent_tag_accuracy": most_frequent_tag_accuracy(corpus.train, evaluated),
        "best_epoch": best["epoch"],
        "epochs": state.epoch,
        "seed": config.seed,
        "ranks": trainer.group.size,
        "seconds": round(sum(line["seconds"] for line in state.history), 3),
        "run_dir": str(folder.path),
    }
    if corpus.held_out:
        result["held_out_accuracy"] = best["eval_accuracy"]
    if corpus.test:
        vocabulary = cast(Tagging, trainer.task).vocabulary
        score = evaluate(trainer.model, encode(corpus.test, vocabulary), vocabulary, config.batch_size)
        result["test_accuracy"], result["test_loss"] = score.accuracy, score.loss
    kernel = kernel_of(trainer.model)
    return {**result, "kernel": kernel} if kernel else result
