"""What a pool would see of `Dispatch`: keeps its own books and complains about every action that breaks a law."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator

import numpy as np

from dqk.scheduler import (
    Accept,
    Assign,
    Discard,
    Dispatch,
    Done,
    Drain,
    Failed,
    GiveUp,
    Joined,
    Kill,
    Lost,
    Plan,
    Policy,
    Tick,
)


def some_plan(n_items: int, seed: int = 0) -> Plan:
    """Any tiles, with unequal predicted seconds."""
    tiles = np.stack([np.arange(n_items), np.zeros(n_items)], axis=1).astype(np.int32)
    return Plan(tiles, np.random.default_rng(seed).uniform(0.01, 0.2, n_items), 8)


def until(reached: Callable[[], bool], most: int = 2000) -> Iterator[None]:
    """For loops that go on until a condition holds; one that would never end fails."""
    for _ in range(most):
        if reached():
            return
        yield
    raise AssertionError(f"not reached in {most} steps")


class Model:
    """Drives a `Dispatch` and checks it. Times are those of a virtual clock."""

    def __init__(self, n_items: int, policy: Policy, done: frozenset[int] = frozenset()):
        self.plan, self.policy, self.done = some_plan(n_items), policy, done
        self.dispatch = Dispatch(self.plan, policy, done)
        self.now = 0.0
        self.slots: dict[str, int] = {}  # of living workers
        self.lost: set[str] = set()
        self.tickets: dict[int, tuple[str, list[int]]] = {}  # what has not been reported, of lost workers too
        self.heard_at: dict[int, float] = {}  # when a ticket was sent, or last reported in part
        self.open = set(range(n_items)) - done
        self.accepted: list[int] = []
        self.given_up: dict[int, str] = {}
        self.tries: Counter[int] = Counter()
        self.failed_on: dict[int, set[str]] = defaultdict(set)
        self.ever_assigned: set[int] = set()
        self.duplicates = self.assignments = 0
        self.drained = False
        self.log: list[tuple[object, float, list[object]]] = []

    # what is in flight --------------------------------------------------------------------------------------------------
    def of(self, worker: str) -> list[int]:
        """Tickets of a worker, oldest first."""
        return [ticket for ticket, (owner, _) in self.tickets.items() if owner == worker]

    def live_tickets(self) -> list[int]:
        return [ticket for ticket, (owner, _) in self.tickets.items() if owner in self.slots]

    def copies(self) -> Counter[int]:
        return Counter(item for ticket in self.live_tickets() for item in self.tickets[ticket][1])

    # events -------------------------------------------------------------------------------------------------------------
    def join(self, slots: int = 1) -> str:
        name = f"w{len(self.slots) + len(self.lost)}"
        self.slots[name] = slots
        self.tell(Joined(name, slots))
        return name

    def lose(self, worker: str, cause: str = "gone") -> None:
        self._gone(worker)
        self.tell(Lost(worker, cause))

    def report(self, ticket: int, count: int | None = None, fails: str | None = None) -> None:
        """The first `count` items of a ticket, all if None, are done, or have failed."""
        worker, items = self.tickets[ticket]
        reported = tuple(items[:count])
        del items[:count]
        if not items or count is None:
            del self.tickets[ticket]
        self.heard_at[ticket] = self.now
        if fails is None:
            self.tell(Done(worker, ticket, reported), reported)
            return
        if worker in self.slots:
            for item in reported:
                if item in self.open:
                    self.tries[item] += 1
                    self.failed_on[item].add(worker)
        self.tell(Failed(worker, ticket, reported, fails))

    def tick(self, seconds: float) -> None:
        self.now += seconds
        self.tell(Tick())

    def drain(self) -> None:
        self.drained = True
        self.tell(Drain())

    # laws ---------------------------------------------------------------------------------------------------------------
    def tell(self, event: object, results: tuple[int, ...] = ()) -> None:
        """Sends an event and checks what comes back, in its order."""
        actions = self.dispatch.on(event, self.now)
        self.log.append((event, self.now, actions))
        expected = Counter(results)
        for action in actions:
            match action:
                case Accept(items):
                    assert items and self.open.issuperset(items), f"accepted twice or never open: {items}"
                    self.open.difference_update(items)
                    self.accepted.extend(items)
                    expected.subtract(items)
                case Discard(items):
                    assert items and self.open.isdisjoint(items), f"open items thrown away: {items}"
                    self.duplicates += len(items)
                    expected.subtract(items)
                case GiveUp(item, cause):
                    assert item in self.open and cause
                    assert self.tries[item] > self.policy.max_retries, (
                        f"{item} was given up after {self.tries[item]} tries"
                    )
                    assert not self.copies()[item], f"{item} was given up while a copy was in flight"
                    self.open.remove(item)
                    self.given_up[item] = cause
                case Kill(worker, cause):
                    assert isinstance(event, Tick) and cause and self.of(worker)
                    silent_s = self.now - min(self.heard_at[ticket] for ticket in self.of(worker))
                    assert silent_s >= self.policy.hang_least_s
                    self._gone(worker)
                case Assign(worker, ticket, items):
                    self._assign(worker, ticket, items)
        assert not any(expected.values()), f"results that were neither accepted nor discarded: {expected}"
        self._settled()

    def _assign(self, worker: str, ticket: int, items: tuple[int, ...]) -> None:
        assert worker in self.slots, f"assigned to {worker}, which is not there"
        assert not self.drained and ticket not in self.heard_at
        assert items and len(set(items)) == len(items) and self.open.issuperset(items)
        mine = self.of(worker)
        assert len(mine) < self.slots[worker] * self.policy.window
        copies = self.copies()
        second = [item for item in items if copies[item]]
        assert all(copies[item] < 2 for item in items), "more than two copies in flight"
        if second:
            assert self.policy.hedge and len(mine) < self.slots[worker], "a copy for a worker that is not idle"
            assert self.ever_assigned >= self.open, "a copy while there are items that nobody has had"
            assert not any(item in self.tickets[t][1] for t in mine for item in second), "two copies on one worker"
        for item in items:
            if worker in self.failed_on[item]:
                assert not second and self.failed_on[item].issuperset(self.slots), "a retry where it failed before"
        self.tickets[ticket], self.heard_at[ticket] = (worker, list(items)), self.now
        self.ever_assigned.update(items)
        self.assignments += 1

    def _gone(self, worker: str) -> None:
        """A try for what it may have been computing; `Dispatch` is to count its oldest assignments only."""
        for ticket in self.of(worker):
            for item in self.tickets[ticket][1]:
                self.tries[item] += item in self.open
        del self.slots[worker]
        self.lost.add(worker)

    def _settled(self) -> None:
        dispatch, statistics = self.dispatch, self.dispatch.statistics
        assert dispatch.remaining == len(self.open)
        in_flight = any(item in self.open for item in self.copies())
        assert dispatch.finished == (not self.open or (self.drained and not in_flight))
        assert (statistics.accepted, statistics.given_up) == (len(self.accepted), len(self.given_up))
        assert (statistics.duplicates, statistics.assignments) == (self.duplicates, self.assignments)
        assert statistics.lost_workers == len(self.lost)
        wake = dispatch.wake_at(self.now)
        assert wake is None or wake >= self.now
        if not self.drained and self.policy.window and self.slots and self.open:
            busy = {owner for owner, _ in (self.tickets[t] for t in self.live_tickets())}
            assert busy, "items are open, workers live, and none of them has anything"
