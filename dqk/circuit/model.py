"""The circuit: frozen, hashable, JSON-able data. It says which gate acts where and where each angle comes from."""

from __future__ import annotations

import hashlib
import json
import math
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np

from dqk.circuit.gates import GATES, rotation
from dqk.errors import InvalidInputError, real_number, unknown_name, whole_number

Kind = Literal["constant", "data", "shared"]
Matrix = tuple[tuple[complex, ...], ...]


@dataclass(frozen=True, slots=True)
class Operand:
    """Where a gate's angle comes from.

    Attributes:
        kind: `constant` (known now), `data` (one value per sample) or `shared` (one value for all samples).
        value: the angle in radians if constant, else the sign (+1 or -1) with which the column enters.
        column: index of the data or shared column; -1 if constant.
    """

    kind: Kind
    value: float = 1.0
    column: int = -1

    @property
    def negated(self) -> Operand:
        """The operand of the inverse rotation."""
        return replace(self, value=0.0 - self.value)  # not -0.0: equal circuits have equal JSON


def constant(angle: float) -> Operand:
    """A fixed angle in radians."""
    return Operand("constant", real_number("angle", angle) + 0.0)


def data(column: int) -> Operand:
    """The angle of data column `column`: one value per sample."""
    return Operand("data", 1.0, whole_number("data column", column, 0))


def shared(column: int) -> Operand:
    """The angle of shared column `column`: a trainable value that is the same for all samples."""
    return Operand("shared", 1.0, whole_number("shared column", column, 0))


@dataclass(frozen=True, slots=True)
class Gate:
    """One gate of a circuit.

    Attributes:
        name: a name in `GATES`, or `unitary`.
        wires: the qubits it acts on, control first; wire 0 is the most significant bit of a basis-state index.
        operand: where the angle comes from; None for gates without one.
        matrix: the constant matrix of a `unitary`; None otherwise.

    Raises:
        InvalidInputError: if the wires are no whole numbers or the operand is none.
    """

    name: str
    wires: tuple[int, ...]
    operand: Operand | None = None
    matrix: Matrix | None = None

    def __post_init__(self) -> None:
        try:
            wires = tuple(operator.index(wire) for wire in self.wires)  # NumPy's integers would not be JSON
        except TypeError as error:
            raise InvalidInputError(
                f"{self.name} on wires {self.wires!r}, expected a tuple of whole numbers such as (0, 1)"
            ) from error
        object.__setattr__(self, "wires", wires)
        if not isinstance(self.operand, Operand | None):
            raise InvalidInputError(
                f"{self.name} with the angle {self.operand!r}, expected constant(angle), data(column) or shared(column)"
            )

    @property
    def is_data(self) -> bool:
        """Whether the gate differs between samples."""
        return self.operand is not None and self.operand.kind == "data"

    @property
    def frequencies(self) -> tuple[float, ...]:
        """Frequencies of the generator, see `dqk.circuit.gates.shift_rule`."""
        return GATES[self.name].frequencies if self.operand is not None else ()

    @property
    def generator(self) -> np.ndarray | None:
        """Hermitian `G` with `U(angle) = exp(-i angle G)`; None for a gate without an angle."""
        return GATES[self.name].generator if self.operand is not None else None

    def unitary(self, angle: float | None = None) -> np.ndarray:
        """The gate's matrix, shape (2**k, 2**k) for k wires; a constant gate needs no angle."""
        if self.matrix is not None:
            return np.array(self.matrix, dtype=complex)
        if self.operand is None:
            return np.array(GATES[self.name].matrix)
        if self.operand.kind == "constant":
            angle = self.operand.value
        elif angle is None:
            raise InvalidInputError(f"gate {self.name} on wires {self.wires} needs the value of its angle")
        else:
            angle = self.operand.value * angle
        return rotation(GATES[self.name].generator, angle)  # type: ignore[arg-type]

    def inverse(self) -> Gate:
        """The gate that undoes this one."""
        if self.operand is not None:
            return replace(self, operand=self.operand.negated)
        if self.matrix is not None:
            return replace(self, matrix=_freeze(np.array(self.matrix).conj().T))
        return self  # h, x, cx, cz and swap are their own inverses


def unitary(matrix: Any, *wires: int) -> Gate:
    """A constant one- or two-qubit unitary, given by its matrix of shape (2, 2) or (4, 4)."""
    try:
        return Gate("unitary", tuple(wires), matrix=_freeze(np.asarray(matrix, dtype=complex)))
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"not a matrix on wires {wires}: {error}") from error


def _freeze(matrix: np.ndarray) -> Matrix:
    return tuple(tuple(complex(value) + 0.0 for value in row) for row in matrix)


