"""A circuit as a product of small tables over binary variables: the structure from which matrix-product states are cut.

`psi(s) = sum over hidden variables of a product of factors`. A wire carries one variable at a time. A gate that mixes basis
states puts a new one in its place; diagonal gates (RZ, CZ, RZZ, and after a change of basis CX, RXX, CRY and so on) only
multiply the variables that are there, and SWAP and X only rename them. So a variable that several sites need is carried between
them once, however many gates need it: a bond is a set of variables. That keeps a CNOT chain's bond equal to its physical index,
for example.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from dqk.circuit import GATES, Circuit, Gate, Operand

_H = np.array([[1, 1], [1, -1]], dtype=complex) / np.sqrt(2)
_SH = np.array([[1, 1], [1j, -1j]], dtype=complex) / np.sqrt(2)  # takes Z to Y
_ONE = np.eye(2, dtype=complex)
_ZZ = np.array([[1, -1], [-1, 1]], dtype=complex)
_TOLERANCE = 1e-15
# Two-qubit gates as a diagonal one between changes of basis: name of the diagonal gate, bases of both wires.
_BASES = {
    "cz": ("cz", _ONE, _ONE),
    "cp": ("cp", _ONE, _ONE),
    "rzz": ("rzz", _ONE, _ONE),
    "crz": ("crz", _ONE, _ONE),
    "cx": ("cz", _ONE, _H),
    "crx": ("crz", _ONE, _H),
    "cry": ("crz", _ONE, _SH),
    "rxx": ("rzz", _H, _H),
    "ryy": ("rzz", _SH, _SH),
}


@dataclass(frozen=True, eq=False)
class Factor:
    """A table over binary variables, `constant + cosine cos(angle) + sine sin(angle)`.

    Attributes:
        variables: what its axes stand for.
        wires: where the gate acts, ascending.
        table: shape (3, 2, ..., 2): the three tables.
        operand: where the angle comes from; None if only the first table counts.
        scale: angle over operand value: 1/2 for rotations.
    """

    variables: tuple[int, ...]
    wires: tuple[int, ...]
    table: np.ndarray
    operand: Operand | None = None
    scale: float = 1.0


@dataclass(frozen=True, eq=False)
class Network:
    """A circuit's factors in the order of its gates.

    Attributes:
        factors: the tables.
        physical: each wire's last variable.
        frames: constant matrices, shape (n, 2, 2), that act on the wires after everything else. They cancel in overlaps.
    """

    factors: list[Factor]
    physical: list[int]
    frames: np.ndarray


def network(circuit: Circuit) -> Network:
    """The factors of a circuit, global phases left out."""
    builder = _Builder(circuit.n_qubits)
    for gate in circuit.gates:
        builder.add(gate)
    return builder.finish()


class _Builder:
    def __init__(self, n: int):
        self.factors: list[Factor] = []
        self.uses: list[list[int]] = []  # of each variable: the factors that have it
        self.at: list[int | None] = [None] * n  # the wires' variables; None while nothing but constants acted
        self.pending = [_ONE] * n  # constant matrices not yet part of a factor
        self.flipped = [False] * n  # whether the variable is the opposite of the basis state

    def add(self, gate: Gate) -> None:
        """Appends a gate."""
        if gate.name == "swap":
            i, j = gate.wires
            self.at[i], self.at[j] = self.at[j], self.at[i]
            self.pending[i], self.pending[j] = self.pending[j], self.pending[i]
            self.flipped[i], self.flipped[j] = self.flipped[j], self.flipped[i]
        elif len(gate.wires) == 1:
            self._one(gate)
        elif gate.name in _BASES:
            self._diagonal(gate)
        else:
            self._dense(gate)

    def finish(self) -> Network:
        """What has been collected; constants that are left become frames."""
        for wire in range(len(self.at)):
            if self.at[wire] is None:
                self._flush(wire)
        frames = [p[:, ::-1] if flip else p for p, flip in zip(self.pending, self.flipped, strict=True)]
        return Network(self.factors, [v for v in self.at if v is not None], np.array(frames))

    def _one(self, gate: Gate) -> None:
        (wire,) = gate.wires
        if gate.operand is None or gate.operand.kind == "constant":
            self.pending[wire] = gate.unitary() @ self.pending[wire]
            return
        table, scale = _tables(gate.name)
        if gate.name in ("rz", "p"):
            self._flush(wire)
            self._emit((wire,), (), np.diagonal(table, axis1=1, axis2=2), gate.operand, scale)
        else:
            table, self.pending[wire] = table @ self.pending[wire], _ONE
            self._mix(wire, table, gate.operand, scale)

    def _diagonal(self, gate: Gate) -> None:
        name, *bases = _BASES[gate.name]
        for wire, basis in zip(gate.wires, bases, strict=True):
            self.pending[wire] = basis.conj().T @ self.pending[wire]
            self._flush(wire)
        table, scale = _tables(name)
        table = np.diagonal(table, axis1=1, axis2=2).reshape(3, 2, 2)
        if gate.wires[0] > gate.wires[1]:
            table = table.transpose(0, 2, 1)
        operand = gate.operand
        if operand is not None and operand.kind == "constant":
            angle = scale * operand.value
            table, operand = _constant(table[0] + np.cos(angle) * table[1] + np.sin(angle) * table[2]), None
        self._emit(tuple(sorted(gate.wires)), (), table, operand, scale)
        for wire, basis in zip(gate.wires, bases, strict=True):
            self.pending[wire] = basis

    def _dense(self, gate: Gate) -> None:
        for wire in gate.wires:
            self._flush(wire)
        matrix = gate.unitary().reshape(2, 2, 2, 2)
        if gate.wires[0] > gate.wires[1]:
            matrix = matrix.transpose(1, 0, 3, 2)
        wires = tuple(sorted(gate.wires))
        table = _constant(matrix)
        for axis, wire in enumerate(wires):
            table = np.flip(table, axis=3 + axis) if self.flipped[wire] else table
        old = tuple(self._variable(wire) for wire in wires)
        for wire in wires:
            self.at[wire], self.flipped[wire] = self._new(), False
        self._emit(wires, old, table, None, 1.0)

    def _flush(self, wire: int) -> None:
        """Makes the pending constants of a wire a factor."""
        matrix, self.pending[wire] = self.pending[wire], _ONE
        if self.at[wire] is None:
            self._mix(wire, _constant(matrix))
        elif abs(matrix[0, 1]) + abs(matrix[1, 0]) < _TOLERANCE:
            if abs(matrix[0, 0] - matrix[1, 1]) > _TOLERANCE:
                self._emit((wire,), (), _constant(np.diagonal(matrix)), None, 1.0)
        elif abs(matrix[0, 0]) + abs(matrix[1, 1]) < _TOLERANCE:
            self.flipped[wire] = not self.flipped[wire]
            if abs(matrix[0, 1] - matrix[1, 0]) > _TOLERANCE:
                self._emit((wire,), (), _constant(np.array([matrix[0, 1], matrix[1, 0]])), None, 1.0)
        else:
            self._mix(wire, _constant(matrix))

    def _mix(self, wire: int, table: np.ndarray, operand: Operand | None = None, scale: float = 1.0) -> None:
        """A one-qubit gate, its tables of shape (3, 2, 2), that puts a new variable on its wire."""
        old, flipped = self.at[wire], self.flipped[wire]
        self.flipped[wire] = False
        if old is not None and operand is None and len(self.uses[old]) == 1 and not flipped:
            # The variable has come from one factor and nobody else needs it: the constant becomes part of that factor.
            (k,) = self.uses[old]
            before = self.factors[k]
            axis = 1 + before.variables.index(old)
            merged = np.moveaxis(np.tensordot(table[0], before.table, axes=(1, axis)), 0, axis)
            self.factors[k] = Factor(before.variables, before.wires, merged, before.operand, before.scale)
            return
        self.at[wire] = self._new()
        if old is None:
            self._emit((wire,), (), table[:, :, 0], operand, scale)
        else:
            self._emit((wire,), (old,), table[:, :, ::-1] if flipped else table, operand, scale)

    def _emit(
        self, wires: tuple[int, ...], old: tuple[int, ...], table: np.ndarray, operand: Operand | None, scale: float
    ) -> None:
        """A factor over the variables of some wires, and then those that were there before."""
        for axis, wire in enumerate(wires):
            table = np.flip(table, axis=1 + axis) if self.flipped[wire] else table
        variables = tuple(self._variable(wire) for wire in wires) + old
        for variable in variables:
            self.uses[variable].append(len(self.factors))
        sign = operand.value if operand is not None else 1.0
        self.factors.append(Factor(variables, wires, np.ascontiguousarray(table), operand, scale * sign))

    def _new(self) -> int:
        self.uses.append([])
        return len(self.uses) - 1

    def _variable(self, wire: int) -> int:
        variable = self.at[wire]
        assert variable is not None
        return variable


def _constant(table: np.ndarray) -> np.ndarray:
    zero = np.zeros_like(table, dtype=complex)
    return np.stack([table.astype(complex), zero, zero])


@lru_cache(maxsize=32)
def _tables(name: str) -> tuple[np.ndarray, float]:
    """A gate's constant, cosine and sine matrices, and the factor of its angle inside them."""
    if name == "cz":
        return _constant(np.diag([1, 1, 1, -1])), 1.0
    generator = GATES[name].generator
    assert generator is not None
    values, vectors = np.linalg.eigh(generator)
    scale = 0.5 if np.isclose(np.abs(values), 0.5).any() else 1.0
    still = (vectors * np.isclose(values, 0)) @ vectors.conj().T
    return np.stack([still, np.eye(len(values)) - still, -1j * generator / scale]), scale
