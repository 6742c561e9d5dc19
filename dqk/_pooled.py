"""Kernel matrices on a pool of workers: forward tiles, backward strips, shots and the store, on top of `dqk._run`.

The grid and the bits are those of `dqk._tiled`, which stays the path for values and gradients on this process's own threads.
"""

# torch.autograd.Function's methods have no useful static types.
# mypy: disable-error-code="no-untyped-def,no-untyped-call,override"

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from dqk._calibration import cost_model
from dqk._moved import moved
from dqk._progress import bar
from dqk._resources import memory_bound, require_memory
from dqk._run import Observer, Work, run
from dqk._wire import pack
from dqk.backends import autograd
from dqk.backends.base import EncodingBackend, without_diagonal
from dqk.circuit import Circuit
from dqk.cluster import Arrays, WorkerPool
from dqk.errors import ClusterError, InvalidInputError, UnsupportedError
from dqk.scheduler import Plan, Statistics, TileCost, blocks_that_fit, plan


class Executor(Protocol):
    """Who runs something on a pool: this process, or all ranks of an MPI job together.

    Attributes:
        compares: whether several processes call it, which have to ask for the same.
    """

    compares: bool

    def everywhere(self, digest: str, drive: Callable[[WorkerPool], Arrays]) -> Arrays:
        """What `drive` gives on an open pool, on every process that calls this for the problem with this digest."""
        ...


class Bar(Observer):
    """A progress bar on standard error."""

    def started(self, total: int, done: int) -> None:
        """Draws it."""
        self._stack = contextlib.ExitStack()
        self._advance = self._stack.enter_context(bar(True, total, "tiles"))
        self._total = total
        self._advance(done)
        self._shown = done

    def progressed(self, statistics: Statistics, remaining: int) -> None:
        """Moves it."""
        self._advance(self._total - remaining - self._shown)
        self._shown = self._total - remaining

    def finished(self) -> None:
        """Leaves it."""
        self._stack.close()


class OnPool:
    """An executor that drives a pool that is open."""

    compares = False

    def __init__(self, pool: WorkerPool):
        self.pool = pool

    @property
    def device(self) -> Any:
        """What all of the pool's workers are, where each of them is a quantum processor; None elsewhere."""
        return getattr(self.pool, "device", None)

    @property
    def _or_by_name(self) -> str:
        return f", or name the executor (executor={self.pool.name!r})" if self.pool.by_name else ""

    def everywhere(self, digest: str, drive: Callable[[WorkerPool], Arrays]) -> Arrays:
        """Runs in this process."""
        if self.pool.inherited:
            raise ClusterError(
                f"this {self.pool.name} pool was opened before this process was forked off: its workers answer the parent; open "
                f"another one here{self._or_by_name}"
            )
        with self.pool.lock:
            if not self.pool.opened:
                raise ClusterError(
                    f"the {self.pool.name} pool was closed; keep it open until gradients are computed: call backward() inside its "
                    f"block{self._or_by_name}"
                )
            if self.pool.driven:
                raise InvalidInputError(
                    "a matrix is being computed on this pool; an observer cannot use it for another one"
                )
            self.pool.driven = True
            try:
                return drive(self.pool)
            finally:
                self.pool.driven = False


@dataclass(frozen=True)
class Job:
    """One kernel matrix to be computed by workers.

    Attributes:
        backend: resolved; travels by name.
        circuit: simplified.
        log: whether the values are logarithms.
        shots: measurements per entry; None for exact values.
        seed: of the measurements.
    """

    backend: EncodingBackend
    circuit: Circuit
    log: bool
    shots: int | None
    seed: int | None

    def arrays(self, ax: Tensor, ay: Tensor | None, shared: Tensor) -> dict[str, np.ndarray]:
        """What is shipped to every worker: the specification and the angles."""
        spec = {
            "backend": self.backend.name,
            "circuit": self.circuit.to_dict(),
            "log": self.log,
            "shots": self.shots,
            "seed": self.seed,
            "side": self.side(ax.dtype),
            "symmetric": ay is None,
        }
        found = {"spec": np.frombuffer(json.dumps(spec).encode(), np.uint8), "ax": _array(ax), "shared": _array(shared)}
        return found if ay is None else {**found, "ay": _array(ay)}

    def plan(self, ax: Tensor, ay: Tensor | None, shard: tuple[int, int] | None = None) -> Plan:
        """All tiles, or those of one shard."""
        side = self.side(ax.dtype)
        block = side * self.backend.encoding_bytes(self.circuit, ax.dtype)
        keep = blocks_that_fit(memory_bound(), block, self.backend.tile_bytes(self.circuit, ax.dtype), 1)
        counts = len(ax), len(ax if ay is None else ay)
        return plan(*counts, ay is None, side, self.cost(ax), keep, shard)

    def side(self, dtype: torch.dtype) -> int:
        """Samples in a block."""
        return self.backend.tile_side(self.circuit, dtype)

    def cost(self, ax: Tensor) -> TileCost:
        """Of a full block and a full tile."""
        side = self.side(ax.dtype)
        return cost_model().of(self.backend.effort(self.circuit, ax.dtype), _array(ax).dtype, side)


