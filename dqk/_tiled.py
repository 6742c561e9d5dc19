"""The tiled fidelity matrix and its exact gradient, on the threads of this process.

Tiles have a fixed side and run on one BLAS thread each, so that the entries of full tiles do not depend on the size of K, and
none on the number of threads. Ragged tiles at the edge are padded to multiples of 8 samples.
"""

# torch.autograd.Function's methods have no useful static types.
# mypy: disable-error-code="no-untyped-def,no-untyped-call,override"

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dqk._progress import bar
from dqk._resources import cpu_threads, one_blas_thread
from dqk.backends import autograd
from dqk.backends.base import Backend, EncodingBackend, mirror, without_diagonal
from dqk.circuit import Circuit
from dqk.errors import MemoryBoundError
from dqk.scheduler import Tile, blocks, partition

_PAD = 8
_PIECE, _FEW_BLOCKS = 32, 8  # samples
_SMALL = 64 * 2**20  # bytes that always fit: the system is not asked


def tiled_fidelity(
    backend: Backend, circuit: Circuit, ax: Tensor, ay: Tensor | None, shared: Tensor, log: bool, progress: bool
) -> Tensor:
    """K or log K of a simplified circuit, shape (N, M), differentiable in all angles.

    Raises:
        MemoryBoundError: if the states of one tile do not fit into the memory bound.
    """
    if not isinstance(backend, EncodingBackend):
        whole = autograd.fidelity(backend, circuit, ax, ax if ay is None else ay, shared)
        whole = mirror(whole) if ay is None else whole
        return whole.log() if log else whole
    result: Tensor = _Tiled.apply(_Job(backend, circuit, log, progress, ax.device.type == "cpu"), ax, ay, shared)
    return result


@dataclass
class _Job:
    """One evaluation: what to compute, and how many blocks of states memory holds at once.

    Work on a GPU is queued by the calling thread, in the order of its stream; only tiles on their way to main memory have threads.
    """

    backend: EncodingBackend
    circuit: Circuit
    log: bool
    progress: bool
    threads: bool = True
    pool: ThreadPoolExecutor | None = field(init=False)

    def __post_init__(self) -> None:
        self.pool = _pool() if self.threads and self.backend.parallel_tiles and cpu_threads() > 1 else None

    def side(self, dtype: torch.dtype) -> int:
        return self.backend.tile_side(self.circuit, dtype)

    def capacity(self, dtype: torch.dtype, wanted: int, overhead: int = 1) -> int:
        """How many of the wanted blocks of states fit into the memory bound beside the tiles in flight; at least 2."""
        block = overhead * self.side(dtype) * self.backend.encoding_bytes(self.circuit, dtype)
        if wanted * block < _SMALL and "DQK_MEMORY_MIB" not in os.environ:
            return wanted
        bound = self.backend.memory_bound()
        in_flight = (cpu_threads() if self.pool else 1) * self.backend.tile_bytes(self.circuit, dtype)
        fit = (bound - in_flight) // block
        if fit < 2:
            mib = 2**20
            raise MemoryBoundError(
                f"two blocks of {self.side(dtype)} samples on {self.circuit.n_qubits} qubits need "
                f"{(2 * block + in_flight) // mib:,} MiB, the bound is {bound // mib:,} MiB (DQK_MEMORY_MIB, or half of the free "
                "memory); use fewer qubits or float32, or raise the bound"
            )
        return min(int(fit), wanted)

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """Results in the order of `items`; a bounded number is in flight."""
        items = list(items)
        if self.pool is None or len(items) == 1:  # one item gains nothing from another thread
            yield from map(function, items)
            return
        window: deque[Future[Any]] = deque()
        try:
            for item in items:
                window.append(self.pool.submit(function, item))
                if len(window) >= 2 * cpu_threads():
                    yield window.popleft().result()
            while window:
                yield window.popleft().result()
        finally:
            for future in window:
                future.cancel()


