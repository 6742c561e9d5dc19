"""Whole runs on a virtual clock: how long they take against the best possible, and how many messages they need."""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from dqk.scheduler import Accept, Assign, Dispatch, Done, Joined, Kill, Lost, Plan, Policy, Tick, TileCost, plan
from tests.scheduler.model import until

LATENCY_S = 0.001


@dataclass
class Worker:
    """Computes its assignments one after the other, `speed` predicted seconds in a second, from `joins` to `dies`.

    From `hangs` on it returns nothing.
    """

    speed: float = 1.0
    joins: float = 0.0
    dies: float = np.inf
    hangs: float = np.inf
    free: float = 0.0


@dataclass
class Outcome:
    makespan: float
    dispatch: Dispatch
    killed: list[str] = field(default_factory=list)


def simulate(tiles: Plan, workers: dict[str, Worker], policy: Policy | None = None) -> Outcome:
    """Runs a plan to its end; every item has to be accepted exactly once."""
    dispatch = Dispatch(tiles, policy)
    workers = {name: replace(worker) for name, worker in workers.items()}
    order = itertools.count()
    events: list[tuple[float, int, object]] = []
    accepted = np.zeros(len(tiles), int)
    killed: list[str] = []
    now = 0.0

    def happens(when: float, event: object) -> None:
        heapq.heappush(events, (when, next(order), event))

    for name, worker in workers.items():
        happens(worker.joins, Joined(name))
        if worker.dies < np.inf:
            happens(worker.dies, Lost(name, "killed"))
    for _ in until(lambda: dispatch.finished, 10 * len(tiles) + 1000):
        wake = dispatch.wake_at(now)
        if events and (wake is None or events[0][0] <= wake):
            now, _, event = heapq.heappop(events)
        else:
            assert wake is not None, "nothing will ever happen"
            now, event = wake, Tick()
        if isinstance(event, Done) and workers[event.worker].dies <= now:
            continue
        for action in dispatch.on(event, now):
            if isinstance(action, Assign):
                worker = workers[action.worker]
                begins = max(worker.free, now + LATENCY_S)
                worker.free = begins + tiles.seconds[list(action.items)].sum() / worker.speed
                if worker.free <= worker.hangs:
                    happens(worker.free + LATENCY_S, Done(action.worker, action.ticket, action.items))
            elif isinstance(action, Accept):
                accepted[list(action.items)] += 1
            elif isinstance(action, Kill):
                killed.append(action.worker)
                workers[action.worker].dies = now
    assert (accepted == 1).all()
    return Outcome(now, dispatch, killed)


def shortest(tiles: Plan, workers: dict[str, Worker]) -> float:
    """The time in which the workers together can do the work, if it could be cut at will and nothing were lost."""
    work = float(tiles.seconds.sum())
    changes = sorted({t for w in workers.values() for t in (w.joins, w.dies, w.hangs) if t < np.inf})
    for start, stop in itertools.pairwise([*changes, np.inf]):
        speed = sum(w.speed for w in workers.values() if w.joins <= start < min(w.dies, w.hangs))
        if work <= speed * (stop - start):
            return start + work / speed
        work -= speed * (stop - start)
    raise AssertionError("the work is never done")


def matrix(blocks: int, tile_s: float) -> Plan:
    return plan(blocks * 8, blocks * 8, True, 8, TileCost(tile_s / 2, tile_s), 1000)


@pytest.mark.parametrize("tile_s", [0.001, 0.01, 0.1])
@pytest.mark.parametrize(
    "workers",
    [
        {"a": Worker(), "b": Worker()},
        {f"w{k}": Worker() for k in range(8)},
        {"slow": Worker(0.1), "a": Worker(), "b": Worker(), "fast": Worker(4.0)},
        {"a": Worker(), "b": Worker(), "late": Worker(joins=0.4), "later": Worker(speed=2.0, joins=0.9)},
    ],
    ids=["two", "eight", "unequal", "joining"],
)
def test_nobody_waits_for_long(workers, tile_s):
    """Within 3 % of the bound, one slow tile and some messages; and not many more messages than the work is worth."""
    tiles = matrix(60, tile_s)
    bound = shortest(tiles, workers)
    slowest = tiles.seconds.max() / np.median([worker.speed for worker in workers.values()])
    run = simulate(tiles, workers)
    assert run.makespan <= 1.03 * bound + slowest + 10 * LATENCY_S
    statistics = run.dispatch.statistics
    worth = sum(worker.busy_s for worker in statistics.workers.values()) / 0.1
    tail = 20 * len(workers)
    assert statistics.assignments <= min(len(tiles), 1.5 * worth) + tail
    assert statistics.lost_workers == statistics.retries == 0
    assert statistics.duplicates <= 0.01 * len(tiles) + len(workers)


def test_a_dying_worker_costs_what_it_had_in_its_hands():
    tiles = matrix(60, 0.01)
    workers = {"a": Worker(), "b": Worker(), "dies": Worker(dies=3.0), "late": Worker(joins=3.5)}
    run = simulate(tiles, workers)
    assert (
        run.makespan <= 1.02 * shortest(tiles, workers) + 0.3
    )  # two messages of 0.1 s, computed again one item at a time
    statistics = run.dispatch.statistics
    assert statistics.lost_workers == 1 and 0 < statistics.retries <= 25 and statistics.given_up == 0
    assert statistics.workers["dies"].lost == "killed" and statistics.workers["late"].items > 0


def test_nobody_waits_for_a_hanging_worker():
    """Hedging completes its items before anybody can know that it hangs; without hedging it is killed after a while."""
    tiles = matrix(60, 0.01)
    make = lambda: {"a": Worker(), "b": Worker(), "hangs": Worker(hangs=2.0)}  # noqa: E731
    bound = shortest(tiles, make())
    patient = simulate(tiles, make(), Policy(hang_least_s=300.0))
    assert patient.makespan <= 1.03 * bound + 0.3 and patient.killed == []
    assert patient.dispatch.statistics.hedged > 0
    stern = simulate(tiles, make(), Policy(hang_least_s=1.0, hang_factor=5.0, hedge=False))
    assert stern.killed == ["hangs"] and stern.makespan <= 1.03 * bound + 0.3
    assert "hangs: no result for" in stern.dispatch.statistics.workers["hangs"].lost


@pytest.mark.parametrize("factor", [0.01, 100.0])
def test_predictions_may_be_far_off(factor):
    """Speeds are measured: with times a hundred times as long, or as short, as predicted the ends are still together."""
    tiles = matrix(60, 0.01)
    workers = {"a": Worker(1 / factor), "b": Worker(1 / factor), "c": Worker(0.5 / factor)}
    run = simulate(tiles, workers)
    slowest = tiles.seconds.max() * 2 * factor
    assert run.makespan <= 1.03 * shortest(tiles, workers) + slowest + 20 * LATENCY_S


def test_a_hundred_thousand_tiles_in_few_messages():
    """447 blocks, tiles of 1 ms: messages carry a hundred tiles each."""
    tiles = matrix(447, 0.001)
    workers = {f"w{k}": Worker() for k in range(8)}
    run = simulate(tiles, workers)
    assert len(tiles) == 100128
    assert run.makespan <= 1.01 * shortest(tiles, workers)
    assert run.dispatch.statistics.assignments <= 1.3 * tiles.seconds.sum() / 0.1 + 160
