"""What QKLSTM and QLSTM share with nn.LSTM: signature, shapes, packing, layers, directions, state dict."""

import copy
import inspect
import io
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence, pad_packed_sequence

from dqk import QKLSTM, QLSTM
from dqk.nn.layout import Layout
from tests.nn.networks import NETWORKS, Network, per_network, qklstm, qklstm_circuit


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("network", [QKLSTM, QLSTM])
def test_signature_begins_like_nn_lstm(network: type[Network]) -> None:
    parameters = list(inspect.signature(network).parameters.values())
    expected = {
        "input_size": inspect.Parameter.empty,
        "hidden_size": inspect.Parameter.empty,
        "num_layers": 1,
        "bias": True,
        "batch_first": False,
        "dropout": 0.0,
        "bidirectional": False,
    }
    assert {p.name: p.default for p in parameters[: len(expected)]} == expected
    assert all(p.kind is p.KEYWORD_ONLY for p in parameters[len(expected) :])
    assert list(inspect.signature(network.forward).parameters) == ["self", "input", "hx"]


OPTIONS = [
    {"num_layers": layers, "bidirectional": two, "batch_first": first}
    for layers, two, first in product((1, 2), (False, True), (False, True))
]


@pytest.mark.parametrize("kind", ["padded", "single", "packed", "packed_unsorted"])
@pytest.mark.parametrize("with_states", [False, True])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@per_network
def test_shapes_equal_nn_lstm(make: Callable[..., Network], options: dict, with_states: bool, kind: str) -> None:
    count = options["num_layers"] * (2 if options["bidirectional"] else 1)
    batch = () if kind == "single" else (3,)
    x: Tensor | PackedSequence = torch.randn(3, 4, 3) if options["batch_first"] else torch.randn(4, 3, 3)
    if kind == "single":
        x = torch.randn(4, 3)
    elif kind.startswith("packed"):
        lengths = torch.tensor([4, 2, 1] if kind == "packed" else [2, 4, 1])
        x = pack_padded_sequence(x, lengths, options["batch_first"], enforce_sorted=kind == "packed")
    hx = (torch.zeros(count, *batch, 2), torch.zeros(count, *batch, 2)) if with_states else None
    ours, theirs = make(3, 2, **options)(x, hx), nn.LSTM(3, 2, **options)(x, hx)
    assert ours[1][0].shape == theirs[1][0].shape and ours[1][1].shape == theirs[1][1].shape
    if isinstance(theirs[0], PackedSequence):
        assert isinstance(ours[0], PackedSequence)
        assert ours[0].data.shape == theirs[0].data.shape
        for found, expected in zip(ours[0][1:], theirs[0][1:], strict=True):
            assert found is expected or torch.equal(found, expected)
    else:
        assert ours[0].shape == theirs[0].shape


@pytest.mark.parametrize("enforce_sorted", [True, False])
@pytest.mark.parametrize("bidirectional", [False, True])
@per_network
def test_packed_equals_each_sequence_alone(
    make: Callable[..., Network], bidirectional: bool, enforce_sorted: bool
) -> None:
    network = make(3, 2, num_layers=2, bidirectional=bidirectional, dtype=torch.float64)
    lengths = [5, 3, 3, 1] if enforce_sorted else [3, 1, 5, 3]
    sequences = [torch.randn(length, 3, dtype=torch.float64) for length in lengths]
    h, c = torch.randn(2, 2 * (2 if bidirectional else 1), 4, 2, dtype=torch.float64)
    with torch.no_grad():
        output, (h_n, c_n) = network(pack_sequence(sequences, enforce_sorted), (h, c))
        padded, found_lengths = pad_packed_sequence(output)
        assert found_lengths.tolist() == lengths
        for b, sequence in enumerate(sequences):
            alone, (h_alone, c_alone) = network(sequence, (h[:, b], c[:, b]))
            close(padded[: lengths[b], b], alone)
            close(h_n[:, b], h_alone)
            close(c_n[:, b], c_alone)


@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=5), data=st.data())
def test_packed_equals_each_sequence_alone_for_all_lengths(lengths: list[int], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(NETWORKS)))
    network = NETWORKS[name](3, 2, bidirectional=True, dtype=torch.float64)
    sequences = [torch.randn(length, 3, dtype=torch.float64) for length in lengths]
    with torch.no_grad():
        packed, (h_n, _) = network(pack_sequence(sequences, enforce_sorted=False))
        padded, _ = pad_packed_sequence(packed)
        for b, sequence in enumerate(sequences):
            alone, (h_alone, _) = network(sequence)
            close(padded[: lengths[b], b], alone)
            close(h_n[:, b], h_alone)


