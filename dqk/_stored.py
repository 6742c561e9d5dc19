"""Kernel matrices into a store: what is there is not computed again, what is computed is there at once.

Workers that see the driver's disk commit their own tiles; a file that each of them reads and answers decides. The driver
writes for the others.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dqk._moved import moved
from dqk._pooled import Executor, Job, TileWork, digest_of, shipped
from dqk._run import Observer, run
from dqk.backends.choice import choose
from dqk.backends.resolve import available
from dqk.circuit import Circuit
from dqk.cluster import Arrays, Worker, WorkerPool
from dqk.errors import DQKError, MemoryBoundError, StoreError, TileError
from dqk.scheduler import Plan, Policy
from dqk.store import Fingerprint, GramStore, StoredGram
from dqk.store.files import DESCRIPTION, explained, read_description, temporary_folder

_HEARTBEAT_S = 30.0
# One assignment is being written, one computes, one waits; few, large commits.
_POLICY = Policy(window=3, writing=1, message_s=0.25)


@dataclass(frozen=True)
class Destination:
    """Where a matrix goes, and on what conditions.

    Attributes:
        path: the store, such as `K.zarr`.
        resume: goes on with an existing store of the same problem, or of fewer of its samples.
        take_over: takes the store from a process that may still run.
        shard: (i, k): computes the i-th of k parts, for job arrays that share one store.
    """

    path: str | os.PathLike[str]
    resume: bool = True
    take_over: bool = False
    shard: tuple[int, int] | None = None


def stored_backend(destination: Destination | None, circuit: Circuit) -> str | None:
    """Name of the exact backend by which a store of this circuit was begun, so that `auto` goes on with it; None if there is none.

    What is wrong with a store is said when it is opened.
    """
    if destination is None or not (Path(destination.path) / DESCRIPTION).exists():
        return None
    try:
        begun = read_description(Path(destination.path))
    except StoreError:
        return None
    exact = begun.sampling is None and begun.backend in available() and begun.circuit == circuit.to_dict()
    return begun.backend if exact else None


def stored_fidelity(
    job: Job,
    executor: Executor,
    ax: Tensor,
    ay: Tensor | None,
    shared: Tensor,
    observers: Sequence[Observer],
    destination: Destination,
    about: str,
) -> StoredGram:
    """Computes what a store lacks.

    Raises:
        StoreError: if the store belongs to another problem, is damaged or in use, or cannot be written.
    """
    arrays = job.arrays(ax, ay, shared)
    digest = digest_of(arrays)
    fingerprint = Fingerprint.of(
        job.circuit.to_dict(),
        job.backend.name,
        job.side(ax.dtype),
        arrays["ax"],
        arrays.get("ay"),
        arrays["shared"],
        log=job.log,
        shots=job.shots,
        seed=job.seed,
        about=about,
    )

    def drive(pool: WorkerPool) -> Arrays:
        tiles = job.plan(ax, ay, destination.shard)
        opened = GramStore.open(
            destination.path,
            fingerprint,
            resume=destination.resume,
            take_over=destination.take_over,
            shard=destination.shard,
        )
        with opened as store, _Work(digest, tiles, store, ay is None) as work, shipped(pool, digest, arrays):
            done = [item for item in range(len(tiles)) if tuple(tiles.tiles[item].tolist()) in store.done]
            with moved(pool, job, digest, ax.dtype, work.blocks(done)) as work.states:
                run(pool, tiles, work, _POLICY, done, observers)
            return {}

    try:
        executor.everywhere(f"{digest} into {destination}", drive)
    except (MemoryBoundError, TileError) as error:
        raise type(error)(f"{error}{_kept_backend(error, job, destination, ax.dtype)}") from error
    return StoredGram(destination.path)


def _kept_backend(error: Exception, job: Job, destination: Destination, dtype: torch.dtype) -> str:
    """Where memory lacks for the backend by which a store was begun: that it is the store that asks for this one."""
    # Of a tile that failed, the text has the cause.
    lacks = MemoryBoundError.__name__ in f"{type(error).__name__}: {error}"
    if not lacks or stored_backend(destination, job.circuit) != job.backend.name:
        return ""
    text = f". Store {destination.path} was begun by backend {job.backend.name!r} and keeps it, whatever 'auto' would take now"
    with contextlib.suppress(DQKError):
        other = choose(job.circuit, dtype)
        if other != job.backend.name:
            text += f"; in a new store it takes {other!r}, which fits"
    return text


class _Work(TileWork):
    """Tiles that go to a store, by the worker's hand or the driver's."""

    def __init__(self, digest: str, tiles: Plan, store: GramStore, symmetric: bool):
        super().__init__(digest, tiles)
        self.store, self.symmetric = store, symmetric
        self.sharing: set[str] = set()
        self._nonce = uuid.uuid4().hex
        self._folder = temporary_folder(Path(store.path).resolve()) / f"nonce-{uuid.uuid4().hex[:12]}"
        self._beat = time.monotonic()

    def __enter__(self) -> _Work:
        with explained(
            f"write {self.store.path}", "make room or check the permissions, then go on with --resume (resume=True)"
        ):
            self._folder.mkdir(parents=True)
            (self._folder / "question").write_text(self._nonce)
        return self

    def __exit__(self, *raised: object) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)  # gone already if another driver took over

    def probe(self, worker: Worker) -> dict[str, Any]:
        """Asks the worker to copy a random number from one file to another."""
        return {"nonce": str(self._folder / "question"), "reply": str(self._reply(worker))}

    def admit(self, worker: Worker, answer: dict[str, Any]) -> None:
        """The worker shares the disk if the copy is there."""
        with contextlib.suppress(OSError):
            if self._reply(worker).read_text() == self._nonce:
                self.sharing.add(worker.id)

    def _reply(self, worker: Worker) -> Path:
        return self._folder / "".join(c if c.isalnum() else "_" for c in worker.id)

    def header(self, worker: str) -> dict[str, Any]:
        """Where a worker that shares the disk commits its tiles."""
        if worker not in self.sharing:
            return {}
        return {"store": str(Path(self.store.path).resolve()), "lease": self.store.lease}

    def accept(self, items: Collection[int], document: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """Notes what the worker committed, or commits it."""
        tiles = [(item, *self.tiles.tiles[item].tolist()) for item in items]
        if "digests" in document:
            digests = dict(document["digests"])
            self.store.record((row, column, digests[item]) for item, row, column in tiles)
        else:
            self.store.commit([(row, column, arrays[str(item)]) for item, row, column in tiles])
        if time.monotonic() - self._beat > _HEARTBEAT_S:
            self.store.refresh()
            self._beat = time.monotonic()
