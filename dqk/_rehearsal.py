"""Workers that measure nothing and answer at once: with them a driver shows what it would submit, or why it would refuse.

Choose them for prices and for refusals before anything is written: what is counted is what the driver itself does, job by job.
"""

from __future__ import annotations

import numpy as np

from dqk._wire import pack, unpack
from dqk.cluster import Arrays, Done, Joined, PoolEvent, Worker, WorkerPool

FREQUENCY = 0.5  # every answer: the second stage after such a pilot shares its shots out evenly


class RehearsalPool(WorkerPool):
    """Stands in for another pool, worker by worker.

    Args:
        pool: open; None for one worker.
    """

    name = "rehearsal"
    kills = False

    def __init__(self, pool: WorkerPool | None):
        self._pool = pool
        self._workers = (Worker("rehearsal"),) if pool is None else pool.workers()
        self._events: list[PoolEvent] = []
        self._checked: set[str] = set()

    def backend_of(self, worker: str) -> str | None:
        """The other pool's."""
        return None if self._pool is None else self._pool.backend_of(worker)

    def due_check(self, worker: str) -> int:
        """The other pool's, once."""
        return 0 if self._pool is None or worker in self._checked else self._pool.due_check(worker)

    def order_check(self, worker: str) -> None:
        """Nothing is checked, but it is counted."""
        self._checked.add(worker)

    def start(self) -> None:
        """All workers join."""
        self._events = [Joined(worker) for worker in self._workers]

    def workers(self) -> tuple[Worker, ...]:
        """The other pool's, as they were at the start."""
        return self._workers

    def put(self, digest: str, arrays: Arrays) -> None:
        """Keeps nothing."""

    def drop(self, digest: str) -> None:
        """Has nothing."""

    def submit(self, worker: str, ticket: int, task: bytes) -> None:
        """Answers the jobs of a task."""
        document, arrays = unpack(task)
        rows = {str(item): len(arrays[f"{item}.left"]) for item, *_ in document["entries"]}
        self._events.append(
            Done(worker, ticket, pack({}, {item: np.full(count, FREQUENCY) for item, count in rows.items()}))
        )

    def poll(self, timeout_s: float) -> list[PoolEvent]:
        """The answers."""
        events, self._events = self._events, []
        return events

    def kill(self, worker: str) -> None:
        """Nothing hangs."""

    def close(self) -> None:
        """Nothing is open."""
