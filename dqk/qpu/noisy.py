"""How entries of a kernel answer to errors of a device: worked out once for an entry, then a formula for any device at any time.

`k(x, y)` is how often `U(y)^dagger U(x)|0...0>` is found as 0...0. After each gate a qubit suffers a Pauli error with some
probability (X, Y and Z alike). One sweep forward and one back give the exact probability of 0...0 with one error at any place
(`<f|P|b>` for the state f before and b behind it), hence its mean over all places of one-qubit and of two-qubit gates. With no
error it is the ideal one; what two and more errors do is continued geometrically from none and one. Readout errors act exactly on
the ideal outcomes, by how many ones they have.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dqk.circuit import Circuit, Gate
from dqk.errors import UnsupportedError
from dqk.qpu.profile import Noise

MAX_QUBITS = 12
_CHUNK_BYTES = 64 * 2**20
_SWAP_GATES = 3


@dataclass(frozen=True, eq=False)
class Response:
    """Entries of a kernel, as far as errors matter.

    Attributes:
        n_qubits: of the circuit.
        ones: probability that the ideal outcome has 0, 1, ..., n ones, shape (E, n + 1); the first is k.
        after_1q: probability of 0...0 after one error behind a one-qubit gate, mean over all, shape (E,).
        after_2q: the same on one of the qubits of a two-qubit gate.
        places_1q: where errors of one-qubit gates can be.
        places_2q: where errors of two-qubit gates can be: two for each gate.
    """

    n_qubits: int
    ones: np.ndarray
    after_1q: np.ndarray
    after_2q: np.ndarray
    places_1q: int
    places_2q: int

    @property
    def exact(self) -> np.ndarray:
        """k, shape (E,)."""
        return self.ones[:, 0]

    def measured(self, rows: np.ndarray, noise: Noise, swaps: int = 0) -> np.ndarray:
        """Probabilities with which a device finds 0...0.

        Args:
            rows: which entries, shape (P,).
            noise: of the device at that time.
            swaps: that its coupling asks for; each is three two-qubit gates more.

        Returns:
            Shape (P,).
        """
        n, ones = self.n_qubits, self.ones[rows]
        places = self.places_2q + 2 * _SWAP_GATES * swaps
        kept = (1 - noise.depolarising_1q) ** self.places_1q * (1 - noise.depolarising_2q) ** places
        expected = np.array([self.places_1q * noise.depolarising_1q, places * noise.depolarising_2q])
        weight = np.arange(n + 1)
        read = (1 - noise.readout_0) ** (n - weight) * noise.readout_1**weight
        if not expected.sum():
            return np.asarray(ones @ read)
        once = (expected[0] * self.after_1q[rows] + expected[1] * self.after_2q[rows]) / expected.sum()
        zeros = _continued(ones[:, 0], once, -np.log(kept), 0.5**n)
        # What is neither found right nor as 0...0 was moved by an error: to anything else, as far as is known.
        anything = np.array([math.comb(n, w) for w in weight[1:]]) @ read[1:] / (2**n - 1)
        moved = np.maximum(1 - zeros - kept * (1 - ones[:, 0]), 0.0)
        return np.asarray(zeros * read[0] + kept * (ones[:, 1:] @ read[1:]) + moved * anything)


def _continued(none: np.ndarray, once: np.ndarray, errors: float, floor: float) -> np.ndarray:
    """Mean over a Poisson number of errors: exact for none and one, geometric towards the floor beyond."""
    span = none - floor
    ratio = np.clip(np.divide(once - floor, span, out=np.zeros_like(span), where=np.abs(span) > 1e-9), 0.0, 1.0)
    two_or_more = 1 - np.exp(-errors) * (1 + errors)
    # sum over k >= 2 of P(k) ratio**(k - 1) = (exp(-e (1 - r)) - exp(-e) (1 + e r)) / r
    small = ratio < 1e-6
    safe = np.where(small, 1.0, ratio)
    tail = (np.exp(-errors * (1 - safe)) - np.exp(-errors) * (1 + errors * safe)) / safe
    tail = np.where(small, 0.0, tail)
    beyond = two_or_more * floor + tail * (once - floor)
    return np.asarray(np.exp(-errors) * (none + errors * once) + beyond)


def response(circuit: Circuit, left: np.ndarray, right: np.ndarray, shared: np.ndarray) -> Response:
    """Entries k(x, y) of a circuit.

    Args:
        circuit: simplified U.
        left: data angles of x, shape (E, A_d).
        right: data angles of y, shape (E, A_d).
        shared: shared angles, shape (A_s,).

    Raises:
        UnsupportedError: if the circuit is too wide.
    """
    if circuit.n_qubits > MAX_QUBITS:
        raise UnsupportedError(
            f"kernel values on {circuit.n_qubits} qubits; at most {MAX_QUBITS} can be worked out with errors: emulate times alone "
            "with [[kernel]]"
        )
    both = circuit.compute_uncompute()
    table = np.hstack([left, right])
    angles = np.tile(shared, 2)
    rows = max(1, _CHUNK_BYTES // (16 * 2**circuit.n_qubits * (len(both.gates) + 4)))
    parts = [_chunk(both, table[start : start + rows], angles) for start in range(0, len(table), rows)]
    ones, after_1q, after_2q = (np.concatenate(part) for part in zip(*parts, strict=True))
    widths = [len(gate.wires) for gate in both.gates]
    return Response(circuit.n_qubits, ones, after_1q, after_2q, widths.count(1), 2 * widths.count(2))


def _chunk(circuit: Circuit, data: np.ndarray, shared: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    n, count = circuit.n_qubits, len(data)
    state = np.zeros((count, 2**n), complex)
    state[:, 0] = 1
    matrices, forward = [_matrix(gate, data, shared) for gate in circuit.gates], []
    for gate, matrix in zip(circuit.gates, matrices, strict=True):
        state = _apply(state, matrix, gate.wires, n)
        forward.append(state)
    weights = np.array([bin(k).count("1") for k in range(2**n)])
    p = state.real**2 + state.imag**2
    ones = np.stack([p[:, weights == w].sum(axis=1) for w in range(n + 1)], axis=1)
    back = np.zeros((count, 2**n), complex)
    back[:, 0] = 1
    sums, places = [np.zeros(count), np.zeros(count)], [0, 0]
    for gate, matrix, state in zip(reversed(circuit.gates), reversed(matrices), reversed(forward), strict=True):
        for wire in gate.wires:
            sums[len(gate.wires) - 1] += _with_error(back, state, wire, n)
            places[len(gate.wires) - 1] += 1
        back = _apply(back, np.conj(np.swapaxes(matrix, -1, -2)), gate.wires, n)
    first, second = (total / max(1, number) for total, number in zip(sums, places, strict=True))
    return ones, first, second


def _with_error(back: np.ndarray, state: np.ndarray, wire: int, n: int) -> np.ndarray:
    """Mean over X, Y, Z of |<back|P|state>|^2, P on one wire."""
    f, b = (part.reshape(len(part), 2**wire, 2, 2 ** (n - wire - 1)) for part in (state, back.conj()))
    product = np.einsum("eiaj,eibj->eab", b, f)
    x, y = product[:, 0, 1] + product[:, 1, 0], product[:, 0, 1] - product[:, 1, 0]
    z = product[:, 0, 0] - product[:, 1, 1]
    return np.asarray((np.abs(x) ** 2 + np.abs(y) ** 2 + np.abs(z) ** 2) / 3)


def _matrix(gate: Gate, data: np.ndarray, shared: np.ndarray) -> np.ndarray:
    """Of a gate, shape (d, d), or (E, d, d) where it depends on the entry."""
    if gate.operand is None or gate.operand.kind == "constant":
        return gate.unitary()
    if not gate.is_data:
        return gate.unitary(float(shared[gate.operand.column]))
    values, vectors = np.linalg.eigh(np.asarray(gate.generator))
    phases = np.exp(-1j * gate.operand.value * data[:, gate.operand.column, None] * values)
    return np.asarray((vectors * phases[:, None, :]) @ vectors.conj().T)


def _apply(state: np.ndarray, matrix: np.ndarray, wires: tuple[int, ...], n: int) -> np.ndarray:
    axes, front = [wire + 1 for wire in wires], list(range(1, len(wires) + 1))
    moved = np.moveaxis(state.reshape(len(state), *[2] * n), axes, front)
    shape = moved.shape
    found = matrix @ moved.reshape(len(state), 2 ** len(wires), -1)
    return np.ascontiguousarray(np.moveaxis(found.reshape(shape), front, axes)).reshape(state.shape)
