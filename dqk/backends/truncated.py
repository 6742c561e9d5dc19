"""Truncated matrix-product states, for circuits whose exact bonds are too large: batched SVD, and a bound of its error.

Gates act one after the other on neighbours, distant ones after swaps. Each time the states are in canonical form around the two
sites, so that what is cut off of a bond that would pass the limit is as small as can be, and its norm known; these norms are
added up for each sample.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dqk._cost import Effort
from dqk.backends.arrays import contiguous
from dqk.backends.base import Parallel
from dqk.backends.chain_plain import rescaled
from dqk.backends.efforts import truncated_effort
from dqk.circuit import Circuit, Gate
from dqk.errors import UnsupportedError

_SWAP = np.eye(4, dtype=complex)[[0, 2, 1, 3]]
_SIDE = 32
_PAIR_S = 3e-6  # of a gate on neighbours, for each unit of the largest bond


class TruncatedStates:
    """States of a circuit with bonds of at most `max_bond`.

    Encodings are arrays (V, N): numbers of all tensors, bonds padded with zeros to the size that depends on the circuit alone, and
    last a bound of the distance from the exact state.

    Args:
        circuit: the circuit.
        max_bond: the limit.
    """

    def __init__(self, circuit: Circuit, max_bond: int):
        self.circuit, self.max_bond = circuit, max_bond
        n = circuit.n_qubits
        self.bonds = [1, *(min(2 ** min(k, n - k, 30), max_bond) for k in range(1, n)), 1]

    @property
    def size(self) -> int:
        """Numbers in one sample's encoding."""
        return 1 + sum(4 * left * right for left, right in zip(self.bonds, self.bonds[1:], strict=False))

    @property
    def encode_s(self) -> float:
        """Predicted seconds for one sample: each gate on neighbours, and each swap, is a decomposition."""
        distances = [abs(gate.wires[0] - gate.wires[1]) for gate in self.circuit.gates if len(gate.wires) == 2]
        return _PAIR_S * self.max_bond * sum(2 * distance - 1 for distance in distances)

    def tile_side(self, dtype: torch.dtype) -> int:
        """32 samples."""
        return _SIDE

    def encoding_bytes(self, dtype: torch.dtype) -> int:
        """All tensors."""
        return (self.size + 1) * dtype.itemsize

    def effort(self, dtype: torch.dtype) -> Effort:
        """Decompositions of all gates on two qubits."""
        return truncated_effort(self.circuit, self.bonds)

    def tile_bytes(self, dtype: torch.dtype) -> int:
        """Environments of a tile's pairs at one site, and what comes between two."""
        return 6 * dtype.itemsize * max(self.bonds) ** 2 * _SIDE**2

    def encode(self, angles: Tensor, shared: Tensor, out: np.ndarray, parallel: Parallel = map) -> None:
        """Writes the numbers of all tensors and the bound, shape (V, N); a few samples at a time."""
        x, w = contiguous(angles), contiguous(shared)

        def run(first: int) -> None:
            part = slice(first, first + _SIDE)
            state = _State(self, x[part].astype(np.float64), w.astype(np.float64))
            for gate in self.circuit.gates:
                state.apply(gate)
            state.write(out[:, part])

        for _ in parallel(run, range(0, len(x), _SIDE)):
            pass

    def encode_vjp(self, angles: Tensor, shared: Tensor, cotangent: np.ndarray) -> tuple[Tensor, Tensor]:
        """Refused."""
        raise UnsupportedError(no_gradient(self))

    def vjp(self, a: np.ndarray, b: np.ndarray, cotangent: np.ndarray, log: bool) -> tuple[np.ndarray, np.ndarray]:
        """Refused."""
        raise UnsupportedError(no_gradient(self))

    def prepare(self, encoded: np.ndarray) -> np.ndarray:
        """The encoding itself."""
        return encoded

    def values(self, a: np.ndarray, b: np.ndarray, count: tuple[int, int], log: bool) -> Tensor:
        """K or log K, by batched matrix products from left to right."""
        environment = np.ones((a.shape[1], b.shape[1], 1, 1), np.result_type(a, 1j))
        scale = np.zeros(count, a.dtype)
        for x, y in zip(self._tensors(a), self._tensors(b), strict=True):
            n, left, _, right = x.shape
            m, others = len(y), y.shape[1]
            rows = x.reshape(n, 1, left, 2 * right).swapaxes(2, 3)
            moved = (rows @ environment).reshape(n, m, 2, right, others)  # a's right bond, b's left bond
            # Axes (N, M, right, 2 * others) times (M, 2 * others, right of b)
            moved = moved.transpose(1, 0, 3, 2, 4).reshape(m, n * right, 2 * others)
            columns = y.conj().transpose(0, 2, 1, 3).reshape(m, 2 * others, -1)
            environment = (moved @ columns).reshape(m, n, right, -1).swapaxes(0, 1)
            largest = np.abs(environment).max(axis=(2, 3))
            largest[largest == 0] = 1
            environment = environment / largest[:, :, None, None]
            scale += np.log(largest)
        # The environment has a's bond first.
        square = np.abs(environment[:, :, 0, 0]) ** 2
        with np.errstate(divide="ignore"):
            return torch.from_numpy(np.log(square) + 2 * scale if log else square * np.exp(2 * scale))

    @property
    def largest_environment(self) -> int:
        """Complex numbers between two steps of an overlap."""
        return max(2 * left * right for left, right in zip(self.bonds, self.bonds[1:], strict=False))

    def expectations(self, encoded: Tensor, words: tuple[str, ...]) -> Tensor:
        """Expectation values of Pauli strings, shape (N, O); not differentiable."""
        if encoded.requires_grad:
            raise UnsupportedError(no_gradient(self))
        paulis = {"X": np.array([[0, 1], [1, 0]]), "Y": np.array([[0, -1j], [1j, 0]]), "Z": np.diag([1, -1])}
        tensors, found = self._tensors(encoded.numpy()), []
        for word in words:
            environment = np.ones((encoded.shape[1], 1, 1), complex)
            for tensor, letter in zip(tensors, word, strict=True):
                image = tensor if letter == "I" else np.einsum("st,nltr->nlsr", paulis[letter], tensor)
                environment = np.einsum("nlk,nlsr,nksq->nrq", environment, image, tensor.conj(), optimize=True)
            found.append(environment[:, 0, 0].real)
        return torch.from_numpy(np.stack(found, axis=1).astype(encoded.numpy().dtype))

    def _tensors(self, encoded: np.ndarray) -> list[np.ndarray]:
        """Complex tensors (N, left, 2, right)."""
        found, at = [], 0
        for left, right in zip(self.bonds, self.bonds[1:], strict=False):
            count = 2 * left * right
            part = encoded[at : at + 2 * count].T.reshape(-1, count, 2)
            found.append((part[..., 0] + 1j * part[..., 1]).reshape(-1, left, 2, right))
            at += 2 * count
        return found