@per_network
def test_unbatched_equals_a_batch_of_one_and_batches_are_independent(make: Callable[..., Network]) -> None:
    network, x = make(3, 2, dtype=torch.float64), torch.randn(4, 3, 3, dtype=torch.float64)
    with torch.no_grad():
        output, (h_n, c_n) = network(x)
        for b in range(3):
            alone, (h_alone, c_alone) = network(x[:, b])
            close(output[:, b], alone)
            close(h_n[:, b], h_alone)
            close(c_n[:, b], c_alone)


@per_network
def test_batch_first_transposes(make: Callable[..., Network]) -> None:
    network, x = make(3, 2, batch_first=True, dtype=torch.float64), torch.randn(2, 4, 3, dtype=torch.float64)
    with torch.no_grad():
        first = network(x)[0]
        network.batch_first = False
        close(first, network(x.transpose(0, 1))[0].transpose(0, 1))


@per_network
def test_sequence_can_be_cut_where_the_states_are_handed_on(make: Callable[..., Network]) -> None:
    network, x = make(3, 2, num_layers=2, dtype=torch.float64), torch.randn(5, 2, 3, dtype=torch.float64)
    with torch.no_grad():
        whole, (h, c) = network(x)
        begin, between = network(x[:2])
        end, (h_end, c_end) = network(x[2:], between)
    close(whole, torch.cat([begin, end]))
    close(h, h_end)
    close(c, c_end)


@per_network
def test_layers_and_directions_equal_manual_composition(make: Callable[..., Network]) -> None:
    deep = make(3, 2, num_layers=2, bidirectional=True, dtype=torch.float64)
    x = torch.randn(4, 3, 3, dtype=torch.float64)
    h, c = torch.randn(2, 4, 3, 2, dtype=torch.float64)
    with torch.no_grad():
        output, (h_n, c_n) = deep(x, (h, c))
        below, index = x, 0
        for size in (3, 4):
            outputs = []
            for reverse in (False, True):
                flat = make(size, 2, dtype=torch.float64)
                flat.cells[0].load_state_dict(deep.cells[index].state_dict())
                state = (h[index, None], c[index, None])
                result, (h_last, c_last) = flat(below.flip(0) if reverse else below, state)
                outputs.append(result.flip(0) if reverse else result)
                close(h_n[index], h_last[0])
                close(c_n[index], c_last[0])
                index += 1
            below = torch.cat(outputs, dim=2)
    close(output, below)


@per_network
def test_dropout_acts_between_layers_in_training_only(make: Callable[..., Network]) -> None:
    network, x = make(3, 2, num_layers=2, dropout=0.5), torch.randn(6, 4, 3)
    assert not torch.equal(network(x)[0], network(x)[0])
    network.eval()
    assert torch.equal(network(x)[0], network(x)[0])
    certain = make(3, 2, num_layers=2, dropout=1.0)
    without = certain.cells[1].run(torch.zeros(6, 4, 2), Layout(6, 4), None, None, reverse=False, check=False)[0]
    torch.testing.assert_close(certain(x)[0], without)


@per_network
def test_dropout_with_one_layer_warns_here(make: Callable[..., Network]) -> None:
    with pytest.warns(UserWarning, match="dropout=0.5 has no effect with num_layers=1"):
        make(3, 2, dropout=0.5)


def test_warning_names_the_line_that_builds_the_network() -> None:
    with pytest.warns(UserWarning) as caught:
        QKLSTM(3, 2, dropout=0.5)
        QLSTM(3, 2, dropout=0.5)
    assert [warning.filename for warning in caught] == [__file__, __file__]