@dataclass(frozen=True)
class Circuit:
    """A static circuit on `n_qubits` that starts in |0...0>.

    Args:
        n_qubits: number of qubits, at least 1.
        gates: the gates in the order in which they act.
        n_data: number of data columns (angles that differ between samples); each occurs in at most one gate.
        n_shared: number of shared columns (trainable angles); each occurs in at most one gate.

    Raises:
        InvalidInputError: names every gate that cannot be used.

    Example:
        >>> from dqk.circuit import Circuit, Gate, data
        >>> Circuit(2, (Gate("h", (0,)), Gate("ry", (1,), data(0)), Gate("cx", (0, 1))), n_data=1).depth
        2
    """

    n_qubits: int
    gates: tuple[Gate, ...]
    n_data: int = 0
    n_shared: int = 0

    def __post_init__(self) -> None:
        problems = []
        for name, least in (("n_qubits", 1), ("n_data", 0), ("n_shared", 0)):
            try:
                object.__setattr__(self, name, whole_number(name, getattr(self, name), least))
            except InvalidInputError as error:
                problems.append(str(error))
        gates = tuple(self.gates) if isinstance(self.gates, Iterable) else (self.gates,)
        problems += [
            f"gate {n} is {gate!r}, expected a Gate" for n, gate in enumerate(gates) if not isinstance(gate, Gate)
        ]
        object.__setattr__(self, "gates", gates)
        if problems:
            raise InvalidInputError("not a circuit: " + "; ".join(problems))
        for kind, count in (("data", self.n_data), ("shared", self.n_shared)):
            seen: set[int] = set()
            for gate in self.gates:
                if gate.operand is None or gate.operand.kind != kind:
                    continue
                column = gate.operand.column
                if not 0 <= column < count:
                    problems.append(f"{gate.name} uses {kind} column {column}, expected 0 to {count - 1}")
                if column in seen:
                    problems.append(f"{kind} column {column} occurs twice; give every occurrence a column of its own")
                seen.add(column)
        for position, gate in enumerate(self.gates):
            problems += [f"gate {position}: {text}" for text in _gate_problems(gate, self.n_qubits)]
        if problems:
            raise InvalidInputError("not a circuit: " + "; ".join(problems))

    @cached_property
    def _hash(self) -> int:
        return hash((self.n_qubits, self.gates, self.n_data, self.n_shared))

    def __getstate__(self) -> dict[str, Any]:
        # Hashes of strings differ between processes.
        return {name: value for name, value in self.__dict__.items() if name != "_hash"}

    def __hash__(self) -> int:
        return self._hash  # cached: compiled programs are looked up by circuit on hot paths

    @property
    def depth(self) -> int:
        """Number of layers when every gate starts as early as it can."""
        return max((layer for layer, _ in self.layers()), default=-1) + 1

    def layers(self) -> list[tuple[int, Gate]]:
        """Each gate with the index of the earliest layer in which it can act."""
        free = [0] * self.n_qubits
        placed = []
        for gate in self.gates:
            layer = max(free[wire] for wire in gate.wires)
            for wire in gate.wires:
                free[wire] = layer + 1
            placed.append((layer, gate))
        return placed

    def inverse(self) -> Circuit:
        """U^dagger: the same columns, gates reversed and inverted."""
        return replace(self, gates=tuple(gate.inverse() for gate in reversed(self.gates)))

    def then(self, other: Circuit) -> Circuit:
        """This circuit followed by another one, whose columns are numbered after this one's."""
        if other.n_qubits != self.n_qubits:
            raise InvalidInputError(f"cannot join circuits on {self.n_qubits} and {other.n_qubits} qubits")
        offset = {"constant": 0, "data": self.n_data, "shared": self.n_shared}
        moved = tuple(
            replace(g, operand=replace(g.operand, column=g.operand.column + offset[g.operand.kind])) if g.operand else g
            for g in other.gates
        )
        return Circuit(self.n_qubits, self.gates + moved, self.n_data + other.n_data, self.n_shared + other.n_shared)

    def compute_uncompute(self) -> Circuit:
        """U(x) then U(y)^dagger: its probability of |0...0> is the fidelity kernel k(x, y).

        Columns of y follow those of x. Shared columns occur twice, so that their gradients add by the chain rule;
        shifting both occurrences at once, as arXiv 2411.13225 eq. (9) and (10) read literally, would be wrong.
        """
        return self.then(self.inverse())

    def factors(self) -> list[tuple[int, ...]]:
        """Groups of qubits that no gate connects; the state is a product over them."""
        group = list(range(self.n_qubits))
        for gate in self.gates:
            target = min(group[wire] for wire in gate.wires)
            merged = {group[wire] for wire in gate.wires}
            group = [target if member in merged else member for member in group]
        return [tuple(q for q in range(self.n_qubits) if group[q] == root) for root in sorted(set(group))]

    @property
    def is_product(self) -> bool:
        """Whether no gate connects two qubits."""
        return all(len(gate.wires) == 1 for gate in self.gates)

    def columns(self, kind: Kind) -> list[int]:
        """The data or shared columns that occur in a gate, ascending."""
        return sorted(g.operand.column for g in self.gates if g.operand is not None and g.operand.kind == kind)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; `from_dict` reads it back."""
        return {
            "n_qubits": self.n_qubits,
            "n_data": self.n_data,
            "n_shared": self.n_shared,
            "gates": [_gate_to_list(gate) for gate in self.gates],
        }

    @classmethod
    def from_dict(cls, document: dict[str, Any]) -> Circuit:
        """The circuit that `to_dict` described."""
        try:
            gates = tuple(_gate_from_list(row) for row in document["gates"])
            return cls(document["n_qubits"], gates, document["n_data"], document["n_shared"])
        except InvalidInputError:
            raise
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise InvalidInputError(f"not a circuit document: {error!r}") from error

    def to_json(self) -> str:
        """One line of JSON, the same for equal circuits."""
        return json.dumps(self.to_dict(), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Circuit:
        """The circuit that `to_json` wrote."""
        try:
            return cls.from_dict(json.loads(text))
        except json.JSONDecodeError as error:
            raise InvalidInputError(f"not a circuit document: {error}") from error

    def to_openqasm(self) -> str:
        """OpenQASM 3 text with `input` angles, see `dqk.circuit.qasm`."""
        from dqk.circuit.qasm import to_openqasm

        return to_openqasm(self)

    def __str__(self) -> str:
        from dqk.circuit.draw import draw

        return draw(self)

    @property
    def digest(self) -> str:
        """SHA-256 of the JSON text, hexadecimal."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


