"""Batches: every sentence and every word exactly once, the same for the same seed and epoch, whatever else happens."""

import itertools
from collections import Counter

import torch
from hypothesis import given
from hypothesis import strategies as st

from dqk.data import TaggedSentence, Vocabulary, collate, epoch_batches, sorted_batches
from dqk.data.batches import PADDED_TAG, UNSEEN_TAG, dropout_mask, hidden_words, hide_rare_words, share_of

words = st.sampled_from(["a", "b", "c", "d", "e", "f"])
sentences = st.lists(
    st.lists(st.tuples(words, st.sampled_from("XYZ")), min_size=1, max_size=7).map(
        lambda pairs: TaggedSentence(tuple(w for w, _ in pairs), tuple(t for _, t in pairs))
    ),
    min_size=1,
    max_size=20,
)


@given(
    n=st.integers(1, 200), batch_size=st.integers(1, 50), seed=st.integers(0, 2**31 - 1), epoch=st.integers(0, 10**6)
)
def test_every_sentence_once(n: int, batch_size: int, seed: int, epoch: int) -> None:
    batches = epoch_batches(n, batch_size, seed, epoch)
    assert sorted(index for batch in batches for index in batch) == list(range(n))
    assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)


@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=60), batch_size=st.integers(1, 10))
def test_evaluation_sees_every_sentence_once_by_length(lengths: list[int], batch_size: int) -> None:
    order = [index for batch in sorted_batches(lengths, batch_size) for index in batch]
    assert sorted(order) == list(range(len(lengths)))
    assert [lengths[index] for index in order] == sorted(lengths)


def test_order_follows_from_seed_and_epoch_alone() -> None:
    torch.manual_seed(1)
    first = epoch_batches(40, 4, seed=3, epoch=5)
    torch.manual_seed(2)
    torch.rand(10)
    before = torch.get_rng_state()
    assert epoch_batches(40, 4, seed=3, epoch=5) == first
    assert torch.equal(torch.get_rng_state(), before)
    assert epoch_batches(40, 4, seed=3, epoch=6) != first
    assert epoch_batches(40, 4, seed=4, epoch=5) != first
    assert epoch_batches(40, 4, seed=5, epoch=3) != first


@given(sentences=sentences, open=st.booleans())
def test_collate_keeps_every_word_and_tag(sentences: list[TaggedSentence], open: bool) -> None:
    vocabulary = Vocabulary.of(sentences, open=open)
    batch = collate(sentences, vocabulary)
    assert batch.words.shape == batch.tags.shape == (len(sentences), max(map(len, sentences)))
    assert batch.n_tokens == sum(map(len, sentences)) == int((batch.tags != PADDED_TAG).sum())
    for row, sentence in enumerate(sentences):
        length = int(batch.lengths[row])
        shown = [vocabulary.words[number - vocabulary.first_word_row] for number in batch.words[row, :length].tolist()]
        assert tuple(shown) == sentence.words
        assert tuple(vocabulary.tags[number] for number in batch.tags[row, :length].tolist()) == sentence.tags
        assert (batch.tags[row, length:] == PADDED_TAG).all()
        assert (batch.words[row, length:] == 0).all()


def test_a_tag_that_training_has_not_seen_is_no_tag_that_can_be_predicted() -> None:
    vocabulary = Vocabulary.of([TaggedSentence(("a",), ("X",))])
    batch = collate([TaggedSentence(("a", "b"), ("Y", "X"))], vocabulary)
    assert batch.tags.tolist() == [[UNSEEN_TAG, 0]]
    assert batch.words.tolist() == [[2, 1]]


def test_rare_words_are_hidden_half_of_the_time_and_others_never() -> None:
    often, once = [f"w{i}" for i in range(50)], [f"r{i}" for i in range(2000)]
    text = TaggedSentence(tuple(often * 2 + once), ("X",) * (100 + 2000))
    vocabulary = Vocabulary.of([text])
    rows = collate([text], vocabulary).words
    hidden = hidden_words([2100], [0], seed=0, epoch=0, batch=0)
    shown = hide_rare_words(rows, vocabulary, hidden)
    assert torch.equal(shown[:, :100], rows[:, :100])
    counts = Counter((shown[0, 100:] == 1).tolist())
    assert 0.45 < counts[True] / 2000 < 0.55
    assert torch.equal(shown[shown != 1], rows[shown != 1])
    assert torch.equal(hidden, hidden_words([2100], [0], seed=0, epoch=0, batch=0))
    for other in ((1, 0, 0), (0, 1, 0), (0, 0, 1)):
        assert not torch.equal(hidden, hidden_words([2100], [0], *other))


def test_nothing_is_hidden_without_a_row_for_unknown_words() -> None:
    text = TaggedSentence(("a", "b"), ("X", "Y"))
    vocabulary = Vocabulary.of([text], open=False)
    rows = collate([text], vocabulary).words
    assert hide_rare_words(rows, vocabulary, hidden_words([2], [0], 0, 0, 0)) is rows


@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=9), n_ranks=st.integers(1, 4))
def test_shares_are_disjoint_and_the_slowest_is_as_quick_as_it_can_be(lengths: list[int], n_ranks: int) -> None:
    batch = list(range(10, 10 + len(lengths)))
    all_lengths = [0] * 10 + lengths
    shares = [share_of(batch, all_lengths, rank, n_ranks) for rank in range(n_ranks)]
    assert sorted(itertools.chain(*shares)) == list(range(len(lengths)))
    assert all(share == sorted(share) for share in shares)

    def cost(part: list[int]) -> int:
        return 12 * max(part, default=0) + sum(part)

    ordered = sorted(lengths, reverse=True)
    cuts = itertools.combinations_with_replacement(range(len(lengths) + 1), n_ranks - 1)
    best = min(max(cost(ordered[a:b]) for a, b in itertools.pairwise((0, *cut, len(lengths)))) for cut in cuts)
    assert max(cost([lengths[position] for position in share]) for share in shares) == best


@given(lengths=st.lists(st.integers(1, 9), min_size=2, max_size=8), data=st.data())
def test_random_masks_do_not_depend_on_who_computes_what(lengths: list[int], data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.sampled_from(range(len(lengths))), min_size=1, unique=True))
    whole = hidden_words(lengths, range(len(lengths)), 1, 2, 3)
    part = hidden_words(lengths, rows, 1, 2, 3)
    everybody = dropout_mask(range(len(lengths)), lengths, 4, 0.5, 1, 2)
    some = dropout_mask(rows, [lengths[row] for row in rows], 4, 0.5, 1, 2)
    for place, row in enumerate(rows):
        assert torch.equal(part[place, : lengths[row]], whole[row, : lengths[row]])
        assert torch.equal(some[place, : lengths[row]], everybody[row, : lengths[row]])


def test_dropout_leaves_out_its_part_and_keeps_the_mean() -> None:
    mask = dropout_mask([5], [20_000], 4, 0.3, seed=1, epoch=0)
    assert set(mask.unique().tolist()) == {0.0, torch.tensor(1 / 0.7).item()}
    assert abs((mask == 0).double().mean() - 0.3) < 0.01
    for other in ((6, 1, 0), (5, 2, 0), (5, 1, 1)):  # sentence, seed, epoch
        index, seed, epoch = other
        assert not torch.equal(mask, dropout_mask([index], [20_000], 4, 0.3, seed, epoch))
