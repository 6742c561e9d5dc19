"""The numbers: against equation (3) in PennyLane, against finite differences, and fused against composed."""

import tracemalloc

import pytest
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from dqk import QKLSTM
from dqk.backends import EncodingBackend
from dqk.backends.reference import ReferenceBackend
from dqk.circuit import Circuit
from dqk.errors import UnsupportedError
from dqk.kernels.feature_maps import reuploading_feature_map
from dqk.nn.compiled import why_not
from dqk.nn.recurrent import GATES
from tests.nn.oracle import qk_lstm
from tests.nn.variants import HIDDEN, INPUT, VARIANTS, build

per_variant = pytest.mark.parametrize("name", VARIANTS)


def states(batch: int, layers: int = 1, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    h, c = torch.randn(2, layers, batch, HIDDEN, dtype=torch.float64, generator=generator)
    return h.tanh(), c


def samples(n_steps: int, batch: int, seed: int = 2) -> Tensor:
    return torch.randn(n_steps, batch, INPUT, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("backend", ["reference", "auto"])
@per_variant
def test_forward_equals_equation_3_in_pennylane(name: str, backend: str) -> None:
    map_name, options = VARIANTS[name]
    lstm = build(name, **({} if "backend" in options else {"backend": backend}))
    cell = lstm.cells[0]
    weights = {key: value.numpy() for key, value in cell.state_dict().items()}
    x, (h, c) = samples(3, 2), states(2)
    with torch.no_grad():
        output, (h_n, c_n) = lstm(x, (h, c))
    for b in range(2):
        expected = qk_lstm(
            weights,
            x[:, b].numpy(),
            h[0, b].numpy(),
            c[0, b].numpy(),
            map_name,
            cell.feature_map.n_qubits,
            cell.kernel_scale,
            cell.feature_map.bandwidth,
        )
        for found, wanted in zip((output[:, b], h_n[0, b], c_n[0, b]), expected, strict=True):
            torch.testing.assert_close(found, torch.from_numpy(wanted), rtol=1e-11, atol=1e-12)


def as_function(lstm: QKLSTM, names: list[str]):
    def run(x: Tensor, h: Tensor, c: Tensor, *values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        output, (h_n, c_n) = functional_call(lstm, dict(zip(names, values, strict=True)), (x, (h, c)))
        return output, h_n, c_n

    return run


@per_variant
def test_gradients_equal_finite_differences(name: str) -> None:
    lstm = build(name)
    names = [key for key, _ in lstm.named_parameters()]
    inputs = [samples(3, 2), *states(2), *(value.detach().clone() for value in lstm.parameters())]
    for value in inputs:
        value.requires_grad_()
    assert torch.autograd.gradcheck(as_function(lstm, names), inputs, fast_mode=name not in ("default", "circuit"))


@pytest.mark.parametrize("name", ["default", "shared_kernel", "projection", "zz"])
def test_gradients_of_packed_bidirectional_layers(name: str) -> None:
    lstm = build(name, num_layers=2, bidirectional=True)
    names = [key for key, _ in lstm.named_parameters()]
    lengths = torch.tensor([1, 3, 2])

    def run(x: Tensor, h: Tensor, c: Tensor, *values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
        output, (h_n, c_n) = functional_call(lstm, dict(zip(names, values, strict=True)), (packed, (h, c)))
        return output.data, h_n, c_n

    inputs = [samples(3, 3), *states(3, 4), *(value.detach().clone() for value in lstm.parameters())]
    for value in inputs:
        value.requires_grad_()
    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)


CELLS = {name: build(name).cells[0] for name in VARIANTS}
COMPILED = [name for name, cell in CELLS.items() if cell.plan is not None]
FUSED = [name for name, cell in CELLS.items() if cell.fused]
PATHS = [(path, name) for path, names in (("compiled", COMPILED), ("fused", FUSED)) for name in names]


def choose(lstm: QKLSTM, path: str) -> None:
    """Makes all cells take one of the paths: compiled, fused (one node in torch) or composed."""
    for cell in lstm.cells:
        cell.plan = cell.plan if path == "compiled" else None
        cell.fused = path == "fused"


def test_what_is_compiled_and_what_is_fused() -> None:
    assert set(COMPILED) == {name for name in VARIANTS if "pairs" not in name}
    assert why_not(CELLS["default"]) is None
    assert why_not(CELLS["pairs"]) == "backend 'pairs' has no compiled cell"
    assert {"default", "table1", "equation3", "shared_kernel", "projection", "input", "bsp", "rotations"} <= set(FUSED)
    assert {"zz", "iqp", "circuit", "projection_input", "pairs"}.isdisjoint(FUSED)


def outputs_and_gradients(lstm: QKLSTM, x: Tensor, layout: str, seed: int = 1) -> list[Tensor]:
    """Outputs, last states, and the gradients by inputs, initial states and parameters."""
    x = x.detach().requires_grad_()
    batch = x.shape[1]
    sequence: Tensor | PackedSequence = x
    if layout == "packed":
        lengths = torch.tensor([2, 4, 1] + [1 + i % 4 for i in range(batch - 3)])
        sequence = pack_padded_sequence(x, lengths, enforce_sorted=False)
    elif layout == "batch_first":
        lstm.batch_first = True
        sequence = x.transpose(0, 1)
    h, c = (state.to(x.dtype).requires_grad_() for state in states(batch, len(lstm.cells), seed))
    output, (h_n, c_n) = lstm(sequence, (h, c))
    output = output.data if isinstance(output, PackedSequence) else output
    loss = output.square().sum() + h_n.sin().sum() + (2 * c_n).cos().sum()
    return [output, h_n, c_n, *torch.autograd.grad(loss, [x, h, c, *lstm.parameters()])]


@pytest.mark.parametrize("layout", ["padded", "packed", "batch_first"])
@pytest.mark.parametrize(("path", "name"), PATHS, ids=str)
def test_paths_give_the_same(path: str, name: str, layout: str) -> None:
    results = []
    for chosen in (path, "composed"):
        lstm = build(name, bidirectional=True)
        choose(lstm, chosen)
        # More sequences than one vector holds, and one that is not full.
        results.append(outputs_and_gradients(lstm, samples(4, 11), layout))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", COMPILED)
def test_compiled_float32_agrees_with_float64(name: str) -> None:
    """Tolerance: 1e-4 of the largest entry, for the sums over time steps cancel."""
    double = build(name, bidirectional=True)
    expected = outputs_and_gradients(double, samples(4, 19), "packed")
    found = outputs_and_gradients(double.float(), samples(4, 19).float(), "packed")
    for single, wanted in zip(found, expected, strict=True):
        assert single.dtype == torch.float32
        assert (single - wanted).detach().abs().max() <= 1e-4 * max(1.0, float(wanted.detach().abs().max()))


@pytest.mark.parametrize("name", ["default", "reuploading"])
@pytest.mark.parametrize("batch", [1, 35])  # a vector of one lane; full vectors and a rest
def test_other_batches(name: str, batch: int) -> None:
    results = []
    for chosen in ("compiled", "composed"):
        lstm = build(name, bidirectional=True)
        choose(lstm, chosen)
        results.append(outputs_and_gradients(lstm, samples(3, batch), "padded"))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("map_name", ["qklstm", "reuploading"])
def test_backward_needs_no_more_memory_than_forward_keeps(map_name: str) -> None:
    """Twice the forward's activations in all; NumPy's memory by tracemalloc, and the gradients, which are torch's."""
    options = {"n_qubits": 8} if map_name == "qklstm" else {"feature_map": reuploading_feature_map(8, 3)}
    lstm = QKLSTM(32, 64, n_references=16, **options)
    x = torch.randn(50, 64, 32)
    lstm(x)[0].sum().backward()  # compiles
    lstm.zero_grad()
    tracemalloc.start()
    output = lstm(x)[0]
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    output.sum().backward()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    gradients = sum(p.grad.nbytes for p in lstm.parameters() if p.grad is not None)
    # What there is to keep at the least: f, i, o, g, c, h of every unit and time step, and the kernel values.
    assert kept >= 50 * 64 * 4 * (6 * 64 + 4 * 16)
    assert peak + gradients <= 2 * kept


@pytest.mark.parametrize("name", ["default", "zz", "circuit"])
def test_a_second_derivative_is_refused(name: str) -> None:
    x = samples(2, 1).requires_grad_()
    (gradient,) = torch.autograd.grad(build(name)(x)[0].sum(), x, create_graph=True)
    with pytest.raises(UnsupportedError, match="second derivatives of quantum kernels are not available"):
        gradient.sum().backward()


@per_variant
def test_the_four_gates_differ(name: str) -> None:
    cell = build(name).cells[0]
    projected, step = cell.begin(samples(1, 2)[0])
    with torch.no_grad():
        gates = step(projected, states(2)[0][0])
    assert gates.shape == (4, 2, HIDDEN)
    for g in range(4):
        for other in range(g):
            assert (gates[g] - gates[other]).abs().min() > 1e-4, f"{GATES[g]} and {GATES[other]} gates are the same"


@per_variant
def test_permuting_earlier_words_changes_later_outputs(name: str) -> None:
    lstm, x = build(name), samples(4, 1)
    with torch.no_grad():
        before, after = (lstm(sequence)[0] for sequence in (x, x[[1, 0, 2, 3]]))
    assert (before[2:] - after[2:]).abs().amax(dim=(1, 2)).min() > 1e-6


class Spy(ReferenceBackend):
    """Counts how many samples each call takes."""

    def __init__(self) -> None:
        self.encoded: list[int] = []
        self.overlaps: list[tuple[int, int]] = []

    def encode(self, circuit: Circuit, angles: Tensor, shared: Tensor) -> Tensor:
        self.encoded.append(len(angles))
        return super().encode(circuit, angles, shared)

    def overlap(self, a: Tensor, b: Tensor) -> Tensor:
        self.overlaps.append((a.shape[-1], b.shape[-1]))
        return super().overlap(a, b)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(
    ("gate_kernel", "references", "per_step"),
    [("references", 4 * 3, 2), ("shared", 3, 2), ("projection", 3, 4 * 2)],
)
def test_references_are_encoded_once_per_forward_pass(
    gate_kernel: str, references: int, per_step: int, fused: bool
) -> None:
    spy = Spy()
    assert isinstance(spy, EncodingBackend)
    lstm = build("default", backend=spy, n_references=3, gate_kernel=gate_kernel)
    lstm.cells[0].fused = fused
    with torch.no_grad():
        lstm(samples(5, 2))
    assert spy.encoded == [references] + 5 * [per_step]
    assert spy.overlaps == 5 * [(per_step, references)]


def test_kernel_scale_multiplies_alpha() -> None:
    plain, scaled = build("default", kernel_scale=1), build("default", kernel_scale=2.5)
    with torch.no_grad():
        plain.cells[0].alpha.mul_(2.5)
        torch.testing.assert_close(plain(samples(3, 2))[0], scaled(samples(3, 2))[0])


def test_automatic_kernel_scale() -> None:
    assert build("default").cells[0].kernel_scale == 2**1.5
    assert build("equation3", kernel_scale="auto").cells[0].kernel_scale == 2 ** ((INPUT + HIDDEN) / 2)


def test_bandwidth_multiplies_z_and_the_references() -> None:
    narrow, plain = build("default", bandwidth=0.5), build("default")
    with torch.no_grad():
        for weight in (plain.cells[0].projection.weight, plain.cells[0].projection.bias, plain.cells[0].references):
            weight.mul_(0.5)
        torch.testing.assert_close(plain(samples(3, 2))[0], narrow(samples(3, 2))[0])


def test_bandwidth_multiplies_the_maps_own() -> None:
    assert build("iqp", bandwidth=0.5).cells[0].feature_map.bandwidth == 0.35


@pytest.mark.parametrize("name", ["table1", "input_fixed"])
def test_fixed_references_are_buffers_without_gradient(name: str) -> None:
    lstm = build(name)
    lstm(samples(2, 1))[0].sum().backward()
    references = lstm.cells[0].references
    assert not references.requires_grad and references.grad is None
    assert "cells.0.references" in lstm.state_dict()
    assert "cells.0.references" not in dict(lstm.named_parameters())


@per_variant
def test_every_parameter_gets_a_gradient(name: str) -> None:
    lstm = build(name)
    lstm(samples(3, 2))[0].square().sum().backward()
    for key, value in lstm.named_parameters():
        assert value.grad is not None and value.grad.abs().max() > 0, key
