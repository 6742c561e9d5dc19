"""Scores against sums written out by hand."""

import math

import pytest
import torch
from torch import nn

from dqk.data import TaggedSentence, Vocabulary, collate
from dqk.data.batches import encode
from dqk.nn import SequenceTagger
from dqk.training.metrics import count_correct, evaluate, most_frequent_tag_accuracy, token_loss

SENTENCES = (
    TaggedSentence(("a", "b", "c"), ("X", "Y", "X")),
    TaggedSentence(("b",), ("Y",)),
    TaggedSentence(("c", "c", "a", "b", "d"), ("X", "Z", "X", "Y", "Z")),
)


def test_token_loss_counts_words_with_a_known_tag() -> None:
    logits = torch.log(torch.tensor([[[0.5, 0.5], [0.25, 0.75], [0.9, 0.1]]], dtype=torch.float64))
    loss, count = token_loss(logits, torch.tensor([[0, 1, -100]]))
    assert count == 2
    assert loss.item() == pytest.approx(math.log(2) + math.log(4 / 3), abs=1e-12)
    assert token_loss(logits, torch.tensor([[0, -1, -100]]))[1] == 1
    assert count_correct(logits, torch.tensor([[0, 1, -100]])) == 2
    assert count_correct(logits, torch.tensor([[1, -1, -100]])) == 0


@pytest.fixture
def tagger() -> SequenceTagger:
    torch.manual_seed(0)
    recurrent = nn.LSTM(3, 4, batch_first=True, dtype=torch.float64)
    return SequenceTagger(recurrent, Vocabulary.of(SENTENCES).n_rows, 3, 3, padding_index=0)


def test_padding_changes_neither_loss_nor_gradient(tagger: SequenceTagger) -> None:
    """One padded batch against the sentences one by one, weighted by their words."""
    vocabulary = Vocabulary.of(SENTENCES)
    batch = collate(SENTENCES, vocabulary)
    loss, count = token_loss(tagger(batch.words, batch.lengths), batch.tags)
    assert count == 9
    together = torch.autograd.grad(loss / count, list(tagger.parameters()))
    alone = 0.0
    for sentence in SENTENCES:
        one = collate([sentence], vocabulary)
        alone = alone + token_loss(tagger(one.words, one.lengths), one.tags)[0]
    apart = torch.autograd.grad(alone / 9, list(tagger.parameters()))
    assert loss.item() == pytest.approx(alone.item(), rel=1e-12)
    for first, second in zip(together, apart, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("batch_size", [1, 2, 10])
def test_evaluate(tagger: SequenceTagger, batch_size: int) -> None:
    vocabulary = Vocabulary.of(SENTENCES)
    loss, correct = 0.0, 0
    for sentence in SENTENCES:
        batch = collate([sentence], vocabulary)
        probabilities = tagger(batch.words, batch.lengths)[0].softmax(-1)
        for row, tag in zip(probabilities, vocabulary.encode_tags(sentence.tags), strict=True):
            loss -= math.log(row[tag].item())
            correct += int(row.argmax()) == tag
    tagger.train()
    score = evaluate(tagger, encode(SENTENCES, vocabulary), vocabulary, batch_size)
    assert tagger.training
    assert (score.correct, score.tokens) == (correct, 9)
    assert score.loss == pytest.approx(loss / 9, rel=1e-12)
    assert score.accuracy == correct / 9


def test_most_frequent_tag() -> None:
    # a: X, b: Y, c: X twice and Z once, d: Z; unknown words get X, the most frequent tag.
    assert most_frequent_tag_accuracy(SENTENCES, SENTENCES) == 8 / 9
    new = (TaggedSentence(("c", "e", "f", "b"), ("Z", "X", "Y", "Y")),)
    assert most_frequent_tag_accuracy(SENTENCES, new) == 2 / 4
