"""Counts of a program: statevectors where nothing goes wrong in gates, PennyLane's mixed states where something does."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from dqk.backends.statevector import StatevectorBackend
from dqk.circuit import Circuit, Gate, constant
from dqk.errors import BackendUnavailableError
from dqk.qpu.coupling import routed
from dqk.qpu.profile import Noise
from dqk.qpu.qasm import Program

MAX_QUBITS = 20
MAX_MIXED_QUBITS = 10
_CHUNK_BYTES = 128 * 2**20
OPERATIONS = {
    "h": "Hadamard",
    "x": "PauliX",
    "cx": "CNOT",
    "cz": "CZ",
    "swap": "SWAP",
    "rx": "RX",
    "ry": "RY",
    "rz": "RZ",
    "p": "PhaseShift",
    "cp": "ControlledPhaseShift",
    "crx": "CRX",
    "cry": "CRY",
    "crz": "CRZ",
    "rxx": "IsingXX",
    "ryy": "IsingYY",
    "rzz": "IsingZZ",
}


def warm_up(noise: Noise) -> None:
    """Loads what the first job would wait for."""
    _pure(Circuit(1, (Gate("ry", (0,), constant(1.0)),)), np.zeros((1, 0)))
    if noise.of_gates:
        pennylane()


def measure(
    program: Program,
    angles: np.ndarray,
    shots: int,
    seed: int,
    zeros_only: bool,
    noise: Noise,
    coupling: str = "all",
) -> Iterator[list[Any]]:
    """What a device would count, for some rows at a time.

    Args:
        program: what is run.
        angles: data angles of its circuit, shape (P, A_d).
        shots: measurements of each row.
        seed: fixes the counts, given the rest.
        zeros_only: count 0...0 alone.
        noise: probabilities of errors.
        coupling: of the device, see `Profile`.

    Yields:
        For consecutive rows how often 0...0 was found, or a dict from outcome to how often it was found.
    """
    rng = np.random.default_rng(seed)
    width = len(program.measured)
    for p in _probabilities(program, angles, noise, coupling):
        if zeros_only:
            yield rng.binomial(shots, np.clip(p[:, 0], 0.0, 1.0)).tolist()
            continue
        for found in rng.multinomial(shots, p):
            outcomes = np.flatnonzero(found)
            yield [
                {format(k, f"0{width}b"): n for k, n in zip(outcomes.tolist(), found[outcomes].tolist(), strict=True)}
            ]


def _probabilities(program: Program, angles: np.ndarray, noise: Noise, coupling: str = "all") -> Iterator[np.ndarray]:
    """Of each outcome, shape (rows, 2**measured), for some rows at a time."""
    circuit = routed(program.circuit, coupling) if noise.of_gates else program.circuit  # else swaps change nothing
    exponent = 2 * circuit.n_qubits if noise.of_gates else circuit.n_qubits
    rows = max(1, _CHUNK_BYTES // (64 * 2**exponent))
    if not program.columns:  # all rows are alike
        rows, angles, copies = 1, angles[:1], len(angles)
    else:
        copies = 1
    for start in range(0, len(angles), rows):
        chunk = angles[start : start + rows]
        p = _mixed(circuit, chunk, noise) if noise.of_gates else _pure(circuit, chunk)
        p = _marginal(p, circuit.n_qubits, program.measured)
        p = np.clip(_read_out(p, noise), 0.0, None)
        p /= p.sum(axis=1, keepdims=True)
        yield np.repeat(p, copies, axis=0) if copies > 1 else p


def _pure(circuit: Circuit, angles: np.ndarray) -> np.ndarray:
    states = StatevectorBackend().encode(circuit, torch.from_numpy(angles), torch.zeros(0, dtype=torch.float64))
    return (states[0] ** 2 + states[1] ** 2).T.numpy()


def _mixed(circuit: Circuit, angles: np.ndarray, noise: Noise) -> np.ndarray:
    qml = pennylane()
    operations = []
    for gate in circuit.gates:
        if gate.operand is None:
            parameters: list[Any] = []
        elif gate.is_data:
            # A batch of one is no batch: PennyLane's diagonal gates fail on it.
            parameters = [gate.operand.value * angles[0 if len(angles) == 1 else slice(None), gate.operand.column]]
        else:
            parameters = [gate.operand.value]
        operations.append(getattr(qml, OPERATIONS[gate.name])(*parameters, wires=gate.wires))
        probability = noise.depolarising_1q if len(gate.wires) == 1 else noise.depolarising_2q
        if probability > 0:
            operations += [qml.DepolarizingChannel(probability, wires=wire) for wire in gate.wires]
    tape = qml.tape.QuantumScript(operations, [qml.probs(wires=range(circuit.n_qubits))])
    p = np.asarray(_mixed_device(circuit.n_qubits).execute(tape), dtype=float)
    return np.broadcast_to(p, (len(angles), p.shape[-1]))  # without data angles there is one state for all


def _marginal(p: np.ndarray, n_qubits: int, measured: tuple[int, ...]) -> np.ndarray:
    """Probabilities of the measured qubits, in their order."""
    if measured == tuple(range(n_qubits)):
        return p
    rest = tuple(1 + q for q in range(n_qubits) if q not in measured)
    kept = sorted(measured)
    p = p.reshape(len(p), *(2,) * n_qubits).sum(axis=rest)
    return p.transpose(0, *(1 + kept.index(q) for q in measured)).reshape(len(p), -1)


def _read_out(p: np.ndarray, noise: Noise) -> np.ndarray:
    """What is read instead of what is there, qubit by qubit."""
    if not (noise.readout_0 or noise.readout_1):
        return p
    confusion = np.array([[1 - noise.readout_0, noise.readout_1], [noise.readout_0, 1 - noise.readout_1]])
    width = p.shape[1].bit_length() - 1
    shape = p.shape
    for qubit in range(width):
        p = np.einsum("ab,rlbt->rlat", confusion, p.reshape(shape[0], 2**qubit, 2, -1)).reshape(shape)
    return p


@lru_cache(maxsize=1)
def pennylane() -> Any:
    """PennyLane, which mixed states need."""
    try:
        import pennylane
    except ImportError as error:
        raise BackendUnavailableError("noise in gates needs PennyLane: pip install 'dqk[qpu]'") from error
    return pennylane


@lru_cache(maxsize=16)
def _mixed_device(n_qubits: int) -> Any:
    return pennylane().device("default.mixed", wires=n_qubits)
