"""Feature maps from PennyLane functions: record the gates, decompose them into ours, keep the angles differentiable.

The function runs once when the map is made, to fix the circuit, and once per evaluation, to compute the angles of all
samples together. Which angles depend on the data, on the parameters or on nothing is read off torch's autograd graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dqk.circuit import Circuit, Gate, constant, data, shared, unitary
from dqk.circuit.model import Kind
from dqk.errors import InvalidInputError, whole_number
from dqk.kernels._pennylane_tape import TOLERANCE, Function, Step, pennylane, require_same
from dqk.kernels.feature_map import FeatureMap


def trace(f: Any, n_qubits: int, n_features: int, n_params: int, bandwidth: float) -> FeatureMap:
    """The feature map of a PennyLane function `f(x)` or, if it has parameters, `f(x, params)`.

    Args:
        f: applies gates on wires 0 to n_qubits - 1 and returns nothing; it reads feature i as `x[..., i]`, so that it
            also works for x of shape (N, n_features), and computes angles with torch operations.
        n_qubits: number of wires.
        n_features: length of a sample.
        n_params: number of trainable parameters; 0 if f takes x alone.
        bandwidth: multiplies x before f sees it.

    Returns:
        A feature map whose data columns are the angles that depend on x.

    Raises:
        BackendUnavailableError: if PennyLane is not installed.
        InvalidInputError: if f measures, is not unitary, has no decomposition into the gates of `dqk.circuit`, or
            applies gates that differ between samples; the message names the gate.
    """
    n_qubits, n_features = whole_number("n_qubits", n_qubits, 1), whole_number("n_features", n_features, 1)
    n_params = whole_number("n_params", n_params, 0)
    _check_function(f)
    function = Function(f, n_qubits, n_params)
    steps = _probe(function, n_features)
    gates, n_data, n_shared = [], 0, 0
    for step in steps:
        if isinstance(step.value, np.ndarray):
            gates.append(unitary(step.value, *step.wires))
        elif step.kind == "data":
            gates.append(Gate(step.name, step.wires, data(n_data)))
            n_data += 1
        elif step.kind == "shared":
            gates.append(Gate(step.name, step.wires, shared(n_shared)))
            n_shared += 1
        else:
            gates.append(Gate(step.name, step.wires, None if step.value is None else constant(step.value)))
    circuit = Circuit(n_qubits, tuple(gates), n_data, n_shared)
    name = getattr(f, "__name__", type(f).__name__)
    angles = _AngleFunction(function, steps)
    return FeatureMap(name, circuit, n_features, None, n_params, "custom", bandwidth, angles)


class _AngleFunction:
    """`(x, params) -> (data angles (N, A_d), shared angles (A_s,))` by running the function again."""

    def __init__(self, function: Function, steps: Sequence[Step]):
        self.function = function
        # Angles are made anew each time: kept ones would hold autograd graphs, which cannot be copied.
        self.steps = [replace(step, value=None) if isinstance(step.value, Tensor) else step for step in steps]

    def __call__(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        steps = self.function.record(x, params)
        require_same(self.steps, steps, "these samples")
        columns, weights = _columns(steps, x)
        if torch.is_grad_enabled() and (x.requires_grad or params.requires_grad):
            return columns, weights
        return columns.detach(), weights.detach()


def _columns(steps: Sequence[Step], x: Tensor) -> tuple[Tensor, Tensor]:
    columns = [step.value.reshape(len(x)).to(x.dtype) for step in steps if step.kind == "data"]
    weights = [step.value.reshape(()).to(x.dtype) for step in steps if step.kind == "shared"]
    return (
        torch.stack(columns, 1) if columns else x.new_empty(len(x), 0),
        torch.stack(weights) if weights else x.new_empty(0),
    )


def _check_function(f: Any) -> None:
    if isinstance(f, pennylane().QNode):
        raise InvalidInputError("f is a QNode, which measures; pass the quantum function without its return statement")
    if not callable(f):
        raise InvalidInputError(f"f is {f!r}, expected a function f(x) or f(x, params) that applies PennyLane gates")


def _probe(function: Function, n_features: int) -> list[Step]:
    """The steps for several random inputs, checked to be the same circuit, in batches as for single samples."""
    generator = torch.Generator().manual_seed(0)
    count = max(3, n_features + 1, function.n_params + 1)  # no other axis has this length
    normal = torch.randn(4, count, n_features, generator=generator, dtype=torch.float64)
    batches = [normal[0], normal[1].abs(), -normal[2].abs(), 5 * normal[3]]
    normal = torch.randn(3, function.n_params, generator=generator, dtype=torch.float64)
    params = [normal[0], normal[1].abs(), -normal[2].abs()]
    expected = function.record(batches[0], params[0])
    if not expected:
        raise InvalidInputError("the PennyLane function applies no gate; it must queue its gates, not call a QNode")
    for other in params[1:]:
        require_same(expected, function.record(batches[0], other), "other parameters")
    for x in batches:
        found = function.record(x, params[0])
        require_same(expected, found, "other samples")
        _require_equal(
            _values(expected, "shared"), _values(found, "shared"), "depend on x, but not by torch operations"
        )
        for row in (0, count - 1):
            single = function.record(x[row], params[0])
            require_same(expected, single, "a single sample")
            batch = [step.value[row] for step in found if step.kind == "data"]
            _require_equal(batch, _values(single, "data"), "differ between a batch and its samples: they mix samples")
    return expected


def _values(steps: Sequence[Step], kind: Kind) -> list[Tensor]:
    return [step.value for step in steps if step.kind == kind]


def _require_equal(first: list[Tensor], second: list[Tensor], what: str) -> None:
    for a, b in zip((t.item() for t in first), (t.item() for t in second), strict=True):
        if abs(a - b) > TOLERANCE * max(1.0, abs(a)):
            raise InvalidInputError(f"angles of the PennyLane function {what} ({a:.6g} and {b:.6g})")
