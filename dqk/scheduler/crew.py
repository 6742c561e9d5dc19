"""The workers of a run as `Dispatch` knows them: what each has, how fast it is, when it counts as hung."""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, field

from dqk.scheduler.policy import Policy, Statistics, WorkerStatistics

_FIRST_ITEMS = 4
_MEMORY = 0.7
"""Weight of the past in a worker's speed, per assignment."""


@dataclass(slots=True, eq=False)
class Ticket:
    """One assignment.

    Attributes:
        number: its name.
        worker: who has it.
        left: items that have not been reported.
        seconds: predicted seconds of `left`.
        started: when its worker began it, as far as can be known from outside; None while it waits there.
        deadline: when its worker counts as hung.
    """

    number: int
    worker: Worker
    left: set[int]
    seconds: float
    started: float | None = None
    deadline: float = math.inf


@dataclass(slots=True, eq=False)
class Worker:
    """One worker.

    Attributes:
        name: its name.
        slots: assignments that it computes at once.
        window: assignments that it may have.
        ratio: measured over predicted seconds.
        most: items in its next assignment at most: doubles with every success, since predictions may be far off.
        tickets: its assignments, oldest first.
        started: how many of them it computes.
        suspect: number of the assignment that may kill it.
        lives: False once it is lost.
        busy_s: measured seconds, and `work_s` predicted ones, of recent assignments.
        work_s: see `busy_s`.
        statistics: what it did.
    """

    name: str
    slots: int
    window: int
    ratio: float
    statistics: WorkerStatistics
    most: int = _FIRST_ITEMS
    tickets: dict[int, Ticket] = field(default_factory=dict)
    started: int = 0
    suspect: int | None = None
    lives: bool = True
    busy_s: float = 0.0
    work_s: float = 0.0

    @property
    def room(self) -> bool:
        """Whether it may be given one more assignment."""
        return len(self.tickets) < self.window

    @property
    def free_slots(self) -> int:
        """Slots without work."""
        return self.slots - self.started

    @property
    def speed(self) -> float:
        """Predicted seconds that it computes in a second."""
        return self.slots / self.ratio


class Crew:
    """The workers that live."""

    def __init__(self, policy: Policy, statistics: Statistics):
        self._policy, self._statistics = policy, statistics
        self._workers: dict[str, Worker] = {}
        self._roomy: dict[str, Worker] = {}
        self._deadlines: list[tuple[float, int, Ticket]] = []
        self.slots = 0
        self._speed = 0.0

    def join(self, name: str, slots: int) -> None:
        """Takes a worker in; one whose name was seen before is ignored."""
        if name in self._statistics.workers:
            return
        known = [worker.ratio for worker in self._workers.values()]
        ratio = sorted(known)[len(known) // 2] if known else 1.0
        statistics = self._statistics.workers[name] = WorkerStatistics()
        worker = Worker(name, slots, slots * self._policy.window, ratio, statistics)
        self._workers[name] = self._roomy[name] = worker
        self.slots += slots
        self._speed += worker.speed

    def leave(self, name: str, cause: str) -> Worker | None:
        """Takes a worker out."""
        worker = self._workers.pop(name, None)
        if worker is None:
            return None
        self._roomy.pop(name, None)
        worker.lives = False
        worker.statistics.lost = cause
        self._statistics.lost_workers += 1
        self.slots -= worker.slots
        self._speed = sum(other.speed for other in self._workers.values())
        return worker

    def with_room(self) -> list[Worker]:
        """Workers that may be given something, those without work first."""
        return sorted(self._roomy.values(), key=lambda worker: len(worker.tickets))

    def idle(self) -> list[Worker]:
        """Workers that have nothing."""
        return [worker for worker in self._roomy.values() if not worker.tickets]

    def in_flight(self) -> list[Ticket]:
        """All assignments."""
        return [ticket for worker in self._workers.values() for ticket in worker.tickets.values()]

    def others_than(self, names: tuple[str, ...]) -> bool:
        """Whether a worker lives that is not among these."""
        return sum(name in self._workers for name in set(names)) < len(self._workers)

    def share(self, worker: Worker) -> float:
        """The part of all work that is this worker's by its speed."""
        return worker.speed / self._speed

    def speed(self, name: str) -> float:
        """Predicted seconds that a worker computes in a second."""
        return self._workers[name].speed

    def give(self, ticket: Ticket, now: float) -> None:
        """Notes an assignment."""
        worker = ticket.worker
        worker.tickets[ticket.number] = ticket
        if worker.free_slots > 0:
            self._start(ticket, now)
        if not worker.room:
            self._roomy.pop(worker.name, None)

    def progress(self, ticket: Ticket, seconds: float, accepted: int, now: float) -> None:
        """Notes that items of so many predicted seconds have been reported, and that the ticket may be closed."""
        worker = ticket.worker
        worker.statistics.items += accepted
        if not worker.lives:
            return
        if ticket.started is not None:
            elapsed = now - ticket.started
            worker.statistics.busy_s += elapsed
            if seconds > 0:
                self._measure(worker, elapsed, seconds)
        ticket.seconds = max(0.0, ticket.seconds - seconds)
        if ticket.left:
            if ticket.started is not None:
                self._set_clock(ticket, now)
            return
        del worker.tickets[ticket.number]
        worker.started -= ticket.started is not None
        ticket.deadline = math.inf
        if worker.suspect == ticket.number:
            worker.suspect = None
        if seconds > 0:
            worker.most *= 2
        self._roomy[worker.name] = worker
        if worker.free_slots > 0:
            waiting = next((t for t in worker.tickets.values() if t.started is None), None)
            if waiting is not None:
                self._start(waiting, now)

    def hanging(self, now: float) -> list[tuple[str, str]]:
        """Workers that are past their deadline, with the cause."""
        found: dict[str, str] = {}
        while self._deadlines and self._deadlines[0][0] <= now:
            deadline, _, ticket = heapq.heappop(self._deadlines)
            if ticket.deadline == deadline and ticket.worker.lives and ticket.started is not None:
                found[ticket.worker.name] = (
                    f"no result for {now - ticket.started:.3g} s, predicted were {ticket.seconds * ticket.worker.ratio:.3g} s"
                )
        return list(found.items())

    def next_deadline(self) -> float:
        """When the next worker counts as hung; infinity for never."""
        while self._deadlines:
            deadline, _, ticket = self._deadlines[0]
            if ticket.deadline == deadline and ticket.worker.lives:
                return deadline
            heapq.heappop(self._deadlines)
        return math.inf

    def _start(self, ticket: Ticket, now: float) -> None:
        ticket.worker.started += 1
        self._set_clock(ticket, now)

    def _set_clock(self, ticket: Ticket, now: float) -> None:
        ticket.started = now
        patience = max(self._policy.hang_least_s, self._policy.hang_factor * ticket.seconds * ticket.worker.ratio)
        if patience < math.inf:
            ticket.deadline = now + patience
            heapq.heappush(self._deadlines, (ticket.deadline, ticket.number, ticket))

    def _measure(self, worker: Worker, elapsed: float, seconds: float) -> None:
        worker.busy_s = _MEMORY * worker.busy_s + elapsed
        worker.work_s = _MEMORY * worker.work_s + seconds
        self._speed -= worker.speed
        # Several reports may arrive at one time; only together do they say how long the work took.
        worker.ratio = max(worker.busy_s / worker.work_s, 1e-6)
        self._speed += worker.speed
