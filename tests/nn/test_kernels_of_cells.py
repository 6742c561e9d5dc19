"""QK-LSTMs with other kernels than the fidelity, against an LSTM written out in plain torch."""

import time
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.utils.rnn import pack_padded_sequence

from dqk import QKLSTM, FidelityKernel, ProjectedKernel
from dqk.errors import InvalidInputError
from dqk.kernels import LinearKernel, RBFKernel
from dqk.kernels.feature_maps import bsp_feature_map, reuploading_feature_map

INPUT, HIDDEN, FEATURES = 3, 2, 4


def rbf(z: Tensor, r: Tensor, bandwidth: float) -> Tensor:
    return torch.exp(-((bandwidth * (z[:, None] - r[None])) ** 2).sum(-1) / 2)


def linear(z: Tensor, r: Tensor, bandwidth: float) -> Tensor:
    return bandwidth**2 * (z[:, None] * r[None]).mean(-1)


# The options, the kernel written out, its bandwidth and the factor c.
CASES: dict[str, tuple[dict[str, Any], Any, float, float]] = {
    "rbf": ({"kernel": "rbf"}, rbf, 1.0, 4.0),
    "rbf, table 1": ({"kernel": "rbf", "references": "fixed", "readout": "shared", "bandwidth": 0.6}, rbf, 0.6, 4.0),
    "linear": ({"kernel": "linear"}, linear, 1.0, 2.0),
    "linear, six features": (
        {"kernel": "linear", "n_qubits": 6, "kernel_scale": 1.5, "bandwidth": 2.0},
        linear,
        2.0,
        1.5,
    ),
    "shared": ({"kernel": "rbf", "gate_kernel": "shared"}, rbf, 1.0, 4.0),
    "projection": ({"kernel": "linear", "gate_kernel": "projection"}, linear, 1.0, 2.0),
    "projection, input": (
        {"kernel": "rbf", "gate_kernel": "projection", "reference_space": "input", "n_references": 3},
        rbf,
        1.0,
        4.0,
    ),
    "no projection": ({"kernel": "rbf", "projection": False, "references": "fixed"}, rbf, 1.0, 2**2.5),
    "an object": ({"kernel": RBFKernel(FEATURES, 0.5), "bandwidth": 0.8}, rbf, 0.4, 1.0),
    "a sum": (
        {"kernel": RBFKernel(FEATURES) + 0.5 * LinearKernel(FEATURES)},
        lambda z, r, b: rbf(z, r, b) + linear(z, r, b) / 2,
        1.0,
        1.0,
    ),
}
per_case = pytest.mark.parametrize("name", CASES)


def build(name: str, **more: Any) -> QKLSTM:
    torch.manual_seed(3)
    return QKLSTM(INPUT, HIDDEN, dtype=torch.float64, **{**CASES[name][0], **more})


def by_hand(lstm: QKLSTM, kernel: Any, bandwidth: float, scale: float, x: Tensor, h: Tensor, c: Tensor) -> Any:
    """One sequence batch (T, B, D), gate by gate, in the order forget, input, output, cell."""
    cell, o = lstm.cells[0], lstm.options
    alpha, bias = cell.alpha.expand(4, -1, HIDDEN), cell.gate_bias.expand(4, HIDDEN)
    outputs = []
    for x_t in x:
        v, pre = torch.cat((h, x_t), dim=1), []
        for g in range(4):
            references = cell.references[g if o.gate_kernel == "references" else 0]
            z = v
            if cell.projection is not None:
                weight = cell.projection.weight.unflatten(0, (-1, cell.kernels[0].n_features))
                offset = cell.projection.bias.view(len(weight), -1)
                own = g if o.gate_kernel == "projection" else 0
                z = v @ weight[own].T + offset[own]
                if o.reference_space == "input":
                    references = references @ weight[own].T + offset[own]
            pre.append(scale * kernel(z, references, bandwidth) @ alpha[g] + bias[g])
        forget, write, show = (p.sigmoid() for p in pre[:3])
        c = forget * c + write * pre[3].tanh()
        h = show * c.tanh()
        outputs.append(h)
    return torch.stack(outputs), h, c


