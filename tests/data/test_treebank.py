"""Reading CoNLL-U: what is kept, and an error that names file and line for everything that can be wrong."""

from pathlib import Path

import pytest

from dqk.data import TaggedSentence, read_conllu
from dqk.errors import DataFileError


def line(identifier: str, word: str, tag: str) -> str:
    return "\t".join([identifier, word, word.lower(), tag, "_", "_", "0", "root", "_", "_"])


GOOD = "\n".join(
    [
        "# sent_id = 1",
        "# text = I don't know",
        line("1", "I", "PRON"),
        line("2-3", "don't", "_"),
        line("2", "do", "AUX"),
        line("3", "n't", "PART"),
        line("4", "know", "VERB"),
        line("4.1", "it", "PRON"),
        "",
        "",
        "# sent_id = 2",
        line("1", "10 000", "NUM"),
        line("2", "#", "SYM"),
        line("3", "a\u2028b", "X"),
        "",
    ]
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "corpus.conllu"


def test_words_and_tags(file: Path) -> None:
    """Ranges and empty nodes carry no tag; spaces, # and a line separator may occur in words."""
    file.write_text(GOOD, encoding="utf-8")
    assert read_conllu(file) == [
        TaggedSentence(("I", "do", "n't", "know"), ("PRON", "AUX", "PART", "VERB")),
        TaggedSentence(("10 000", "#", "a\u2028b"), ("NUM", "SYM", "X")),
    ]


@pytest.mark.parametrize(
    "change", [lambda b: b.replace(b"\n", b"\r\n"), lambda b: b"\xef\xbb\xbf" + b, lambda b: b + b"\n\n"]
)
def test_line_ends_byte_order_mark_and_last_line(file: Path, change) -> None:
    content = "\n".join([line("1", "a", "X"), "", line("1", "b", "Y")]).encode()
    file.write_bytes(change(content))
    assert [sentence.words for sentence in read_conllu(file)] == [("a",), ("b",)]


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ("1\tword\tword\tNOUN", "4 columns, expected 10"),
        ("just some text", "1 column, expected 10"),
        (line("1", "w", "X") + "\textra", "11 columns, expected 10"),
        (line("x", "w", "X"), "ID 'x'"),
        (line("3", "w", "X"), "ID '3', expected 1"),
        (line("1", " ", "X"), "no word"),
        (line("1", "w", "_"), "no tag for 'w'"),
        (line("1", "w", ""), "no tag for 'w'"),
    ],
)
def test_a_bad_line_is_named(file: Path, bad: str, says: str) -> None:
    file.write_text("\n".join([line("1", "fine", "X"), "", "# comment", bad, ""]), encoding="utf-8")
    with pytest.raises(DataFileError) as error:
        read_conllu(file)
    assert f"{file}, line 4" in str(error.value)
    assert says in str(error.value)


def test_not_utf8(file: Path) -> None:
    file.write_bytes(line("1", "ok", "X").encode() + b"\n" + line("2", "caf\xe9", "X").encode("latin-1") + b"\n")
    with pytest.raises(DataFileError, match=r"line 2: not UTF-8 \(byte 0xe9"):
        read_conllu(file)


@pytest.mark.parametrize("content", ["", "\n\n", "# only a comment\n"])
def test_no_sentences(file: Path, content: str) -> None:
    file.write_text(content)
    with pytest.raises(DataFileError, match="no sentences"):
        read_conllu(file)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.conllu", tmp_path):
        with pytest.raises(DataFileError) as error:
            read_conllu(path)
        assert str(path) in str(error.value)
