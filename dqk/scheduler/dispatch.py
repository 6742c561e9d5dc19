"""Who computes what, and when all is done: a state machine that is told events and answers with actions.

It holds no clock, no thread and no connection: `dqk._run`, an MPI rank or a simulation drives it, and the same events at the
same times give the same actions.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass

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
    Ready,
    Tick,
)
from dqk.scheduler.pending import Returned, Stretches
from dqk.scheduler.placement import Placement
from dqk.scheduler.plan import Plan
from dqk.scheduler.policy import Policy, Statistics

_OPEN, _ACCEPTED, _GIVEN_UP = 0, 1, 2
_LOOK_AT = 128  # assignments for each event, when there are many and workers look for something to copy


@dataclass(slots=True)
class _Trouble:
    """What went wrong with an item so far.

    Attributes:
        tries: how often it failed or was being computed when its worker was lost.
        failed_on: workers that live, or lived, and on which it failed.
        cause: of the last try.
        suspect: whether a worker was lost while it computed this.
    """

    tries: int = 0
    failed_on: tuple[str, ...] = ()
    cause: str = ""
    suspect: bool = False


class Dispatch:
    """Decides what each worker computes.

    Every item of the plan is accepted exactly once, or given up with its cause after `1 + policy.max_retries` tries. At most two
    copies of an item are in flight. Events about tickets and workers that are unknown or closed are ignored, except that results
    from a worker that was declared lost are accepted if they are the first.

    Args:
        plan: the tiles.
        policy: the rules.
        done: items that need not be computed, for instance because a store has them.
        held: whether every item waits for a `Ready` that names it, as where items follow from one another.
        placement: who may have what; None for everybody everything, neighbours together.
    """

    def __init__(
        self,
        plan: Plan,
        policy: Policy | None = None,
        done: Collection[int] = (),
        held: bool = False,
        placement: Placement | None = None,
    ):
        self.policy = policy or Policy()
        self.statistics = Statistics()
        state = np.zeros(len(plan), np.uint8)
        state[np.fromiter(done, np.int64, len(done))] = _ACCEPTED
        open_items = np.flatnonzero(state == _OPEN)
        self.remaining = len(open_items)
        self._state = bytearray(state.tobytes())
        self._cost = plan.seconds
        self._fresh = (placement or Stretches)(plan.seconds, open_items[:0] if held else open_items)
        self._returned = Returned()
        self._suits = self._fresh.suits
        self._crew = Crew(self.policy, self.statistics)
        self._tickets: dict[int, Ticket] = {}
        self._copies: dict[int, int] = {}
        self._troubles: dict[int, _Trouble] = {}
        self._next_ticket = 0
        self._hedge_at = math.inf  # no idle worker is to look for something to copy before ...
        self._barren = math.inf  # ... if it is no faster than one that found nothing
        self._pause = 0  # events before the next look, where looking means going through many assignments
        self._least_s = self.policy.message_s / 4  # shorter delays say nothing about a worker
        self._draining = False

    @property
    def finished(self) -> bool:
        """Whether nothing is left to wait for: all items are settled, or it is drained and nothing open is in flight."""
        if not self.remaining:
            return True
        return self._draining and all(self._state[item] != _OPEN for item in self._copies)

    def open_items(self) -> list[int]:
        """Items that are neither accepted nor given up."""
        return [item for item, state in enumerate(self._state) if state == _OPEN]

    @property
    def hopeless(self) -> str | None:
        """Why the run should be ended: workers are lost one after the other before they give a single result; None if not."""
        return self._crew.hopeless()

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
            case Joined(name, slots, more):
                self._crew.join(name, slots)
                if more:
                    return actions
            case Lost(name, cause):
                self._remove(name, cause, actions)
            case Tick():
                for name, cause in self._crew.hanging(now):
                    actions.append(Kill(name, cause))
                    self._remove(name, cause, actions)
            case Ready(items):
                for item in items:
                    if self._state[item] == _OPEN:
                        self._returned.add(item, (), False)
                self._crew.unpark()
            case Drain():
                self._draining = True
        if self.remaining and not self._draining:
            self._fill(now, actions)
            if self.policy.hedge and not self._fresh.count:
                self._hedge(now, actions)
        else:
            self._hedge_at = math.inf
        return actions

    def wake_at(self, now: float) -> float | None:
        """When a `Tick` is useful next if nothing else happens before; None for never. `now` as in `on`."""
        soonest = min(self._crew.next_deadline(), self._hedge_at)
        return None if soonest == math.inf else max(now, soonest)

    def _on_done(self, name: str, number: int, items: tuple[int, ...], now: float, actions: list[Action]) -> None:
        ticket, reported = self._reported(name, number, items)
        if ticket is None:
            return
        first = tuple(item for item in reported if self._state[item] == _OPEN)
        late = tuple(item for item in reported if self._state[item] != _OPEN)
        self._crew.report(ticket, self._seconds(reported), len(first), now)
        if first:
            self._settle(first, _ACCEPTED)
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
        self._crew.report(ticket, 0.0, 0, now)
        for item in reported:
            if self._state[item] == _OPEN:
                trouble = self._missed(item, cause)
                trouble.failed_on = (*trouble.failed_on, name)
                self._put_back(item, actions)

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
            if self._copies[item] > 1:
                self._copies[item] -= 1
                self._barren = math.inf  # may be copied again
            else:
                del self._copies[item]

    def _settle(self, items: Collection[int], state: int) -> None:
        self.remaining -= len(items)
        for item in items:
            self._state[item] = state
        if self._troubles or self._returned:
            for item in items:
                self._troubles.pop(item, None)
                self._returned.discard(item)

    def _missed(self, item: int, cause: str) -> _Trouble:
        """Counts a try of an open item that came to nothing."""
        trouble = self._troubles.setdefault(item, _Trouble())
        trouble.tries += 1
        trouble.cause = cause
        self.statistics.retries += trouble.tries <= self.policy.max_retries
        return trouble

    def _put_back(self, item: int, actions: list[Action]) -> None:
        """An open item is queued again, or given up, unless another copy of it is in flight."""
        if item in self._copies:
            return
        trouble = self._troubles.get(item) or _Trouble()
        if trouble.tries > self.policy.max_retries:
            self._settle((item,), _GIVEN_UP)
            self.statistics.given_up += 1
            actions.append(GiveUp(item, trouble.cause))
        else:
            self._returned.add(item, trouble.failed_on, trouble.suspect)
            self._crew.unpark()

    def _remove(self, name: str, cause: str, actions: list[Action]) -> None:
        """Takes a worker out; what it may have been computing counts as tried, what waited there does not."""
        worker = self._crew.leave(name, cause)
        if worker is None:
            return
        self._fresh.release(name)
        self._crew.unpark()
        for ticket in worker.tickets.values():
            self._land(ticket.left)
        doubtful = worker.started + self.policy.writing * worker.slots
        for place, ticket in enumerate(worker.tickets.values()):
            for item in sorted(ticket.left):
                if self._state[item] == _OPEN:
                    if place < doubtful:
                        self._missed(item, f"worker {name} was lost while it computed this: {cause}").suspect = True
                    self._put_back(item, actions)

    def _fill(self, now: float, actions: list[Action]) -> None:
        """Gives work to every worker that has room."""
        queued = self._fresh.count + len(self._returned)
        if not queued:
            return
        for worker in self._crew.with_room(idle=queued <= self._crew.slots):
            while worker.room and (queued := self._fresh.count + len(self._returned)):
                # At the very end nothing waits at a busy worker while another one may come free sooner.
                if queued <= self._crew.slots and worker.free_slots <= 0:
                    break
                items = self._next_items(worker)
                if not items:
                    if not self._returned:
                        self._crew.park(worker)
                    break
                self._assign(worker, items, now, actions)

    def _next_items(self, worker: Worker) -> tuple[int, ...]:
        seconds = self.policy.message_s / worker.ratio
        if self._returned:

            def eligible(item: int, failed_on: tuple[str, ...]) -> bool:
                if self._suits is None:
                    return worker.name not in failed_on or not self._crew.others_than(failed_on)
                if not self._suits(worker.name, item):
                    return False
                return worker.name not in failed_on or not self._others_suit(failed_on, item)

            suspect = self._returned.take_suspect(eligible) if worker.suspect is None else None
            if suspect is not None:
                worker.suspect = self._next_ticket
                return (suspect,)
            again = self._returned.take(eligible, self._cost, seconds, worker.most, self._suits is None)
            if again:
                return again
        fair = self._fresh.seconds * self._crew.share(worker) / (2 * worker.slots)
        return self._fresh.take(worker.name, min(seconds, fair), worker.most)

    def _others_suit(self, names: tuple[str, ...], item: int) -> bool:
        """Whether a worker lives that is not among these and can compute the item."""
        assert self._suits is not None
        return any(name not in names and self._suits(name, item) for name in self._crew.names)

    def _assign(self, worker: Worker, items: tuple[int, ...], now: float, actions: list[Action]) -> None:
        ticket = Ticket(self._next_ticket, worker, set(items), self._seconds(items))
        self._barren = math.inf
        self._next_ticket += 1
        self._tickets[ticket.number] = ticket
        for item in items:
            self._copies[item] = self._copies.get(item, 0) + 1
        self._crew.give(ticket, now)
        self.statistics.assignments += 1
        actions.append(Assign(worker.name, ticket.number, items))

    def _seconds(self, items: Collection[int]) -> float:
        """Predicted seconds of some items."""
        if len(items) == 1:
            return float(self._cost[next(iter(items))])
        return float(self._cost[list(items)].sum())

    def _hedge(self, now: float, actions: list[Action]) -> None:
        """Gives idle workers copies of what will be done last, if they would be sooner; notes when to look again."""
        if not self._crew.any_idle:
            self._hedge_at = self._barren = math.inf
            return
        if now < self._hedge_at:
            if self._barren < math.inf and self._crew.fastest_new >= self._barren:
                return
            if self._pause > 0:
                self._pause -= 1
                return
        self._hedge_at = self._barren = math.inf
        idle = self._crew.idle()
        least_s = self._least_s
        in_flight = self._crew.in_flight()
        self._pause = len(in_flight) // _LOOK_AT
        latest = [ticket for ticket in in_flight if self._copyable(ticket)]
        latest.sort(key=lambda ticket: (ticket.expected_end(now, least_s), ticket.number))
        for worker in idle:  # fastest first: what is not worth its while is not worth another one's
            own = []
            while latest and worker.free_slots > 0:
                ticket = latest.pop()
                items = self._copyable(ticket)
                if ticket.worker is worker:
                    own.append(ticket)
                    continue
                if ticket.started is not None:  # its worker has probably begun at the front
                    items = items[len(items) // 2 :]
                if self._suits is not None and not all(self._suits(worker.name, item) for item in items):
                    own.append(ticket)
                    continue
                alone_s = self._seconds(items) * worker.ratio
                if ticket.expected_end(now, least_s) - now > alone_s:
                    self.statistics.hedged += len(items)
                    self._assign(worker, items, now, actions)
                    if self._copyable(ticket):
                        latest.append(ticket)
                else:
                    self._hedge_at = min(self._hedge_at, ticket.worth_a_copy_at(least_s, alone_s))
            latest += reversed(own)
            if not latest and worker.free_slots > 0:
                self._barren = worker.ratio
                break

    def _copyable(self, ticket: Ticket) -> tuple[int, ...]:
        """Open items of an assignment of which no second copy is in flight; what caused trouble before is not copied."""
        return tuple(
            item
            for item in sorted(ticket.left)
            if self._state[item] == _OPEN and self._copies[item] == 1 and item not in self._troubles
        )
