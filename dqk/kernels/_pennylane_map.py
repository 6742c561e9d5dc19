"""Feature maps from PennyLane functions: record the gates, decompose them into ours, keep the angles differentiable.

The function runs once when the map is made, to fix the circuit, and once per evaluation, to compute the angles of all
samples together. Which angles depend on the data, on the parameters or on nothing is read off torch's autograd graph.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dqk.circuit import Circuit, Gate, constant, data, shared, unitary
from dqk.circuit.model import Kind
from dqk.errors import BackendUnavailableError, InvalidInputError
from dqk.kernels.feature_map import FeatureMap

_NAMES = {
    "Hadamard": "h",
    "PauliX": "x",
    "CNOT": "cx",
    "CZ": "cz",
    "SWAP": "swap",
    "RX": "rx",
    "RY": "ry",
    "RZ": "rz",
    "PhaseShift": "p",
    "ControlledPhaseShift": "cp",
    "CRX": "crx",
    "CRY": "cry",
    "CRZ": "crz",
    "IsingXX": "rxx",
    "IsingYY": "ryy",
    "IsingZZ": "rzz",
}
_TOLERANCE = 1e-6  # of constants that are computed anew, possibly in float32


def trace(f: Any, n_qubits: int, n_features: int, n_params: int, bandwidth: float) -> FeatureMap:
    """The feature map of a PennyLane function `f(x)` or, if it has parameters, `f(x, params)`.

    Args:
        f: applies gates on wires 0 to n_qubits - 1 and returns nothing; it reads feature i as `x[..., i]`, so that it also
            works for x of shape (N, n_features), and computes angles with torch operations.
        n_qubits: number of wires.
        n_features: length of a sample.
        n_params: number of trainable parameters; 0 if f takes x alone.
        bandwidth: multiplies x before f sees it.

    Returns:
        A feature map whose data columns are the angles that depend on x.

    Raises:
        BackendUnavailableError: if PennyLane is not installed.
        InvalidInputError: if f measures, is not unitary, has no decomposition into the gates of `dqk.circuit`, or applies
            gates that differ between samples; the message names the gate.
    """
    _check_arguments(f, n_qubits, n_features, n_params)
    function = _Function(f, n_qubits, n_params)
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


@dataclass(frozen=True, slots=True)
class _Step:
    """One gate of the traced function.

    Attributes:
        name: its name in `dqk.circuit`.
        wires: the qubits it acts on.
        kind: what its angle depends on.
        value: angle as a tensor, constant angle as a float, matrix of a constant unitary, None for gates without an angle.
    """

    name: str
    wires: tuple[int, ...]
    kind: Kind
    value: Any = None

    def __str__(self) -> str:
        return f"{self.name} on wires {list(self.wires)} with a {self.kind} angle" if self.has_angle else (
            f"{self.name} on wires {list(self.wires)}"
        )

    @property
    def has_angle(self) -> bool:
        return self.value is not None and not isinstance(self.value, np.ndarray)


class _AngleFunction:
    """`(x, params) -> (data angles (N, A_d), shared angles (A_s,))` by running the function again."""

    def __init__(self, function: _Function, steps: Sequence[_Step]):
        self.function = function
        # Angles are made anew each time: kept ones would hold autograd graphs, which cannot be copied.
        self.steps = [replace(step, value=None) if isinstance(step.value, Tensor) else step for step in steps]

    def __call__(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        steps = self.function.record(x, params)
        _require_same(self.steps, steps, "these samples")
        columns, weights = _columns(steps, x)
        if torch.is_grad_enabled() and (x.requires_grad or params.requires_grad):
            return columns, weights
        return columns.detach(), weights.detach()


def _columns(steps: Sequence[_Step], x: Tensor) -> tuple[Tensor, Tensor]:
    columns = [step.value.reshape(len(x)).to(x.dtype) for step in steps if step.kind == "data"]
    weights = [step.value.reshape(()).to(x.dtype) for step in steps if step.kind == "shared"]
    return (
        torch.stack(columns, 1) if columns else x.new_empty(len(x), 0),
        torch.stack(weights) if weights else x.new_empty(0),
    )


class _Function:
    """A PennyLane function that can be recorded as a list of steps."""

    def __init__(self, f: Callable[..., Any], n_qubits: int, n_params: int):
        self.f = f
        self.n_qubits = n_qubits
        self.n_params = n_params

    def record(self, x: Tensor, params: Tensor) -> list[_Step]:
        """The steps for a batch x (N, d), or for one sample x (d,)."""
        qml = _pennylane()
        with torch.enable_grad():
            # Fresh nodes of the graph: everything that depends on x or the parameters is downstream of them.
            x, params = (t.view_as(t) if t.requires_grad else t.detach().requires_grad_().view_as(t) for t in (x, params))
            graph = _Graph(x, params)
            try:
                tape = qml.tape.make_qscript(self.f)(*([x, params] if self.n_params else [x]))
            except Exception as error:
                raise InvalidInputError(
                    f"the PennyLane function failed for x of shape {tuple(x.shape)}: {type(error).__name__}: {error}. It must "
                    "read feature i as x[..., i], so that batches broadcast, and its gates must not depend on values of x"
                ) from error
            if tape.measurements:
                raise InvalidInputError(
                    f"the PennyLane function measures ({tape.measurements[0]}); a feature map only prepares a state: return "
                    "nothing from it"
                )
            return [step for op in tape.operations for step in self._steps(op, graph, x.shape[:-1])]

    def _steps(self, op: Any, graph: _Graph, batch: torch.Size) -> Iterator[_Step]:
        wires = self._wires(op)
        kinds = [graph.kind(parameter) for parameter in getattr(op, "data", ())]
        _refuse_what_is_not_unitary(op, kinds)
        name = {1: "rz", 2: "rzz"}.get(len(wires)) if op.name == "MultiRZ" else _NAMES.get(op.name)
        if op.name == "GlobalPhase":
            return
        if name and len(kinds) <= 1:
            yield _Step(name, wires, *(_angle(op, kinds[0], op.data[0], batch) if kinds else ("constant",)))
        elif all(kind == "constant" for kind in kinds) and len(wires) in (1, 2) and op.has_matrix:
            matrix = _pennylane().math.toarray(_pennylane().matrix(op, wire_order=op.wires))
            if matrix.ndim != 2:
                raise _refusal(op, "its matrix is a batch that does not depend on x through torch operations")
            yield _Step("unitary", wires, "constant", np.asarray(matrix, dtype=complex))
        else:
            yield from self._decomposed(op, graph, batch)

    def _decomposed(self, op: Any, graph: _Graph, batch: torch.Size) -> Iterator[_Step]:
        """PennyLane's decomposition; sample by sample where it cannot decompose a batch."""
        reason = "PennyLane has no decomposition of it into gates that dqk knows"
        try:
            parts = op.decomposition() if op.has_decomposition else None
        except Exception as error:  # of any kind: code that compares one angle often fails on a batch of them
            parts, reason = None, f"its decomposition failed: {error}"
        if parts is not None:
            for part in parts:
                yield from self._steps(part, graph, batch)
            return
        if not batch or not any(isinstance(p, Tensor) and p.shape[:1] == batch for p in op.data):
            raise _refusal(op, reason)
        bind = _pennylane().ops.functions.bind_new_parameters
        samples = []
        for row in range(*batch):
            values = [p[row] if isinstance(p, Tensor) and p.shape[:1] == batch else p for p in op.data]
            samples.append(list(self._decomposed(bind(op, values), graph, torch.Size())))
            _require_same(samples[0], samples[-1], f"another sample in {op.name}")
        for steps in zip(*samples, strict=True):
            is_data = steps[0].kind == "data"
            yield replace(steps[0], value=torch.stack([step.value for step in steps])) if is_data else steps[0]

    def _wires(self, op: Any) -> tuple[int, ...]:
        try:
            wires = tuple(operator.index(wire) for wire in op.wires)
        except TypeError:
            wires = (-1,)
        if any(not 0 <= wire < self.n_qubits for wire in wires):
            raise _refusal(op, f"wires must be whole numbers from 0 to {self.n_qubits - 1} (n_qubits={self.n_qubits})")
        return wires