def _gate_problems(gate: Gate, n_qubits: int) -> Iterable[str]:
    if gate.name != "unitary" and gate.name not in GATES:
        yield str(unknown_name("gate", gate.name, [*GATES, "unitary"]))
        return
    if any(not 0 <= wire < n_qubits for wire in gate.wires) or len(set(gate.wires)) != len(gate.wires):
        yield f"{gate.name} on wires {gate.wires}, expected distinct wires from 0 to {n_qubits - 1}"
    if (gate.name == "unitary") != (gate.matrix is not None) or (gate.matrix is not None and gate.operand is not None):
        yield f"{gate.name}: a unitary has a matrix and no angle, other gates have no matrix"
        return
    if gate.name == "unitary":
        yield from _matrix_problems(gate)
        return
    spec = GATES[gate.name]
    if len(gate.wires) != spec.n_wires:
        yield f"{gate.name} acts on {len(gate.wires)} wires, expected {spec.n_wires}"
    if spec.has_angle != (gate.operand is not None):
        yield f"{gate.name} {'needs an angle' if spec.has_angle else 'takes no angle'}"
    if gate.operand is not None:
        if gate.operand.kind not in ("constant", "data", "shared"):
            yield str(unknown_name("kind of operand", gate.operand.kind, ["constant", "data", "shared"]))
        elif not math.isfinite(gate.operand.value):
            yield f"{gate.name} has the angle {gate.operand.value}, expected a finite number of radians"
        elif gate.operand.kind != "constant" and abs(gate.operand.value) != 1:
            yield f"{gate.name} takes its column times {gate.operand.value}, expected +1 or -1"


def _matrix_problems(gate: Gate) -> Iterable[str]:
    side = 2 ** len(gate.wires)
    shape = np.array(gate.matrix, dtype=complex).shape
    if len(gate.wires) not in (1, 2) or shape != (side, side):
        yield f"unitary of shape {shape} on {len(gate.wires)} wires, expected (2, 2) on one wire or (4, 4) on two"
        return
    matrix = np.array(gate.matrix)
    if not np.allclose(matrix @ matrix.conj().T, np.eye(side), atol=1e-10):
        yield f"matrix on wires {gate.wires} is not unitary (tolerance 1e-10)"


def _gate_to_list(gate: Gate) -> list[Any]:
    if gate.matrix is not None:
        return [gate.name, list(gate.wires), [[[value.real, value.imag] for value in row] for row in gate.matrix]]
    if gate.operand is not None:
        return [gate.name, list(gate.wires), gate.operand.kind, gate.operand.value, gate.operand.column]
    return [gate.name, list(gate.wires)]


def _gate_from_list(row: Sequence[Any]) -> Gate:
    wires = tuple(row[1])
    if row[0] == "unitary":
        return unitary([[complex(*value) for value in line] for line in row[2]], *wires)
    if len(row) not in (2, 5):
        raise InvalidInputError(f"not a circuit document: {row} has {len(row)} entries, expected 2 or 5")
    return Gate(row[0], wires, Operand(row[2], float(row[3]), operator.index(row[4])) if len(row) == 5 else None)
