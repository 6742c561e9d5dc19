"""Words and tags as numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from dqk.data.sentences import TaggedSentence
from dqk.errors import InvalidInputError


@dataclass(frozen=True)
class Vocabulary:
    """The words and tags that a tagger knows, in the order of their numbers.

    Args:
        words: distinct words, most frequent first.
        tags: distinct tags.
        open: whether row 0 is kept for padding and row 1 for unknown words. Without them there is a row per word and
            nothing else, as in the paper's Table I, and an unknown word is an error.
        n_rare: how many words, at the end, occur once in the training data.
    """

    words: tuple[str, ...]
    tags: tuple[str, ...]
    open: bool = True
    n_rare: int = 0

    @classmethod
    def of(cls, sentences: Iterable[TaggedSentence], *, open: bool = True) -> Vocabulary:
        """The words and tags that occur in some sentences."""
        words: Counter[str] = Counter()
        tags: set[str] = set()
        for sentence in sentences:
            words.update(sentence.words)
            tags.update(sentence.tags)
        ordered = sorted(words, key=lambda word: (-words[word], word))
        return cls(tuple(ordered), tuple(sorted(tags)), open, sum(count == 1 for count in words.values()))

    @property
    def n_rows(self) -> int:
        """Rows of the embedding table."""
        return self.first_word_row + len(self.words)

    @property
    def first_word_row(self) -> int:
        """The row of the most frequent word; reserved rows come before it."""
        return 2 if self.open else 0

    @property
    def padding_index(self) -> int | None:
        """The row of padding, None without one."""
        return 0 if self.open else None

    @property
    def unknown_index(self) -> int | None:
        """The row of unknown words, None without one."""
        return 1 if self.open else None

    @property
    def first_rare_row(self) -> int:
        """The row from which on words occur once in the training data."""
        return self.n_rows - self.n_rare

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {word: row for row, word in enumerate(self.words, start=self.first_word_row)}

    @cached_property
    def _tag_numbers(self) -> dict[str, int]:
        return {tag: number for number, tag in enumerate(self.tags)}

    def encode_words(self, words: Sequence[str]) -> list[int]:
        """The row of each word.

        Raises:
            InvalidInputError: for words that are not known, if there is no row for them; names each.
        """
        if self.unknown_index is not None:
            return [self._rows.get(word, self.unknown_index) for word in words]
        unknown = sorted({word for word in words if word not in self._rows})
        if unknown:
            raise InvalidInputError(
                f"unknown word{'s' * (len(unknown) > 1)} {', '.join(map(repr, unknown))}: this model has no row for "
                f"unknown words. It knows (upper and lower case differ): {_listed(self.words)}"
            )
        return [self._rows[word] for word in words]

    def encode_tags(self, tags: Sequence[str], unknown: int = -1) -> list[int]:
        """The number of each tag; `unknown` for one that did not occur in training, so that no prediction equals it."""
        return [self._tag_numbers.get(tag, unknown) for tag in tags]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; `from_dict` reads it back."""
        return {"words": list(self.words), "tags": list(self.tags), "open": self.open, "n_rare": self.n_rare}

    @classmethod
    def from_dict(cls, document: dict[str, Any]) -> Vocabulary:
        """The vocabulary that `to_dict` described."""
        try:
            return cls(
                tuple(document["words"]), tuple(document["tags"]), bool(document["open"]), int(document["n_rare"])
            )
        except (KeyError, TypeError) as error:
            raise InvalidInputError(f"not a vocabulary document: {error!r}") from error


def _listed(words: Sequence[str], most: int = 30) -> str:
    shown = ", ".join(sorted(words)[:most])
    return shown if len(words) <= most else f"{shown} and {len(words) - most} more"