class _Blocks:
    """The blocks of one set of samples, of which only some are in memory: made for values alone or for gradients too."""

    def __init__(self, job: _Job, angles: Tensor, shared: Tensor, gradients: bool):
        self.job, self.angles, self.shared = job, angles, shared
        self.make = job.backend.encode_block if gradients else job.backend.forward_block
        self.gradients = gradients
        self.slices = blocks(len(angles), job.side(angles.dtype))
        self.states: dict[int, Any] = {}

    def keep(self, needed: set[int]) -> None:
        """Encodes the needed blocks that are missing, each by all threads together, and drops the others."""
        for k in self.states.keys() - needed:
            state = self.states.pop(k)
            self.job.backend.recycle(state[1] if self.gradients else state)
        for k in sorted(needed - self.states.keys()):
            part = self.angles[self.slices[k]]
            missing = -len(part) % _PAD
            if missing:
                part = torch.cat([part, part.new_zeros(missing, part.shape[1])])
            self.states[k] = self.make(self.job.circuit, part, self.shared, self.job.map)

    def pieces(self) -> list[tuple[int, slice]]:
        """What to sweep one by one: blocks, or parts of them where blocks are too few to share them evenly."""
        step = _PIECE if len(self.slices) < _FEW_BLOCKS else self.job.side(self.angles.dtype)
        counts = [rows.stop - rows.start for rows in self.slices]
        return [(k, slice(i, min(i + step, n))) for k, n in enumerate(counts) for i in range(0, n, step)]

    def sweep(self, totals: list[Tensor], piece: tuple[int, slice]) -> tuple[Tensor, Tensor]:
        """Cotangents of a piece's angles and of the shared ones, from those of all padded encodings."""
        k, part = piece
        angles, encoded = self.angles[self.slices[k]][part], self.states[k][0][..., part]
        return self.job.backend.encode_vjp(self.job.circuit, angles, self.shared, encoded, totals[k][..., part])


class _Tiled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, job: _Job, ax: Tensor, ay: Tensor | None, shared: Tensor) -> Tensor:
        ctx.job, ctx.symmetric = job, ay is None
        ctx.save_for_backward(ax, ax if ay is None else ay, shared)
        with one_blas_thread():
            return _forward(job, ax.detach(), None if ay is None else ay.detach(), shared.detach())

    @staticmethod
    @autograd.first_derivative_only
    def backward(ctx, cotangent: Tensor):
        ax, ay, shared = ctx.saved_tensors
        with one_blas_thread():
            needs = ctx.needs_input_grad[1:]
            if ctx.job.backend.capabilities.device == "cuda":
                ctx.job.pool = None
            return None, *_backward(ctx.job, ax, None if ctx.symmetric else ay, shared, cotangent, needs)


