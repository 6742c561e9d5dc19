"""What a user names as an executor, as something that runs: this process, workers that are kept, all ranks of an MPI job."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable
from typing import Any

from dqk._pooled import Executor, OnPool
from dqk.backends.base import Backend
from dqk.cluster import Arrays, WorkerPool, open_pool
from dqk.errors import ClusterError, InvalidInputError


class _Pools:
    """Pools that `gram` opened for executors given by name: kept, since starting workers takes seconds."""

    def __init__(self) -> None:
        self._open: dict[Any, tuple[Any, WorkerPool]] = {}
        self._lock = threading.Lock()
        atexit.register(self.close)
        os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        self._open, self._lock = {}, threading.Lock()  # the parent's

    def get(self, executor: Any, gpus: int = 0) -> WorkerPool:
        """The open pool of an executor, whose workers on Ray take so many GPUs each."""
        key = (executor, gpus) if isinstance(executor, str) else id(executor)
        with self._lock:
            if key in self._open and not self._open[key][1].opened:
                del self._open[key]
            if key not in self._open:
                pool = open_pool(executor, gpus=gpus)
                pool.__enter__()
                self._open[key] = executor, pool
            return self._open[key][1]

    def close(self) -> None:
        """Ends all workers."""
        while self._open:
            _, pool = self._open.popitem()[1]
            pool.__exit__(None, None, None)


pools = _Pools()


class _Kept:
    """An executor that opens a pool when it is first needed, and again if all its workers were lost."""

    compares = False

    def __init__(self, executor: Any, gpus: int):
        self.executor, self.gpus = executor, gpus

    def everywhere(self, digest: str, drive: Callable[[WorkerPool], Arrays]) -> Arrays:
        """Runs in this process."""
        pool = pools.get(self.executor, self.gpus)
        try:
            return OnPool(pool).everywhere(digest, drive)
        except ClusterError:
            pool.__exit__(None, None, None)
            raise


class _AllRanks:
    """All ranks of an MPI job, which make the same calls."""

    compares = True

    def everywhere(self, digest: str, drive: Callable[[WorkerPool], Arrays]) -> Arrays:
        """Rank 0 drives, the others serve; all have the result."""
        from dqk.cluster._mpi import run_everywhere

        return run_everywhere(None, digest, drive)


def gpus_for(backend: str | Backend) -> int:
    """GPUs that each worker needs for a backend that is named."""
    return 1 if backend == "custatevec" else 0


def executor_of(executor: Any, gpus: int = 0) -> Executor:
    """What a user names, as something that runs; its workers on Ray take so many GPUs each.

    Raises:
        InvalidInputError: for an unknown name, another type, or a pool that is not open.
    """
    if isinstance(executor, WorkerPool):
        if not executor.opened:
            raise InvalidInputError(
                f"the {executor.name} pool is not open; use it inside a block: with pool: gram(..., executor=pool)"
            )
        return OnPool(executor)
    if executor == "mpi":
        return _AllRanks()
    open_pool(executor)  # refuses what it does not know, before anything is computed
    return _Kept("inline" if executor is None else executor, gpus)
