"""Matrix-product states for samples on a GPU: encoded on the CPU, moved once, overlapped and differentiated where the samples are.

`backend="mps"` becomes this one for CUDA tensors. Encoding is a small part of the work. Environments of all pairs of a tile move
over the chain together, by one Triton kernel where bonds are small (`_triton_chains`), else by batched products (`chain_plain`).
Nothing here asks for CUDA: with samples in main memory the same code runs there, which is how it is tested. No GPU has run it yet.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dqk._resources import memory_bound
from dqk.backends import chain_plain, gpu
from dqk.backends.base import Capabilities, Parallel
from dqk.backends.batching import in_chunks
from dqk.backends.chain_states import ChainStates
from dqk.backends.mps import MPSBackend
from dqk.backends.product import bloch_factors
from dqk.backends.truncated import TruncatedStates, amplitudes, no_gradient
from dqk.circuit import Circuit
from dqk.errors import InvalidInputError, MemoryBoundError, UnsupportedError

_SIDE = 1024
_BLOCK_BYTES = 2**28
_SHARE = 0.8  # of the free device memory
_MIB = 2**20
_COPIES = 4  # of an environment, while a site is multiplied into it


@dataclass(frozen=True, eq=False)
class _Block:
    """Encodings of one block.

    Attributes:
        states: what they belong to; None for products.
        numbers: of all tensors, shape (V, N), or Bloch vectors (n, 3, N).
    """

    states: ChainStates | TruncatedStates | None
    numbers: Tensor

    @property
    def shape(self) -> torch.Size:
        """Its last number is that of the samples."""
        return self.numbers.shape

    def part(self, rows: slice) -> Tensor:
        """Numbers of some samples."""
        return self.numbers[..., rows]

    def encoding(self, cotangent: Tensor) -> Tensor:
        """Of the shape of an encoding, whose last row names the circuit."""
        return cotangent if self.states is None else torch.cat([cotangent, cotangent.new_zeros(1, cotangent.shape[-1])])


class MPSOnDevice(MPSBackend):
    """Matrix-product states on the samples' device; encodings are those of `MPSBackend`, there.

    Args:
        max_bond: as for `MPSBackend`.
        chunk_mib: most memory that is worked on at once besides the states; None for what the device has free.
        fused: whether one kernel computes overlaps, of circuits that have one; None for samples on a GPU.
    """

    capabilities = Capabilities(exact=True, differentiable=True, expectations=True, device="cuda")
    parallel_tiles = False

    def __init__(self, max_bond: int | None = None, chunk_mib: int | None = None, fused: bool | None = None) -> None:
        super().__init__(max_bond)
        if chunk_mib is not None and chunk_mib < 1:
            raise InvalidInputError(f"chunk_mib={chunk_mib!r}, expected None or at least 1")
        self.capabilities = replace(self.capabilities, device="cuda")
        self.chunk_mib, self.fused = chunk_mib, fused

    def on(self, device: str) -> MPSBackend:
        """Itself, or the one for main memory."""
        return self if device == "cuda" else MPSBackend(self.max_bond)

    def tile_side(self, circuit: Circuit, dtype: torch.dtype) -> int:
        """1024 samples, fewer where encodings are large."""
        fit = max(8, _BLOCK_BYTES // self.encoding_bytes(circuit, dtype))
        return int(min(_SIDE, 2 ** (fit.bit_length() - 1)))

    def memory_bound(self) -> int:
        """A share of the current GPU's free memory; without a GPU, that of main memory."""
        return self._free(torch.device("cuda" if torch.cuda.is_available() else "cpu"))

    def encode_block(
        self, circuit: Circuit, angles: Tensor, shared: Tensor, parallel: Parallel = map
    ) -> tuple[Tensor, Any]:
        """By the CPU's threads, then one copy."""
        encoded = super().encode_block(circuit, angles.detach().cpu(), shared.detach().cpu(), parallel)[0]
        encoded = encoded.to(angles.device)
        return encoded, self._block(circuit, encoded)

    def forward_block(self, circuit: Circuit, angles: Tensor, shared: Tensor, parallel: Parallel = map) -> Any:
        """The same."""
        return self.encode_block(circuit, angles, shared, parallel)[1]

    def forward_tile(self, a: Any, b: Any, log: bool) -> Tensor:
        """On the device."""
        return self._values(a, b, log)

    def prepare(self, encoded: Tensor) -> Any:
        """The encodings as a block."""
        states = None if encoded.dim() == 3 else self._states_of(encoded)
        return _Block(None, encoded) if states is None else _Block(states, encoded[:-1])

    def encode_vjp(
        self, circuit: Circuit, angles: Tensor, shared: Tensor, encoded: Tensor, cotangent: Tensor
    ) -> tuple[Tensor, Tensor]:
        """By the CPU's threads."""
        x, w = angles.detach().cpu(), shared.detach().cpu()
        found = super().encode_vjp(circuit, x, w, encoded.cpu(), cotangent.cpu())
        return found[0].to(angles.device), found[1].to(shared.device)

    def first_overlap_vjp(self, a: Any, b: Any, cotangent: Tensor, log: bool) -> Tensor:
        """Without the cotangent of the second."""
        return self._pulled(a, b, cotangent, log, both=False)[0]

    def _vjp(self, a: Any, b: Any, cotangent: Tensor, log: bool) -> tuple[Tensor, Tensor]:
        return self._pulled(a, b, cotangent, log, both=True)

    def _values(self, a: Any, b: Any, log: bool) -> Tensor:
        out = a.numbers.new_empty(a.shape[-1], b.shape[-1])
        overlaps, numbers = self._path(a)

        def run(rows: slice) -> None:
            out[rows] = overlaps(a.states, a.part(rows), b.numbers, log)

        if out.numel():
            self._in_chunks(a, b, numbers, run)
        return out

    def _path(self, a: _Block) -> tuple[Callable[..., Tensor], int]:
        """What computes overlaps, and how many complex numbers a pair takes meanwhile."""
        states = a.states
        if states is None:
            return _by_bloch_vectors, 1
        if isinstance(states, TruncatedStates):
            return _by_bonds, _COPIES * states.largest_environment
        if a.numbers.is_cuda if self.fused is None else self.fused:
            from dqk.backends import _triton_chains

            if _triton_chains.fits(states.chain):
                return _by_one_kernel, _triton_chains.numbers(states.chain) // 2 + 2
        return _by_products, _COPIES * states.chain.largest_environment

    def _pulled(self, a: Any, b: Any, cotangent: Tensor, log: bool, both: bool) -> tuple[Tensor, Tensor]:
        states, of_a, of_b = a.states, torch.zeros_like(a.numbers), torch.zeros_like(b.numbers)
        if isinstance(states, TruncatedStates):
            raise UnsupportedError(no_gradient(states))

        def run(rows: slice) -> None:
            with torch.enable_grad():
                leaves = [a.part(rows).detach().clone().requires_grad_()]
                leaves += [b.numbers.detach().requires_grad_()] if both else []
                y = leaves[1] if both else b.numbers
                outputs, weights = _weighted(states, leaves[0], y, cotangent[rows], log)
                found = torch.autograd.grad(outputs, leaves, weights)
            of_a[..., rows] = found[0]
            if both:
                of_b.add_(found[1])

        if cotangent.numel():
            numbers = 2 * a.numbers.shape[0] if states is None else _COPIES * states.chain.environments
            self._in_chunks(a, b, numbers, run)
        return a.encoding(of_a), b.encoding(of_b)

    def _expectations(self, circuit: Circuit, ax: Tensor, observables: tuple[str, ...], shared: Tensor) -> Tensor:
        return super()._expectations(circuit, ax.cpu(), observables, shared.cpu()).to(ax.device)

    def _expectations_vjp(
        self, circuit: Circuit, ax: Tensor, observables: tuple[str, ...], shared: Tensor, cotangent: Tensor
    ) -> tuple[Tensor, Tensor]:
        found = super()._expectations_vjp(circuit, ax.cpu(), observables, shared.cpu(), cotangent.cpu())
        return found[0].to(ax.device), found[1].to(ax.device)

    def _block(self, circuit: Circuit, encoded: Tensor) -> _Block:
        if circuit.is_product:
            return _Block(None, encoded)
        return _Block(self._states(circuit)[1], encoded[:-1])

    def _in_chunks(self, a: _Block, b: _Block, numbers: int, run: Callable[[slice], None]) -> None:
        """Runs slices of the rows, each of whose pairs takes so many complex numbers."""
        device, each = a.numbers.device, max(1, 2 * numbers * a.numbers.itemsize * b.shape[-1])
        free = self._free(device) if self.chunk_mib is None else self.chunk_mib * _MIB
        with gpu.current(device), gpu.float32_products(tf32=False):
            in_chunks(a.shape[-1], each, free, run, lambda: self._too_large(each, b.shape[-1], device))

    def _free(self, device: torch.device) -> int:
        return int(_SHARE * gpu.free_bytes(device)) if device.type == "cuda" else memory_bound()

    def _too_large(self, each: int, columns: int, device: torch.device) -> MemoryBoundError:
        return MemoryBoundError(
            f"overlaps of one matrix-product state with {columns:,} others need {each:,} bytes on {device}, which has "
            f"{self._free(device):,} free; use fewer samples at a time, float32 or fewer layers"
        )


