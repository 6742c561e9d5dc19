"""The QLSTM against PennyLane and against finite differences."""

import pytest
import torch
from torch.func import functional_call

from dqk import QLSTM
from dqk.circuit import Circuit
from dqk.nn.qlstm import variational_circuit
from tests.nn.oracle import q_lstm
from tests.nn.variants import PairsBackend


def build(n_qubits: int, n_layers: int, **options: object) -> QLSTM:
    torch.manual_seed(0)
    return QLSTM(3, 2, n_qubits=n_qubits, n_layers=n_layers, dtype=torch.float64, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("backend", ["reference", "auto", PairsBackend()], ids=str)
@pytest.mark.parametrize(("n_qubits", "n_layers"), [(1, 1), (2, 1), (2, 3), (3, 2), (4, 1)])
def test_forward_equals_pennylane(n_qubits: int, n_layers: int, backend: object) -> None:
    lstm = build(n_qubits, n_layers, backend=backend)
    weights = {key: value.numpy() for key, value in lstm.cells[0].state_dict().items()}
    x, h, c = (torch.randn(shape, dtype=torch.float64) for shape in ((3, 2, 3), (1, 2, 2), (1, 2, 2)))
    with torch.no_grad():
        output, (h_n, c_n) = lstm(x, (h, c))
    for b in range(2):
        expected = q_lstm(weights, x[:, b].numpy(), h[0, b].numpy(), c[0, b].numpy(), n_layers)
        for found, wanted in zip((output[:, b], h_n[0, b], c_n[0, b]), expected, strict=True):
            torch.testing.assert_close(found, torch.from_numpy(wanted), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("bias", [True, False])
def test_gradients_equal_finite_differences(bias: bool) -> None:
    lstm = build(3, 2, bias=bias)
    names = [key for key, _ in lstm.named_parameters()]

    def run(x: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = functional_call(lstm, dict(zip(names, values, strict=True)), (x,))[0]
        return result

    inputs = [torch.randn(3, 2, 3, dtype=torch.float64), *(value.detach().clone() for value in lstm.parameters())]
    for value in inputs:
        value.requires_grad_()
    assert torch.autograd.gradcheck(run, inputs)


def test_circuit_weights_are_registered_and_trained() -> None:
    lstm = build(4, 1)
    shapes = {key: tuple(value.shape) for key, value in lstm.named_parameters()}
    assert shapes == {
        "cells.0.weights": (4, 4),
        "cells.0.projection.weight": (4, 5),
        "cells.0.projection.bias": (4,),
        "cells.0.readout.weight": (2, 4),
        "cells.0.readout.bias": (2,),
    }
    lstm(torch.randn(3, 2, 3, dtype=torch.float64))[0].sum().backward()
    assert all(value.grad is not None and value.grad.abs().max() > 0 for value in lstm.parameters())


def test_gates_differ_and_order_matters() -> None:
    lstm, x = build(3, 1), torch.randn(4, 1, 3, dtype=torch.float64)
    projected, step = lstm.cells[0].begin(x[0])
    gates = step(projected, torch.zeros(1, 2, dtype=torch.float64))
    assert all((gates[g] - gates[other]).abs().max() > 1e-3 for g in range(4) for other in range(g))
    assert (lstm(x)[0] - lstm(x[[1, 0, 2, 3]])[0])[2:].abs().amax(dim=(1, 2)).min() > 1e-6


@pytest.mark.parametrize(("n_qubits", "pairs"), [(1, []), (2, [(0, 1)]), (3, [(0, 1), (1, 2), (2, 0)])])
def test_entangling_ring(n_qubits: int, pairs: list[tuple[int, int]]) -> None:
    circuit = variational_circuit(n_qubits, 1)
    assert isinstance(circuit, Circuit) and circuit.n_data == 2 * n_qubits
    assert [gate.wires for gate in circuit.gates if gate.name == "cx"] == pairs
