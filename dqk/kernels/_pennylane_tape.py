"""Records the gates that a PennyLane function applies, decomposed into ours, with angles that stay differentiable."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dqk.circuit.model import Kind
from dqk.errors import BackendUnavailableError, InvalidInputError

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
TOLERANCE = 1e-6  # of constants that are computed anew, possibly in float32


@dataclass(frozen=True, slots=True)
class Step:
    """One gate of the traced function.

    Attributes:
        name: its name in `dqk.circuit`.
        wires: the qubits it acts on.
        kind: what its angle depends on.
        value: angle as a tensor, constant angle as a float, matrix of a constant unitary, None without an angle.
    """

    name: str
    wires: tuple[int, ...]
    kind: Kind
    value: Any = None

    def __str__(self) -> str:
        dependence = {"data": ", angle from x", "shared": ", angle from params", "constant": ""}[self.kind]
        return f"{self.name} on wires {list(self.wires)}{dependence}"


class Function:
    """A PennyLane function that can be recorded as a list of steps."""

    def __init__(self, f: Callable[..., Any], n_qubits: int, n_params: int):
        self.f = f
        self.n_qubits = n_qubits
        self.n_params = n_params

    def record(self, x: Tensor, params: Tensor) -> list[Step]:
        """The steps for a batch x (N, d), or for one sample x (d,)."""
        qml = pennylane()
        with torch.enable_grad():
            # Fresh nodes of the graph: everything that depends on x or the parameters is downstream of them.
            x, params = (
                t.view_as(t) if t.requires_grad else t.detach().requires_grad_().view_as(t) for t in (x, params)
            )
            graph = _Graph(x, params)
            try:
                tape = qml.tape.make_qscript(self.f)(*([x, params] if self.n_params else [x]))
            except Exception as error:
                raise InvalidInputError(
                    f"the PennyLane function failed for x of shape {tuple(x.shape)}: {type(error).__name__}: {error}. "
                    "It must read feature i as x[..., i], so that batches broadcast, and its gates must not depend on "
                    "values of x"
                ) from error
            if tape.measurements:
                raise InvalidInputError(
                    f"the PennyLane function measures ({tape.measurements[0]}); a feature map only prepares a state: "
                    "return nothing from it"
                )
            return [step for op in tape.operations for step in self._steps(op, graph, x.shape[:-1])]

    def _steps(self, op: Any, graph: _Graph, batch: torch.Size) -> Iterator[Step]:
        wires = self._wires(op)
        kinds = [graph.kind(parameter) for parameter in getattr(op, "data", ())]
        _refuse_what_is_not_unitary(op, kinds)
        name = {1: "rz", 2: "rzz"}.get(len(wires)) if op.name == "MultiRZ" else _NAMES.get(op.name)
        if op.name == "GlobalPhase":
            return
        if name and len(kinds) <= 1:
            yield Step(name, wires, *(_angle(op, kinds[0], op.data[0], batch) if kinds else ("constant",)))
        elif all(kind == "constant" for kind in kinds) and len(wires) in (1, 2) and op.has_matrix:
            matrix = pennylane().math.toarray(pennylane().matrix(op, wire_order=op.wires))
            if matrix.ndim != 2:
                raise _refusal(op, "its matrix is a batch that does not depend on x through torch operations")
            yield Step("unitary", wires, "constant", np.asarray(matrix, dtype=complex))
        else:
            yield from self._decomposed(op, graph, batch)

    def _decomposed(self, op: Any, graph: _Graph, batch: torch.Size) -> Iterator[Step]:
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
        bind = pennylane().ops.functions.bind_new_parameters
        samples = []
        for row in range(*batch):
            values = [p[row] if isinstance(p, Tensor) and p.shape[:1] == batch else p for p in op.data]
            samples.append(list(self._decomposed(bind(op, values), graph, torch.Size())))
            require_same(samples[0], samples[-1], f"another sample in {op.name}")
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
                "the PennyLane function uses a tensor that needs a gradient but is neither x nor params; pass it in "
                "params"
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
                found = [self._known[parent] for parent in inputs]
                # A node with a variable is a leaf, and x and the parameters are known already.
                self._known[top] = frozenset({"other"} if hasattr(top, "variable") else ()).union(*found)
        return self._known[node]


def _angle(op: Any, kind: Kind, value: Any, batch: torch.Size) -> tuple[Kind, Any]:
    """The kind and the angle: one value, or one value per sample of the batch."""
    shape = tuple(np.shape(value)) if kind == "constant" else tuple(value.shape)
    expected = tuple(batch) if kind == "data" else ()
    if shape != expected and {shape, expected} != {(), (1,)}:  # PennyLane drops an axis of length 1 here and there
        hint = (
            f"for x of shape {(*batch, 'd')}; read feature i as x[..., i]"
            if kind == "data"
            else "but autograd does not connect it to x: use torch operations on x only"
        )
        raise _refusal(op, f"its angle has shape {shape}, {hint}")
    if kind == "constant":
        return kind, float(np.asarray(value).reshape(()))
    return kind, value.reshape(expected)


def _refuse_what_is_not_unitary(op: Any, kinds: list[Kind]) -> None:
    qml = pennylane()
    if isinstance(op, qml.operation.Channel):
        raise _refusal(op, "noise channels are not unitary; noise belongs to a backend")
    if isinstance(op, qml.operation.StatePrepBase) and any(kind != "constant" for kind in kinds):
        raise _refusal(op, "a state preparation that depends on x or params has no fixed gates")
    if type(op).__name__ in ("MidMeasureMP", "MidMeasure", "PauliMeasure", "Conditional"):
        raise _refusal(op, "measurements inside the circuit make the gates depend on their outcome")


def _refusal(op: Any, reason: str) -> InvalidInputError:
    return InvalidInputError(f"cannot use {getattr(op, 'name', op)} on wires {list(op.wires)}: {reason}")


def require_same(expected: Sequence[Step], found: Sequence[Step], where: str) -> None:
    """Raises where two recordings are not the same gates with the same constants."""
    for position, (a, b) in enumerate(zip(expected, found, strict=False)):
        if (a.name, a.wires, a.kind) != (b.name, b.wires, b.kind):
            raise InvalidInputError(
                f"the gates depend on values, but a feature map has one circuit: gate {position} is {a}; "
                f"for {where} it is {b}"
            )
        has_value = a.kind == "constant" and a.value is not None
        if has_value and not np.allclose(a.value, b.value, rtol=TOLERANCE, atol=TOLERANCE):
            raise InvalidInputError(
                f"gate {position}, {a}, changes for {where}, but autograd does not connect it to x or params: "
                "use torch operations on them, not float() or NumPy"
            )
    if len(expected) != len(found):
        raise InvalidInputError(
            "the gates depend on values, but a feature map has one circuit: "
            f"{len(expected)} gates, but {len(found)} for {where}"
        )


def pennylane() -> Any:
    try:
        import pennylane as qml
    except ImportError as error:
        raise BackendUnavailableError(
            "feature maps from PennyLane functions need PennyLane; install it with: pip install 'dqk[qpu]'"
        ) from error
    return qml