def amplitudes(states: TruncatedStates, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """`<b_j|a_i>` by torch on any device, as `dqk.backends.chain_plain.amplitudes` gives it."""
    environment = torch.ones(a.shape[-1], b.shape[-1], 1, 1, dtype=torch.complex(a[:0], a[:0]).dtype, device=a.device)
    exponents, at = torch.zeros(environment.shape[:2], dtype=torch.int32, device=a.device), 0
    for left, right in zip(states.bonds, states.bonds[1:], strict=False):
        count = 2 * left * right
        parts = (numbers[at : at + 2 * count].reshape(left, 2, right, 2, -1) for numbers in (a, b))
        x, y = (torch.complex(part[:, :, :, 0], part[:, :, :, 1]) for part in parts)
        environment = torch.einsum("ijlk,lsri->ijrsk", environment, x)
        environment = torch.einsum("ijrsk,ksqj->ijrq", environment, y.conj())
        environment, exponents = rescaled(environment, exponents)
        at += 2 * count
    return environment[:, :, 0, 0], exponents


class _State:
    """Tensors of some samples while gates act on them."""

    def __init__(self, states: TruncatedStates, angles: np.ndarray, shared: np.ndarray):
        self.states, self.angles, self.shared = states, angles, shared
        zero = np.zeros((len(angles), 1, 2, 1), complex)
        zero[:, 0, 0] = 1
        self.tensors = [zero] * states.circuit.n_qubits
        self.error = np.zeros(len(angles))
        self.canonical = (0, states.circuit.n_qubits - 1)  # isometries left of the first and right of the second

    def apply(self, gate: Gate) -> None:
        """One gate; swaps bring distant qubits together and back."""
        matrix = self._matrix(gate)
        if len(gate.wires) == 1:
            (wire,) = gate.wires
            matrix = np.broadcast_to(matrix, (len(self.error), 2, 2))
            self.tensors[wire] = np.einsum("nst,nltr->nlsr", matrix, self.tensors[wire])
            return
        low, high = sorted(gate.wires)
        if gate.wires[0] > gate.wires[1]:
            matrix = _SWAP @ matrix @ _SWAP
        for k in range(low, high - 1):
            self._pair(k, _SWAP)
        self._pair(high - 1, matrix)
        for k in reversed(range(low, high - 1)):
            self._pair(k, _SWAP)

    def write(self, out: np.ndarray) -> None:
        """Encodings, bonds padded with zeros."""
        at = 0
        for k, tensor in enumerate(self.tensors):
            n, left, _, right = tensor.shape
            whole = np.zeros((n, self.states.bonds[k], 2, self.states.bonds[k + 1]), complex)
            whole[:, :left, :, :right] = tensor
            flat = np.stack([whole.real, whole.imag], axis=-1).reshape(n, -1).T
            out[at : at + len(flat)] = flat
            at += len(flat)
        out[at] = self.error

    def _matrix(self, gate: Gate) -> np.ndarray:
        """Shape (d, d), or (N, d, d) where it depends on the sample."""
        operand = gate.operand
        if operand is None or operand.kind == "constant":
            return gate.unitary()
        if operand.kind == "shared":
            return gate.unitary(float(self.shared[operand.column]))
        values, vectors = np.linalg.eigh(np.asarray(gate.generator))
        phases = np.exp(-1j * operand.value * self.angles[:, operand.column, None] * values)
        return (vectors * phases[:, None, :]) @ vectors.conj().T

    def _pair(self, k: int, matrix: np.ndarray) -> None:
        """A gate on sites k and k + 1."""
        self._centre(k)
        first, second = self.tensors[k], self.tensors[k + 1]
        n, left, _, _ = first.shape
        right = second.shape[3]
        both = np.einsum("nlsb,nbtr->nstlr", first, second).reshape(n, 4, left * right)
        both = (matrix @ both).reshape(n, 2, 2, left, right).transpose(0, 3, 1, 2, 4).reshape(n, 2 * left, 2 * right)
        u, s, v = np.linalg.svd(both, full_matrices=False)
        kept = min(s.shape[1], self.states.bonds[k + 1])
        self.error += np.sqrt((s[:, kept:] ** 2).sum(axis=1))
        self.tensors[k] = u[:, :, :kept].reshape(n, left, 2, kept)
        self.tensors[k + 1] = (s[:, :kept, None] * v[:, :kept]).reshape(n, kept, 2, right)
        self.canonical = (k + 1, k + 1)

    def _centre(self, k: int) -> None:
        """Makes isometries of all tensors left of site k and right of site k + 1."""
        left, right = self.canonical
        for site in range(left, k):
            n, a, _, b = self.tensors[site].shape
            q, r = np.linalg.qr(self.tensors[site].reshape(n, 2 * a, b))
            self.tensors[site] = q.reshape(n, a, 2, -1)
            self.tensors[site + 1] = np.einsum("nab,nbsr->nasr", r, self.tensors[site + 1])
        for site in range(right, k + 1, -1):
            n, a, _, b = self.tensors[site].shape
            q, r = np.linalg.qr(self.tensors[site].reshape(n, a, 2 * b).conj().swapaxes(1, 2))
            self.tensors[site] = q.conj().swapaxes(1, 2).reshape(n, -1, 2, b)
            self.tensors[site - 1] = np.einsum("nlsa,nba->nlsb", self.tensors[site - 1], r.conj())
        self.canonical = (k, k + 1)


def no_gradient(states: TruncatedStates) -> str:
    """Why gradients are refused, and what else there is."""
    return (
        f"truncated matrix-product states (max_bond={states.max_bond}) have no gradients; use exact ones (backend='mps'), "
        "backend='statevector' for up to about 20 qubits, or fewer layers"
    )
