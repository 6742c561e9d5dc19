"""The QLSTM: an LSTM whose gates are variational circuits. The baseline that a QK-LSTM is compared with."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dqk.backends import Backend, autograd, resolve_expectations
from dqk.circuit import Circuit, Gate, data
from dqk.errors import InvalidInputError
from dqk.nn.recurrent import GateCell, GatedRecurrence, Step, whole_number


def variational_circuit(n_qubits: int, n_layers: int) -> Circuit:
    """RX(x_q) on every qubit, then `n_layers` times [RX(w_lq), CNOT ring]; columns: x first, then the weights by layer.

    The weights are data columns too: rows of one batch then differ in their weights, and one call serves four gates.
    Two qubits have one CNOT, not two that undo each other; one qubit has none.
    """
    gates = [Gate("rx", (q,), data(q)) for q in range(n_qubits)]
    ring = [(q, (q + 1) % n_qubits) for q in range(n_qubits if n_qubits > 2 else n_qubits - 1)]
    for layer in range(n_layers):
        gates += [Gate("rx", (q,), data(n_qubits * (layer + 1) + q)) for q in range(n_qubits)]
        gates += [Gate("cx", pair) for pair in ring]
    return Circuit(n_qubits, tuple(gates), n_data=n_qubits * (n_layers + 1))


class VariationalCell(GateCell):
    """`pre_g = V <Z>_g(y_t) + b` with `y_t = W [h_{t-1}; x_t] + b'` and one circuit per gate.

    Args:
        input_size: number of features D of x_t.
        hidden_size: number of features H of h_t.
        bias: whether the readout has a bias.
        n_qubits: number of qubits n.
        n_layers: number of variational layers L.
        backend: `auto`, the name of a backend with expectation values, or a backend object.
        device: of the parameters.
        dtype: of the parameters.

    Attributes:
        projection: W and b', from H + D to n features.
        weights: rotation angles of the gates' circuits in radians, shape (4, L * n).
        readout: V and b, from n expectation values to H; one for all gates.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool,
        n_qubits: int,
        n_layers: int,
        backend: str | Backend,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__(input_size, hidden_size)
        self.circuit = variational_circuit(n_qubits, n_layers)
        self.backend = resolve_expectations(backend, self.circuit)
        self.observables = tuple("I" * q + "Z" + "I" * (n_qubits - q - 1) for q in range(n_qubits))
        place: dict[str, Any] = {"device": device, "dtype": dtype}
        self.projection = nn.Linear(hidden_size + input_size, n_qubits, **place)
        self.weights = nn.Parameter(torch.empty(4, n_layers * n_qubits, **place))
        self.readout = nn.Linear(n_qubits, hidden_size, bias=bias, **place)
        self.reset_parameters()

    @property
    def weight(self) -> Tensor:
        """A parameter that shows dtype and device."""
        return self.weights

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """The linear maps as `nn.Linear` draws them, the circuits' angles uniform in (-pi, pi)."""
        self.projection.reset_parameters()
        self.readout.reset_parameters()
        self.weights.uniform_(-math.pi, math.pi)

    def begin(self, inputs: Tensor) -> tuple[Tensor, Step]:
        """Projects all inputs at once; see `GateCell.begin`."""
        hidden, visible = self.projection.weight.split((self.hidden_size, self.input_size), dim=1)
        projected = F.linear(inputs, visible, self.projection.bias)
        n_qubits, weights, shared = self.circuit.n_qubits, self.weights, inputs.new_empty(0)

        def step(x: Tensor, h: Tensor) -> Tensor:
            y = torch.addmm(x, h, hidden.t())
            rows = torch.cat((y.expand(4, -1, -1), weights.unsqueeze(1).expand(-1, len(y), -1)), dim=2)
            values = autograd.expectations(self.backend, self.circuit, rows.flatten(0, 1), self.observables, shared)
            return self.readout(values.view(4, -1, n_qubits))

        return projected, step


class QLSTM(GatedRecurrence):
    """An LSTM with variational gates, with the arguments, inputs and outputs of `torch.nn.LSTM`.

    A linear map takes [h_{t-1}; x_t] to one angle per qubit; each gate runs its own circuit (angle embedding by RX,
    then layers of RX and a CNOT ring) and a linear map, shared by the gates, takes the expectation values <Z_q> to the
    hidden units. All weights are registered parameters: they are counted, trained and saved.

    Args:
        input_size: number of features D of x_t.
        hidden_size: number of features H of h_t.
        num_layers: number of stacked layers.
        bias: whether the readout has a bias; the projection always has one.
        batch_first: whether padded input and output are (B, T, features) instead of (T, B, features).
        dropout: probability of dropout between layers, in training.
        bidirectional: whether a second cell per layer reads from the end; outputs then have 2 H features.
        n_qubits: number of qubits of every gate's circuit.
        n_layers: number of variational layers of every gate's circuit.
        backend: `auto` for `statevector`, the name of a backend with expectation values, or a backend object.
        device: of the parameters.
        dtype: of the parameters.

    Raises:
        InvalidInputError: names everything about the arguments that cannot work.

    References:
        Chen, Yoo and Fang, "Quantum long short-term memory", arXiv 2009.01783, with the ansatz and the shared linear
        maps that the public implementation rdisipio/qlstm made common.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        n_qubits: int = 4,
        n_layers: int = 1,
        backend: str | Backend = "auto",
        device: Any = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional)
        circuit_problems = whole_number("n_qubits", n_qubits) + whole_number("n_layers", n_layers)
        if not circuit_problems:
            try:
                resolve_expectations(backend, variational_circuit(n_qubits, n_layers))
            except InvalidInputError as error:
                circuit_problems.append(str(error))
        problems = self._problems() + circuit_problems
        if problems:
            raise InvalidInputError("QLSTM cannot be built: " + "; ".join(problems))
        self.n_qubits = n_qubits
        self.n_layers = n_layers

        def make_cell(size: int) -> VariationalCell:
            return VariationalCell(size, hidden_size, bias, n_qubits, n_layers, backend, device, dtype)

        self._build(make_cell)

    def extra_repr(self) -> str:
        """Shown by `print(module)`."""
        return f"{super().extra_repr()}, n_qubits={self.n_qubits}, n_layers={self.n_layers}"
