"""What a tagged sentence is, and the two that the QK-LSTM paper trains on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass

from dqk.errors import InvalidInputError


@dataclass(frozen=True, slots=True)
class TaggedSentence:
    """Words with one part-of-speech tag each.

    Args:
        words: as written; upper and lower case differ.
        tags: as many as words.

    Raises:
        InvalidInputError: for no words, or another number of tags.
    """

    words: tuple[str, ...]
    tags: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.words or len(self.words) != len(self.tags):
            raise InvalidInputError(
                f"a sentence of {len(self.words)} words and {len(self.tags)} tags, expected a tag for each word"
            )

    def __len__(self) -> int:
        return len(self.words)


PAPER_SENTENCES = (
    TaggedSentence(("The", "dog", "eat", "the", "ice"), ("DET", "NN", "V", "DET", "NN")),
    TaggedSentence(("Everybody", "read", "that", "book"), ("NN", "V", "DET", "NN")),
)
"""The benchmark of the QK-LSTM paper (arXiv 2411.13225): 9 distinct words, since "The" and "the" differ."""


def digest(sentences: Iterable[TaggedSentence]) -> str:
    """SHA-256 of words and tags in order, hexadecimal: equal for equal data wherever they were read from."""
    state = hashlib.sha256()
    for sentence in sentences:
        state.update(json.dumps([sentence.words, sentence.tags], ensure_ascii=True).encode() + b"\n")
    return state.hexdigest()
