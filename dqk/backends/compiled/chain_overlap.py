"""Overlaps of matrix-product states by generated code: the module of a circuit, and how it is called."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from dqk.backends.chain import Chain
from dqk.backends.compiled import VECTOR_BYTES
from dqk.backends.compiled.chain_code import Precision
from dqk.backends.compiled.chain_module import Code
from dqk.backends.compiled.chain_terms import steps_of
from dqk.backends.compiled.native import compiled

MOST_PRODUCTS = 4096
"""Complex products in the code of all kinds of sites of a circuit; with more, compilation takes longer than it saves."""

SCALE_EVERY = 4  # sites


class Overlap:
    """The code of one circuit in one precision.

    Args:
        chain: the circuit's structure.
        dtype: float64 or float32.
    """

    def __init__(self, chain: Chain, dtype: np.dtype):
        steps = steps_of(chain)
        self.precision, self.dtype = Precision(dtype.itemsize), dtype
        self.lanes, self.size = self.precision.lanes, chain.size
        self.code = Code(self.precision, steps)
        rows = []
        for k, (step, site) in enumerate(zip(steps, chain.sites, strict=True)):
            scaled = k % SCALE_EVERY == SCALE_EVERY - 1 or k == len(steps) - 1
            scale = self.code.sizes.index(step.after) if scaled else -1
            rows.append((self.code.kinds.index(step), site.offset * self.lanes, scale))
        self.table = np.array(rows, np.int64)
        self._whole = np.dtype(np.int64 if dtype.itemsize == 8 else np.int32)

    @cached_property
    def _forward(self) -> Callable[..., None]:
        return compiled(self.code.overlap(), "overlap", 8, 5)

    @cached_property
    def _backward(self) -> Callable[..., None]:
        return compiled(self.code.overlap_vjp(), "overlap_vjp", 10, 4)

    def __call__(self, rows: np.ndarray, columns: np.ndarray, symmetric: bool) -> tuple[np.ndarray, np.ndarray]:
        """Values and exponents of `K = value 4**exponent`.

        Args:
            rows: panels, shape (P, V, lanes).
            columns: panels, shape (Q, V, lanes).
            symmetric: whether only panels that reach the diagonal or lie above it are needed.

        Returns:
            Two arrays of shape (P lanes, Q lanes); what is not needed is 0.
        """
        shape = len(rows) * self.lanes, len(columns) * self.lanes
        values, exponents = np.zeros(shape, self.dtype), np.zeros(shape, self._whole)
        space = aligned((self.lanes, self.code.stride), self.dtype)
        powers, factors = (aligned((self.lanes, self.lanes), dtype) for dtype in (self._whole, self.dtype))
        arrays = rows, columns, space, self.table, values, exponents, powers, factors
        numbers = len(self.table), len(rows), len(columns), self.size * self.lanes, int(symmetric)
        self._forward(*(array.ctypes.data for array in arrays), *numbers)
        return values, exponents

    def vjp(self, rows: np.ndarray, columns: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Cotangents of both, in their shapes.

        Args:
            rows: as above.
            columns: as above.
            weights: cotangents of the scaled `<b|a>` over its value, shape (P lanes, Q lanes).
        """
        found = np.zeros(rows.shape, self.dtype), np.zeros(columns.shape, self.dtype)
        trace = aligned((len(self.table) + 1, self.lanes, self.code.stride), self.dtype)
        space = aligned((self.lanes, self.code.stride), self.dtype)
        powers = aligned((self.lanes, self.lanes), self._whole)
        factors = aligned((len(self.table), self.lanes, self.lanes), self.dtype)
        arrays = rows, columns, *found, trace, space, self.table, weights, powers, factors
        numbers = len(self.table), len(rows), len(columns), self.size * self.lanes
        self._backward(*(array.ctypes.data for array in arrays), *numbers)
        return found


def aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An uninitialised array that starts on a cache line."""
    size = int(np.prod(shape)) * dtype.itemsize
    flat = np.empty(size + VECTOR_BYTES, np.uint8)
    start = -flat.ctypes.data % VECTOR_BYTES
    return flat[start : start + size].view(dtype).reshape(shape)


@lru_cache(maxsize=32)
def overlap_of(chain: Chain, dtype: Any) -> Overlap | None:
    """The code of a circuit; None where it would be too long."""
    if chain.work > MOST_PRODUCTS * len(chain.sites):  # not even one site
        return None
    made = Overlap(chain, np.dtype(dtype))
    return made if sum(step.products for step in made.code.kinds) <= MOST_PRODUCTS else None


def panels(encoded: np.ndarray, lanes: int) -> np.ndarray:
    """Encodings (V, N) as panels (P, V, lanes), with zeros in lanes past the end."""
    size, count = encoded.shape
    full = -(-count // lanes)
    out = aligned((full, size, lanes), encoded.dtype)
    for k in range(full):
        part = encoded[:, k * lanes : (k + 1) * lanes]
        out[k, :, : part.shape[1]] = part
        out[k, :, part.shape[1] :] = 0
    return out
