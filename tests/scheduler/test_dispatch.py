"""The laws of `Dispatch`, under any order of events that a pool can produce."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dqk.errors import InvalidInputError
from dqk.scheduler import (
    Accept,
    Assign,
    Discard,
    Dispatch,
    Done,
    Failed,
    GiveUp,
    Joined,
    Kill,
    Lost,
    Policy,
    Tick,
)
from tests.scheduler.model import Model, some_plan, until

STEPS = [
    "done",
    "done",
    "done",
    "part",
    "fail",
    "fail part",
    "lose",
    "join",
    "join",
    "tick",
    "late",
    "again",
    "nonsense",
]
policies = st.builds(
    Policy,
    max_retries=st.integers(0, 3),
    window=st.integers(1, 3),
    message_s=st.sampled_from([0.02, 0.1, 1.0, 100.0]),
    hang_factor=st.sampled_from([2.0, 30.0, math.inf]),
    hang_least_s=st.sampled_from([0.5, 5.0, 120.0]),
    hedge=st.booleans(),
)
scripts = st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 10**6)), max_size=120)
sizes = st.integers(0, 60)


def play(model: Model, kind: str, k: int) -> None:
    """One step of a script; `k` chooses among what is possible now."""
    model.now += (k % 97) / 100
    live = model.live_tickets()
    dead = [t for t, (owner, _) in model.tickets.items() if owner in model.lost]
    reports = [event for event, _, _ in model.log if isinstance(event, Done | Failed)]
    if kind in ("done", "part", "fail", "fail part") and live:
        ticket = live[k % len(live)]
        count = 1 + k % len(model.tickets[ticket][1]) if "part" in kind else None
        model.report(ticket, count, f"no luck {k}" if "fail" in kind else None)
    elif kind == "lose" and model.slots:
        model.lose(sorted(model.slots)[k % len(model.slots)], f"gone {k}")
    elif kind == "join":
        model.join(1 + k % 3)
    elif kind == "tick":
        model.tick((k % 50) / 5)
    elif kind == "late" and dead:
        model.report(dead[k % len(dead)], None, "too late" if k % 3 == 0 else None)
    elif kind == "again" and reports:  # closed tickets: no reports any more
        event = reports[k % len(reports)]
        left = model.tickets.get(event.ticket, ("", []))[1]
        if not set(event.items) & set(left):
            model.tell(event)
    elif kind == "nonsense":
        for event in (
            Done("nobody", k, (0,)),
            Failed("w0", 10**7 + k, (0,), "?"),
            Lost("nobody", "?"),
            *(Done("nobody", ticket, tuple(model.tickets[ticket][1])) for ticket in live[:1]),
            *(Joined(name, 2) for name in sorted(model.lost)[:1]),
        ):
            model.tell(event)


def finish(model: Model) -> None:
    """From here on everything works: whatever went before, the run ends, in no more steps than there can be messages."""
    if not model.slots:
        model.join()
    for _ in until(lambda: model.dispatch.finished, 3 * len(model.open) + len(model.tickets) + 10):
        model.now += 0.05
        model.report(model.live_tickets()[0])


@given(sizes, policies, scripts)
@settings(max_examples=400, deadline=None)
def test_every_item_is_accepted_once_or_given_up_with_its_cause(n_items, policy, script):
    model = Model(n_items, policy)
    for kind, k in script:
        play(model, kind, k)
    finish(model)
    assert sorted([*model.accepted, *model.given_up]) == list(range(n_items))
    assert all("no luck" in cause or "gone" in cause or "hangs" in cause for cause in model.given_up.values())


@given(sizes, policies, scripts, scripts)
@settings(max_examples=100, deadline=None)
def test_after_a_drain_nothing_starts_and_what_is_in_flight_comes_back(n_items, policy, before, after):
    model = Model(n_items, policy)
    for kind, k in before:
        play(model, kind, k)
    model.drain()
    assigned = model.assignments
    for kind, k in after:
        play(model, kind, k)
    for _ in until(lambda: not model.live_tickets()):
        model.report(model.live_tickets()[-1])
    assert model.dispatch.finished and model.assignments == assigned
    assert model.dispatch.remaining == n_items - len(model.accepted) - len(model.given_up)


@given(sizes, policies, scripts)
@settings(max_examples=100, deadline=None)
def test_the_same_events_give_the_same_actions(n_items, policy, script):
    model = Model(n_items, policy)
    for kind, k in script:
        play(model, kind, k)
    again = Dispatch(some_plan(n_items), policy)
    assert [(event, now, again.on(event, now)) for event, now, _ in model.log] == model.log
    assert again.statistics == model.dispatch.statistics and again.wake_at(model.now) == model.dispatch.wake_at(
        model.now
    )


@given(st.integers(1, 40), st.sets(st.integers(0, 39)), policies)
@settings(max_examples=50, deadline=None)
def test_items_that_are_done_are_left_alone(n_items, done, policy):
    done = frozenset(item for item in done if item < n_items)
    model = Model(n_items, policy, done)
    finish(model)
    assert sorted(model.accepted) == sorted(set(range(n_items)) - done)


@given(
    st.integers(1, 60),
    st.sets(st.integers(0, 59), max_size=4),
    st.sets(st.integers(0, 59), max_size=3),
    st.lists(st.just(1), min_size=1, max_size=4) | st.lists(st.integers(1, 3), min_size=1, max_size=4),
    policies,
    st.lists(st.integers(0, 10**6), min_size=1, max_size=50),
)
@settings(max_examples=200, deadline=None)
def test_tiles_that_fail_or_kill_are_found_and_the_rest_completes(n_items, failing, killing, slots, policy, order):
    """A worker computes its oldest assignments, one per slot, front to back; one with a killing item dies there."""
    failing, killing = ({item for item in some if item < n_items} for some in (failing - killing, killing))
    model = Model(n_items, policy)
    for count in slots:
        model.join(count)
    for step, _ in enumerate(until(lambda: model.dispatch.finished)):
        model.now += 0.1
        busy = sorted(worker for worker in model.slots if model.of(worker))
        worker = busy[order[step % len(order)] % len(busy)]
        ticket = model.of(worker)[0]
        heads = model.of(worker)[: model.slots[worker]]
        if any(killing.intersection(model.tickets[head][1]) for head in heads):
            model.lose(worker, "killed")
            model.join(slots[step % len(slots)])
        elif failing.intersection(model.tickets[ticket][1]):
            items = model.tickets[ticket][1]
            first = next(k for k, item in enumerate(items) if item in failing)
            if first:
                model.report(ticket, first)
            model.report(ticket, 1, "fails")
        else:
            model.report(ticket)
    assert model.given_up.keys() >= killing | failing
    if set(slots) == {1} and policy.max_retries > policy.hedge:  # what a worker computed when it died is known
        assert model.given_up.keys() == killing | failing
        assert all("fails" in model.given_up[item] for item in failing)
    assert all("killed" in model.given_up[item] for item in killing)
    assert sorted([*model.accepted, *model.given_up]) == list(range(n_items))


def test_innocent_neighbours_of_a_killer_survive_it():
    """The items that were sent together with one that kills are sent alone afterwards, so only that one is given up."""
    model = Model(40, Policy(message_s=100.0, max_retries=2, window=2))
    model.join()
    for _ in range(3):  # grow the assignments
        model.report(model.live_tickets()[0])
    killer = model.tickets[model.live_tickets()[0]][1][3]
    losses = 0
    for _ in until(lambda: model.dispatch.finished):
        (worker,) = model.slots
        head = model.of(worker)[0]
        if killer in model.tickets[head][1]:
            losses += 1
            model.lose(worker, "out of memory")
            model.join()
        else:
            model.report(head)
    assert losses == 3 and list(model.given_up) == [killer] and "out of memory" in model.given_up[killer]
    assert len(model.accepted) == 39


def test_what_only_waited_at_a_lost_worker_costs_no_try():
    model = Model(12, Policy(max_retries=0, window=3))
    worker = model.join(2)
    first, second, *waiting = (model.tickets[ticket][1] for ticket in model.of(worker))
    assert len(waiting) == 4
    model.lose(worker)
    assert set(model.given_up) == {*first, *second}
    finish(model)
    assert len(model.accepted) == 12 - len(model.given_up)


def test_a_hung_worker_is_killed_and_its_work_goes_on_elsewhere():
    policy = Policy(hang_factor=10, hang_least_s=3.0, message_s=0.1, hedge=False)
    model = Model(30, policy)
    hung = model.join()
    other = model.join()
    for _ in range(20):
        model.now += 0.1
        if not model.of(other):
            break
        model.report(model.of(other)[0])
    assert model.dispatch.wake_at(model.now) == pytest.approx(3.0)
    model.tick(2.9 - model.now)
    assert hung in model.slots
    late = model.of(hung)[0]
    model.tick(0.11)
    assert hung not in model.slots and model.lost == {hung}
    assert "no result for 3.01 s" in model.dispatch.statistics.workers[hung].lost
    kept = model.tickets[late][1][0]
    model.report(late)  # it was slow, not hung: its result is welcome as long as it is the first
    assert kept in model.accepted
    for _ in until(lambda: model.dispatch.finished):
        model.report(model.of(other)[0])
    assert not model.given_up and sorted(model.accepted) == list(range(30))


def test_a_pool_that_cannot_kill_is_never_asked_to():
    model = Model(5, Policy(hang_factor=math.inf, hedge=False))
    model.join()
    assert model.dispatch.wake_at(0.0) is None
    model.tick(1e9)
    assert len(model.slots) == 1


def test_hedging_takes_what_waits_and_what_is_late_and_the_first_result_wins():
    policy = Policy(message_s=0.01, window=2)
    model = Model(4, policy)
    slow, fast = model.join(), model.join()
    for _ in until(lambda: model.dispatch.statistics.hedged > 0):
        model.now += 0.1
        model.report(model.of(fast)[0]) if model.of(fast) else model.tick(0.0)
    late = {item for ticket in model.of(slow) for item in model.tickets[ticket][1]}
    for _ in until(lambda: not model.of(fast)):
        model.now += 0.1
        model.report(model.of(fast)[0])
        wake = model.dispatch.wake_at(model.now)
        if not model.of(fast) and wake is not None:
            model.tick(wake - model.now)
    assert model.dispatch.finished and late <= set(model.accepted)
    for ticket in model.of(slow):
        model.report(ticket)
    assert model.duplicates == len(late)


def test_what_loses_its_copy_can_be_copied_again():
    """When a worker that held one of two copies is lost, idle workers look again at what remains."""
    model = Model(3, Policy(message_s=0.01, hang_least_s=1e6))
    names = [model.join() for _ in range(2)]
    model.now = 0.01
    model.report(model.of(names[1])[0])
    (waiting,) = model.tickets[model.of(names[1])[0]][1]  # a copy of what waits at the first worker
    assert [waiting] == model.tickets[model.of(names[0])[1]][1]
    names += [model.join() for _ in range(2)]
    model.tick(2.0)  # the first worker's other item is late by now
    assert [len(model.of(name)) for name in names] == [2, 1, 1, 0]
    model.lose(names[0])
    assert model.tickets[model.of(names[3])[0]][1] == [waiting]


def test_two_even_workers_do_nothing_twice():
    model = Model(40, Policy())
    names = [model.join(), model.join()]
    free = dict.fromkeys(names, 0.0)
    for _ in until(lambda: model.dispatch.finished):
        ends = {}
        for name in names:
            if model.of(name):
                seconds = model.plan.seconds[model.tickets[model.of(name)[0]][1]].sum()
                ends[name] = max(free[name], model.heard_at[model.of(name)[0]]) + seconds
        first = min(ends, key=ends.get)
        model.now = free[first] = ends[first]
        model.report(model.of(first)[0])
    assert model.dispatch.statistics.hedged == 0


@given(
    st.integers(1, 60),
    st.integers(0, 59),
    st.integers(1, 3),
    st.sampled_from([0.02, 0.1, 1.0, 100.0]),
    st.lists(st.integers(0, 10**6), min_size=1, max_size=50),
)
@settings(max_examples=200, deadline=None)
def test_who_only_waited_for_the_disk_is_not_given_up_for_a_killer(n_items, killer, workers, message_s, order):
    """A worker computes its second assignment while its first one is being written."""
    killer %= n_items
    model = Model(n_items, Policy(window=3, writing=1, message_s=message_s, hedge=False))
    for _ in range(workers):
        model.join()
    for step, _ in enumerate(until(lambda: model.dispatch.finished)):
        model.now += 0.1
        busy = sorted(worker for worker in model.slots if model.of(worker))
        worker = busy[order[step % len(order)] % len(busy)]
        if any(killer in model.tickets[ticket][1] for ticket in model.of(worker)[:2]):
            model.lose(worker, "killed")
            model.join()
        else:
            model.report(model.of(worker)[0])
    assert model.given_up.keys() == {killer}
    assert sorted([*model.accepted, killer]) == list(range(n_items))


def test_a_run_whose_workers_only_die_is_hopeless_and_a_lost_node_is_not():
    model = Model(1000, Policy(max_retries=2, message_s=0.01))
    names = [model.join() for _ in range(8)]
    for name in names:
        model.now += 0.1
        model.report(model.of(name)[0])
    for name in names:
        model.lose(name)
    assert model.dispatch.hopeless is None
    for k in range(24):
        assert model.dispatch.hopeless is None
        model.lose(model.join(), f"killed {k}")
    assert "24 workers" in model.dispatch.hopeless and "killed 23" in model.dispatch.hopeless
    model.join()
    model.report(model.live_tickets()[0])
    assert model.dispatch.hopeless is None


def test_one_worker_alone_retries_what_failed_on_it():
    model = Model(1, Policy(max_retries=1))
    model.join()
    model.report(0, None, "ValueError: first")
    assert model.live_tickets() == [1]
    model.report(1, None, "ValueError: second")
    assert model.given_up == {0: "ValueError: second"} and model.dispatch.finished


def test_the_size_of_assignments_follows_the_measured_speed():
    """Messages are worth as many seconds to a worker that is ten times slower than predicted as to any other."""
    model = Model(4000, Policy(message_s=5.0, hedge=False))
    pace = {model.join(): 1.0, model.join(): 10.0}
    free = dict.fromkeys(pace, 0.0)
    lasted = {name: [] for name in pace}
    for _ in range(60):
        items = {name: model.tickets[model.of(name)[0]][1] for name in pace}
        ends = {name: free[name] + pace[name] * model.plan.seconds[items[name]].sum() for name in pace}
        first = min(ends, key=ends.get)
        lasted[first].append(ends[first] - free[first])
        model.now = free[first] = ends[first]
        model.report(model.of(first)[0])
    for name in pace:
        assert np.mean(lasted[name][-10:]) == pytest.approx(5.0, rel=0.25)


def test_actions_come_in_the_order_in_which_they_are_to_be_done():
    dispatch = Dispatch(some_plan(3), Policy(message_s=0.01, max_retries=0))
    (first, *_) = dispatch.on(Joined("w", 1), 0.0)
    assert isinstance(first, Assign)
    kinds = [type(action) for action in dispatch.on(Done("w", first.ticket, first.items), 1.0)]
    assert kinds[0] is Accept and set(kinds[1:]) <= {Assign}
    assert dispatch.on(Done("w", first.ticket, first.items), 1.0) == []
    kinds = [type(action) for action in dispatch.on(Lost("w", "gone"), 2.0)]
    assert kinds and set(kinds) == {GiveUp}
    assert not {Kill, Discard} & {type(action) for action in dispatch.on(Tick(), 3.0)}


def test_rules_that_cannot_be_are_named_together():
    with pytest.raises(InvalidInputError, match="max_retries: -1, expected at least 0\nwindow: 0") as error:
        Policy(max_retries=-1, window=0, hang_factor=math.nan)
    assert "hang_factor: nan" in str(error.value)
