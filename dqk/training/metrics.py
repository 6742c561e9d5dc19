"""How well a tagger does, and how well one does that does not read sentences."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dqk.data import TaggedSentence, Vocabulary, sorted_batches
from dqk.data.batches import PADDED_TAG, Encoded, pad
from dqk.training.group import ALONE, Group

_TOGETHER = 32  # sentences at most: batches enough for all ranks to have some


@dataclass(frozen=True)
class Score:
    """A tagger's result on some sentences.

    Attributes:
        loss: mean cross entropy of a word, over words whose tag occurs in training.
        correct: words with the right tag.
        tokens: words.
    """

    loss: float
    correct: int
    tokens: int

    @property
    def accuracy(self) -> float:
        """Share of words with the right tag."""
        return self.correct / self.tokens


def token_loss(logits: Tensor, tags: Tensor) -> tuple[Tensor, int]:
    """Sum of the words' cross entropies and their number, padding and unseen tags left out.

    Args:
        logits: shape (B, T, n_tags).
        tags: shape (B, T); negative where there is no known tag.
    """
    known = tags >= 0
    return F.cross_entropy(logits[known], tags[known], reduction="sum"), int(known.sum())


def count_correct(logits: Tensor, tags: Tensor) -> int:
    """Number of words whose largest logit is that of their tag. Shapes (B, T, n_tags) and (B, T)."""
    return int((logits.argmax(-1) == tags).sum())


@torch.no_grad()
def evaluate(
    model: nn.Module,
    sentences: Sequence[Encoded],
    vocabulary: Vocabulary,
    batch_size: int,
    group: Group = ALONE,
) -> Score:
    """The score of a tagger on some sentences, of which one tag at least occurs in training.

    Ranks take batches in turn; the sums are made in the order of the batches, so that all ranks have the same score and any number
    of ranks has that of one.
    """
    was_training = model.training
    model.eval()
    batches = sorted_batches([len(sentence) for sentence in sentences], min(batch_size, _TOGETHER))
    counts: list[float] = []
    for indices in batches[group.rank :: group.size]:
        batch = pad([sentences[index] for index in indices], vocabulary)
        logits = model(batch.words, batch.lengths)
        loss, count = token_loss(logits, batch.tags)
        counts += [loss.item(), count, count_correct(logits, batch.tags), int((batch.tags != PADDED_TAG).sum())]
    model.train(was_training)
    missing = 4 * math.ceil(len(batches) / group.size) - len(counts)  # a last batch that other ranks have
    rows = group.gather(*counts, *[0.0] * missing)()
    in_order = [row[place : place + 4] for place in range(0, len(rows[0]), 4) for row in rows]
    loss_sum, known, correct, tokens = (sum(column) for column in zip(*in_order, strict=True))
    return Score(loss_sum / known, int(correct), int(tokens))


def most_frequent_tag_accuracy(train: Sequence[TaggedSentence], evaluated: Sequence[TaggedSentence]) -> float:
    """Accuracy of giving each word its most frequent tag in training, and the most frequent of all to unknown words."""
    tag_of = most_frequent_tags(train)
    correct = sum(tag_of(word) == tag for s in evaluated for word, tag in zip(s.words, s.tags, strict=True))
    return correct / sum(map(len, evaluated))


def most_frequent_tags(train: Sequence[TaggedSentence]) -> Callable[[str], str]:
    """From a word to its most frequent tag in training; to the most frequent of all for unknown words."""
    by_word: defaultdict[str, Counter[str]] = defaultdict(Counter)
    overall: Counter[str] = Counter()
    for sentence in train:
        overall.update(sentence.tags)
        for word, tag in zip(sentence.words, sentence.tags, strict=True):
            by_word[word][tag] += 1
    best = {word: tags.most_common(1)[0][0] for word, tags in by_word.items()}
    default = overall.most_common(1)[0][0]
    return lambda word: best.get(word, default)
