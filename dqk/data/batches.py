"""Batches of sentences: which go together, which rank takes what, and as padded tensors.

The order follows from the seed and the epoch alone, so that a resumed or distributed run sees the same batches. What is drawn at
random is drawn for a whole batch or for a sentence, never for a rank's part: no number depends on how many ranks there are.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from dqk.data.sentences import TaggedSentence
from dqk.data.vocabulary import Vocabulary

PADDED_TAG = -100  # what torch's cross entropy ignores
UNSEEN_TAG = -1  # a tag that training never met: no prediction equals it
_POOL = 16  # batches whose sentences are sorted together
_STEP_COST = 12  # a time step takes as long as so many words, and the time of its words
_ORDER, _RARE, _DROPOUT = range(3)  # what a random stream is for


@dataclass(frozen=True)
class Batch:
    """Padded sentences.

    Attributes:
        words: rows of the embedding table, shape (B, T), int64.
        tags: tag numbers, shape (B, T), int64; `PADDED_TAG` behind the end of a sentence.
        lengths: number of words of each sentence, shape (B,), int64, on the CPU.
    """

    words: Tensor
    tags: Tensor
    lengths: Tensor

    @property
    def n_tokens(self) -> int:
        """Number of words, padding left out."""
        return int(self.lengths.sum())


@dataclass(frozen=True)
class Encoded:
    """A sentence as numbers, made once for all epochs.

    Attributes:
        words: rows of the embedding table, shape (T,), int64.
        tags: tag numbers, shape (T,), int64; `UNSEEN_TAG` for one that training never met.
    """

    words: Tensor
    tags: Tensor

    def __len__(self) -> int:
        return len(self.words)


def encode(sentences: Iterable[TaggedSentence], vocabulary: Vocabulary) -> list[Encoded]:
    """Sentences as numbers.

    Raises:
        InvalidInputError: for an unknown word, if the vocabulary has no row for such.
    """
    return [
        Encoded(
            torch.tensor(vocabulary.encode_words(sentence.words)),
            torch.tensor(vocabulary.encode_tags(sentence.tags, UNSEEN_TAG)),
        )
        for sentence in sentences
    ]


def pad(encoded: Sequence[Encoded], vocabulary: Vocabulary) -> Batch:
    """Some sentences as one padded batch, T being the longest of them.

    Args:
        encoded: at least one.
        vocabulary: without a padding row, padding has row 0 and `lengths` must mask it.
    """
    words = [sentence.words for sentence in encoded]
    tags = [sentence.tags for sentence in encoded]
    return Batch(
        pad_sequence(words, batch_first=True, padding_value=vocabulary.padding_index or 0),
        pad_sequence(tags, batch_first=True, padding_value=PADDED_TAG),
        torch.tensor(list(map(len, words))),
    )


def collate(sentences: Sequence[TaggedSentence], vocabulary: Vocabulary) -> Batch:
    """`pad` after `encode`, for sentences that are used once."""
    return pad(encode(sentences, vocabulary), vocabulary)


def generator_for(*key: int) -> torch.Generator:
    """A random stream of its own for each key, such as (seed, use, epoch); torch's global generator is not touched."""
    hashed = hashlib.blake2b(repr(key).encode(), digest_size=7).digest()
    return torch.Generator().manual_seed(int.from_bytes(hashed, "big"))


def epoch_batches(
    n_sentences: int, batch_size: int, seed: int, epoch: int, lengths: Sequence[int] | None = None
) -> list[list[int]]:
    """The batches of one epoch: every sentence exactly once, in random order.

    Lengths are mixed on purpose. Batches of similar length need less padding, but each is one step however few words it
    has: on a treebank they cost a QK-LSTM a hundredth of accuracy.

    Args:
        n_sentences: how many there are.
        batch_size: sentences in a batch; the last one may have fewer.
        seed: of the run.
        epoch: counted from 0.
        lengths: words of each sentence: batches are then of similar length, as far as every 16 of them, drawn together, allow,
            and in random order.

    Returns:
        Indices of sentences for each batch.
    """
    generator = generator_for(seed, _ORDER, epoch)
    order = torch.randperm(n_sentences, generator=generator).tolist()
    if lengths is None:
        return _cut(order, batch_size)
    pools = [sorted(pool, key=lengths.__getitem__) for pool in _cut(order, _POOL * batch_size)]
    batches = [batch for pool in pools for batch in _cut(pool, batch_size)]
    return [batches[k] for k in torch.randperm(len(batches), generator=generator).tolist()]


