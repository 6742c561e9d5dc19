"""Exact matrix-product states of one circuit: tensors from angles, overlaps by generated code or by torch, and their cotangents.

What `MPSBackend` does with circuits that entangle. Encodings are arrays (V, N) of the numbers of all tensors.
"""

from __future__ import annotations

import math
from collections import deque
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dqk._cost import Effort
from dqk.backends import chain_plain
from dqk.backends.arrays import contiguous, zeros
from dqk.backends.base import Parallel
from dqk.backends.chain import Chain, chain_of
from dqk.backends.efforts import chain_effort
from dqk.circuit import Circuit
from dqk.errors import UnsupportedError

_SAMPLES_PER_TASK = 64
WIDEST = 16
"""Most variables at hand while a tensor is made."""
_PLAIN_BYTES = 2**27  # of what torch keeps for the gradient of a tile
_ENCODING_BYTES = 2**25  # of a block
_PRODUCT_S = 4e-9  # of two complex numbers, while a tensor is made


class ChainStates:
    """States of a circuit.

    Args:
        circuit: the circuit.
        generated: whether overlaps run in generated code, where it is not too long.

    Raises:
        UnsupportedError: if its bonds are too large.
    """

    def __init__(self, circuit: Circuit, generated: bool):
        self.chain, self.generated = chain_of(circuit), generated
        if self.chain.widest > WIDEST:
            raise UnsupportedError(_too_large(circuit, self.chain))

    @property
    def size(self) -> int:
        """Numbers in one sample's encoding."""
        return self.chain.size

    @property
    def encode_s(self) -> float:
        """Predicted seconds for one sample."""
        return _PRODUCT_S * len(self.chain.program.products)

    def tile_side(self, dtype: torch.dtype) -> int:
        """128 samples; fewer where encodings or, on the plain path, environments are large."""
        fit = _ENCODING_BYTES // (2 * self.chain.size * dtype.itemsize)
        if self._code(_numpy(dtype)) is None:
            fit = min(fit, math.isqrt(_PLAIN_BYTES // (2 * dtype.itemsize * self.chain.environments)))
        return max(8, min(128, 2 ** (max(1, fit).bit_length() - 1)))

    def encoding_bytes(self, dtype: torch.dtype) -> int:
        """Numbers of all tensors, and once more in panels."""
        return 2 * (self.chain.size + 1) * dtype.itemsize

    def effort(self, dtype: torch.dtype) -> Effort:
        """Steps and products of the chain."""
        side, generated = self.tile_side(dtype), self._code(_numpy(dtype)) is not None
        return chain_effort(self.chain, self._width(side), side, generated)

    def tile_bytes(self, dtype: torch.dtype) -> int:
        """Environments of a tile's pairs, where torch holds them all at once."""
        if self._code(_numpy(dtype)) is not None:
            return 0
        return 2 * dtype.itemsize * self.chain.environments * self.tile_side(dtype) ** 2

    def encode(self, angles: Tensor, shared: Tensor, out: np.ndarray, parallel: Parallel = map) -> None:
        """Writes the numbers of all tensors, shape (V, N)."""
        from dqk.backends.compiled.chain_encode import encode_chain

        arrays = contiguous(angles), contiguous(shared)
        program = self._program(out.dtype)
        width = self._width(len(angles))
        run = lambda first: encode_chain(*program, *arrays, first, width, out)  # noqa: E731
        deque(parallel(run, range(0, len(angles), width)), maxlen=0)

    def encode_vjp(self, angles: Tensor, shared: Tensor, cotangent: np.ndarray) -> tuple[Tensor, Tensor]:
        """By going back through the steps of `encode`, which are taken once more."""
        from dqk.backends.compiled.chain_encode import encode_chain_vjp

        arrays = contiguous(angles), contiguous(shared)
        out = zeros(arrays[0]), zeros(arrays[1])
        program, width = self._program(arrays[0].dtype), self._width(len(angles))
        for first in range(0, len(angles), width):
            encode_chain_vjp(*program, *arrays, cotangent, first, width, *out)
        return torch.from_numpy(out[0]), torch.from_numpy(out[1])

    def prepare(self, encoded: np.ndarray) -> Any:
        """What `values` reads: panels of vectors, or the encodings as they are on the plain path."""
        from dqk.backends.compiled.chain_overlap import panels

        code = self._code(encoded.dtype)
        return encoded if code is None else panels(encoded, code.lanes)

    def values(self, a: Any, b: Any, count: tuple[int, int], log: bool) -> Tensor:
        """K or log K of what `prepare` made, shape `count`. With `a is b` only the part above the diagonal is right."""
        code = self._code(a.dtype)
        if code is None:
            found = chain_plain.amplitudes(self.chain, torch.from_numpy(a), torch.from_numpy(b))
            return chain_plain.values(*found, log)
        values, exponents = code(a, b, a is b)
        values, exponents = values[: count[0], : count[1]], exponents[: count[0], : count[1]]
        if not log:
            return torch.from_numpy(np.ldexp(values, (2 * exponents).astype(np.int32)))
        with np.errstate(divide="ignore", invalid="ignore"):
            logarithms = np.log(values)
        logarithms += (2 * math.log(2)) * exponents
        return torch.from_numpy(logarithms)

    def vjp(self, a: np.ndarray, b: np.ndarray, cotangent: np.ndarray, log: bool) -> tuple[np.ndarray, np.ndarray]:
        """Cotangents of encodings (V, N) and (V, M), for one of K or log K, shape (N, M)."""
        code = self._code(a.dtype)
        if code is None:
            return self._plain_vjp(a, b, cotangent, log)
        rows, columns = self.prepare(a), self.prepare(b)
        values, exponents = code(rows, columns, False)
        weights = np.zeros_like(values)
        n, m = cotangent.shape
        if log:
            # An entry that nobody asks for contributes nothing, also where K is zero.
            np.divide(2 * cotangent, values[:n, :m], out=weights[:n, :m], where=cotangent != 0)
        else:
            np.ldexp(2 * cotangent, (2 * exponents[:n, :m]).astype(np.int32), out=weights[:n, :m])
        found = code.vjp(rows, columns, weights)
        first, second = (
            x.transpose(1, 0, 2).reshape(len(e), -1)[:, :k] for x, e, k in zip(found, (a, b), (n, m), strict=True)
        )
        return first, second

    def expectations(self, encoded: Tensor, words: tuple[str, ...]) -> Tensor:
        """Expectation values of Pauli strings, shape (N, O), differentiable by torch."""
        return chain_plain.expectations(self.chain, encoded, words)

    def _plain_vjp(
        self, a: np.ndarray, b: np.ndarray, cotangent: np.ndarray, log: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        with torch.enable_grad():
            x, y = torch.tensor(a, requires_grad=True), torch.tensor(b, requires_grad=True)
            found = chain_plain.amplitudes(self.chain, x, y)
            square, weights = chain_plain.weighted(*found, torch.from_numpy(cotangent), log)
            first, second = torch.autograd.grad(square, (x, y), weights)
        return first.numpy(), second.numpy()

    def _code(self, dtype: np.dtype) -> Any:
        from dqk.backends.compiled.chain_overlap import overlap_of

        return overlap_of(self.chain, dtype) if self.generated else None

    def _width(self, count: int) -> int:
        """Samples at a time: few where the steps of a tensor have many entries, which the gradient keeps."""
        fit = 2**20 // self.chain.most_entries
        return max(8, min(_SAMPLES_PER_TASK, fit // 8 * 8, -(-count // 8) * 8))

    def _program(self, dtype: np.dtype) -> tuple[np.ndarray, ...]:
        return _program(self.chain, dtype)


@lru_cache(maxsize=64)
def _program(chain: Chain, dtype: np.dtype) -> tuple[np.ndarray, ...]:
    return chain.program.arguments(dtype)


def _numpy(dtype: torch.dtype) -> np.dtype:
    return np.dtype(np.float32 if dtype == torch.float32 else np.float64)


def _too_large(circuit: Circuit, chain: Chain) -> str:
    """Why an exact matrix-product state is refused, and what else there is."""
    bond = f"{chain.bond}" if chain.bond <= 2**20 else f"2**{chain.bond.bit_length() - 1}"
    size = f", {16 * 2**chain.widest / 2**20:,.0f} MiB a sample" if chain.widest <= 60 else ""
    return (
        f"exact matrix-product states of this circuit on {circuit.n_qubits} qubits need bonds of dimension {bond} and "
        f"tensors of 2**{chain.widest} numbers{size}; the limit is 2**{WIDEST}. "
        "Use backend='statevector' (up to about 20 qubits), truncate with MPSBackend(max_bond=...) or "
        "backend='mps:max_bond=32', use a GPU, or take fewer layers"
    )
