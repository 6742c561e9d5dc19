"""Batches of sentences: which go together, and as padded tensors.

The order depends on the seed and the epoch and on nothing else, so that a resumed or distributed run sees the same batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dqk.data.sentences import TaggedSentence
from dqk.data.vocabulary import Vocabulary

PADDED_TAG = -100  # what torch's cross entropy ignores
UNSEEN_TAG = -1  # a tag that training never met: no prediction equals it
_POOL = 20  # batches that are sorted by length together


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
        vocabulary: numbers the words and tags; without a padding row, padding reads row 0 and must be masked by `lengths`.
    """
    lengths = torch.tensor([len(sentence) for sentence in sentences])
    shape = (len(sentences), int(lengths.max()))
    words = torch.full(shape, vocabulary.padding_index or 0)
    tags = torch.full(shape, PADDED_TAG)
    for row, sentence in enumerate(sentences):
        words[row, : len(sentence)] = torch.tensor(vocabulary.encode_words(sentence.words))
        tags[row, : len(sentence)] = torch.tensor(vocabulary.encode_tags(sentence.tags, UNSEEN_TAG))
    return Batch(words, tags, lengths)


def generator_for(seed: int, epoch: int, stream: int) -> torch.Generator:
    """A random stream of its own for a use in an epoch; torch's global generator is not touched.

    Args:
        seed: of the run.
        epoch: counted from 0.
        stream: tells uses of one epoch apart.
    """
    # Distinct (seed, epoch, stream) give distinct states: torch hashes the 64 bits. Seeds wrap at 2**31, epochs at 2**24.
    return torch.Generator().manual_seed((seed % 2**31) << 32 | (epoch % 2**24) << 8 | stream % 2**8)


def epoch_batches(lengths: Sequence[int], batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """The batches of one epoch: every sentence exactly once, in random order, sentences of similar length together.

    Sentences are shuffled, sorted by length within pools of 20 batches, cut, and the batches shuffled again: little padding,
    yet other neighbours in each epoch.

    Args:
        lengths: number of words of each sentence.
        batch_size: sentences in a batch; the last batch of the last pool may have fewer.
        seed: of the run.
        epoch: counted from 0.

    Returns:
        Indices of sentences for each batch.
    """
    random = generator_for(seed, epoch, stream=0)
    order = torch.randperm(len(lengths), generator=random).tolist()
    batches = []
    for start in range(0, len(order), _POOL * batch_size):
        pool = sorted(order[start : start + _POOL * batch_size], key=lambda index: lengths[index])
        batches += [pool[first : first + batch_size] for first in range(0, len(pool), batch_size)]
    return [batches[position] for position in torch.randperm(len(batches), generator=random).tolist()]


def sorted_batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Every index once, by length: the order for evaluation, where only speed matters."""
    order = sorted(range(len(lengths)), key=lambda index: lengths[index])
    return [order[first : first + batch_size] for first in range(0, len(order), batch_size)]