def data(n_steps: int = 3, batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    shapes = (n_steps, batch, INPUT), (1, batch, HIDDEN), (1, batch, HIDDEN)
    x, h, c = (torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes)
    return x, h.tanh(), c


@per_case
def test_outputs_and_gradients_are_those_by_hand(name: str) -> None:
    _, kernel, bandwidth, scale = CASES[name]
    lstm = build(name)
    inputs = [tensor.requires_grad_() for tensor in data()]
    output, (h_n, c_n) = lstm(inputs[0], (inputs[1], inputs[2]))
    expected = by_hand(lstm, kernel, bandwidth, scale, inputs[0], inputs[1][0], inputs[2][0])
    everything = [*inputs, *lstm.parameters()]
    results = []
    for values in ((output, h_n[0], c_n[0]), expected):
        loss = values[0].square().sum() + values[1].sin().sum() + (2 * values[2]).cos().sum()
        results.append([*values, *torch.autograd.grad(loss, everything)])
    for found, wanted in zip(*results, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-12)


QUANTUM = {
    "projected": {"kernel": ProjectedKernel(reuploading_feature_map(2, 1, trainable="rotations")), "n_references": 2},
    "one for each gate": {"kernel": RBFKernel(2, trainable="scale"), "gate_kernel": "circuit", "n_references": 2},
    "product": {"kernel": FidelityKernel(bsp_feature_map(2)) * RBFKernel(2, trainable="scale"), "n_references": 2},
}


@pytest.mark.parametrize("name", QUANTUM)
def test_gradients_equal_finite_differences(name: str) -> None:
    torch.manual_seed(0)
    lstm = QKLSTM(INPUT, HIDDEN, dtype=torch.float64, **QUANTUM[name])
    names = [key for key, _ in lstm.named_parameters()]
    assert any("kernels" in key for key in names)

    def run(x: Tensor, *values: Tensor) -> Tensor:
        return functional_call(lstm, dict(zip(names, values, strict=True)), (x,))[0]

    inputs = [data(2)[0], *(value.detach().clone() for value in lstm.parameters())]
    assert torch.autograd.gradcheck(run, [value.requires_grad_() for value in inputs], fast_mode=True)
    if name == "one for each gate":
        assert not torch.equal(lstm.cells[0].kernels[0].params, lstm.cells[0].kernels[1].params)


def test_values_of_a_projected_kernel_are_its_own() -> None:
    """A cell without hidden influence: what the gates see is the kernel between W x + b and the references."""
    kernel = ProjectedKernel(bsp_feature_map(2))
    lstm = QKLSTM(INPUT, HIDDEN, dtype=torch.float64, kernel=kernel, gate_kernel="shared")
    cell, x = lstm.cells[0], data(1)[0][0]
    projected, step = cell.begin(x)
    found = step(projected, torch.zeros(2, HIDDEN, dtype=torch.float64))
    z = cell.projection(torch.cat((torch.zeros(2, HIDDEN), x), dim=1))
    expected = kernel(z, cell.references[0]) @ cell.alpha + cell.gate_bias[:, None]
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)


def test_a_fidelity_kernel_brings_its_map_and_its_training() -> None:
    kernel = FidelityKernel(reuploading_feature_map(2, 1, trainable="rotations"), backend="reference")
    torch.manual_seed(1)
    lstm = QKLSTM(INPUT, HIDDEN, kernel=kernel, bandwidth=0.5)
    cell = lstm.cells[0]
    assert cell.backend.name == "reference" and cell.feature_map == kernel.feature_map.with_bandwidth(0.5)
    assert torch.equal(cell.params[0], kernel.params)
    assert cell.params.data_ptr() != kernel.params.data_ptr()
    compiled = QKLSTM(INPUT, HIDDEN, kernel=FidelityKernel(kernel.feature_map))
    assert compiled.cells[0].plan is not None


def test_layers_directions_and_packed_sequences() -> None:
    lstm = QKLSTM(INPUT, HIDDEN, 2, bidirectional=True, kernel="rbf", dtype=torch.float64)
    x, lengths = data(4, 3)[0], torch.tensor([1, 4, 2])
    packed, (h, _) = lstm(pack_padded_sequence(x, lengths, enforce_sorted=False))
    assert packed.data.shape == (7, 2 * HIDDEN) and h.shape == (4, 3, HIDDEN)
    alone, _ = lstm(x[:2, 2])
    found, _ = torch.nn.utils.rnn.pad_packed_sequence(packed)
    torch.testing.assert_close(found[:2, 2], alone)
    assert "kernel=RBFKernel, n_features=4, kernel_scale=4" in repr(lstm)
    twin = QKLSTM(INPUT, HIDDEN, 2, bidirectional=True, kernel="rbf", dtype=torch.float64)
    twin.load_state_dict(lstm.state_dict())
    torch.testing.assert_close(twin(x)[0], lstm(x)[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel": "rfb"}, "unknown kernel 'rfb'; did you mean 'rbf'"),
        ({"kernel": 3}, "kernel is 3, expected 'fidelity', 'rbf', 'linear' or a dqk kernel"),
        ({"kernel": "rbf", "feature_map": bsp_feature_map(2)}, "feature_map is for kernel='fidelity', not for 'rbf'"),
        ({"kernel": "linear", "backend": "mps", "shots": 9}, "shots is for kernel='fidelity'.*backend is for kernel="),
        ({"kernel": "linear", "executor": "processes"}, "executor is for fidelity kernels"),
        (
            {"kernel": "rbf", "gate_kernel": "circuit"},
            r"^QKLSTM cannot be built: gate_kernel='circuit' gives every gate its own kernel parameters, but kernel 'rbf' has "
            r"none; use a trainable one, such as RBFKernel\(4, trainable='scale'\)$",
        ),
        ({"kernel": RBFKernel(3), "projection": False}, "the kernel, which takes 3; give a kernel of 5 features"),
        ({"kernel": RBFKernel(3), "n_qubits": 4}, "n_qubits is 4, but the kernel is for 3"),
        (
            {"kernel": FidelityKernel(bsp_feature_map(2)), "feature_map": bsp_feature_map(2), "backend": "mps"},
            "feature_map belongs to the kernel, which is given; backend belongs to the kernel",
        ),
        ({"kernel": "rbf", "n_qubits": 300}, "too large a number for 300 qubits"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        QKLSTM(INPUT, HIDDEN, **options)


def test_a_step_takes_milliseconds() -> None:
    """Not one evaluation after the other: 50 time steps of 32 sequences, forward and backward."""
    lstm = QKLSTM(16, 32, kernel="rbf", n_qubits=8, n_references=32)
    x = torch.randn(50, 32, 16)
    lstm(x)[0].sum().backward()
    start = time.perf_counter()
    lstm(x)[0].sum().backward()
    assert time.perf_counter() - start < 2.0
