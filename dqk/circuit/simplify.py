"""What cannot matter to a fidelity kernel, and why.

`k(x, y) = |<0| U(y)^dagger U(x) |0>|^2` does not change when a gate goes that

- is constant or shared and commutes with every later gate that remains: it then stands last in U(x), first in
  U(y)^dagger, and the two cancel; or
- acts first on its wires and maps |0...0> to a phase times itself.

Trailing gates that depend on the data stay, since U(x) and U(y) differ in them. None of this holds for expectations or
projected kernels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from dqk.circuit.model import Circuit, Gate

_TOLERANCE = 1e-12


@dataclass(frozen=True)
class Removed:
    """A gate that cannot influence the fidelity kernel.

    Attributes:
        index: its position in the original circuit.
        gate: the gate.
        reason: one sentence.
    """

    index: int
    gate: Gate
    reason: str


@dataclass(frozen=True)
class Simplification:
    """The result of `simplify_for_fidelity`.

    Attributes:
        original: the circuit as given.
        circuit: the circuit that remains; columns keep their numbers.
        removed: the gates that went, in circuit order.
    """

    original: Circuit
    circuit: Circuit
    removed: tuple[Removed, ...]

    @property
    def dead_shared(self) -> list[int]:
        """Trainable columns that cannot influence the kernel: their gradient is exactly zero."""
        return sorted(set(self.original.columns("shared")) - set(self.circuit.columns("shared")))

    @property
    def dead_data(self) -> list[int]:
        """Data columns that cannot influence the kernel."""
        return sorted(set(self.original.columns("data")) - set(self.circuit.columns("data")))

    def __str__(self) -> str:
        total = len(self.original.gates)
        if not self.removed:
            return f"all {total} gates matter"
        lines = [f"{len(self.removed)} of {total} gates cannot influence the fidelity:"]
        lines += [f"  gate {r.index}: {r.gate.name} on {r.gate.wires} - {r.reason}" for r in self.removed]
        return "\n".join(lines)


@lru_cache(maxsize=256)
def simplify_for_fidelity(circuit: Circuit) -> Simplification:
    """Removes exactly the gates that cannot influence `|<phi(x)|phi(y)>|^2`, for all angles.

    Args:
        circuit: any circuit.

    Returns:
        What remains, what was removed and why.

    Example:
        >>> from dqk.kernels.feature_maps import qklstm_feature_map
        >>> print(simplify_for_fidelity(qklstm_feature_map(2).circuit))
        1 of 7 gates cannot influence the fidelity:
          gate 6: cx on (0, 1) - constant and commutes with every later gate that remains: it cancels in U(y)^dagger U(x)
    """
    remaining = list(enumerate(circuit.gates))
    removed: list[Removed] = []
    # Once in this order is enough: a leading gate that goes shares no wire with an earlier one that remains, so it cannot
    # have held a trailing one back.
    for rule in (_trailing, _leading):
        gone = rule(remaining)
        removed += gone
        dropped = {entry.index for entry in gone}
        remaining = [(index, gate) for index, gate in remaining if index not in dropped]
    kept = replace(circuit, gates=tuple(gate for _, gate in remaining))
    return Simplification(circuit, kept, tuple(sorted(removed, key=lambda entry: entry.index)))


def _trailing(remaining: list[tuple[int, Gate]]) -> list[Removed]:
    gone: list[Removed] = []
    later: dict[int, list[Gate]] = {}  # by wire; gates on other wires commute
    for index, gate in reversed(remaining):
        if not gate.is_data and all(commute(gate, other) for wire in gate.wires for other in later.get(wire, [])):
            kind = "shared" if gate.operand is not None and gate.operand.kind == "shared" else "constant"
            why = f"{kind} and commutes with every later gate that remains: it cancels in U(y)^dagger U(x)"
            gone.append(Removed(index, gate, why))
        else:
            for wire in gate.wires:
                later.setdefault(wire, []).append(gate)
    return gone


def _leading(remaining: list[tuple[int, Gate]]) -> list[Removed]:
    gone: list[Removed] = []
    touched: set[int] = set()
    for index, gate in remaining:
        if touched.isdisjoint(gate.wires) and _keeps_zero(gate):
            gone.append(Removed(index, gate, "acts first and maps |0...0> to a phase times itself"))
        else:
            touched.update(gate.wires)
    return gone


def _action(gate: Gate) -> np.ndarray:
    """The matrix that decides for every angle at once: the generator of a variable gate, else the unitary."""
    if gate.operand is not None and gate.operand.kind != "constant":
        return gate.generator  # type: ignore[return-value]
    return gate.unitary()


def _keeps_zero(gate: Gate) -> bool:
    return bool(np.abs(_action(gate)[1:, 0]).max() < _TOLERANCE)


def commute(first: Gate, second: Gate) -> bool:
    """Whether two gates commute for all values of their variable angles."""
    if set(first.wires).isdisjoint(second.wires):
        return True
    wires = sorted(set(first.wires) | set(second.wires))
    a, b = (embed(_action(gate), [wires.index(wire) for wire in gate.wires], len(wires)) for gate in (first, second))
    return bool(np.abs(a @ b - b @ a).max() < _TOLERANCE)


def embed(matrix: np.ndarray, wires: list[int], n_wires: int) -> np.ndarray:
    """A matrix on some wires as one on `n_wires`, wire 0 most significant. Shape (2**n_wires, 2**n_wires)."""
    rest = [wire for wire in range(n_wires) if wire not in wires]
    full = np.kron(matrix, np.eye(2 ** len(rest))).reshape((2,) * (2 * n_wires))
    order = [*wires, *rest]
    axes = [order.index(wire) for wire in range(n_wires)]
    return full.transpose(axes + [n_wires + axis for axis in axes]).reshape(2**n_wires, 2**n_wires)
