"""Placements and strategies: who gets what, that nothing is lost, and what happens when a worker is."""

import math
from collections import Counter

import numpy as np
import pytest

from dqk.errors import InvalidInputError
from dqk.scheduler import (
    STRATEGIES,
    Assign,
    Chosen,
    Demand,
    Dispatch,
    Done,
    Fixed,
    Joined,
    Kinds,
    Lost,
    Offer,
    Plan,
    Policy,
    strategy,
)
from dqk.scheduler.placement import stretches
from dqk.scheduler.strategy import alone_s, together_s

POLICY = Policy(message_s=0.0, hedge=False)


def offers(*seconds: float, price: float = 1.0) -> list[Offer]:
    return [Offer(f"w{k}", (s,), (price * s,), error=k) for k, s in enumerate(seconds)]


def shares(name: str, demand: Demand, given: list[Offer], **more) -> dict[str, list[int]]:
    """What each worker gets if all are equally quick to ask for more, one item at a time."""
    ones = np.ones(len(demand.kind))
    placement = strategy(name).placement(demand, given, **more) or stretches
    queue = placement(ones, np.arange(len(demand.kind)))
    found: dict[str, list[int]] = {offer.worker: [] for offer in given}
    before = -1
    while queue.count and queue.count != before:
        before = queue.count
        for offer in given:
            found[offer.worker] += queue.take(offer.worker, 0.0, 1)
    assert queue.count == 0 and queue.seconds == 0.0
    assert sorted(sum(found.values(), [])) == list(range(len(demand.kind)))
    return found


def test_round_robin_deals_in_turn() -> None:
    found = shares("round_robin", Demand(np.zeros(7, int)), offers(1, 1, 5))
    assert found == {"w0": [0, 3, 6], "w1": [1, 4], "w2": [2, 5]}


def test_shares_by_speed() -> None:
    found = shares("by_speed", Demand(np.zeros(700, int)), offers(1, 2, 4))
    assert [len(items) for items in found.values()] == pytest.approx([400, 200, 100], abs=2)
    assert all(items == sorted(items) for items in found.values())


@pytest.mark.parametrize("name, expected", [("price", ["w1"]), ("quality", ["w0"]), ("deadline", ["w1"])])
def test_the_best_by_an_objective(name, expected) -> None:
    given = [Offer("w0", (4.0,), (9.0,), 0.1), Offer("w1", (2.0,), (1.0,), 0.3), Offer("w2", (1.0,), (5.0,), 0.2)]
    found = shares(name, Demand(np.zeros(10, int)), given, deadline_s=25.0)
    assert [worker for worker, items in found.items() if items] == expected


def test_a_deadline_takes_as_many_as_it_needs() -> None:
    given = [Offer(f"w{k}", (1.0,), (float(k),), 0.0) for k in range(10)]
    demand = Demand(np.zeros(100, int))
    for deadline_s, workers in ((100.0, 1), (50.0, 2), (26.0, 4), (10.0, 10), (1.0, 10)):
        found = shares("deadline", demand, given, deadline_s=deadline_s)
        assert sum(bool(items) for items in found.values()) == workers
    assert sum(bool(items) for items in shares("deadline", demand, given).values()) == 5  # twice what all take


def test_prices_of_kinds_count_as_often_as_there_are_items() -> None:
    """99 items of one kind and one of another: 99 + 10 is less than 100 * 5; with as many of each it is more."""
    given = [Offer("a", (1.0, 1.0), (1.0, 10.0)), Offer("b", (1.0, 1.0), (5.0, 5.0))]
    for few, chosen in ((1, "a"), (50, "b")):
        found = shares("price", Demand(np.repeat([0, 1], [100 - few, few])), given)
        assert len(found[chosen]) == 100


def test_equally_good_ones_share() -> None:
    given = [Offer("w0", (1.0,), (1.0,), 0.1), Offer("w1", (1.0,), (1.0,), 0.1), Offer("w2", (1.0,), (2.0,), 0.2)]
    for name in ("price", "quality"):
        found = shares(name, Demand(np.zeros(10, int)), given)
        assert len(found["w0"]) == len(found["w1"]) == 5 and not found["w2"]


def test_important_items_begin_at_good_workers() -> None:
    given = [Offer("bad", (1.0,), (1.0,), 0.5), Offer("good", (1.0,), (1.0,), 0.1)]
    importance = np.random.default_rng(0).permutation(160) / 160
    found = shares("error_aware", Demand(np.zeros(160, int), importance), given)
    assert importance[found["good"]].min() > 0.49 and importance[found["bad"]].max() < 0.51


