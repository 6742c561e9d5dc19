"""From a circuit to the arrays that the compiled passes read.

The state of `lanes` samples is kept together, one vector of real and one of imaginary parts per basis state. X, CX and SWAP never
move data: each step has a table (`frame`) from logical basis states to rows of the state. Diagonal gates are collected into
*stars* (one optional centre qubit, any number of partners), each of which is one pass. One-qubit gates before a qubit's first
two-qubit gate go into the product state that starts the run.
"""

from __future__ import annotations

import math
import os
import threading
from collections import Counter, OrderedDict
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from dqk.circuit import Circuit, Gate, Operand, constant

# Kinds of steps; the compiled passes compare against these numbers.
RY, RX, HADAMARD, STAR, RXX, RYY, CRY, CRX, DENSE1, DENSE2, RZ, RY2 = range(12)
NO_BIT = -1
_FRAME_GATES = {"x", "cx", "swap"}
_DIAGONAL = {"rz", "p", "rzz", "cz", "cp", "crz"}
_ROTATIONS = {"ry": RY, "rx": RX, "rxx": RXX, "ryy": RYY, "cry": CRY, "crx": CRX}
_KIND_CODE = {"constant": 0, "data": 1, "shared": 2}


class _Term(NamedTuple):
    """`exp(-i/2 * angle * Z...Z)` on one or two bits, with angle = operand * factor."""

    bits: tuple[int, ...]
    operand: Operand
    factor: float


@dataclass(frozen=True, eq=False)
class Program:
    """A compiled circuit.

    Attributes:
        n_qubits: number of qubits n.
        steps: (S, 6) int64 rows: kind, bit, second bit, first slot, one past the last slot, frame. Dense steps have the offset
            of their matrix in place of the first slot; RY2, two RY in one pass, has the slot of each.
        frames: (F, 2**n) int32: row of the state that holds each logical basis state; the last one is the final order.
        slots: (L, 3) int64 rows: kind of operand (0 constant, 1 data, 2 shared), column, bit of a star's partner or -1.
        factors: (L,) float64: a slot's angle is factor * column, or the factor itself if constant.
        starts: (T, 3) int64 rows of one-qubit gates of the product state: bit, kind, slot or offset of the matrix.
        matrices: float64 real and imaginary parts of constant matrices, interleaved.
    """

    n_qubits: int
    steps: np.ndarray
    frames: np.ndarray
    slots: np.ndarray
    factors: np.ndarray
    starts: np.ndarray
    matrices: np.ndarray

    def arguments(self, dtype: np.dtype) -> tuple[np.ndarray, ...]:
        """What a compiled entry point takes, constants in the dtype of the state."""
        return (self.steps, self.frames, self.slots, self.factors, self.starts, self.matrices.astype(dtype))


class _Programs:
    """The programs used last, as many as fit: frames take 4 * 2**n bytes for each layer of CX, X or SWAP."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self._kept: OrderedDict[tuple[Circuit, np.dtype], tuple[np.ndarray, ...]] = OrderedDict()
        self._unlock()
        os.register_at_fork(after_in_child=self._unlock)

    def _unlock(self) -> None:
        self._lock = threading.Lock()  # a forked child has none of the parent's threads

    def __call__(self, circuit: Circuit, dtype: np.dtype) -> tuple[np.ndarray, ...]:
        """The compiled passes' arguments for a circuit and a dtype of the state."""
        key = circuit, dtype
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            else:
                self._kept[key] = _Compiler(circuit).compile().arguments(dtype)
                while len(self._kept) > 1 and self.nbytes > self.most_bytes:
                    self._kept.popitem(last=False)
            return self._kept[key]

    @property
    def nbytes(self) -> int:
        """Memory of what is kept; only a program that exceeds the bound alone takes more than it."""
        return sum(array.nbytes for arrays in self._kept.values() for array in arrays)


program_of = _Programs(most_bytes=64 * 2**20)


