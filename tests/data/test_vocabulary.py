"""Numbers of words and tags, with and without rows for padding and unknown words."""

import json

import pytest

from dqk.data import PAPER_SENTENCES, TaggedSentence, Vocabulary
from dqk.data.sentences import digest
from dqk.errors import InvalidInputError

SENTENCES = (
    TaggedSentence(("a", "b", "a", "c"), ("X", "Y", "X", "Z")),
    TaggedSentence(("b", "d", "a"), ("Y", "Z", "X")),
)


def test_the_papers_sentences_have_nine_words_and_three_tags() -> None:
    vocabulary = Vocabulary.of(PAPER_SENTENCES, open=False)
    assert sorted(vocabulary.words) == ["Everybody", "The", "book", "dog", "eat", "ice", "read", "that", "the"]
    assert vocabulary.tags == ("DET", "NN", "V")
    assert (vocabulary.n_rows, vocabulary.padding_index, vocabulary.unknown_index) == (9, None, None)
    assert sorted(vocabulary.encode_words(vocabulary.words)) == list(range(9))


def test_an_unknown_word_without_a_row_is_an_error_that_names_it() -> None:
    vocabulary = Vocabulary.of(PAPER_SENTENCES, open=False)
    with pytest.raises(InvalidInputError) as error:
        vocabulary.encode_words(["The", "cat", "Eat", "the", "ice"])
    message = str(error.value)
    assert "'cat'" in message and "'Eat'" in message
    assert "'ice'" not in message and "Everybody" in message


def test_rows_by_frequency_after_padding_and_unknown() -> None:
    vocabulary = Vocabulary.of(SENTENCES)
    assert vocabulary.words == ("a", "b", "c", "d")
    assert vocabulary.encode_words(["a", "b", "c", "d", "new"]) == [2, 3, 4, 5, 1]
    assert (vocabulary.padding_index, vocabulary.first_word_row, vocabulary.n_rows) == (0, 2, 6)
    assert vocabulary.first_rare_row == 4  # c and d occur once
    assert vocabulary.encode_tags(["Z", "X", "new"]) == [2, 0, -1]


@pytest.mark.parametrize("open", [True, False])
def test_survives_json(open: bool) -> None:
    vocabulary = Vocabulary.of(SENTENCES, open=open)
    assert Vocabulary.from_dict(json.loads(json.dumps(vocabulary.to_dict()))) == vocabulary


def test_a_document_with_missing_entries_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="not a vocabulary"):
        Vocabulary.from_dict({"words": []})


@pytest.mark.parametrize(("words", "tags"), [((), ()), (("a",), ()), (("a",), ("X", "Y"))])
def test_a_sentence_needs_a_tag_for_each_word(words: tuple[str, ...], tags: tuple[str, ...]) -> None:
    with pytest.raises(InvalidInputError, match="a tag for each word"):
        TaggedSentence(words, tags)


def test_digest_tells_words_tags_order_and_boundaries_apart() -> None:
    one = TaggedSentence(("a", "b"), ("X", "Y"))
    variants = [
        (one,),
        (TaggedSentence(("b", "a"), ("X", "Y")),),
        (TaggedSentence(("a", "b"), ("X", "X")),),
        (TaggedSentence(("a",), ("X",)), TaggedSentence(("b",), ("Y",))),
        (one, one),
    ]
    assert len({digest(variant) for variant in variants}) == len(variants)
