"""Where tasks run: pools of workers behind one interface."""

from __future__ import annotations

from concurrent.futures import Executor
from typing import Any

from dqk.cluster.base import Arrays, Buffer, Done, Failed, Joined, Lost, PoolEvent, Worker, WorkerPool
from dqk.cluster.inline import InlinePool
from dqk.cluster.launchers import launch
from dqk.errors import InvalidInputError, unknown_name

EXECUTORS = ("inline", "processes", "ray", "mpi")
"""Pools by the names that the command line uses."""


def open_pool(executor: Any, workers: int | None = None, gpus: int = 0) -> WorkerPool:
    """The pool that a user names, not started yet.

    Args:
        executor: None or `inline`, `processes`, `ray`, `mpi`; a `WorkerPool`; or any `concurrent.futures.Executor`.
        workers: how many, or threads if `inline`; None for what the machine offers. The ranks of an MPI job are given.
        gpus: that each worker on Ray takes; elsewhere workers get one each of those that there are.

    Raises:
        InvalidInputError: for an unknown name or another type.
        BackendUnavailableError: if a package is missing.
    """
    if workers is not None and (not isinstance(workers, int) or isinstance(workers, bool) or workers < 1):
        raise InvalidInputError(f"workers is {workers!r}, expected a whole number of at least 1")
    match executor:
        case WorkerPool():
            return executor
        case None | "inline":
            return InlinePool(workers)
        case "processes":
            from dqk.cluster.processes import ProcessPool

            return ProcessPool(workers)
        case "ray":
            from dqk.cluster._ray import RayPool

            return RayPool(workers, gpus_per_worker=gpus)
        case "mpi":
            from dqk.cluster._mpi import MPIPool

            return MPIPool()
        case str():
            raise unknown_name("executor", executor, EXECUTORS)
        case Executor():
            from dqk.cluster.executor import from_executor

            return from_executor(executor, workers)
    raise InvalidInputError(
        f"executor is {executor!r}, expected a name ({', '.join(EXECUTORS)}), a WorkerPool or a concurrent.futures.Executor"
    )


__all__ = [
    "EXECUTORS",
    "Arrays",
    "Buffer",
    "Done",
    "Failed",
    "InlinePool",
    "Joined",
    "Lost",
    "PoolEvent",
    "Worker",
    "WorkerPool",
    "launch",
    "open_pool",
]
