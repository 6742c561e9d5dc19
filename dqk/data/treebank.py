"""Reads CoNLL-U treebanks (https://universaldependencies.org/format.html): FORM and UPOS, columns 2 and 4."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from conllu.exceptions import ParseException
from conllu.parser import parse_id_value

from dqk.data.sentences import TaggedSentence
from dqk.errors import DataFileError

_N_COLUMNS = 10


def read_conllu(path: str | os.PathLike[str]) -> list[TaggedSentence]:
    """The sentences of a CoNLL-U file with their universal part-of-speech tags.

    Multiword tokens (ID `3-4`) and empty nodes (ID `8.1`) carry no tag of their own and are skipped.

    Args:
        path: a UTF-8 text file.

    Returns:
        The sentences in file order, at least one.

    Raises:
        DataFileError: names the file, the line and what is wrong with it.
    """
    path = Path(path)
    sentences: list[TaggedSentence] = []
    words: list[str] = []
    tags: list[str] = []
    for number, line in _lines(path):
        if line.startswith("#"):
            continue
        if line.strip():
            token = _token(path, number, line, expected_id=len(words) + 1)
            if token is not None:
                words.append(token[0])
                tags.append(token[1])
        elif words:
            sentences.append(TaggedSentence(tuple(words), tuple(tags)))
            words, tags = [], []
    if words:  # the file does not end with the blank line that CoNLL-U asks for
        sentences.append(TaggedSentence(tuple(words), tuple(tags)))
    if not sentences:
        raise DataFileError(f"{path} has no sentences; expected CoNLL-U, one token a line in {_N_COLUMNS} columns")
    return sentences


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataFileError(f"cannot read {path}: {error.strerror or error}; expected a CoNLL-U file") from error
    # Split bytes, not text: str.splitlines also breaks at characters that are legal inside a word.
    for number, raw in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        try:
            yield number, raw.decode("utf-8").rstrip("\r")
        except UnicodeDecodeError as error:
            raise DataFileError(
                f"{path}, line {number}: not UTF-8 (byte {error.object[error.start]:#04x} at {error.start + 1}); "
                "convert it, for example with `iconv -f latin1 -t utf-8`"
            ) from error


def _token(path: Path, number: int, line: str, expected_id: int) -> tuple[str, str] | None:
    """Word and tag of a line, or None for a line that is not a word of its own."""
    place = f"{path}, line {number}"
    columns = line.split("\t")
    if len(columns) != _N_COLUMNS:
        raise DataFileError(
            f"{place}: {len(columns)} column{'s' * (len(columns) != 1)}, expected {_N_COLUMNS} separated by tabs: "
            f"{_shown(line)}"
        )
    try:
        identifier = parse_id_value(columns[0])
    except ParseException as error:
        raise DataFileError(f"{place}: ID {columns[0]!r}, expected a number, a range such as 3-4 or 8.1") from error
    if isinstance(identifier, tuple):
        return None
    if identifier != expected_id:
        raise DataFileError(
            f"{place}: ID {columns[0]!r}, expected {expected_id}; is a line missing, "
            "or the blank line between two sentences?"
        )
    word, tag = columns[1], columns[3]
    if not word.strip():
        raise DataFileError(f"{place}: no word in column 2 (FORM)")
    if tag in ("", "_"):
        raise DataFileError(f"{place}: no tag for {word!r} in column 4 (UPOS); training needs tagged data")
    return word, tag


def _shown(line: str) -> str:
    return repr(line if len(line) <= 60 else line[:57] + "...")
