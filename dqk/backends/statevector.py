"""Batched statevectors on CPU cores: every sample's state once, then real matrix products.

Choose it for entangling circuits up to about 20 qubits. States are made by compiled passes that keep one vector of samples in
cache; `K = |<b|a>|^2` takes three real products instead of four.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from dqk.backends.base import Capabilities, EncodingBackend
from dqk.circuit import Circuit
from dqk.errors import UnsupportedError


class StatevectorBackend(EncodingBackend):
    """Dense statevectors, float32 or float64 parts.

    An encoding has shape (2**n, 2, N): real and imaginary parts of the amplitudes, qubit 0 the most significant bit. A prepared
    one has two more planes, the sum and the difference of the parts.
    """

    name = "statevector"
    capabilities = Capabilities(exact=True, differentiable=True, expectations=True, max_qubits=28)
    parallel_tiles = True

    def tile_side(self, circuit: Circuit, dtype: torch.dtype) -> int:
        """64 samples up to 16 qubits, fewer above, so that a block of states stays below half a GiB in float64."""
        return max(8, min(64, 2 ** (22 - circuit.n_qubits) if circuit.n_qubits < 22 else 8))

    def tile_bytes(self, circuit: Circuit, dtype: torch.dtype) -> int:
        """Products of one tile and the state that is being made."""
        return 4 * self.tile_side(circuit, dtype) ** 2 * dtype.itemsize + 2**circuit.n_qubits * 128 * 2

    def encode(self, circuit: Circuit, angles: Tensor, shared: Tensor) -> Tensor:
        """States of the samples, shape (2**n, 2, N)."""
        return self._states(circuit, angles, shared, 2)

    def encode_block(self, circuit: Circuit, angles: Tensor, shared: Tensor) -> tuple[Tensor, Tensor]:
        """States with their sums and differences, written in one go."""
        planes = self._states(circuit, angles, shared, 4)
        return planes[:, :2], planes

    def prepare(self, encoded: Tensor) -> Tensor:
        """Adds the planes of sums and differences. Shape (2**n, 4, N)."""
        re, im = encoded[:, 0], encoded[:, 1]
        return torch.stack([re, im, re + im, re - im], dim=1)

    def _states(self, circuit: Circuit, angles: Tensor, shared: Tensor, planes: int) -> Tensor:
        _require_cpu(angles)
        from dqk.backends.compiled.encode import encode_states
        from dqk.backends.compiled.program import program_of

        arrays = _arrays(angles, shared)
        out = torch.empty(2**circuit.n_qubits, planes, len(angles), dtype=angles.dtype)
        if len(angles):
            encode_states(*program_of(circuit, arrays[0].dtype), *arrays, out.numpy())
        return out

    def encode_vjp(
        self, circuit: Circuit, angles: Tensor, shared: Tensor, encoded: Tensor, cotangent: Tensor
    ) -> tuple[Tensor, Tensor]:
        """By one adjoint sweep per sample."""
        from dqk.backends.compiled.adjoint import sweep_states
        from dqk.backends.compiled.program import program_of

        arrays = _arrays(angles, shared)
        out = np.zeros_like(arrays[0]), np.zeros_like(arrays[1])
        if len(angles):
            states = (np.ascontiguousarray(t.detach().numpy()) for t in (encoded, cotangent))
            sweep_states(*program_of(circuit, arrays[0].dtype), *arrays, *states, *out)
        return torch.from_numpy(out[0]), torch.from_numpy(out[1])

    def overlap(self, a: Tensor, b: Tensor) -> Tensor:
        """`|<b|a>|^2`, shape (N, M), by three real products."""
        re, im = _inner(a.detach().numpy(), b.detach().numpy())
        re *= re
        im *= im
        re += im
        return torch.from_numpy(re)

    def overlap_vjp(self, a: Tensor, b: Tensor, cotangent: Tensor) -> tuple[Tensor, Tensor]:
        """Two real products of stacked planes: the cotangents come out in the layout of encodings."""
        x, y = a.detach().numpy(), b.detach().numpy()
        re, im = _inner(x, y)
        weight = 2 * cotangent.detach().numpy()
        re *= weight
        im *= weight
        size, n, m = len(x), x.shape[2], y.shape[2]
        flat_x, flat_y = (np.ascontiguousarray(v[:, :2]).reshape(size, -1) for v in (x, y))
        # <b|a> = re + i im: d(ax) = bx re - by im, d(ay) = by re + bx im; d(bx) = ax re + ay im, d(by) = ay re - ax im.
        to_a = np.block([[re.T, im.T], [-im.T, re.T]])
        to_b = np.block([[re, -im], [im, re]])
        return torch.from_numpy((flat_y @ to_a).reshape(size, 2, n)), torch.from_numpy((flat_x @ to_b).reshape(size, 2, m))

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


def _inner(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Real and imaginary parts of <y_j|x_i>, shape (N, M): three products (Gauss) instead of four."""
    first, second = x[:, 0].T @ y[:, 0], x[:, 1].T @ y[:, 1]
    third = x[:, 2].T @ y[:, 3]
    third += second
    third -= first
    first += second
    return first, third


def _image(state: Tensor, word: str) -> Tensor:
    """P|psi> for a Pauli string, in the layout of encodings."""
    flip, sign, turns = _pauli(word)
    moved = state.index_select(0, flip) * sign.to(state.dtype)[:, None, None]
    if turns == 0:
        return moved
    re, im = moved[:, 0], moved[:, 1]
    rotated = {1: (-im, re), 2: (-re, -im), 3: (im, -re)}[turns]
    return torch.stack(rotated, dim=1)


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


def _arrays(angles: Tensor, shared: Tensor) -> tuple[np.ndarray, np.ndarray]:
    return np.ascontiguousarray(angles.detach().numpy()), np.ascontiguousarray(shared.detach().numpy())


def _require_cpu(angles: Tensor) -> None:
    if angles.device.type != "cpu":
        raise UnsupportedError(
            f"backend 'statevector' runs on the CPU and the samples are on {angles.device}; move them with .cpu() or use "
            "backend='reference', which runs on any torch device"
        )