def _by_bloch_vectors(_: None, a: Tensor, b: Tensor, log: bool) -> Tensor:
    """K or log K, shape (N, M)."""
    total: Tensor | None = None
    for factor in bloch_factors(a, b):
        factor = factor.log() if log else factor
        total = factor if total is None else total + factor if log else total * factor
    assert total is not None
    return total


def _by_bonds(states: TruncatedStates, a: Tensor, b: Tensor, log: bool) -> Tensor:
    return chain_plain.values(*amplitudes(states, a, b), log)


def _by_one_kernel(states: ChainStates, a: Tensor, b: Tensor, log: bool) -> Tensor:
    from dqk.backends._triton_chains import squares

    return chain_plain.unscaled(*squares(states.chain, a, b), log)


def _by_products(states: ChainStates, a: Tensor, b: Tensor, log: bool) -> Tensor:
    return chain_plain.values(*chain_plain.amplitudes(states.chain, a, b), log)


def _weighted(states: ChainStates | None, a: Tensor, b: Tensor, cotangent: Tensor, log: bool) -> tuple[Tensor, Tensor]:
    """Something to differentiate and its cotangents, which give those of K or log K. Pairs that nobody asks for give zeros."""
    if states is None:
        factors = torch.stack(list(bloch_factors(a, b)))
        if log:
            return torch.where(cotangent == 0, torch.ones_like(factors), factors).log().sum(dim=0), cotangent
        return factors.prod(dim=0), cotangent
    amplitude, exponents = chain_plain.amplitudes(states.chain, a, b)
    return chain_plain.weighted(amplitude, exponents, cotangent, log)
