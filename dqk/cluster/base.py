"""What a pool of workers is: tasks and arrays go in, events come out.

A pool knows nothing of kernels. It carries opaque tasks to workers, which run `dqk._task.run_task`, and says what became of
them. Who gets which task, what is retried and when all is done decides `dqk.scheduler.Dispatch`; `dqk._run` joins the two.
"""

from __future__ import annotations

import abc
import os
import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeAlias

import numpy as np

from dqk.errors import InvalidInputError, UnsupportedError

Arrays: TypeAlias = Mapping[str, np.ndarray]
Buffer: TypeAlias = bytes | bytearray | memoryview | np.ndarray


@dataclass(frozen=True, slots=True)
class Worker:
    """One worker: a thread, a process, a Ray actor, an MPI rank.

    Attributes:
        id: its name, unique in the pool; a replacement of a dead worker has another one.
        slots: number of tasks that it runs at once.
        node: host on which it runs; empty if unknown.
        gpu: UUID of the GPU that is its own; empty if it has none.
    """

    id: str
    slots: int = 1
    node: str = ""
    gpu: str = ""


@dataclass(frozen=True, slots=True)
class Joined:
    """A worker can be given tasks; it has every array that `put` was given."""

    worker: Worker


@dataclass(frozen=True, slots=True)
class Lost:
    """A worker is gone, with all tasks that it had; nothing more comes from it."""

    worker: str
    cause: str


@dataclass(frozen=True, slots=True)
class Done:
    """A task returned."""

    worker: str
    ticket: int
    result: Buffer


@dataclass(frozen=True, slots=True)
class Failed:
    """A task raised; its worker lives. `cause` is the exception's type and message."""

    worker: str
    ticket: int
    cause: str


PoolEvent: TypeAlias = Joined | Lost | Done | Failed


class WorkerPool(abc.ABC):
    """Workers behind one interface. Use it as a context manager: entering starts the workers, leaving ends them.

    All methods are called from one thread. A pool never retries, never reorders and never gives up on its own; it replaces a
    worker that died, if it can, by a new one, which joins.
    """

    name: str
    kills = True
    """Whether `kill` ends a worker that hangs; if not, hanging workers are waited for."""
    by_name = True
    """Whether `executor=name` gives such a pool."""
    one_memory = False
    """Whether its workers are threads of one process, which see what any of them has encoded."""
    opened = False
    driven = False
    _process = 0  # that opened it
    lock: AbstractContextManager[object] = nullcontext()
    """Held by whoever runs something on the open pool."""

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        return self  # scikit-learn copies estimators, and the kernels in them; workers are shared

    def __reduce__(self) -> str:
        instead = "leave it out of the kernel and give it where it is used: gram(kernel, X, executor=pool)"
        if self.by_name:
            instead = f"give the kernel the executor's name, as in FidelityKernel(..., executor={self.name!r}), or none"
        raise UnsupportedError(f"a pool of workers ({self.name}) cannot be pickled; {instead}")

    def __enter__(self) -> Self:
        if self.opened:
            raise InvalidInputError(
                f"the {self.name} pool is open already; use `with` once, and nest what uses it inside"
            )
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        self.opened, self.lock, self._process = True, threading.RLock(), os.getpid()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.inherited:
            return
        self.opened = False
        self.close()

    @property
    def inherited(self) -> bool:
        """Whether this is a forked child's copy of an open pool: the workers are the parent's."""
        return self._process not in (0, os.getpid())

    def backend_of(self, worker: str) -> str | None:
        """Name of the backend that this worker alone uses, such as its quantum processor; None for what tasks say."""
        return None

    def due_check(self, worker: str) -> int:
        """Shots of the check that this worker's processor should have before its next task; 0 for none."""
        return 0

    def order_check(self, worker: str) -> None:  # noqa: B027  # most workers have nothing to check
        """Has it checked then: whoever calls this has paid for it."""

    @abc.abstractmethod
    def start(self) -> None:
        """Starts the workers; their `Joined` events come from `poll`, now or later.

        Raises:
            ClusterError: if no worker can be had; says what is missing.
        """

    @abc.abstractmethod
    def workers(self) -> tuple[Worker, ...]:
        """The workers that have joined and are not lost."""

    @abc.abstractmethod
    def put(self, digest: str, arrays: Arrays) -> None:
        """Gives arrays to every worker, also to those that join later, once for each. Tasks find them under the digest."""

    @abc.abstractmethod
    def drop(self, digest: str) -> None:
        """Lets all workers forget arrays that no task will ask for again."""

    @abc.abstractmethod
    def submit(self, worker: str, ticket: int, task: bytes) -> None:
        """Sends a task to a worker and returns at once. A worker may be sent more tasks than it has slots: they wait there.

        Submitting to a worker that has just died is not an error: its `Lost` event comes, or has come, from `poll`.
        """

    @abc.abstractmethod
    def poll(self, timeout_s: float) -> list[PoolEvent]:
        """Events since the last call, in the order in which they happened; waits for the first one, at most `timeout_s`.

        Raises:
            ClusterError: if all events were given, no worker is left and none will join; says what became of the last ones.
        """

    @abc.abstractmethod
    def kill(self, worker: str) -> None:
        """Ends a worker that hangs, as hard as it takes; its `Lost` event follows. Unknown workers are ignored."""

    @abc.abstractmethod
    def close(self) -> None:
        """Ends what the pool started, and nothing else. May be called twice."""
