"""The workers of a run as `Dispatch` knows them: what each has, how fast it is, when it is late and when it counts as hung."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from dqk.scheduler.policy import Policy, Statistics, WorkerStatistics

_FIRST_ITEMS = 4
_MOST_ITEMS = 2**20
_MEMORY = 0.7
"""Weight of the past in a worker's speed, per report."""
_LATE = 2.0
"""An assignment that takes so many times its predicted time is late: nobody knows when it will end."""


@dataclass(slots=True, eq=False)
class Worker:
    """One worker.

    Attributes:
        name: its name.
        slots: assignments that it computes at once.
        window: assignments that it may have.
        ratio: measured over predicted seconds.
        statistics: what it did.
        most: items in its next assignment at most: doubles with every success, since predictions may be far off.
        tickets: its assignments, oldest first.
        started: how many of them it computes.
        suspect: number of the assignment that may kill it.
        lives: False once it is lost.
        busy_s: measured seconds of recent reports.
        work_s: predicted seconds of the same.
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


@dataclass(slots=True, eq=False)
class Ticket:
    """One assignment.

    Attributes:
        number: its name.
        worker: who has it.
        left: items that have not been reported.
        seconds: predicted seconds of `left`.
        started: when its worker began it or last reported a part of it, as far as can be known from outside; None while it
            waits there.
        deadline: when its worker counts as hung.
    """

    number: int
    worker: Worker
    left: set[int]
    seconds: float
    started: float | None = None
    deadline: float = math.inf

    @property
    def expected_s(self) -> float:
        """Seconds that `left` should take on its worker."""
        return self.seconds * self.worker.ratio

    def late_at(self, least_s: float) -> float:
        """When it is late; infinity while it waits."""
        return math.inf if self.started is None else self.started + _LATE * max(self.expected_s, least_s)

    def worth_a_copy_at(self, least_s: float, alone_s: float) -> float:
        """When a worker that would need `alone_s` should take a copy, if nothing is heard of this or what runs before it."""
        running = [t for t in self.worker.tickets.values() if t.started is not None] if self.started is None else [self]
        return min((max(t.late_at(least_s), (t.started or 0.0) + 1.01 * alone_s) for t in running), default=math.inf)

    def expected_end(self, now: float, least_s: float) -> float:
        """When it will probably be done; one that is late takes as long again as it has taken."""
        if self.started is not None:
            on_time = now < self.late_at(least_s)
            return self.started + self.expected_s if on_time else now + (now - self.started)
        before = [ticket for ticket in self.worker.tickets.values() if ticket.number < self.number]
        running = [ticket.expected_end(now, least_s) for ticket in before if ticket.started is not None]
        waiting_s = sum(ticket.expected_s for ticket in before if ticket.started is None)
        return max(now, min(running, default=now)) + waiting_s / self.worker.slots + self.expected_s


class Crew:
    """The workers that live.

    Attributes:
        slots: of all of them.
        fastest_new: the least ratio of measured over predicted seconds among workers that came to have a free slot, or reported
            with one, since `idle` was last asked; infinity if there is none.
    """

    def __init__(self, policy: Policy, statistics: Statistics):
        self._policy, self._statistics = policy, statistics
        self._workers: dict[str, Worker] = {}
        self._roomy: dict[str, Worker] = {}
        self._idle: dict[str, Worker] = {}  # with a free slot
        self._parked: dict[str, Worker] = {}  # with room, and nothing that they may have
        self.fastest_new = math.inf
        self._deadlines: list[tuple[float, int, Ticket]] = []
        self._speed = 0.0
        self._largest = 0
        self._lost_in_vain = 0
        self._last_loss = ""
        self._measured = False  # any worker's speed
        self.slots = 0

    def join(self, name: str, slots: int) -> None:
        """Takes a worker in; one whose name was seen before is ignored."""
        if name in self._statistics.workers:
            return
        known = sorted(worker.ratio for worker in self._workers.values()) if self._measured else []
        ratio = known[len(known) // 2] if known else 1.0
        statistics = self._statistics.workers[name] = WorkerStatistics()
        slots = max(1, slots)
        worker = Worker(name, slots, slots * self._policy.window, ratio, statistics)
        self._workers[name] = self._roomy[name] = worker
        self._note_idle(worker)
        self._largest = max(self._largest, len(self._workers))
        self.slots += slots
        self._speed += worker.speed

    def leave(self, name: str, cause: str) -> Worker | None:
        """Takes a worker out; None if there is none."""
        worker = self._workers.pop(name, None)
        if worker is None:
            return None
        for group in (self._roomy, self._idle, self._parked):
            group.pop(name, None)
        worker.lives = False
        worker.statistics.lost = cause
        self._statistics.lost_workers += 1
        self._lost_in_vain += not worker.statistics.items
        self._last_loss = f"{name}: {cause}"
        self.slots -= worker.slots
        self._speed = sum(other.speed for other in self._workers.values())
        return worker

    def hopeless(self) -> str | None:
        """Why no result can be hoped for: every worker, and each of its replacements, was lost without one."""
        if self._lost_in_vain < (self._policy.max_retries + 1) * max(2, self._largest):
            return None
        return (
            f"{self._lost_in_vain} workers in a row were lost before they gave a result, the last was {self._last_loss}"
        )

    def with_room(self, idle: bool = False) -> list[Worker]:
        """Workers that may be given something, those with the least first; only those with a free slot if `idle`."""
        if len(self._roomy) < 2 and not idle:
            return list(self._roomy.values())
        group = [w for w in self._idle.values() if w.name in self._roomy] if idle else list(self._roomy.values())
        return sorted(group, key=lambda worker: len(worker.tickets) / worker.slots)

    def park(self, worker: Worker) -> None:
        """There is nothing that this worker may have; it is not asked again before `unpark` or its next report."""
        if self._roomy.pop(worker.name, None) is not None:
            self._parked[worker.name] = worker

    def unpark(self) -> None:
        """There may be something for everybody again."""
        self._roomy.update(self._parked)
        self._parked.clear()

    @property
    def any_idle(self) -> bool:
        """Whether a worker has a free slot."""
        return bool(self._idle)

    def idle(self) -> list[Worker]:
        """Workers with a free slot, fastest first; from now on `fastest_new` is about others."""
        self.fastest_new = math.inf
        return sorted(self._idle.values(), key=lambda worker: worker.ratio)

    def _note_idle(self, worker: Worker) -> None:
        if worker.free_slots > 0:
            self._idle[worker.name] = worker
            self.fastest_new = min(self.fastest_new, worker.ratio)
        else:
            self._idle.pop(worker.name, None)

    def in_flight(self) -> list[Ticket]:
        """All assignments."""
        return [ticket for worker in self._workers.values() for ticket in worker.tickets.values()]

    @property
    def names(self) -> Iterable[str]:
        """Of all workers."""
        return self._workers.keys()

    def others_than(self, names: tuple[str, ...]) -> bool:
        """Whether a worker lives that is not among these."""
        return sum(name in self._workers for name in set(names)) < len(self._workers)

    def share(self, worker: Worker) -> float:
        """The part of all work that is this worker's by its speed."""
        return worker.speed / self._speed

    def give(self, ticket: Ticket, now: float) -> None:
        """Notes an assignment."""
        worker = ticket.worker
        worker.tickets[ticket.number] = ticket
        if worker.free_slots > 0:
            self._start(ticket, now)
        self._note_idle(worker)
        if not worker.room:
            self._roomy.pop(worker.name, None)

    def report(self, ticket: Ticket, seconds: float, accepted: int, now: float) -> None:
        """Notes a report about items of so many predicted seconds; a ticket with nothing left is closed."""
        worker = ticket.worker
        worker.statistics.items += accepted
        if accepted:
            self._lost_in_vain = 0
        if not worker.lives:
            return
        if ticket.started is not None:
            elapsed = now - ticket.started
            worker.statistics.busy_s += elapsed
            if seconds > 0:
                self._measure(worker, elapsed, seconds)
        ticket.seconds = max(0.0, ticket.seconds - seconds)
        if not ticket.left:
            self._close(ticket, now)
            worker.most = min(2 * worker.most, _MOST_ITEMS)
        elif ticket.started is not None:
            self._set_clock(ticket, now)
        self._note_idle(worker)

    def hanging(self, now: float) -> list[tuple[str, str]]:
        """Workers that are past their deadline, with the cause."""
        found: dict[str, str] = {}
        while self.next_deadline() <= now:
            _, _, ticket = heapq.heappop(self._deadlines)
            assert ticket.started is not None
            found[ticket.worker.name] = (
                f"it hangs: no result for {now - ticket.started:.3g} s, expected after {ticket.expected_s:.3g} s"
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

    def _close(self, ticket: Ticket, now: float) -> None:
        worker = ticket.worker
        del worker.tickets[ticket.number]
        ticket.deadline = math.inf
        self._roomy[worker.name] = worker
        self._parked.pop(worker.name, None)
        if worker.suspect == ticket.number:
            worker.suspect = None
        if ticket.started is not None:
            worker.started -= 1
            waiting = next((t for t in worker.tickets.values() if t.started is None), None)
            if waiting is not None:
                self._start(waiting, now)

    def _start(self, ticket: Ticket, now: float) -> None:
        ticket.worker.started += 1
        self._set_clock(ticket, now)

    def _set_clock(self, ticket: Ticket, now: float) -> None:
        ticket.started = now
        patience = max(self._policy.hang_least_s, self._policy.hang_factor * ticket.expected_s)
        if patience < math.inf:
            ticket.deadline = now + patience
            heapq.heappush(self._deadlines, (ticket.deadline, ticket.number, ticket))

    def _measure(self, worker: Worker, elapsed: float, seconds: float) -> None:
        # Several reports may arrive at one time; only together do they say how long the work took.
        self._measured = True
        worker.busy_s = _MEMORY * worker.busy_s + elapsed
        worker.work_s = _MEMORY * worker.work_s + seconds
        self._speed -= worker.speed
        worker.ratio = max(worker.busy_s / worker.work_s, 1e-6)
        self._speed += worker.speed