class _Graph:
    """Which tensors are downstream of x or of the parameters in autograd's graph."""

    def __init__(self, x: Tensor, params: Tensor):
        self._known: dict[Any, frozenset[str]] = {x.grad_fn: frozenset({"data"}), params.grad_fn: frozenset({"shared"})}

    def kind(self, value: Any) -> Kind:
        if not isinstance(value, Tensor) or not value.requires_grad:
            return "constant"
        found = self._sources(value.grad_fn) if value.grad_fn else frozenset({"other"})
        if "other" in found:
            raise InvalidInputError(
                "the PennyLane function uses a tensor that needs a gradient but is neither x nor params; pass it in params"
            )
        return "data" if "data" in found else "shared"

    def _sources(self, node: Any) -> frozenset[str]:
        stack = [node]
        while stack:
            top = stack[-1]
            inputs = [parent for parent, _ in top.next_functions if parent is not None]
            missing = [] if top in self._known else [parent for parent in inputs if parent not in self._known]
            stack += missing
            if not missing:
                stack.pop()
            if not missing and top not in self._known:
                own = {"other"} if hasattr(top, "variable") else set()  # a leaf that is neither x nor the parameters
                self._known[top] = frozenset(own.union(*(self._known[parent] for parent in inputs)))
        return self._known[node]


