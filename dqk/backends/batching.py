"""The plan by which a GPU runs one circuit for many samples: few, large steps. It knows no device.

Three kinds of steps: small matrices (neighbouring gates on the same wires are multiplied before they are applied; one matrix for
each sample where an angle depends on it, else one for all), diagonals (all phases of a run in one pass) and permutations of
basis states (a run of X, CX and SWAP in one pass). A gate joins the latest step that touches one of its wires, if that is of its
kind: it commutes with everything later.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np
import torch

from dqk.circuit import Circuit, Gate

TABLE_QUBITS = 20
"""Above so many qubits there are no tables of 2**n numbers: every gate is a matrix."""

ALIGNMENT = 128
"""Bytes on which each state has to begin (cuStateVec asks for them on Blackwell)."""

_PERMUTATIONS = {"x", "cx", "swap"}
_DIAGONALS = {"rz", "p", "rzz", "cz", "cp", "crz"}


@dataclass(eq=False)
class Matrices:
    """One small matrix to apply.

    Attributes:
        wires: that it acts on, the most significant bit of its index first.
        gates: positions in the circuit of its factors, in the order in which they act.
        data: whether it depends on the sample.
        index: which of the plan's matrices of this size and kind it is.
    """

    wires: tuple[int, ...]
    gates: list[int]
    data: bool = False
    index: int = -1

    @property
    def group(self) -> tuple[int, bool]:
        """Number of wires, and whether it depends on the sample: such matrices are made together."""
        return len(self.wires), self.data


@dataclass(eq=False)
class Diagonal:
    """Diagonal gates that act at once: amplitude b takes the phase `-sum_k angle_k slope_k(b)`; `gates` are positions."""

    wires: set[int]
    gates: list[int]


@dataclass(eq=False)
class Permutation:
    """A relabelling of basis states by X, CX and SWAP in the order in which they act; `gates` are positions."""

    wires: set[int]
    gates: list[int]


Step = Matrices | Diagonal | Permutation


@dataclass(eq=False)
class Plan:
    """What is done to the states of all samples, in order.

    Attributes:
        circuit: the circuit.
        steps: the steps.
        start: the first matrix on each wire, if a one-qubit matrix is the first to touch it, else None. They make the product
            state that a run starts with.
    """

    circuit: Circuit
    steps: list[Step] = field(default_factory=list)
    start: list[Matrices | None] = field(default_factory=list)

    @cached_property
    def groups(self) -> dict[tuple[int, bool], list[Matrices]]:
        """The matrices that are made together."""
        found: dict[tuple[int, bool], list[Matrices]] = {}
        for step in self.steps:
            if isinstance(step, Matrices):
                found.setdefault(step.group, []).append(step)
        return found

    @property
    def later(self) -> list[Step]:
        """The steps after the product state."""
        return [step for step in self.steps if not any(step is first for first in self.start)]


@lru_cache(maxsize=128)
def plan_of(circuit: Circuit) -> Plan:
    """The plan of a circuit."""
    plan = Plan(circuit)
    tables = circuit.n_qubits <= TABLE_QUBITS
    for position, gate in enumerate(circuit.gates):
        _place(plan.steps, position, gate, tables)
    for matrices in plan.groups.values():
        for index, step in enumerate(matrices):
            step.index = index
    for wire in range(circuit.n_qubits):
        first = next((step for step in plan.steps if wire in step.wires), None)
        plan.start.append(first if isinstance(first, Matrices) and len(first.wires) == 1 else None)
    return plan


def _place(steps: list[Step], position: int, gate: Gate, tables: bool) -> None:
    """Adds a gate to the latest step that touches its wires, or as a step of its own."""
    latest = next((step for step in reversed(steps) if set(gate.wires) & set(step.wires)), None)
    match latest:
        case Matrices(wires=wires) if wires == gate.wires and (len(wires) == 1 or not tables or not _is_table(gate)):
            latest.gates.append(position)
            latest.data |= gate.is_data
        case Diagonal() if _is_diagonal(gate):
            latest.gates.append(position)
            latest.wires |= set(gate.wires)
        case Permutation() if gate.name in _PERMUTATIONS:
            latest.gates.append(position)
            latest.wires |= set(gate.wires)
        case _ if tables and gate.name in _PERMUTATIONS and (len(gate.wires) == 2 or latest is not None):
            steps.append(Permutation(set(gate.wires), [position]))
        case _ if tables and len(gate.wires) == 2 and _is_diagonal(gate):
            steps.append(Diagonal(set(gate.wires), [position]))
        case _:
            steps.append(Matrices(gate.wires, [position], gate.is_data))


def _is_table(gate: Gate) -> bool:
    return gate.name in _PERMUTATIONS or _is_diagonal(gate)


def _is_diagonal(gate: Gate) -> bool:
    if gate.matrix is not None:
        return not np.any(np.array(gate.matrix) - np.diag(np.diag(gate.matrix)))
    return gate.name in _DIAGONALS


def slopes(gate: Gate) -> np.ndarray:
    """Of a diagonal gate `diag(exp(-i angle slope))`, shape (2**wires,); a gate without an angle has the angle 1."""
    if gate.generator is not None:
        return np.real(np.diag(gate.generator))
    return -np.angle(np.diag(gate.unitary()))


def spectrum(gate: Gate) -> tuple[np.ndarray, np.ndarray]:
    """Numbers s_k and matrices P_k with `U(angle) = sum_k exp(-i angle s_k) P_k`; a gate without an angle is P_0.

    Returns:
        The numbers, shape (d,), and the matrices, shape (d, d, d).
    """
    if gate.generator is not None:
        values, vectors = np.linalg.eigh(gate.generator)
        return values, np.einsum("ak,bk->kab", vectors, vectors.conj())
    side = 2 ** len(gate.wires)
    parts = np.zeros((side, side, side), dtype=complex)
    parts[0] = gate.unitary()
    return np.zeros(side), parts


def source_states(step: Permutation, circuit: Circuit) -> np.ndarray:
    """Which basis state moves to each one, shape (2**n,): `new[b] = old[source[b]]`."""
    n = circuit.n_qubits
    source = np.arange(2**n)
    for position in reversed(step.gates):  # the last gate says first where an amplitude comes from
        gate = circuit.gates[position]
        bits = [n - 1 - wire for wire in gate.wires]
        if gate.name == "x":
            source ^= 1 << bits[0]
        elif gate.name == "cx":
            source ^= (source >> bits[0] & 1) << bits[1]
        else:
            differ = (source >> bits[0] ^ source >> bits[1]) & 1
            source ^= differ << bits[0] | differ << bits[1]
    return source


def basis_codes(wires: tuple[int, ...], n_qubits: int) -> np.ndarray:
    """Of each basis state the index into a gate's matrix: its bits on the gate's wires, shape (2**n,)."""
    index, code = np.arange(2**n_qubits), np.zeros(2**n_qubits, dtype=np.int64)
    for wire in wires:
        code = code << 1 | (index >> (n_qubits - 1 - wire) & 1)
    return code


def little_endian(wires: tuple[int, ...], n_qubits: int) -> list[int]:
    """The bits that cuStateVec calls targets: bit 0 is the least significant, of a state's index and of a matrix's alike.

    Wire 0 of a circuit is the most significant bit of a state's index, and the first wire of a gate that of its matrix's.
    """
    return [n_qubits - 1 - wire for wire in reversed(wires)]


def stride_of(n_qubits: int, itemsize: int) -> int:
    """Amplitudes from one state to the next, each of so many bytes."""
    return max(2**n_qubits, ALIGNMENT // itemsize)


def chunk_of(samples: int, bytes_each: int, free: int) -> int:
    """How many samples at once: as many as free memory holds, at least 1.

    Args:
        samples: how many there are.
        bytes_each: memory that one of them takes while it is worked on.
        free: bytes.
    """
    return max(1, min(samples, free // max(1, bytes_each)))


def in_chunks(
    count: int, bytes_each: int, free: int, run: Callable[[slice], None], too_large: Callable[[], Exception]
) -> None:
    """Runs slices of samples, smaller ones after each lack of device memory.

    Args:
        count: samples.
        bytes_each: memory that one of them takes while it is worked on.
        free: bytes.
        run: works on a slice; what a slice that ran out of memory has written is overwritten.
        too_large: the error to raise if not even one sample fits.
    """
    size, start = chunk_of(count, bytes_each, free), 0
    while start < count:
        stop = min(start + size, count)
        try:
            run(slice(start, stop))
        except torch.cuda.OutOfMemoryError as error:
            if stop - start == 1:
                raise too_large() from error
            size = (stop - start) // 2
            continue
        start = stop
