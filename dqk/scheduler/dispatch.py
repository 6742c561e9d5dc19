"""Who computes what, and when all is done: a state machine that is told events and answers with actions.

It holds no clock, no thread and no connection: `dqk._run`, an MPI rank or a simulation drives it, and the same events at the
same times give the same actions.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection, Iterable

import numpy as np

from dqk.scheduler.crew import Crew, Ticket, Worker
from dqk.scheduler.events import (
    Accept,
    Action,
    Assign,
    Discard,
    Done,
    Drain,
    Event,
    Failed,
    GiveUp,
    Joined,
    Kill,
    Lost,
    Tick,
)
from dqk.scheduler.pending import Returned, Stretches
from dqk.scheduler.plan import Plan
from dqk.scheduler.policy import Policy, Statistics

_OPEN, _ACCEPTED, _GIVEN_UP = 0, 1, 2
_LATE = 2.0
"""An assignment that takes so many times its predicted time is late: nobody knows when it will end."""


class Dispatch:
    """Decides what each worker computes.

    Every item of the plan is accepted exactly once, or given up with its cause after `1 + policy.max_retries` tries. At most two
    copies of an item are in flight. Events about tickets and workers that are unknown or closed are ignored, except that results
    from a worker that was declared lost are accepted if they are the first.

    Args:
        plan: the tiles.
        policy: the rules.
        done: items that need not be computed, for instance because a store has them.
    """

    def __init__(self, plan: Plan, policy: Policy | None = None, done: Collection[int] = ()):
        self.policy = policy or Policy()
        self.statistics = Statistics()
        self._cost = plan.seconds
        state = np.zeros(len(plan), np.uint8)
        state[np.fromiter(done, np.int64, len(done))] = _ACCEPTED
        open_items = np.flatnonzero(state == _OPEN).astype(np.int32)
        self._state = bytearray(state.tobytes())
        self.remaining = len(open_items)
        self._fresh = Stretches(plan, open_items)
        self._returned = Returned()
        self._crew = Crew(self.policy, self.statistics)
        self._tickets: dict[int, Ticket] = {}
        self._copies: dict[int, int] = {}
        self._tries: dict[int, int] = {}
        self._failed_on: dict[int, tuple[str, ...]] = {}
        self._next_ticket = 0
        self._draining = False

    @property
    def finished(self) -> bool:
        """Whether nothing is left to wait for: all items are settled, or it is drained and nothing open is in flight."""
        return not self.remaining or (self._draining and not self._copies)

    def on(self, event: Event, now: float) -> list[Action]:
        """What is to be done about an event, in this order.

        Args:
            event: what happened.
            now: seconds on any clock that never goes back.
        """
        actions: list[Action] = []
        match event:
            case Done(worker, number, items):
                self._on_done(worker, number, items, now, actions)
            case Failed(worker, number, items, cause):
                self._on_failed(worker, number, items, cause, now, actions)
            case Joined(name, slots):
                self._crew.join(name, slots)
            case Lost(name, cause):
                self._remove(name, cause, actions)
            case Tick():
                for name, cause in self._crew.hanging(now):
                    actions.append(Kill(name, cause))
                    self._remove(name, cause, actions)
            case Drain():
                self._draining = True
        if self.remaining and not self._draining:
            self._fill(now, actions)
            if self.policy.hedge:
                self._hedge(now, actions)
        return actions

    def wake_at(self, now: float) -> float | None:
        """When a `Tick` is useful next if nothing else happens before; None for never. `now` as in `on`."""
        times = [self._crew.next_deadline()]
        if self.policy.hedge and not self._draining and self._crew.idle():
            times += [self._late_at(ticket) for ticket in self._crew.in_flight() if self._copyable(ticket)]
        soonest = min(times)
        return None if soonest == math.inf else max(now, soonest)

    def _on_done(self, name: str, number: int, items: tuple[int, ...], now: float, actions: list[Action]) -> None:
        ticket, reported = self._reported(name, number, items)
        if ticket is None:
            return
        first = tuple(item for item in reported if self._state[item] == _OPEN)
        late = tuple(item for item in reported if self._state[item] != _OPEN)
        self._crew.progress(ticket, self._seconds(reported), len(first), now)
        self._settle(first, _ACCEPTED)
        if first:
            self.statistics.accepted += len(first)
            actions.append(Accept(first))
        if late:
            self.statistics.duplicates += len(late)
            actions.append(Discard(late))

    def _on_failed(
        self, name: str, number: int, items: tuple[int, ...], cause: str, now: float, actions: list[Action]
    ) -> None:
        ticket, reported = self._reported(name, number, items)
        if ticket is None or not ticket.worker.lives:
            return
        self._crew.progress(ticket, 0.0, 0, now)
        for item in reported:
            if self._state[item] == _OPEN:
                self._failed_on[item] = (*self._failed_on.get(item, ()), name)
                self._try_again(item, cause, False, actions)

    def _reported(self, name: str, number: int, items: tuple[int, ...]) -> tuple[Ticket | None, list[int]]:
        """The ticket of a report, if its worker holds it, and those of the items that it still has."""
        ticket = self._tickets.get(number)
        if ticket is None or ticket.worker.name != name:
            return None, []
        reported = [item for item in dict.fromkeys(items) if item in ticket.left]
        ticket.left.difference_update(reported)
        if ticket.worker.lives:
            self._land(reported)
        if not ticket.left:
            del self._tickets[number]
        return ticket, reported

    def _land(self, items: Iterable[int]) -> None:
        """One copy of each is in flight no more."""
        for item in items:
            copies = self._copies.get(item, 0) - 1
            if copies > 0:
                self._copies[item] = copies
            else:
                self._copies.pop(item, None)

    def _settle(self, items: tuple[int, ...], state: int) -> None:
        self.remaining -= len(items)
        for item in items:
            self._state[item] = state
            self._returned.discard(item)
            self._tries.pop(item, None)
            self._failed_on.pop(item, None)

    def _try_again(self, item: int, cause: str, suspect: bool, actions: list[Action]) -> None:
        """Counts a try of an open item that came to nothing. Another copy in flight has its chance first."""
        tries = self._tries[item] = self._tries.get(item, 0) + 1
        if item in self._copies:
            return
        if tries > self.policy.max_retries:
            self._settle((item,), _GIVEN_UP)
            self.statistics.given_up += 1
            actions.append(GiveUp(item, cause))
        else:
            self.statistics.retries += 1
            self._returned.add((item,), self._failed_on.get(item, ()), suspect)

    def _remove(self, name: str, cause: str, actions: list[Action]) -> None:
        """Takes a worker out; what it was computing counts as tried, what waited there does not."""
        worker = self._crew.leave(name, cause)
        if worker is None:
            return
        self._fresh.release(name)
        tickets = list(worker.tickets.values())
        for ticket in tickets:
            self._land(ticket.left)
        for ticket in tickets:
            for item in sorted(ticket.left):
                if self._state[item] != _OPEN:
                    continue
                if ticket.started is not None:
                    self._try_again(item, f"worker {name} was lost while it computed this: {cause}", True, actions)
                elif item not in self._copies:
                    self._returned.add((item,), self._failed_on.get(item, ()))

    def _fill(self, now: float, actions: list[Action]) -> None:
        """Gives work to every worker that has room."""
        for worker in self._crew.with_room():
            while (self._fresh.count or self._returned) and worker.room:
                # At the very end nothing waits at a busy worker while another one may come free sooner.
                if not worker.free_slots and self._fresh.count + len(self._returned) <= self._crew.slots:
                    break
                items = self._next_items(worker)
                if not items:
                    break
                self._assign(worker, items, now, actions)

    def _next_items(self, worker: Worker) -> tuple[int, ...]:
        def eligible(failed_on: tuple[str, ...]) -> bool:
            return worker.name not in failed_on or not self._crew.others_than(failed_on)

        fair = self._fresh.seconds * self._crew.share(worker) / (2 * worker.slots)
        seconds = min(self.policy.message_s / worker.ratio, fair)
        if self._returned:
            if worker.suspect is None:
                suspect = self._returned.take_suspect(eligible)
                if suspect is not None:
                    worker.suspect = self._next_ticket
                    return (suspect,)
            seconds_again = self.policy.message_s / worker.ratio
            again = self._returned.take(eligible, self._cost.__getitem__, seconds_again, worker.most)
            if again:
                return again
        return self._fresh.take(worker.name, self._crew.speed, seconds, worker.most)

    def _assign(self, worker: Worker, items: tuple[int, ...], now: float, actions: list[Action]) -> None:
        ticket = Ticket(self._next_ticket, worker, set(items), self._seconds(items))
        self._next_ticket += 1
        self._tickets[ticket.number] = ticket
        for item in items:
            self._copies[item] = self._copies.get(item, 0) + 1
        self._crew.give(ticket, now)
        self.statistics.assignments += 1
        actions.append(Assign(worker.name, ticket.number, items))

    def _seconds(self, items: Collection[int]) -> float:
        return float(self._cost[list(items)].sum()) if len(items) > 1 else sum(float(self._cost[i]) for i in items)

    def _hedge(self, now: float, actions: list[Action]) -> None:
        """Gives idle workers copies of what is late or waits at a busy worker, latest first, if they would be sooner."""
        idle = self._crew.idle()
        if not idle:
            return
        expected = [(-self._expected_end(t, now), t.number, t) for t in self._crew.in_flight() if self._copyable(t)]
        heapq.heapify(expected)
        for worker in idle:
            while expected:
                end, _, ticket = heapq.heappop(expected)
                items = self._copyable(ticket)
                # The back half of what is being computed: its worker has probably begun at the front.
                items = items[len(items) // 2 :] if ticket.started is not None else items
                if worker is not ticket.worker and -end - now > self._seconds(items) * worker.ratio:
                    self.statistics.hedged += len(items)
                    self._assign(worker, items, now, actions)
                    break

    def _copyable(self, ticket: Ticket) -> tuple[int, ...]:
        """Open items of an assignment of which no second copy is in flight."""
        return tuple(i for i in sorted(ticket.left) if self._state[i] == _OPEN and self._copies[i] == 1)

    def _late_at(self, ticket: Ticket) -> float:
        if ticket.started is None:
            return math.inf
        return ticket.started + _LATE * max(ticket.seconds * ticket.worker.ratio, self.policy.message_s / 4)

    def _expected_end(self, ticket: Ticket, now: float) -> float:
        """When an assignment will probably have been computed; one that is late takes as long again as it took so far."""
        if ticket.started is not None:
            expected = ticket.started + ticket.seconds * ticket.worker.ratio
            return expected if now < self._late_at(ticket) else now + (now - ticket.started)
        before = [t for t in ticket.worker.tickets.values() if t.number < ticket.number]
        heads = [self._expected_end(t, now) for t in before if t.started is not None]
        ends = max(now, min(heads, default=now))
        waiting = sum(t.seconds for t in before if t.started is None) + ticket.seconds
        return ends + waiting * ticket.worker.ratio
