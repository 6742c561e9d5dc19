"""The loop between a pool of workers and the scheduler: the only place with a clock.

Events of the pool go to `Dispatch`, its actions back to the pool; results that it accepts go to a sink, and everything that
happens to observers. Forward tiles, backward strips and later experiments all run through `run`.
"""

from __future__ import annotations

import abc
import itertools
import math
import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from dqk import scheduler
from dqk._wire import pack, unpack
from dqk.cluster import Done, Failed, Joined, Lost, PoolEvent, Worker, WorkerPool
from dqk.errors import BudgetError, ClusterError, StoreError, TileError
from dqk.scheduler import Dispatch, Placement, Plan, Policy, Statistics

_SILENT = 8  # workers that may hang before they have computed anything
_POLL_S = 0.5  # events end the wait at once; this is how often the clock is looked at


class Work(abc.ABC):
    """What is to be done: items of a plan become tasks, and results of tasks go somewhere.

    Attributes:
        held: whether items follow from one another: each is computed once `released` has named it, and the first that cannot be
            computed ends the run.
        unit: what messages call items.
    """

    held = False
    unit = "tiles"

    @abc.abstractmethod
    def task(self, worker: str, items: Sequence[int]) -> bytes:
        """The message that has a worker compute these items.

        Raises:
            BudgetError: if nothing more may be submitted: the run ends with it, once all that was submitted has come back.
        """

    @abc.abstractmethod
    def accept(self, items: Collection[int], document: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """Keeps the results of these items, out of one task's document and arrays. Called once for each item."""

    def refused(self, items: Collection[int], document: dict[str, Any]) -> None:  # noqa: B027  # most work has nothing to do
        """These items failed on a worker, whose document may say more; they may be tried again."""

    def released(self) -> Sequence[int]:
        """Items that can be computed now and could not before: asked at the start and after every `accept`."""
        return ()

    def probe(self, worker: Worker) -> dict[str, Any] | None:
        """What to ask a worker that joins; None for nothing. It gets no task before it has answered."""
        return None

    def admit(self, worker: Worker, answer: dict[str, Any]) -> None:  # noqa: B027  # most work asks nothing
        """The worker's answer."""


class Observer:
    """Watches a run; every method may be left out."""

    def started(self, total: int, done: int) -> None:
        """So many items in all, so many already done."""

    def joined(self, worker: Worker) -> None:
        """A worker is ready."""

    def lost(self, worker: str, cause: str) -> None:
        """A worker is gone."""

    def assigned(self, worker: str, ticket: int, items: Sequence[int], now: float) -> None:
        """Items were sent; `now` is in seconds since the epoch, as are the times of spans."""

    def returned(self, worker: str, ticket: int, spans: Sequence[Sequence[Any]], now: float) -> None:
        """A result arrived, with the worker's spans (name, item, start, end)."""

    def progressed(self, statistics: Statistics, remaining: int) -> None:
        """Some items were accepted."""

    def submitted(self, circuits: int, shots: int, device_s: float) -> None:
        """A job for a device is about to be submitted, which may take so many seconds there."""

    def refunded(self, circuits: int, shots: int, device_s: float) -> None:
        """A job of which `submitted` has told costs nothing after all: the device did not run it, or does not charge for it."""

    def finished(self) -> None:
        """Nothing is left to do, or the run is given up."""


def run(
    pool: WorkerPool,
    plan: Plan,
    work: Work,
    policy: Policy | None = None,
    done: Collection[int] = (),
    observers: Sequence[Observer] = (),
    placement: Placement | None = None,
) -> Statistics:
    """Computes all items of a plan that are not done.

    Args:
        pool: started; it serves this run alone until it returns.
        plan: what there is to do.
        work: how items become tasks and where results go.
        policy: retries, windows and time-outs.
        done: items that need no computing.
        observers: see `Observer`.
        placement: who may have what; None for everybody everything.

    Returns:
        What happened: retries, duplicates, lost workers.

    Raises:
        TileError: if items failed as often as they may; all others have been accepted.
        BudgetError: if `work` says so.
        ClusterError: if no worker is left.
    """
    policy = policy or Policy()
    if not pool.kills:
        policy = replace(policy, hang_factor=math.inf)
    loop = _Loop(pool, policy, Dispatch(plan, policy, done, work.held, placement), work, observers)
    for observer in observers:
        observer.started(len(plan), len(done))
    try:
        loop.turn()
    finally:
        for observer in observers:
            observer.finished()
    if loop.spent is not None:
        raise loop.spent
    if loop.given_up:
        shown = "; ".join(f"{item}: {cause}" for item, cause in itertools.islice(loop.given_up.items(), 5))
        raise TileError(
            f"{len(loop.given_up)} of {len(plan)} {work.unit} failed every time they were tried; the others are done. {shown}"
        )
    return loop.dispatch.statistics


_tickets = itertools.count(1)  # of this process: results that an earlier run did not wait for are not mistaken for ours


class _Loop:
    def __init__(self, pool: WorkerPool, policy: Policy, dispatch: Dispatch, work: Work, observers: Sequence[Observer]):
        self.pool, self.dispatch, self.work, self.observers = pool, dispatch, work, observers
        self.tickets: dict[int, tuple[str, int, tuple[int, ...]]] = {}  # ours -> (worker, dispatch's, items)
        self.probing: dict[int, tuple[Worker, float]] = {}  # ours -> (worker, when it counts as hung)
        self.patience_s = policy.hang_least_s if pool.kills else math.inf
        self.silent = 0
        self.met: set[str] = set()
        self.ticked = -math.inf
        self.given_up: dict[int, str] = {}
        self.spent: BudgetError | None = None
        self.result: tuple[dict[str, Any], dict[str, np.ndarray]] = {}, {}

    def turn(self) -> None:
        workers = self.pool.workers()
        for place, worker in enumerate(workers, 1):
            self._probe(worker, place < len(workers))
        self._release()
        while not self.dispatch.finished:
            now = time.monotonic()
            wake = self.dispatch.wake_at(now)
            events = self.pool.poll(_POLL_S if wake is None else min(_POLL_S, max(wake - now, 0.0)))
            for event in events:
                self._on(event)
            if events and time.monotonic() - self.ticked < _POLL_S:
                continue
            if events:  # results that came while some were written count before a worker is called late
                for event in self.pool.poll(0.0):
                    self._on(event)
            self._tell(scheduler.Tick())
            self._end_silent()
            self.ticked = time.monotonic()
            if self.dispatch.hopeless:
                raise ClusterError(f"{self.dispatch.hopeless}; {self.dispatch.remaining} {self.work.unit} are not done")

    def _on(self, event: PoolEvent) -> None:
        match event:
            case Joined(worker):
                self._probe(worker)
            case Lost(worker, cause):
                self.probing = {ticket: asked for ticket, asked in self.probing.items() if asked[0].id != worker}
                self._watch("lost", worker, cause)
                self._tell(scheduler.Lost(worker, cause))
            case Done(_, ticket, result) if ticket in self.probing:
                worker, _ = self.probing.pop(ticket)
                self.work.admit(worker, unpack(result)[0])
                self._join(worker)
            case Failed(worker, ticket, cause) if ticket in self.probing:
                self.probing.pop(ticket)
                if not self.pool.kills:
                    raise ClusterError(f"worker {worker} cannot work: {cause}")
                self.pool.kill(worker)
            case Done(_, ticket, result) if ticket in self.tickets:
                self._done(ticket, result)
            case Failed(_, ticket, cause) if ticket in self.tickets:
                worker, theirs, items = self.tickets.pop(ticket)
                self._tell(scheduler.Failed(worker, theirs, items, cause))

    def _probe(self, worker: Worker, more: bool = False) -> None:
        if worker.id in self.met:  # it joined before this run began, and `poll` says so now
            return
        self.met.add(worker.id)
        question = self.work.probe(worker)
        if question is None:
            self._join(worker, more)
            return
        ticket = next(_tickets)
        self.probing[ticket] = worker, time.monotonic() + self.patience_s
        self.pool.submit(worker.id, ticket, pack({"kind": "probe", **question}))

    def _end_silent(self) -> None:
        """Kills workers that do not answer the probe, as on a disk that is gone."""
        for ticket, (worker, deadline) in list(self.probing.items()):
            if time.monotonic() > deadline:
                del self.probing[ticket]
                self.pool.kill(worker.id)
                self.silent += 1
        if self.silent > _SILENT:
            raise ClusterError(
                f"{self.silent} workers did not answer within {self.patience_s:g} s when they were asked whether they see the "
                "driver's disk; is it a network disk that hangs?"
            )

    def _join(self, worker: Worker, more: bool = False) -> None:
        self._watch("joined", worker)
        self._tell(scheduler.Joined(worker.id, worker.slots, more))

    def _done(self, ticket: int, result: Any) -> None:
        worker, theirs, items = self.tickets.pop(ticket)
        self.result = document, _ = unpack(result)
        self._watch("returned", worker, ticket, document.get("spans", ()), time.time())
        if "fatal" in document:
            raise StoreError(document["fatal"])
        failed: dict[int, str] = dict(document.get("failed", ()))
        computed = tuple(item for item in items if item not in failed) if failed else items
        if computed:
            self._tell(scheduler.Done(worker, theirs, computed))
        if failed:
            self.work.refused(failed, document)
        for item, cause in failed.items():
            self._tell(scheduler.Failed(worker, theirs, (item,), cause))
        self.result = {}, {}

    def _tell(self, event: Any) -> None:
        for action in self.dispatch.on(event, time.monotonic()):
            match action:
                case scheduler.Assign(worker, theirs, items):
                    ticket = next(_tickets)
                    self.tickets[ticket] = worker, theirs, items
                    try:
                        task = self.work.task(worker, items)
                    except BudgetError as error:  # what is in flight is paid for, so it is waited for
                        del self.tickets[ticket]
                        self.spent = error
                        self._tell(scheduler.Drain())
                        self._tell(scheduler.Failed(worker, theirs, items, str(error)))
                        continue
                    self._watch("assigned", worker, ticket, items, time.time())
                    self.pool.submit(worker, ticket, task)
                case scheduler.Accept(items):
                    self.work.accept(items, *self.result)
                    self._watch("progressed", self.dispatch.statistics, self.dispatch.remaining)
                    self._release()
                case scheduler.Kill(worker, cause):
                    self.pool.kill(worker)
                case scheduler.GiveUp(item, cause):
                    self.given_up[item] = cause
                    if self.work.held:
                        raise TileError(f"a step that others wait for failed every time it was tried: {cause}")

    def _release(self) -> None:
        if self.work.held and (items := tuple(self.work.released())):
            self._tell(scheduler.Ready(items))

    def _watch(self, what: str, *values: Any) -> None:
        for observer in self.observers:
            getattr(observer, what)(*values)
