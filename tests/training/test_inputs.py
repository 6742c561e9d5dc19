"""What the trainer gives a tagger: words that occur once are hidden at random, embeddings are dropped."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from dqk.data.batches import hidden_words
from dqk.nn import QKLSTM, SequenceTagger
from dqk.training.loop import Trainer
from dqk.training.pos import train_pos
from dqk.training.state import Reporter, State
from dqk.training.tagging import Tagging
from tests.training.corpus import write_corpus
from tests.training.test_resume import numbers


class Kept(Reporter):
    """Keeps the trainer."""

    def started(self, trainer: Trainer) -> None:
        self.trainer = trainer
        assert isinstance(trainer.task, Tagging)
        self.task = trainer.task


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    corpus = write_corpus(tmp_path_factory.mktemp("names") / "corpus.conllu", 30, names=0.8)
    return {"data": str(corpus), "embedding_dim": 6, "hidden_dim": 5, "n_qubits": 2, "n_references": 3, "epochs": 1}


def test_words_that_occur_once_become_unknown(options: dict[str, Any], tmp_path: Path) -> None:
    """Those that `hidden_words` names and no others; others in another epoch."""
    kept = Kept()
    train_pos(options, tmp_path / "run", kept)
    trainer, task, found = kept.trainer, kept.task, []
    vocabulary, sentences = task.vocabulary, list(range(len(task.train)))
    lengths = [len(task.train[k].words) for k in sentences]
    counts = Counter(word for sentence in task.train for word in sentence.words)
    rare = set(vocabulary.encode_words([word for word, count in counts.items() if count == 1]))
    assert len(rare) > 10
    for epoch in (0, 1):
        trainer.state.epoch, trainer.state.batch = epoch, 0
        (words, _, mask), _ = task.inputs(trainer.state, sentences, lengths, sentences)
        assert mask is None
        hidden = hidden_words(lengths, sentences, trainer.config.seed, epoch, 0)
        unknown: list[tuple[int, int]] = []
        for k, sentence in enumerate(task.train):
            rows = vocabulary.encode_words(list(sentence.words))
            expected = [vocabulary.unknown_index if row in rare and hidden[k, t] else row for t, row in enumerate(rows)]
            assert words[k, : len(rows)].tolist() == expected
            unknown += [(k, t) for t, row in enumerate(expected) if row == vocabulary.unknown_index]
        assert 0 < len(unknown) < len(rare)
        found.append(unknown)
    assert found[0] != found[1]


def test_dropout_reaches_the_tagger(options: dict[str, Any], tmp_path: Path) -> None:
    """And from there the loss."""
    kept, losses = Kept(), []
    for rate in (0.0, 0.5):
        train_pos({**options, "dropout": rate, "learning_rate": 1e-12}, tmp_path / str(rate), kept)
        losses.append(numbers(tmp_path / str(rate))[0]["train_loss"])
    assert abs(losses[0] - losses[1]) > 1e-5
    (_, _, mask), _ = kept.task.inputs(State(), [0, 1], [len(s.words) for s in kept.task.train[:2]], [0, 1])
    assert mask is not None and set(mask.unique().tolist()) == {0.0, 2.0}


def test_a_mask_multiplies_the_embeddings() -> None:
    """As if the network had been given their product."""
    torch.manual_seed(0)
    tagger = SequenceTagger(QKLSTM(4, 3, n_qubits=2, batch_first=True), 7, 4, 2)
    tokens, mask = torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.randint(0, 3, (2, 3, 4)).float()
    expected = tagger.head(tagger.recurrent(tagger.embedding(tokens) * mask)[0])
    torch.testing.assert_close(tagger(tokens, torch.tensor([3, 3]), mask), expected)