def _forward(job: _Job, ax: Tensor, ay: Tensor | None, shared: Tensor) -> Tensor:
    rows = _Blocks(job, ax, shared, gradients=False)
    columns = rows if ay is None else _Blocks(job, ay, shared, gradients=False)
    symmetric = rows is columns
    wanted = len(rows.slices) + (0 if symmetric else len(columns.slices))
    capacity = job.capacity(ax.dtype, wanted)
    everything = wanted == capacity
    band = len(rows.slices) if everything else max(1, capacity - max(1, capacity // 4))
    chunk = len(columns.slices) if everything else capacity - band
    groups = partition(len(rows.slices), len(columns.slices), symmetric, band, chunk)
    result = _uninitialised(ax, len(columns.angles))

    def write(tile: Tile) -> None:
        r, c = rows.slices[tile.row], columns.slices[tile.column]
        value = job.backend.forward_tile(rows.states[tile.row], columns.states[tile.column], job.log)
        value = value[: r.stop - r.start, : c.stop - c.start]
        if symmetric and tile.is_diagonal:
            value = mirror(value, 0.0 if job.log else 1.0)
        elif symmetric:
            result[c, r] = value.T
        result[r, c] = value

    with bar(job.progress, sum(map(len, groups)), "tiles") as advance:
        for group in groups:
            needed, wanted_columns = {tile.row for tile in group}, {tile.column for tile in group}
            rows.keep(needed | wanted_columns if symmetric else needed)
            if not symmetric:
                columns.keep(wanted_columns)
            for _ in job.map(write, group):
                advance(1)
    for side in {rows, columns}:
        side.keep(set())
    return result


def _uninitialised(like: Tensor, columns: int) -> Tensor:
    """A result with a row for each of `like`; NumPy asks the system for large pages, which torch does not."""
    if like.device.type != "cpu":
        return like.new_empty(len(like), columns)
    return torch.from_numpy(np.empty((len(like), columns), torch.empty(0, dtype=like.dtype).numpy().dtype))


def _backward(
    job: _Job, ax: Tensor, ay: Tensor | None, shared: Tensor, cotangent: Tensor, needs: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None, Tensor]:
    """Every tile once more, its cotangents of the states added in tile order, then one sweep per block of states.

    `needs` says which of ax, ay and shared need a gradient; a side that needs none costs neither cotangents nor sweeps.
    """
    rows = _Blocks(job, ax, shared, gradients=True)
    columns = rows if ay is None else _Blocks(job, ay, shared, gradients=True)
    symmetric = rows is columns
    sides = [rows] if symmetric else [rows, columns]
    wanted = sum(len(side.slices) for side in sides)
    if wanted > job.capacity(ax.dtype, wanted, overhead=2):  # states and their cotangents
        raise MemoryBoundError(
            f"the gradient of a {len(ax)} x {len(columns.angles)} kernel matrix on {job.circuit.n_qubits} qubits keeps all "
            "states in memory and they do not fit; differentiate K(X[a:b], Y) in parts, or raise the bound with DQK_MEMORY_MIB"
        )
    for side in sides:
        side.keep(set(range(len(side.slices))))
    asked = [needs[k] or needs[2] for k in range(len(sides))]
    totals = [
        [torch.zeros_like(side.states[k][0]) for k in range(len(side.slices))] if wants else []
        for side, wants in zip(sides, asked, strict=True)
    ]
    vjp = job.backend.log_overlap_vjp if job.log else job.backend.overlap_vjp
    # Both K[i, j] and K[j, i] are the one number above the diagonal.
    folded = without_diagonal(cotangent + cotangent.T) if symmetric else cotangent

    def pull(tile: Tile) -> list[tuple[list[Tensor], int, Tensor]]:
        a, b = rows.states[tile.row][1], columns.states[tile.column][1]
        part = folded[rows.slices[tile.row], columns.slices[tile.column]]
        on_diagonal = symmetric and tile.is_diagonal
        if on_diagonal:
            part = torch.triu(part, 1)
        padded = part.new_zeros(a.shape[-1], b.shape[-1])
        padded[: part.shape[0], : part.shape[1]] = part
        if on_diagonal and not job.log:
            return [(totals[0], tile.row, job.backend.self_overlap_vjp(a, padded))]
        if asked == [True, False]:
            return [(totals[0], tile.row, job.backend.first_overlap_vjp(a, b, padded, job.log))]
        if asked == [False, True]:
            return [(totals[1], tile.column, job.backend.first_overlap_vjp(b, a, padded.T, job.log))]
        da, db = vjp(a, b, padded)
        return [(totals[0], tile.row, da), (totals[-1], tile.column, db)]

    (tiles,) = partition(len(rows.slices), len(columns.slices), symmetric, len(rows.slices), len(columns.slices))
    for pulled in job.map(pull, tiles):
        for target, k, part in pulled:
            target[k] += part
    results: list[Tensor | None] = [None, None]
    dshared = torch.zeros_like(shared)
    for k, (side, total) in enumerate(zip(sides, totals, strict=True)):
        if asked[k]:
            swept = list(job.map(partial(side.sweep, total), side.pieces()))
            results[k] = torch.cat([part for part, _ in swept])
            for _, part in swept:
                dshared += part
        side.keep(set())
    return results[0], results[1], dshared


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    # After a fork the next thread that comes mends torch's own pool; of two new ones at once, one would find none.
    torch.set_num_threads(torch.get_num_threads())
    return ThreadPoolExecutor(
        cpu_threads(), thread_name_prefix="dqk", initializer=torch.set_grad_enabled, initargs=(False,)
    )


os.register_at_fork(after_in_child=_pool.cache_clear)  # a forked child has none of the parent's threads