def _angle(op: Any, kind: Kind, value: Any, batch: torch.Size) -> tuple[Kind, Any]:
    shape = tuple(np.shape(value)) if kind == "constant" else tuple(value.shape)
    if shape == (batch if kind == "data" else ()):
        return kind, float(value) if kind == "constant" else value
    if kind == "data":
        raise _refusal(op, f"its angle has shape {shape} for x of shape {(*batch, 'd')}; read feature i as x[..., i]")
    if shape == (1,):
        return kind, float(value[0]) if kind == "constant" else value[0]
    raise _refusal(op, f"its angle has shape {shape}, but autograd does not connect it to x: use torch operations on x only")


def _refuse_what_is_not_unitary(op: Any, kinds: list[Kind]) -> None:
    qml = _pennylane()
    if isinstance(op, qml.operation.Channel):
        raise _refusal(op, "noise channels are not unitary; noise belongs to a backend")
    if isinstance(op, qml.operation.StatePrepBase) and any(kind != "constant" for kind in kinds):
        raise _refusal(op, "a state preparation that depends on x or params has no fixed gates")
    if type(op).__name__ in ("MidMeasureMP", "MidMeasure", "PauliMeasure", "Conditional"):
        raise _refusal(op, "measurements inside the circuit make the gates depend on their outcome")


def _refusal(op: Any, reason: str) -> InvalidInputError:
    return InvalidInputError(f"cannot use {getattr(op, 'name', op)} on wires {list(op.wires)}: {reason}")


def _check_arguments(f: Any, n_qubits: int, n_features: int, n_params: int) -> None:
    qml = _pennylane()
    problems = [
        f"{name} is {value!r}, expected a whole number of at least {least}"
        for name, value, least in (("n_qubits", n_qubits, 1), ("n_features", n_features, 1), ("n_params", n_params, 0))
        if not isinstance(value, int) or value < least
    ]
    if isinstance(f, qml.QNode):
        problems.append("f is a QNode, which measures; pass the quantum function without its return statement")
    elif not callable(f):
        problems.append(f"f is {f!r}, expected a function f(x) or f(x, params) that applies PennyLane gates")
    if problems:
        raise InvalidInputError("; ".join(problems))


def _probe(function: _Function, n_features: int) -> list[_Step]:
    """The steps for several random inputs, checked to be the same circuit, in batches as for single samples."""
    generator = torch.Generator().manual_seed(0)
    count = max(3, n_features + 1, function.n_params + 1)  # no other axis has this length
    normal = torch.randn(4, count, n_features, generator=generator, dtype=torch.float64)
    params = torch.randn(2, function.n_params, generator=generator, dtype=torch.float64)
    batches = [normal[0], normal[1].abs(), -normal[2].abs(), 5 * normal[3]]
    expected = function.record(batches[0], params[0])
    if not expected:
        raise InvalidInputError("the PennyLane function applies no gate; it must queue its gates, not call a QNode")
    for x in batches:
        found = function.record(x, params[0])
        _require_same(expected, found, "other samples")
        _require_equal(_values(expected, "shared"), _values(found, "shared"), "depend on x, but not by torch operations")
        _require_same(expected, function.record(x, params[1]), "other parameters")
        for row in (0, count - 1):
            single = function.record(x[row], params[0])
            _require_same(expected, single, "a single sample")
            batch = [step.value[row] for step in found if step.kind == "data"]
            _require_equal(batch, _values(single, "data"), "differ between a batch and its samples: they mix samples")
    return expected


def _values(steps: Sequence[_Step], kind: Kind) -> list[Tensor]:
    return [step.value for step in steps if step.kind == kind]


def _require_equal(first: list[Tensor], second: list[Tensor], what: str) -> None:
    for a, b in zip(first, second, strict=True):
        if abs(float(a) - float(b)) > _TOLERANCE * max(1.0, abs(float(a))):
            raise InvalidInputError(f"angles of the PennyLane function {what} ({float(a):.6g} and {float(b):.6g})")


def _require_same(expected: Sequence[_Step], found: Sequence[_Step], where: str) -> None:
    """Raises where two recordings are not the same gates with the same constants."""
    for position, (a, b) in enumerate(zip(expected, found, strict=False)):
        if (a.name, a.wires, a.kind) != (b.name, b.wires, b.kind):
            raise InvalidInputError(
                f"the gates depend on values: gate {position} is {a}, for {where} it is {b}; a feature map has one circuit"
            )
        if a.kind == "constant" and a.value is not None:
            if np.abs(np.asarray(a.value) - np.asarray(b.value)).max() > _TOLERANCE * max(1.0, np.abs(a.value).max()):
                raise InvalidInputError(
                    f"gate {position}, {a}, changes for {where}, but autograd does not connect it to x or params: use torch "
                    "operations on them, not float() or NumPy"
                )
    if len(expected) != len(found):
        raise InvalidInputError(
            f"the gates depend on values: {len(expected)} gates, for {where} {len(found)}; a feature map has one circuit"
        )


def _pennylane() -> Any:
    try:
        import pennylane
    except ImportError as error:
        raise BackendUnavailableError(
            "feature maps from PennyLane functions need PennyLane; install it with: pip install 'dqk[qpu]'"
        ) from error
    return pennylane