def _cut(order: list[int], size: int) -> list[list[int]]:
    return [order[first : first + size] for first in range(0, len(order), size)]


def sorted_batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Every index once, by length: the order for evaluation, where only speed matters."""
    order = sorted(range(len(lengths)), key=lambda index: lengths[index])
    return _cut(order, batch_size)


def share_of(batch: Sequence[int], lengths: Sequence[int], rank: int, n_ranks: int) -> list[int]:
    """The part of a batch that one of several ranks takes: the longest sentences, fewer of them, or shorter ones.

    A rank's time is that of its words and of as many time steps as its longest sentence has. The ranks get neighbours in the
    order of lengths, such that the longest of their times is as short as it can be.

    Args:
        batch: indices of sentences.
        lengths: words of every sentence that an index may name.
        rank: from 0.
        n_ranks: how many share the batch. If sentences are few, some ranks have none.

    Returns:
        Positions in the batch, ascending; for one rank all of them.
    """
    if n_ranks == 1:
        return list(range(len(batch)))
    order = sorted(range(len(batch)), key=lambda position: -lengths[batch[position]])
    ordered = [lengths[batch[position]] for position in order]
    before = list(itertools.accumulate(ordered, initial=0))  # words before each sentence

    def ends(bound: int) -> list[int]:
        """Where each part ends, if none takes longer than the bound."""
        places, start = [], 0
        for _ in range(n_ranks):
            longest = ordered[start] if start < len(ordered) else 0
            start = bisect.bisect_right(before, before[start] + bound - _STEP_COST * longest) - 1
            places.append(start)
        return places

    least, most = (1 + _STEP_COST) * ordered[0], before[-1] + _STEP_COST * ordered[0]
    bound = bisect.bisect_left(range(most + 1), True, lo=least, key=lambda bound: ends(bound)[-1] == len(order))
    places = [0, *ends(bound)]
    return sorted(order[places[rank] : places[rank + 1]])


def hidden_words(lengths: Sequence[int], rows: Sequence[int], seed: int, epoch: int, batch: int) -> Tensor:
    """Which words of some sentences may be hidden in this batch: half of them, drawn anew in each epoch.

    Args:
        lengths: words of all sentences of the batch.
        rows: the sentences asked for, by their position in the batch.
        seed: of the run.
        epoch: counted from 0.
        batch: position within the epoch.

    Returns:
        Shape (len(rows), longest of them), bool; False behind the end of a sentence.
    """
    draws = torch.rand(sum(lengths), generator=generator_for(seed, _RARE, epoch, batch)) < 0.5
    before = list(itertools.accumulate(lengths, initial=0))
    return pad_sequence([draws[before[row] : before[row + 1]] for row in rows], batch_first=True)


def hide_rare_words(words: Tensor, vocabulary: Vocabulary, hidden: Tensor) -> Tensor:
    """Words that occur once in training become the unknown word where `hidden` says so.

    So the row of unknown words is trained on the words that are most like them.

    Args:
        words: rows of the embedding table, shape (B, T).
        vocabulary: returned as they are if it has no row for unknown words.
        hidden: from `hidden_words`, shape (B, T).

    Returns:
        Rows, shape (B, T).
    """
    if vocabulary.unknown_index is None:
        return words
    return words.masked_fill(hidden & (words >= vocabulary.first_rare_row), vocabulary.unknown_index)


def dropout_mask(
    sentences: Sequence[int], lengths: Sequence[int], width: int, dropout: float, seed: int, epoch: int
) -> Tensor:
    """Factors for word vectors: 0 for the part that is left out, what makes up for it elsewhere; the same in any batch.

    Args:
        sentences: their indices in the training data; a sentence occurs once in an epoch.
        lengths: their numbers of words.
        width: length of a word vector.
        dropout: probability of 0.
        seed: of the run.
        epoch: counted from 0.

    Returns:
        Shape (len(sentences), longest of them, width), float32; 0 behind the end of a sentence.
    """
    draws = [
        torch.rand(length, width, generator=generator_for(seed, _DROPOUT, epoch, index)) >= dropout
        for index, length in zip(sentences, lengths, strict=True)
    ]
    return pad_sequence(draws, batch_first=True).float() / (1 - dropout)
