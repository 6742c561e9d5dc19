"""Product states as Bloch vectors: matrix-product states of bond dimension 1, in closed form.

What `MPSBackend` does with circuits whose gates connect no two qubits once what cannot matter is gone; the QK-LSTM paper's map is
one. An entry costs O(n), on hundreds of qubits: `k = prod_q (1 + r_q . r'_q) / 2` with Bloch vectors r.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from dqk.backends.arrays import contiguous, zeros
from dqk.circuit import Circuit

_AXES = {"rx": 0, "ry": 1, "rz": 2, "p": 2}
_KINDS = {"data": 1, "shared": 2}
_PAULI = np.array([[[0, 1], [1, 0]], [[0, -1j], [1j, 0]], [[1, 0], [0, -1]]])


class ProductStates:
    """Product states as Bloch vectors.

    An encoding has shape (n, 3, N): x, y and z of each qubit's Bloch vector.
    """

    def tile_side(self, circuit: Circuit, dtype: torch.dtype) -> int:
        """128 samples."""
        return 128

    def encoding_bytes(self, circuit: Circuit, dtype: torch.dtype) -> int:
        """Three coordinates for each qubit."""
        return 3 * circuit.n_qubits * dtype.itemsize

    def encode(self, circuit: Circuit, angles: Tensor, shared: Tensor) -> Tensor:
        """Bloch vectors, shape (n, 3, N)."""
        from dqk.backends.compiled.product import encode_bloch

        arrays = contiguous(angles), contiguous(shared)
        out = np.empty((circuit.n_qubits, 3, len(angles)), arrays[0].dtype)
        encode_bloch(*rotations(circuit, out.dtype), *arrays, out)
        return torch.from_numpy(out)

    def encode_vjp(
        self, circuit: Circuit, angles: Tensor, shared: Tensor, encoded: Tensor, cotangent: Tensor
    ) -> tuple[Tensor, Tensor]:
        """By rotating back; the derivative by an angle is the cross product with its axis."""
        from dqk.backends.compiled.product import sweep_bloch

        arrays = contiguous(angles), contiguous(shared)
        out = zeros(arrays[0]), zeros(arrays[1])
        states = contiguous(encoded).copy(), contiguous(cotangent).copy()
        sweep_bloch(*rotations(circuit, arrays[0].dtype), *arrays, *states, *out)
        return torch.from_numpy(out[0]), torch.from_numpy(out[1])

    def overlap(self, a: Tensor, b: Tensor) -> Tensor:
        """Products of one-qubit fidelities, shape (N, M)."""
        from dqk.backends.compiled.product import overlap_bloch

        x, y, out = _pair(a, b)
        overlap_bloch(x, y, out)
        return torch.from_numpy(out)

    def overlap_vjp(self, a: Tensor, b: Tensor, cotangent: Tensor) -> tuple[Tensor, Tensor]:
        """Each factor's cotangent is the product of all others, by products from both ends."""
        return self._vjp(a, b, cotangent, False)

    def log_overlap(self, a: Tensor, b: Tensor) -> Tensor:
        """Sums of logarithms: no underflow on hundreds of qubits."""
        from dqk.backends.compiled.product import log_overlap_bloch

        x, y, out = _pair(a, b)
        log_overlap_bloch(x, y, out)
        return torch.from_numpy(out)

    def log_overlap_vjp(self, a: Tensor, b: Tensor, cotangent: Tensor) -> tuple[Tensor, Tensor]:
        """Each factor's cotangent is its reciprocal."""
        return self._vjp(a, b, cotangent, True)

    def _vjp(self, a: Tensor, b: Tensor, cotangent: Tensor, log: bool) -> tuple[Tensor, Tensor]:
        from dqk.backends.compiled.product import overlap_bloch_vjp

        x, y = contiguous(a), contiguous(b)
        out = zeros(x), zeros(y)
        overlap_bloch_vjp(x, y, contiguous(cotangent), log, *out)
        return torch.from_numpy(out[0]), torch.from_numpy(out[1])

    def word_products(self, encoded: Tensor, observables: tuple[str, ...]) -> Tensor:
        """Expectation values of Pauli strings, shape (N, O), differentiable by torch."""
        columns = []
        for word in observables:
            parts = [encoded[q, "XYZ".index(letter)] for q, letter in enumerate(word) if letter != "I"]
            columns.append(torch.stack(parts).prod(dim=0) if parts else encoded[0, 0] * 0 + 1)
        return torch.stack(columns, dim=1)


def bloch_factors(a: Tensor, b: Tensor) -> Iterator[Tensor]:
    """The fidelity of each qubit, shape (N, M), by torch on any device."""
    for x, y in zip(a, b, strict=True):
        yield 0.5 * (1 + x.T @ y)


def _pair(a: Tensor, b: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x, y = contiguous(a), contiguous(b)
    return x, y, np.empty((x.shape[2], y.shape[2]), x.dtype)


@lru_cache(maxsize=128)
def rotations(circuit: Circuit, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The gates as rotations of Bloch vectors, see `encode_bloch`."""
    gates: list[tuple[int, ...]] = []
    factors: list[float] = []
    matrices: list[np.ndarray] = []
    for gate in circuit.gates:
        operand = gate.operand
        if operand is None or operand.kind == "constant":
            gates.append((gate.wires[0], 3, 0, len(matrices)))
            factors.append(0.0)
            u = gate.unitary()
            # R[a, b] = Tr(sigma_a U sigma_b U^dagger) / 2
            matrices.append(np.einsum("aij,jk,bkl,il->ab", _PAULI, u, _PAULI, u.conj()).real / 2)
        else:
            gates.append((gate.wires[0], _AXES[gate.name], _KINDS[operand.kind], operand.column))
            factors.append(operand.value)
    return (
        np.array(gates, dtype=np.int64).reshape(-1, 4),
        np.array(factors, dtype=dtype),
        np.array(matrices, dtype=dtype).reshape(-1, 3, 3),
    )
