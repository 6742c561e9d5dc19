"""Threads of this process as workers of one pool. The reference that other pools are tested against.

Choose it on one machine: nothing is copied and nothing starts. A dead thread would be a dead process, so no worker is ever lost.
"""

from __future__ import annotations

import queue
import threading
from concurrent.futures import ThreadPoolExecutor

from dqk._resources import cpu_threads
from dqk._task import forget, run_task
from dqk.cluster.base import Arrays, Done, Failed, Joined, PoolEvent, Worker, WorkerPool
from dqk.errors import cause


class InlinePool(WorkerPool):
    """One worker with a slot for each thread.

    Args:
        threads: how many; None for what the affinity mask and the cgroup allow.
    """

    name = "inline"
    kills = False
    one_memory = True

    def __init__(self, threads: int | None = None):
        self._worker = Worker("inline", threads or cpu_threads())
        self._events: queue.SimpleQueue[PoolEvent] = queue.SimpleQueue()
        self._arrays: dict[str, Arrays] = {}
        self._gate = threading.BoundedSemaphore(self._worker.slots)
        self._threads: ThreadPoolExecutor | None = None

    def start(self) -> None:
        """Starts the threads."""
        self._threads = ThreadPoolExecutor(2 * self._worker.slots, thread_name_prefix="dqk")
        self._events.put(Joined(self._worker))

    def workers(self) -> tuple[Worker, ...]:
        """The one worker."""
        return (self._worker,) if self._threads else ()

    def put(self, digest: str, arrays: Arrays) -> None:
        """Keeps a reference."""
        self._arrays[digest] = arrays

    def drop(self, digest: str) -> None:
        """Lets go of it."""
        self._arrays.pop(digest, None)
        forget(digest)

    def submit(self, worker: str, ticket: int, task: bytes) -> None:
        """Queues the task for the threads."""
        assert self._threads is not None
        self._threads.submit(self._run, ticket, task)

    def _run(self, ticket: int, task: bytes) -> None:
        try:
            event: PoolEvent = Done(self._worker.id, ticket, run_task(task, self._arrays, self._gate))
        except BaseException as error:
            event = Failed(self._worker.id, ticket, cause(error))
        self._events.put(event)

    def poll(self, timeout_s: float) -> list[PoolEvent]:
        """What the threads have finished."""
        events = []
        try:
            events.append(self._events.get(timeout=timeout_s) if timeout_s > 0 else self._events.get_nowait())
            while True:
                events.append(self._events.get_nowait())
        except queue.Empty:
            return events

    def kill(self, worker: str) -> None:
        """Does nothing: a thread cannot be ended from outside."""

    def close(self) -> None:
        """Waits for tasks that run; those that wait are dropped."""
        if self._threads:
            self._threads.shutdown(cancel_futures=True)
            self._threads = None