class _Compiler:
    def __init__(self, circuit: Circuit):
        self.n = circuit.n_qubits
        self.gates = circuit.gates
        self.steps: list[tuple[int, ...]] = []
        self.slots: list[tuple[int, int, int]] = []
        self.factors: list[float] = []
        self.starts: list[tuple[int, int, int]] = []
        self.matrices: list[float] = []
        self.frames = [self._identity()]
        self.frame_is_used = True  # by the product state
        self.pending: list[_Term] = []

    def _identity(self) -> np.ndarray:
        return np.arange(2**self.n, dtype=np.int32)

    def compile(self) -> Program:
        starting = set(range(self.n))
        for gate in self.gates:
            if len(gate.wires) == 1 and gate.wires[0] in starting:
                self._start(gate)
                continue
            starting.difference_update(gate.wires)
            self._add(gate)
        self._flush()
        self.starts.sort(key=lambda row: row[0])  # stable: gates of one bit keep their order
        return Program(
            self.n,
            np.array(self.steps, dtype=np.int64).reshape(-1, 6),
            np.array(self.frames, dtype=np.int32),
            np.array(self.slots, dtype=np.int64).reshape(-1, 3),
            np.array(self.factors, dtype=np.float64),
            np.array(self.starts, dtype=np.int64).reshape(-1, 3),
            np.array(self.matrices or [0.0], dtype=np.float64),
        )

    def _bits(self, gate: Gate) -> tuple[int, ...]:
        return tuple(self.n - 1 - wire for wire in gate.wires)

    def _slot(self, operand: Operand, factor: float = 1.0, bit: int = NO_BIT) -> int:
        self.slots.append((_KIND_CODE[operand.kind], operand.column, bit))
        self.factors.append(operand.value * factor)
        return len(self.slots) - 1

    def _matrix(self, gate: Gate) -> int:
        offset = len(self.matrices)
        values = gate.unitary()
        self.matrices += np.stack([values.real, values.imag], axis=-1).ravel().tolist()
        return offset

    def _start(self, gate: Gate) -> None:
        (bit,) = self._bits(gate)
        if gate.operand is not None:
            kind = RZ if gate.name == "p" else {"rx": RX, "ry": RY, "rz": RZ}[gate.name]
            self.starts.append((bit, kind, self._slot(gate.operand)))
        elif gate.name == "h":
            self.starts.append((bit, HADAMARD, 0))
        else:
            self.starts.append((bit, DENSE1, self._matrix(gate)))

    def _add(self, gate: Gate) -> None:
        bits = self._bits(gate)
        if gate.name in _DIAGONAL:
            self.pending += _terms(gate, bits)
            return
        if any(set(term.bits) & set(bits) for term in self.pending):
            self._flush()  # the gate does not commute with a collected phase in general
        if gate.name in _FRAME_GATES:
            self._permute(gate.name, bits)
        elif gate.operand is not None:
            slot = self._slot(gate.operand)
            self._step(_ROTATIONS[gate.name], bits, slot, slot + 1)
        elif gate.name == "h":
            self._step(HADAMARD, bits, 0, 0)
        else:
            self._step(DENSE1 if len(bits) == 1 else DENSE2, bits, self._matrix(gate), 0)

    def _step(self, kind: int, bits: tuple[int, ...], first: int, last: int) -> None:
        before = self.steps[-1] if self.steps else (NO_BIT,) * 6
        if kind == before[0] == RY and before[5] == len(self.frames) - 1 and before[1] != bits[0]:
            self.steps[-1] = (RY2, before[1], bits[0], before[3], first, before[5])
            return
        self.steps.append((kind, bits[0], bits[1] if len(bits) > 1 else NO_BIT, first, last, len(self.frames) - 1))
        self.frame_is_used = True

    def _permute(self, name: str, bits: tuple[int, ...]) -> None:
        index = np.arange(2**self.n)
        if name == "x":
            source = index ^ (1 << bits[0])
        elif name == "cx":
            source = index ^ (((index >> bits[0]) & 1) << bits[1])
        else:
            differs = ((index >> bits[0]) ^ (index >> bits[1])) & 1
            source = index ^ (differs << bits[0]) ^ (differs << bits[1])
        self._reorder(self.frames[-1][source])

    def _reorder(self, frame: np.ndarray) -> None:
        if self.frame_is_used:
            self.frames.append(frame)
            self.frame_is_used = False
        else:
            self.frames[-1] = frame

    def _flush(self) -> None:
        """Emits the collected phases as stars, the qubit with most partners first."""
        pairs = [term for term in self.pending if len(term.bits) == 2]
        singles = [term for term in self.pending if len(term.bits) == 1]
        self.pending = []
        while pairs:
            counts = Counter(bit for term in pairs for bit in term.bits)
            centre = min(counts, key=lambda bit: (-counts[bit], bit))
            inside = [term for term in pairs if centre in term.bits]
            pairs = [term for term in pairs if centre not in term.bits]
            first = len(self.slots)
            for term in inside:
                (partner,) = set(term.bits) - {centre}
                self._slot(term.operand, term.factor, partner)
            for term in [term for term in singles if term.bits == (centre,)]:
                self._slot(term.operand, term.factor, NO_BIT)
            singles = [term for term in singles if term.bits != (centre,)]
            self._step(STAR, (centre,), first, len(self.slots))
        if singles:
            first = len(self.slots)
            for term in singles:
                self._slot(term.operand, term.factor, term.bits[0])
            self._step(STAR, (NO_BIT,), first, len(self.slots))


class _Counter(_Compiler):
    """Compiles without tables of the size of a state."""

    def _identity(self) -> np.ndarray:
        return np.zeros(0, np.int32)

    def _permute(self, name: str, bits: tuple[int, ...]) -> None:
        self._reorder(self.frames[-1])


@lru_cache(maxsize=256)
def passes_of(circuit: Circuit) -> tuple[int, int, bool]:
    """How many angles a program has, how many passes over the state, and whether it reorders amplitudes; makes no tables."""
    program = _Counter(circuit).compile()
    return len(program.slots), len(program.steps), len(program.frames) > 1


def _terms(gate: Gate, bits: tuple[int, ...]) -> list[_Term]:
    """A diagonal gate as rotations about Z and ZZ; global phases, also data-dependent ones, are dropped."""
    operand = gate.operand if gate.operand is not None else constant(math.pi)  # cz is cp(pi)
    if gate.name in ("rz", "p", "rzz"):
        return [_Term(bits, operand, 1.0)]
    if gate.name == "crz":
        return [_Term(bits[1:], operand, 0.5), _Term(bits, operand, -0.5)]
    return [_Term(bits[:1], operand, 0.5), _Term(bits[1:], operand, 0.5), _Term(bits, operand, -0.5)]