def test_simulators_begin_with_what_is_cheap_to_simulate() -> None:
    """Kinds 0 to 3 are ever dearer to simulate; the last does not fit the simulator, the first not the QPU."""
    given = [
        Offer("gpu", (0.1, 0.2, 4.0, math.inf), (1.0,) * 4, simulates=True),
        Offer("qpu", (math.inf, 1.0, 1.0, 1.0), (1.0,) * 4),
    ]
    kind = np.random.default_rng(1).permutation(np.repeat(np.arange(4), 10))
    found = shares("mixed", Demand(kind), given)
    assert kind[found["gpu"]].tolist() == [0] * 10 + [1] * 10 and set(kind[found["qpu"]]) == {2, 3}
    pulled = shares("pull", Demand(kind), given)  # whatever the strategy, nobody gets what does not fit
    assert 3 not in kind[pulled["gpu"]] and 0 not in kind[pulled["qpu"]]


def test_what_fits_nobody_is_refused() -> None:
    given = [Offer("w", (1.0, math.inf), (1.0, 1.0))]
    for name in STRATEGIES:
        with pytest.raises(InvalidInputError, match="3 items of kind .1. fit no worker"):
            strategy(name).placement(Demand(np.array([0, 1, 1, 1])), given)
    with pytest.raises(InvalidInputError, match="unknown policy 'pul'; did you mean 'pull'"):
        strategy("pul")


def test_together() -> None:
    counts = np.array([10])
    assert together_s(offers(1, 2, 4), counts) == pytest.approx(10 / 1.75)
    assert alone_s(Offer("w", (math.inf,), (1.0,)), counts) == math.inf


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_lost_worker_s_items_go_to_others(name) -> None:
    """Dispatch with every strategy: one of three workers dies, all items are accepted once."""
    given = offers(1, 1, 2)
    demand = Demand(np.zeros(40, int), np.linspace(0, 1, 40))
    plan = Plan(np.zeros((40, 2), np.int32), np.ones(40), 1)
    dispatch = Dispatch(plan, POLICY, placement=strategy(name).placement(demand, given))
    open_tickets: list[Assign] = []
    accepted: Counter[int] = Counter()
    lost = False

    def tell(event) -> None:
        for action in dispatch.on(event, 0.0):
            if isinstance(action, Assign):
                open_tickets.append(action)
            elif hasattr(action, "items"):
                accepted.update(action.items)

    for offer in given:
        tell(Joined(offer.worker))
    for _ in range(500):
        if dispatch.finished:
            break
        if sum(accepted.values()) >= 5 and not lost:
            lost = True
            gone = open_tickets[0].worker
            tell(Lost(gone, "killed"))
            open_tickets[:] = [ticket for ticket in open_tickets if ticket.worker != gone]
            continue
        ticket = open_tickets.pop(0)
        tell(Done(ticket.worker, ticket.ticket, ticket.items))
    assert dispatch.finished and lost
    assert accepted == Counter(range(40))


def test_queues_alone() -> None:
    ones = np.ones(6)
    fixed = Fixed(ones, {"a": [0, 1, 2], "b": [3, 4, 5]})
    assert fixed.take("a", 2.0, 9) == (0, 1) and fixed.take("c", 2.0, 9) == () and fixed.count == 4
    fixed.release("a")
    assert fixed.take("b", 9.0, 9) == (3, 4, 5, 2) and fixed.count == 0
    fixed = Fixed(ones, {"a": [0]})
    fixed.release("a")
    assert fixed.take("a", 1.0, 1) == (0,)  # who comes back under that name
    chosen = Chosen(stretches(ones, np.arange(6)), ["a"])
    assert chosen.take("b", 1.0, 1) == () and chosen.take("a", 1.0, 1) == (0,)
    chosen.release("a")
    assert chosen.take("b", 9.0, 9) and chosen.count < 5
    kinds = Kinds(ones, [[0, 1], [2, 3]], {"a": [True, True], "b": [True, True]}, ["a"])
    assert kinds.take("b", 1.0, 1) == (2,) and kinds.take("a", 9.0, 9) == (0, 1) and kinds.take("a", 9.0, 9) == (3,)


def test_what_a_lost_worker_should_have_done_is_dealt_to_all_others() -> None:
    """Those that can compute it; what nobody else can waits for it to come back."""
    queue = Fixed(np.ones(8), {"a": range(6), "b": [6], "c": [7]})
    queue.release("a")
    assert [queue.take(name, 9.0, 9) for name in ("b", "c", "a")] == [(6, 0, 2, 4), (7, 1, 3, 5), ()]
    able = {"a": {0, 1, 2, 3}, "b": {0, 1}, "c": {1}}
    queue = Fixed(np.ones(4), {"a": range(4), "b": [], "c": []}, lambda worker, item: item in able[worker])
    queue.release("a")
    assert [queue.take(name, 9.0, 9) for name in ("b", "c", "a")] == [(0,), (1,), (2, 3)] and queue.count == 0
