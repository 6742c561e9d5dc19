"""Batched statevectors on CPU cores: every sample's state once, then real matrix products.

Choose it for entangling circuits up to about 20 qubits. States are made by compiled passes that keep one vector of samples in
cache; `K = |<b|a>|^2` takes three real products instead of four.
"""

from __future__ import annotations

import math
import os
import threading
from collections import deque
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dqk._cost import Effort
from dqk._resources import one_blas_thread, require_memory
from dqk.backends.arrays import contiguous, require_cpu, zeros
from dqk.backends.base import Capabilities, EncodingBackend, Parallel
from dqk.backends.compiled import VECTOR_BYTES
from dqk.backends.efforts import statevector_effort
from dqk.circuit import Circuit

_PAD, _PAD_FROM = 8, 256
_SAMPLES_PER_TASK = 32


class _Panels(NamedTuple):
    """States of one block as vectors of samples.

    Attributes:
        data: shape (panels, 2**n, 4, lanes): real parts, imaginary parts, sums and differences.
        samples: number of samples; the last panels may have more lanes.
    """

    data: np.ndarray
    samples: int


class _Buffers:
    """Panels to write states into again: fresh pages cost the system as much time as the states take."""

    most_bytes = 128 * 2**20

    def __init__(self) -> None:
        self._free: dict[tuple[Any, ...], list[np.ndarray]] = {}
        self._bytes = 0
        self._lock = threading.Lock()
        os.register_at_fork(after_in_child=self._unlock)

    def _unlock(self) -> None:
        self._lock = threading.Lock()  # a forked child has none of the parent's threads

    def take(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        with self._lock:
            kept = self._free.get((shape, dtype))
            if kept:
                self._bytes -= kept[-1].nbytes
                return kept.pop()
        return _aligned(shape, dtype)

    def give(self, array: np.ndarray) -> None:
        with self._lock:
            if self._bytes + array.nbytes > self.most_bytes:
                self._free.clear()  # of other shapes, most likely
                self._bytes = 0
            if array.nbytes <= self.most_bytes:
                self._free.setdefault((array.shape, array.dtype), []).append(array)
                self._bytes += array.nbytes


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An uninitialised array that starts on a cache line."""
    size = math.prod(shape) * dtype.itemsize
    flat = np.empty(size + VECTOR_BYTES, np.uint8)
    start = -flat.ctypes.data % VECTOR_BYTES
    return flat[start : start + size].view(dtype).reshape(shape)


def _has_wide_registers() -> bool:
    from llvmlite.binding import get_host_cpu_features

    return bool(get_host_cpu_features().get("avx512f"))


_buffers = _Buffers()


class StatevectorBackend(EncodingBackend):
    """Dense statevectors, float32 or float64 parts.

    Args:
        panels: whether tiles of values are computed from panels instead of by BLAS; None for where that is faster.

    An encoding has shape (2, 2**n, N): real and imaginary parts of the amplitudes, qubit 0 the most significant bit. A prepared
    one has two more planes, the sum and the difference of the parts. In memory a sample's amplitudes are contiguous.
    """

    name = "statevector"
    capabilities = Capabilities(exact=True, differentiable=True, expectations=True, max_qubits=28)
    parallel_tiles = True

    def __init__(self, panels: bool | None = None):
        self.panels = _has_wide_registers() if panels is None else panels

    def tile_side(self, circuit: Circuit, dtype: torch.dtype) -> int:
        """128 samples up to 13 qubits (a side at which BLAS is near its best), fewer above to bound a block's memory."""
        n = circuit.n_qubits
        return 128 if n <= 13 else 64 if n <= 16 else max(8, 2 ** (22 - min(n, 19)))

    def tile_bytes(self, circuit: Circuit, dtype: torch.dtype) -> int:
        """Products of one tile and the states of one vector of samples."""
        return 4 * self.tile_side(circuit, dtype) ** 2 * dtype.itemsize + 2**circuit.n_qubits * 4 * VECTOR_BYTES

    def effort(self, circuit: Circuit, dtype: torch.dtype) -> Effort:
        """Passes over vectors of samples."""
        return statevector_effort(circuit, dtype.itemsize, self.tile_side(circuit, dtype))

    def encode(self, circuit: Circuit, angles: Tensor, shared: Tensor) -> Tensor:
        """States of the samples, shape (2, 2**n, N)."""
        return self._states(circuit, angles, shared, 2)

    def encode_block(
        self, circuit: Circuit, angles: Tensor, shared: Tensor, parallel: Parallel = map
    ) -> tuple[Tensor, Tensor]:
        """States with their sums and differences, written in one go by several threads."""
        planes = self._states(circuit, angles, shared, 4, parallel)
        return planes[:2], planes

    def forward_block(self, circuit: Circuit, angles: Tensor, shared: Tensor, parallel: Parallel = map) -> Any:
        """States in panels, see `dqk.backends.compiled.panels`, on processors with registers of 64 bytes."""
        if not self.panels:
            return super().forward_block(circuit, angles, shared, parallel)
        require_cpu(self.name, angles)
        from dqk.backends.compiled.panels import encode_panels
        from dqk.backends.compiled.program import program_of

        arrays = contiguous(angles), contiguous(shared)
        lanes = VECTOR_BYTES // arrays[0].itemsize
        count = 2 * -(-len(angles) // (2 * lanes))
        out = _buffers.take((count, 2**circuit.n_qubits, 4, lanes), arrays[0].dtype)
        program, step = program_of(circuit, out.dtype), max(1, _SAMPLES_PER_TASK // lanes)
        run = lambda start: encode_panels(*program, *arrays, out, start, start + step)  # noqa: E731
        deque(parallel(run, range(0, count, step)), maxlen=0)
        return _Panels(out, len(angles))

    def forward_tile(self, a: Any, b: Any, log: bool) -> Tensor:
        """From panels, or else by BLAS."""
        if not isinstance(a, _Panels):
            return super().forward_tile(a, b, log)
        from dqk.backends.compiled.panels import tile_panels

        lanes = a.data.shape[3]
        out = np.empty((len(a.data) * lanes, len(b.data) * lanes), a.data.dtype)
        tile_panels(a.data, b.data, a is b, out)
        values = torch.from_numpy(out)[: a.samples, : b.samples]
        return values.log() if log else values

    def recycle(self, block: Any) -> None:
        """Keeps the memory of panels for the next ones of their shape."""
        if isinstance(block, _Panels):
            _buffers.give(block.data)

    def prepare(self, encoded: Tensor) -> Tensor:
        """Adds the planes of sums and differences. Shape (4, 2**n, N)."""
        re, im = encoded.transpose(1, 2)
        return torch.stack([re, im, re + im, re - im]).transpose(1, 2)

    def _states(
        self, circuit: Circuit, angles: Tensor, shared: Tensor, planes: int, parallel: Parallel = map
    ) -> Tensor:
        require_cpu(self.name, angles)
        from dqk.backends.compiled.encode import encode_states
        from dqk.backends.compiled.program import program_of

        arrays = contiguous(angles), contiguous(shared)
        size = 2**circuit.n_qubits
        # Beside the result, the vector of samples that is being made: two vectors for each amplitude.
        needed = size * (planes * len(angles) * arrays[0].itemsize + 2 * VECTOR_BYTES)
        require_memory(needed, f"{len(angles)} states of {circuit.n_qubits} qubits")
        # Rows a power of two apart would compete for the same cache sets.
        out = _aligned((planes, len(angles), size + _PAD if size >= _PAD_FROM else size), arrays[0].dtype)
        program = program_of(circuit, out.dtype)
        starts = range(0, len(angles), _SAMPLES_PER_TASK)
        run = lambda start: encode_states(*program, *arrays, out, start, start + _SAMPLES_PER_TASK)  # noqa: E731
        deque(parallel(run, starts), maxlen=0)
        return torch.from_numpy(out[:, :, :size]).transpose(1, 2)

    def encode_vjp(
        self, circuit: Circuit, angles: Tensor, shared: Tensor, encoded: Tensor, cotangent: Tensor
    ) -> tuple[Tensor, Tensor]:
        """By one adjoint sweep per sample."""
        from dqk.backends.compiled.adjoint import sweep_states
        from dqk.backends.compiled.program import program_of

        arrays = contiguous(angles), contiguous(shared)
        out = zeros(arrays[0]), zeros(arrays[1])
        if len(angles):
            sweep_states(*program_of(circuit, arrays[0].dtype), *arrays, *_memory(encoded), *_memory(cotangent), *out)
        return torch.from_numpy(out[0]), torch.from_numpy(out[1])

    def overlap(self, a: Tensor, b: Tensor) -> Tensor:
        """`|<b|a>|^2`, shape (N, M), by three real products."""
        with one_blas_thread():
            re, im = _inner(_by_sample(a), _by_sample(b))
        re *= re
        im *= im
        re += im
        return torch.from_numpy(re)

    def overlap_vjp(self, a: Tensor, b: Tensor, cotangent: Tensor) -> tuple[Tensor, Tensor]:
        """By the chain rule through <b|a>: two complex products."""
        x, y = _by_sample(a), _by_sample(b)
        with one_blas_thread():
            re, im = _weighted(x, y, cotangent)
            # With W = 2 dK <b|a>: d(a) = W b, and d(b) = W^dagger a.
            return _combine(re, im, y), _combine(re.T, -im.T, x)

    def first_overlap_vjp(self, a: Tensor, b: Tensor, cotangent: Tensor, log: bool) -> Tensor:
        """One of the two complex products."""
        cotangent = self._log_slopes(a, b, cotangent) if log else cotangent
        x, y = _by_sample(a), _by_sample(b)
        with one_blas_thread():
            return _combine(*_weighted(x, y, cotangent), y)

    def self_overlap_vjp(self, a: Tensor, cotangent: Tensor) -> Tensor:
        """One complex product, for K[i, j] and K[j, i] are one number."""
        x = _by_sample(a)
        with one_blas_thread():
            return _combine(*_weighted(x, x, cotangent + cotangent.T), x)

    def _expectations(self, circuit: Circuit, ax: Tensor, observables: tuple[str, ...], shared: Tensor) -> Tensor:
        state = self.encode(circuit, ax, shared)
        values = [(state * _image(state, word)).sum(dim=(0, 1)) for word in observables]
        return torch.stack(values, dim=1)

    def _expectations_vjp(
        self, circuit: Circuit, ax: Tensor, observables: tuple[str, ...], shared: Tensor, cotangent: Tensor
    ) -> tuple[Tensor, Tensor]:
        state = self.encode(circuit, ax, shared)
        total = torch.zeros_like(state)
        for k, word in enumerate(observables):
            total += 2 * cotangent[:, k] * _image(state, word)
        return self.encode_vjp(circuit, ax, shared, state, total)


def _by_sample(states: Tensor) -> np.ndarray:
    """Shape (planes, N, 2**n) without a copy."""
    return states.detach().transpose(1, 2).numpy()


def _memory(states: Tensor) -> tuple[np.ndarray, tuple[int, int]]:
    """The flat memory of states by sample, and the distances in it of planes and of samples; a copy only if need be."""
    array = _by_sample(states)
    if array.strides[2] != array.itemsize:
        array = np.ascontiguousarray(array)
    plane, sample = (stride // array.itemsize for stride in array.strides[:2])
    size = (array.shape[0] - 1) * plane + (array.shape[1] - 1) * sample + array.shape[2]
    return np.lib.stride_tricks.as_strided(array, (size,), (array.itemsize,)), (plane, sample)


def _weighted(x: np.ndarray, y: np.ndarray, cotangent: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Real and imaginary parts of `2 cotangent <y|x>`, elementwise."""
    re, im = _inner(x, y)
    weight = 2 * cotangent.detach().numpy()
    re *= weight
    im *= weight
    return re, im


def _combine(re: np.ndarray, im: np.ndarray, x: np.ndarray) -> Tensor:
    """`(re + i im) psi` for states psi by sample, in the layout of encodings: three products (Gauss)."""
    out = np.empty((2, len(re), x.shape[2]), x.dtype)
    np.matmul(re, x[0], out=out[0])
    np.matmul(re + im, x[2], out=out[1])
    second = im @ x[1]
    out[1] -= out[0]
    out[1] -= second
    out[0] -= second
    return torch.from_numpy(out).transpose(1, 2)


def _inner(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Real and imaginary parts of <y_j|x_i>, shape (N, M): three products (Gauss) instead of four."""
    first, second = x[0] @ y[0].T, x[1] @ y[1].T
    third = x[2] @ y[3].T
    third += second
    third -= first
    first += second
    return first, third


def _image(state: Tensor, word: str) -> Tensor:
    """P|psi> for a Pauli string, in the layout of encodings."""
    flip, sign, turns = _pauli(word)
    moved = state.index_select(1, flip) * sign.to(state.dtype)[:, None]
    if turns == 0:
        return moved
    re, im = moved
    rotated = {1: (-im, re), 2: (-re, -im), 3: (im, -re)}[turns]
    return torch.stack(rotated)


@lru_cache(maxsize=512)
def _pauli(word: str) -> tuple[Tensor, Tensor, int]:
    """For P|psi>: source index and sign of each amplitude, and a power of i: Y = i X Z."""
    n = len(word)
    index = torch.arange(2**n)
    flip, sign = 0, torch.ones(2**n)
    for wire, letter in enumerate(word):
        bit = n - 1 - wire
        if letter in "XY":
            flip |= 1 << bit
        if letter in "YZ":
            sign = sign * (1 - 2 * ((index >> bit) & 1))
    # Z acts first, on the source index; each Y flips the sign of its own bit once more.
    return index ^ flip, sign * (-1) ** word.count("Y"), word.count("Y") % 4