@per_network
def test_state_dict_round_trip(make: Callable[..., Network]) -> None:
    options: dict[str, Any] = {"num_layers": 2, "bidirectional": True}
    one, other = make(3, 2, **options), make(3, 2, **options)
    x = torch.randn(4, 2, 3)
    assert not torch.equal(one(x)[0], other(x)[0])
    file = io.BytesIO()
    torch.save(one.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(one(x)[0], other(x)[0])
    assert torch.equal(one(x)[0], copy.deepcopy(one)(x)[0])


@per_network
def test_whole_module_can_be_pickled(make: Callable[..., Network]) -> None:
    network, x, file = make(3, 2), torch.randn(4, 2, 3), io.BytesIO()
    network(x)
    torch.save(network, file)
    file.seek(0)
    assert torch.equal(network(x)[0], torch.load(file, weights_only=False)(x)[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@per_network
def test_dtype_is_kept_and_can_be_changed(make: Callable[..., Network], dtype: torch.dtype) -> None:
    x = torch.randn(4, 2, 3, dtype=dtype)
    for network in (make(3, 2, dtype=dtype), make(3, 2).to(dtype)):
        output, (h, c) = network(x)
        assert output.dtype == h.dtype == c.dtype == dtype
        output.sum().backward()
        assert all(p.grad is not None and p.grad.dtype == dtype for p in network.parameters())


@per_network
def test_float32_agrees_with_float64(make: Callable[..., Network]) -> None:
    network, x = make(3, 2), torch.randn(4, 2, 3)
    single = network(x)[0]
    torch.testing.assert_close(single.double(), network.double()(x.double())[0], rtol=1e-4, atol=1e-5)


@per_network
def test_same_seed_same_network_and_reset_draws_anew(make: Callable[..., Network]) -> None:
    x = torch.randn(4, 2, 3)
    torch.manual_seed(7)
    one = make(3, 2)
    torch.manual_seed(7)
    other = make(3, 2)
    before = one(x)[0]
    assert torch.equal(before, other(x)[0])
    one.reset_parameters()
    assert not torch.equal(before, one(x)[0])
    one.flatten_parameters()


@per_network
def test_gradients_reach_the_initial_states(make: Callable[..., Network]) -> None:
    h, c = (torch.zeros(1, 2, 2, requires_grad=True) for _ in range(2))
    make(3, 2)(torch.randn(3, 2, 3), (h, c))[0].sum().backward()
    assert h.grad is not None and c.grad is not None and h.grad.abs().min() > 0 and c.grad.abs().min() > 0


@per_network
def test_repr_shows_what_was_chosen(make: Callable[..., Network]) -> None:
    text = repr(make(3, 2, num_layers=2, batch_first=True))
    assert "3, 2, num_layers=2, batch_first=True" in text and "n_qubits=2" in text


@per_network
def test_autocast_runs_in_the_precision_of_the_parameters(make: Callable[..., Network]) -> None:
    network, x = make(3, 2), torch.randn(4, 2, 3)
    packed = pack_padded_sequence(x, torch.tensor([4, 2]))
    expected = network(x)[0], network(packed)[0].data
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = network(x)[0], network(packed)[0].data
        from_halves, (h, _) = network(x.bfloat16(), 2 * (torch.zeros(1, 2, 2, dtype=torch.bfloat16),))
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])
    torch.testing.assert_close(from_halves, expected[0], rtol=0.05, atol=0.05)
    assert from_halves.dtype == h.dtype == torch.float32
    from_halves.sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in network.parameters())


@pytest.mark.parametrize("make", [qklstm, qklstm_circuit])
def test_in_place_changes_between_forward_and_backward_are_noticed(make: Callable[..., QKLSTM]) -> None:
    network, x, h = make(3, 2), torch.randn(4, 2, 3), torch.zeros(1, 2, 2)
    for changed in (x, h, *network.parameters()):
        output = network(x, (h, torch.zeros(1, 2, 2)))[0]
        with torch.no_grad():
            changed.add_(1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            output.sum().backward()


@per_network
def test_backward_twice_gives_the_same(make: Callable[..., Network]) -> None:
    network, x = make(3, 2), torch.randn(4, 2, 3, requires_grad=True)
    loss = network(x)[0].square().sum()
    first, second = (torch.autograd.grad(loss, [x, *network.parameters()], retain_graph=True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@per_network
def test_gradients_of_the_last_states_alone(make: Callable[..., Network]) -> None:
    network, x = make(3, 2, dtype=torch.float64), torch.randn(4, 2, 3, dtype=torch.float64, requires_grad=True)
    output, (h, _) = network(x)
    of_output, of_state = (torch.autograd.grad(y.sum(), x, retain_graph=True)[0] for y in (output[-1], h))
    close(of_output, of_state)


@per_network
def test_inputs_and_parameters_may_be_laid_out_anyhow(make: Callable[..., Network]) -> None:
    network, x = make(3, 2, dtype=torch.float64), torch.randn(3, 4, 2, dtype=torch.float64)
    strange = x.permute(1, 2, 0)
    assert not strange.is_contiguous()
    expected = network(strange.contiguous())[0]
    for p in network.parameters():
        p.data = p.data.mT.contiguous().mT if p.dim() > 1 else p.data
    close(network(strange)[0], expected)


def test_a_parametrization_may_take_a_parameters_place() -> None:
    network, x = qklstm(3, 2, dtype=torch.float64), torch.randn(4, 2, 3, dtype=torch.float64)
    expected = network(x)[0]
    parametrizations.weight_norm(network.cells[0].projection)
    close(network(x)[0], expected)
    network(x)[0].sum().backward()
    assert all(p.grad is not None for p in network.parameters())