def pooled_fidelity(
    job: Job, executor: Executor, ax: Tensor, ay: Tensor | None, shared: Tensor, observers: Sequence[Observer]
) -> Tensor:
    """K or log K, shape (N, M), differentiable in all angles unless it is sampled."""
    if (
        job.shots is not None
        and any(t is not None and t.requires_grad for t in (ax, ay, shared))
        and torch.is_grad_enabled()
    ):
        raise UnsupportedError(
            "shots cannot be differentiated by backpropagation; use shots=None for exact gradients, or detach the samples"
        )
    result: Tensor = _Pooled.apply(job, executor, tuple(observers), ax, ay, shared)
    return result


class _Pooled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, job: Job, executor: Executor, observers, ax: Tensor, ay: Tensor | None, shared: Tensor) -> Tensor:
        ctx.job, ctx.executor, ctx.symmetric = job, executor, ay is None
        ctx.save_for_backward(ax, ax if ay is None else ay, shared)
        arrays = job.arrays(ax, ay, shared)
        digest = digest_of(arrays)

        def drive(pool: WorkerPool) -> Arrays:
            work = _MemoryWork(digest, job.plan(ax, ay), arrays["ax"], arrays.get("ay"))
            with shipped(pool, digest, arrays), moved(pool, job, digest, ax.dtype, work.blocks()) as work.states:
                run(pool, work.tiles, work, observers=observers)
            return {"matrix": work.result}

        return torch.from_numpy(executor.everywhere(digest, drive)["matrix"]).to(ax.device)

    @staticmethod
    @autograd.first_derivative_only
    def backward(ctx, cotangent: Tensor):
        ax, ay, shared = ctx.saved_tensors
        job, ay = ctx.job, None if ctx.symmetric else ay
        needs = ctx.needs_input_grad[3:]
        arrays = job.arrays(ax, ay, shared)
        digest = digest_of(arrays)
        problem = f"{digest} backward {needs}"
        if ctx.executor.compares:
            problem += digest_of({"cotangent": _array(cotangent)})
        # Both K[i, j] and K[j, i] are the one number above the diagonal.
        folded = without_diagonal(cotangent + cotangent.T) if ctx.symmetric else cotangent
        sides = {"rows": (ax, folded)} if ctx.symmetric else {"rows": (ax, folded), "columns": (ay, folded.T)}
        blocks = [
            (which, k) for which, (angles, _) in sides.items() for k in range(-(-len(angles) // job.side(ax.dtype)))
        ]
        sides = {which: pair for k, (which, pair) in enumerate(sides.items()) if needs[k] or needs[2]}

        def drive(pool: WorkerPool) -> Arrays:
            work = StripWork(digest, job, sides)
            with shipped(pool, digest, arrays), moved(pool, job, digest, ax.dtype, blocks) as work.states:
                run(pool, work.plan, work)
            return {"cotangents": work.flat(_array(shared))}

        flat = torch.from_numpy(ctx.executor.everywhere(problem, drive)["cotangents"]).to(ax)
        parts = flat.split([*(angles.numel() for angles, _ in sides.values()), shared.numel()])
        found = {which: part.view_as(sides[which][0]) for which, part in zip(sides, parts, strict=False)}
        return None, None, None, found.get("rows"), found.get("columns"), parts[-1]


class TileWork(Work):
    """Tiles of the forward pass; subclasses say where they go.

    Attributes:
        states: name of encodings that workers have; None if they make their own.
    """

    symmetric: bool
    states: str | None = None

    def __init__(self, digest: str, tiles: Plan):
        self.digest, self.tiles = digest, tiles

    def blocks(self, done: Collection[int] = ()) -> set[tuple[str, int]]:
        """The blocks that tiles need which are not done."""
        open_ = self.tiles.tiles[np.isin(np.arange(len(self.tiles)), list(done), invert=True)].tolist()
        columns = "rows" if self.symmetric else "columns"
        return {("rows", row) for row, _ in open_} | {(columns, column) for _, column in open_}

    def header(self, worker: str) -> dict[str, Any]:
        """What a task for this worker says beside its tiles."""
        return {}

    def task(self, worker: str, items: Sequence[int]) -> bytes:
        """Triples of item, row and column."""
        triples = [(item, *place) for item, place in zip(items, self.tiles.tiles[list(items)].tolist(), strict=True)]
        header = {"kind": "tiles", "job": self.digest, "states": self.states, "tiles": triples}
        return pack({**header, **self.header(worker)})


class _MemoryWork(TileWork):
    """Tiles that go to an array in memory; the mirrored half of a symmetric matrix is filled in."""

    def __init__(self, digest: str, tiles: Plan, ax: np.ndarray, ay: np.ndarray | None):
        super().__init__(digest, tiles)
        self.symmetric = ay is None
        columns = len(ax if ay is None else ay)
        require_memory(
            len(ax) * columns * ax.itemsize, f"the {len(ax)} x {columns} entries of K, which a store= need not hold,"
        )
        self.result = np.empty((len(ax), len(ax if ay is None else ay)), ax.dtype)

    def accept(self, items: Collection[int], document: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """Copies."""
        side = self.tiles.side
        for item in items:
            tile, value = self.tiles.tile(item), arrays[str(item)]
            r = slice(tile.row * side, tile.row * side + value.shape[0])
            c = slice(tile.column * side, tile.column * side + value.shape[1])
            self.result[r, c] = value
            if self.symmetric and not tile.is_diagonal:
                self.result[c, r] = value.T


class StripWork(Work):
    """Strips of the backward pass: each gives the cotangents of one block's angles, and its part of the shared ones."""

    states: str | None = None

    def __init__(self, digest: str, job: Job, sides: dict[str, tuple[Tensor, Tensor]]):
        self.digest, self.job = digest, job
        self.sides = {which: (_array(angles), _array(cotangent)) for which, (angles, cotangent) in sides.items()}
        self.side = job.side(next(iter(sides.values()))[0].dtype)
        self.strips = [
            (which, k) for which, (angles, _) in self.sides.items() for k in range(-(-len(angles) // self.side))
        ]
        facing = sum(len(angles) for angles, _ in self.sides.values()) / self.side
        cost = job.cost(next(iter(sides.values()))[0])
        seconds = np.full(len(self.strips), 3 * facing * cost.tile_s + 8 * cost.encode_s)
        numbers = np.arange(len(self.strips), dtype=np.int32)
        self.plan = Plan(np.stack([numbers, numbers], axis=1), seconds, self.side)
        self.parts: list[tuple[np.ndarray, np.ndarray] | None] = [None] * len(self.strips)

    def task(self, worker: str, items: Sequence[int]) -> bytes:
        """The strips' rows of the cotangent."""
        rows = {}
        for item in items:
            which, k = self.strips[item]
            rows[str(item)] = self.sides[which][1][k * self.side : (k + 1) * self.side]
        named = [(item, *self.strips[item]) for item in items]
        return pack({"kind": "strips", "job": self.digest, "states": self.states, "strips": named}, rows)

    def accept(self, items: Collection[int], document: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """Keeps the parts, for they are added in the order of the strips, not of their arrival."""
        for item in items:
            self.parts[item] = arrays[f"{item}.angles"], arrays[f"{item}.shared"]

    def flat(self, shared: np.ndarray) -> np.ndarray:
        """Cotangents of all angles one after another, those of the shared ones last."""
        total = np.zeros_like(shared)
        found = []
        for part in self.parts:
            assert part is not None
            found.append(part[0].ravel())
            total += part[1].reshape(total.shape)
        return np.concatenate([*found, total])


@contextlib.contextmanager
def shipped(pool: WorkerPool, digest: str, arrays: dict[str, np.ndarray]) -> Iterator[None]:
    """Arrays on all workers of a pool for as long as somebody is inside."""
    pool.put(digest, arrays)
    try:
        yield
    finally:
        pool.drop(digest)


@contextlib.contextmanager
def shipped_all(pool: WorkerPool, arrays: Mapping[str, dict[str, np.ndarray]]) -> Iterator[None]:
    """The same for several, by digest."""
    with contextlib.ExitStack() as stack:
        for digest, group in arrays.items():
            stack.enter_context(shipped(pool, digest, group))
        yield


def digest_of(arrays: dict[str, np.ndarray]) -> str:
    """One for all arrays."""
    found = hashlib.blake2b(digest_size=16)
    for name in sorted(arrays):
        found.update(f"{name} {arrays[name].dtype} {arrays[name].shape} ".encode())
        found.update(np.ascontiguousarray(arrays[name]).data)
    return found.hexdigest()


def _array(tensor: Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.detach().cpu().numpy())
