"""Batches of sentences: which go together, which rank takes what, and as padded tensors.

The order follows from the seed and the epoch alone, so that a resumed or distributed run sees the same batches. What is drawn at
random is drawn for a whole batch or for a sentence, never for a rank's part: no number depends on how many ranks there are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from dqk.data.sentences import TaggedSentence
from dqk.data.vocabulary import Vocabulary

PADDED_TAG = -100  # what torch's cross entropy ignores
UNSEEN_TAG = -1  # a tag that training never met: no prediction equals it
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


def collate(sentences: Sequence[TaggedSentence], vocabulary: Vocabulary) -> Batch:
    """Some sentences as one padded batch, T being the longest of them.

    Args:
        sentences: at least one.
        vocabulary: numbers the words and tags; without a padding row, padding has row 0 and `lengths` must mask it.
    """
    lengths = torch.tensor([len(sentence) for sentence in sentences])
    shape = (len(sentences), int(lengths.max()))
    words = torch.full(shape, vocabulary.padding_index or 0)
    tags = torch.full(shape, PADDED_TAG)
    for row, sentence in enumerate(sentences):
        words[row, : len(sentence)] = torch.tensor(vocabulary.encode_words(sentence.words))
        tags[row, : len(sentence)] = torch.tensor(vocabulary.encode_tags(sentence.tags, UNSEEN_TAG))
    return Batch(words, tags, lengths)


def generator_for(*key: int) -> torch.Generator:
    """A random stream of its own for each key, such as (seed, use, epoch); torch's global generator is not touched."""
    hashed = hashlib.blake2b(repr(key).encode(), digest_size=7).digest()
    return torch.Generator().manual_seed(int.from_bytes(hashed, "big"))


def epoch_batches(n_sentences: int, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """The batches of one epoch: every sentence exactly once, in random order.

    Lengths are mixed on purpose. Batches of similar length need less padding, but each is one step however few words it
    has: on a treebank they cost a QK-LSTM a hundredth of accuracy.

    Args:
        n_sentences: how many there are.
        batch_size: sentences in a batch; the last one may have fewer.
        seed: of the run.
        epoch: counted from 0.

    Returns:
        Indices of sentences for each batch.
    """
    order = torch.randperm(n_sentences, generator=generator_for(seed, _ORDER, epoch)).tolist()
    return [order[first : first + batch_size] for first in range(0, n_sentences, batch_size)]


def sorted_batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Every index once, by length: the order for evaluation, where only speed matters."""
    order = sorted(range(len(lengths)), key=lambda index: lengths[index])
    return [order[first : first + batch_size] for first in range(0, len(order), batch_size)]


def share_of(batch: Sequence[int], lengths: Sequence[int], rank: int, n_ranks: int) -> list[int]:
    """The part of a batch that one of several ranks takes: as many sentences, and as long ones, as the others take.

    Args:
        batch: indices of sentences.
        lengths: words of every sentence that an index may name.
        rank: from 0.
        n_ranks: how many share the batch. With fewer sentences than ranks some have none.

    Returns:
        Positions in the batch, ascending; for one rank all of them.
    """
    by_length = sorted(range(len(batch)), key=lambda position: -lengths[batch[position]])
    return sorted(by_length[rank::n_ranks])


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
    parts = draws.split(list(lengths))
    return pad_sequence([parts[row] for row in rows], batch_first=True)


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
