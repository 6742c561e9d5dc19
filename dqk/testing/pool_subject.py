"""What the laws of worker pools share: what a kind of pool can do, and how a law deals with one."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from dqk._wire import pack, unpack
from dqk.cluster.base import Done, Failed, Joined, Lost, PoolEvent, Worker, WorkerPool
from dqk.testing.law import Law

PATIENCE_S = 60.0  # until something that must happen counts as not happening
ENDED_S = 10.0  # until a process that was told to end counts as left behind
QUIET_S = 0.3  # in which nothing more must come

_tickets = itertools.count(1_000_000)


class PoolSubject:
    """A kind of pool, and what it can do. Use it as a context manager: leaving closes the pool that its laws share.

    Args:
        make: makes a pool, not yet started, that runs so many tasks at once, on one worker or several.
        anonymous: a worker is a place in a queue rather than one thread or process.
        owns_processes: its workers are processes that it starts and ends; each can die alone.
        can_kill: `kill` ends a worker.
        replaces: a new worker joins in place of one that died.
    """

    def __init__(
        self,
        make: Callable[[int], WorkerPool],
        anonymous: bool = False,
        owns_processes: bool = False,
        can_kill: bool = False,
        replaces: bool = False,
    ):
        self.make, self.anonymous, self.owns_processes = make, anonymous, owns_processes
        self.can_kill, self.replaces = can_kill, replaces
        self._shared: WorkerPool | None = None

    @property
    def pool(self) -> WorkerPool:
        """A pool of two slots that runs; laws leave it as they found it."""
        if self._shared is None:
            self._shared = self.make(2)
            self._shared.start()
            wait_until_joined(self._shared, 2)
        return self._shared

    @contextmanager
    def fresh(self) -> Iterator[WorkerPool]:
        """Another pool of two slots, not yet started and closed at the end, which a law may ruin; no other one is open."""
        self.close()
        pool = self.make(2)
        try:
            yield pool
        finally:
            pool.close()

    def close(self) -> None:
        """Closes the shared pool; a law that needs it opens another."""
        if self._shared is not None:
            pool, self._shared = self._shared, None
            pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def pool_law(*needs: str) -> Callable[[Callable[..., None]], Law]:
    """Makes a law for pools that can do certain things."""
    return lambda check: Law(check, lambda subject: all(getattr(subject, need) for need in needs))


def submit(pool: WorkerPool, worker: Worker, task: bytes | dict[str, Any]) -> int:
    """Sends a task, or a document as one, and gives its ticket."""
    ticket = next(_tickets)
    pool.submit(worker.id, ticket, pack(task) if isinstance(task, dict) else task)
    return ticket


def probe(pool: WorkerPool, worker: Worker, payload: dict[str, np.ndarray] | None = None, **header: Any) -> int:
    """Sends a probe, see `dqk._task`, and gives its ticket."""
    return submit(pool, worker, pack({"kind": "probe", **header}, payload))


def wait(pool: WorkerPool, enough: Callable[[list[PoolEvent]], bool], what: str) -> list[PoolEvent]:
    """Events, until there are enough; AssertionError if they do not come."""
    events: list[PoolEvent] = []
    deadline = time.monotonic() + PATIENCE_S
    while not enough(events):
        left = deadline - time.monotonic()
        shown = [str(event)[:200] for event in events[-5:]]
        assert left > 0, f"no {what} within {PATIENCE_S:.0f} s; {len(events)} events, the last ones: {shown}"
        events += pool.poll(min(left, 1.0))
    return events


def collect(pool: WorkerPool, seconds: float) -> list[PoolEvent]:
    """Events of some time."""
    events: list[PoolEvent] = []
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        events += pool.poll(left)
    return events


def wait_until_joined(pool: WorkerPool, slots: int) -> list[Worker]:
    """The workers that join, until they have so many slots."""

    def joined(events: Sequence[PoolEvent]) -> list[Worker]:
        return [event.worker for event in events if isinstance(event, Joined)]

    def enough(events: list[PoolEvent]) -> bool:
        return sum(worker.slots for worker in joined(events)) >= slots

    return joined(wait(pool, enough, f"worker for {slots} slots"))


def tickets_of(events: Sequence[PoolEvent]) -> set[int]:
    """Of all tasks that came back."""
    return {event.ticket for event in events if isinstance(event, Done | Failed)}


def answers_to(pool: WorkerPool, tickets: Collection[int]) -> dict[int, Done | Failed]:
    """What became of some tasks, each of which has to come back once, while no worker is lost."""
    wanted = set(tickets)
    events = wait(pool, lambda events: wanted <= tickets_of(events), f"result of {len(wanted)} tasks")
    lost = [event for event in events if isinstance(event, Lost)]
    assert not lost, f"workers were lost: {lost}"
    found = [event for event in events if isinstance(event, Done | Failed) and event.ticket in wanted]
    assert len(found) == len(wanted), f"{len(wanted)} tasks came back {len(found)} times"
    return {event.ticket: event for event in found}


def read(answer: Done | Failed) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Document and arrays of a result."""
    assert isinstance(answer, Done), f"a task failed: {answer}"
    return unpack(answer.result)


def worker_pids(pool: WorkerPool) -> dict[str, int]:
    """The process of each worker."""
    answers = answers_to(pool, [probe(pool, worker) for worker in pool.workers()])
    return {answer.worker: read(answer)[0]["pid"] for answer in answers.values()}


def expect_held(pool: WorkerPool, present: set[str], absent: set[str]) -> None:
    """AssertionError unless tasks on all workers find some arrays, and others not."""
    tickets = [probe(pool, worker) for worker in pool.workers() * 2]
    for answer in answers_to(pool, tickets).values():
        held = set(read(answer)[0]["held"])
        assert present <= held, f"{answer.worker} does not have {present - held}"
        assert not absent & held, f"{answer.worker} still has {absent & held}"


def wait_for_end(pids: Collection[int]) -> set[int]:
    """Processes that still run after some time."""
    deadline = time.monotonic() + ENDED_S
    while (left := {pid for pid in pids if _runs(pid)}) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
