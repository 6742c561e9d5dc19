"""The tagger: shapes, padding, which recurrent networks it takes, and what it refuses."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dqk import QKLSTM, QLSTM
from dqk.errors import InvalidInputError
from dqk.nn import SequenceTagger

RECURRENT: dict[str, Callable[..., nn.Module]] = {
    "qklstm": lambda **options: QKLSTM(4, 3, n_qubits=2, batch_first=True, **options),
    "qlstm": lambda **options: QLSTM(4, 3, n_qubits=2, batch_first=True, **options),
    "lstm": lambda **options: nn.LSTM(4, 3, batch_first=True, **options),
}
per_recurrent = pytest.mark.parametrize("make", RECURRENT.values(), ids=RECURRENT)
TOKENS = torch.tensor([[1, 2, 3, 4], [5, 1, 0, 0], [2, 0, 0, 0]])
LENGTHS = torch.tensor([4, 2, 1])


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("bidirectional", [False, True])
@per_recurrent
def test_padding_changes_no_score(make: Callable[..., nn.Module], bidirectional: bool) -> None:
    recurrent = make(bidirectional=bidirectional, num_layers=2, dtype=torch.float64)
    tagger = SequenceTagger(recurrent, 6, 4, 5, padding_index=0)
    scores = tagger(TOKENS, LENGTHS)
    assert scores.shape == (3, 4, 5) and scores.dtype == torch.float64
    for row, tokens, length in zip(scores, TOKENS, LENGTHS, strict=True):
        torch.testing.assert_close(row[:length], tagger(tokens[None, :length])[0], rtol=1e-11, atol=1e-12)


@per_recurrent
def test_order_and_type_of_lengths_do_not_matter(make: Callable[..., nn.Module]) -> None:
    tagger = SequenceTagger(make(), 6, 4, 5, padding_index=0)
    torch.testing.assert_close(tagger(TOKENS, LENGTHS), tagger(TOKENS.flip(0), LENGTHS.flip(0)).flip(0))
    assert torch.equal(tagger(TOKENS, LENGTHS), tagger(TOKENS.int(), [4, 2, 1]))
    torch.testing.assert_close(tagger(TOKENS), tagger(TOKENS, [4, 4, 4]))


@per_recurrent
def test_trains(make: Callable[..., nn.Module]) -> None:
    tagger = SequenceTagger(make(), 6, 4, 2, padding_index=0)
    assert not tagger.embedding.weight[0].any()
    optimizer = torch.optim.Adam(tagger.parameters(), lr=0.05)
    tags = torch.tensor([[0, 1, 1, 0], [1, 0, -1, -1], [1, -1, -1, -1]])
    losses = []
    for _ in range(40):
        loss = nn.functional.cross_entropy(tagger(TOKENS, LENGTHS).flatten(0, 1), tags.flatten(), ignore_index=-1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 < losses[0]
    assert not tagger.embedding.weight[0].any()


def test_head_fits_projected_lstm() -> None:
    recurrent = nn.LSTM(4, 3, batch_first=True, bidirectional=True, proj_size=2)
    assert SequenceTagger(recurrent, 6, 4, 5)(TOKENS).shape == (3, 4, 5)


def test_embeddings_start_as_wide_as_asked() -> None:
    taggers = []
    for std in (1.0, 0.25):
        torch.manual_seed(0)
        taggers.append(SequenceTagger(nn.LSTM(4, 3, batch_first=True), 6, 4, 2, padding_index=0, embedding_std=std))
    wide, narrow = (tagger.embedding.weight for tagger in taggers)
    assert torch.equal(narrow, 0.25 * wide) and wide[1:].abs().min() > 0
    assert torch.equal(taggers[0].head.weight, taggers[1].head.weight)


def test_dropout_acts_on_embeddings_in_training_only() -> None:
    seen: list[Tensor] = []
    recurrent = nn.LSTM(4, 3, batch_first=True)
    recurrent.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    tagger = SequenceTagger(recurrent, 6, 4, 2, dropout=0.75)
    tokens = torch.arange(6).repeat(50, 1)
    tagger.train()(tokens)
    tagger.eval()(tokens)
    training, evaluation = seen
    kept = training != 0
    assert 0.15 < kept.float().mean() < 0.35
    torch.testing.assert_close(training[kept], 4 * evaluation[kept])
    assert torch.equal(evaluation, tagger.embedding.weight.expand(50, 6, 4))


BAD_ARGUMENTS: list[tuple[dict[str, Any], str]] = [
    ({"vocabulary_size": 0}, "vocabulary_size is 0, expected a whole number"),
    ({"embedding_dim": 5}, "input_size=4, expected embedding_dim=5"),
    ({"n_tags": -1}, "n_tags is -1"),
    ({"padding_index": 6}, "padding_index is 6, expected None or a token from 0 to 5"),
    ({"embedding_std": 0.0}, "embedding_std is 0.0, expected a finite number above 0"),
    ({"dropout": 1.0}, "dropout is 1.0, expected a probability"),
    ({"recurrent": nn.LSTM(4, 3)}, "batch_first=False, expected True"),
    ({"recurrent": nn.Linear(4, 3)}, "recurrent is a Linear, expected a QKLSTM, QLSTM or nn.LSTM"),
]


@pytest.mark.parametrize(("options", "message"), BAD_ARGUMENTS, ids=lambda value: str(value)[:40])
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    good = {"recurrent": nn.LSTM(4, 3, batch_first=True), "vocabulary_size": 6, "embedding_dim": 4, "n_tags": 2}
    with pytest.raises(InvalidInputError, match=message):
        SequenceTagger(**{**good, **options})


BAD_BATCHES: list[tuple[Tensor, Any, str]] = [
    (TOKENS[0], None, r"tokens have shape \(4,\).*expected integers of shape \(B, T\)"),
    (TOKENS.float(), None, "dtype torch.float32, expected integers"),
    (TOKENS + 4, None, "tokens go from 4 to 9, expected 0 to 5"),
    (TOKENS - 1, None, "tokens go from -1 to 4, expected 0 to 5"),
    (TOKENS, [4, 2, 0], r"lengths are \[4, 2, 0\], expected 3 numbers from 1 to 4"),
    (TOKENS, [5, 2, 1], r"lengths are \[5, 2, 1\]"),
    (TOKENS, [4, 2], r"lengths are \[4, 2\], expected 3 numbers"),
]


@pytest.mark.parametrize(("tokens", "lengths", "message"), BAD_BATCHES, ids=lambda value: str(value)[:40])
def test_bad_batches(tokens: Tensor, lengths: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        SequenceTagger(RECURRENT["lstm"](), 6, 4, 2)(tokens, lengths)
