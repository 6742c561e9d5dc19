"""Runs in virtual time: queueing theory's waiting times, conservation, determinism, outages, failures, and speed."""

import math
import random
import resource
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dqk.qpu._virtual import Device, VirtualRun
from dqk.qpu.profile import Outage
from dqk.scheduler import STRATEGIES, Demand, Offer, Plan, Policy

POLICY = Policy(message_s=0.0, hedge=False, hang_factor=math.inf)


def plan_of(seconds: np.ndarray) -> Plan:
    return Plan(np.zeros((len(seconds), 2), np.int32), seconds, 1)


def exponential(seed: int, mean: float):
    chance = random.Random(seed)
    return lambda: chance.expovariate(1 / mean)


def mean_and_deviation(waits: np.ndarray, batches: int = 25) -> tuple[float, float]:
    """By batch means, since waiting times follow from one another."""
    means = waits[: len(waits) // batches * batches].reshape(batches, -1).mean(axis=1)
    return means.mean(), means.std(ddof=1) / math.sqrt(batches)


def erlang_wait(servers: int, load: float) -> float:
    """Mean waiting time of M/M/c with service rate 1 and arrival rate `load` (Erlang's C formula)."""
    below = sum(load**k / math.factorial(k) for k in range(servers))
    last = load**servers / math.factorial(servers) * servers / (servers - load)
    return last / (below + last) / (servers - load)


@pytest.mark.parametrize("servers, load", [(1, 0.5), (1, 0.8), (3, 2.1), (8, 6.4)])
def test_waiting_times_of_queueing_theory(servers, load) -> None:
    """M/M/1 and M/M/c: Poisson arrivals, exponential service, one queue, in which `Dispatch` holds what waits."""
    count = 30_000
    arrivals = np.cumsum(np.random.default_rng(servers).exponential(1 / load, count))
    devices = [Device(f"q{k}", (0.0,), waits=exponential(100 * servers + k, 1.0)) for k in range(servers)]
    policy = Policy(message_s=0.0, window=1, hedge=False, hang_factor=math.inf)
    run = VirtualRun(devices, plan_of(np.ones(count)), np.zeros(count, int), policy, arrivals=arrivals)
    log = run.run().log
    waits = np.zeros(count)
    waits[np.array(log.item)] = np.array(log.taken) - arrivals[np.array(log.item)]
    assert len(log) == count and waits.min() >= -1e-9
    mean, deviation = mean_and_deviation(waits)
    expected = erlang_wait(servers, load)
    if servers == 1:
        assert expected == pytest.approx(load / (1 - load))
    assert abs(mean - expected) < 3 * deviation < 0.35 * expected


def test_a_queue_at_one_device_is_first_come_first_served() -> None:
    """M/M/1 once more, at a device that is sent everything as it arrives."""
    count, load = 40_000, 0.7
    arrivals = np.cumsum(np.random.default_rng(0).exponential(1 / load, count))
    device = Device("q", (0.0,), waits=exponential(5, 1.0))
    taken = np.array([device.run(now, 0)[0] for now in arrivals.tolist()])
    mean, deviation = mean_and_deviation(taken - arrivals)
    assert (np.diff(taken) >= 0).all()
    assert abs(mean - load / (1 - load)) < 3 * deviation < 0.35 * load / (1 - load)


kinds_of_devices = st.builds(
    dict,
    speed=st.floats(0.2, 5.0),
    fails=st.sampled_from([0.0, 0.0, 0.1, 0.4]),
    able=st.sampled_from([3, 3, 2, 1]),
    outage=st.sampled_from([None, None, (3.0, 5.0, None), (1.0, 2.0, 6.0), (2.0, 1e9, None)]),
)


@given(
    st.sampled_from(sorted(STRATEGIES)),
    st.lists(kinds_of_devices, min_size=1, max_size=6),
    st.integers(1, 80),
    st.integers(0, 2**31),
)
@settings(max_examples=150, deadline=None)
def test_every_item_once_whatever_happens(name, given_devices, count, seed) -> None:
    """Done once or given up with a cause; the log has every job; the same seed gives the same run."""
    strategy = STRATEGIES[name]
    given_devices[0]["able"] = 3  # what nobody could do is refused, see the tests of strategies

    def play():
        rng = np.random.default_rng(seed)
        kind = rng.integers(0, 3, count)
        devices, offers = [], []
        for number, one in enumerate(given_devices):
            seconds = tuple(float(k + 1) / one["speed"] if k < one["able"] else math.inf for k in range(3))
            chance = random.Random(seed + number)
            outage = () if one["outage"] is None else (Outage(*one["outage"]),)
            devices.append(
                Device(
                    f"q{number}",
                    seconds,
                    waits=exponential(seed + number, 0.2),
                    fails=(lambda c=chance, limit=one["fails"]: c.random() < limit),
                    outages=outage,
                    latency_s=0.01,
                    patience_s=10.0,
                )
            )
            offers.append(Offer(f"q{number}", seconds, (1.0,) * 3, error=number / 10, simulates=number % 2 == 1))
        placement = strategy.placement(Demand(kind, rng.permutation(count) / count), offers)
        policy = Policy(message_s=0.0, hedge=strategy.hedge, hang_factor=math.inf)
        accepted = []
        run = VirtualRun(
            devices, plan_of(1.0 + kind), kind, policy, placement, accepted=lambda i, j: accepted.append((i, j))
        )
        return accepted, run.run()

    accepted, outcome = play()
    log = outcome.log
    times = Counter(item for item, _ in accepted)
    assert max(times.values(), default=0) <= 1
    assert set(times) | set(log.given_up) == set(range(count)) and not set(times) & set(log.given_up)
    assert all(log.given_up.values())
    assert sum(log.accepted) == len(accepted) and all(
        log.item[job] == item and log.worked[job] for item, job in accepted
    )
    assert np.isfinite(np.array(log.ended)).all()  # nobody gets what it cannot do
    columns = (np.array(part) for part in (log.submitted, log.taken, log.started, log.ended))
    submitted, taken, started, ended = columns
    assert (submitted <= taken).all() and (taken <= started).all() and (started <= ended).all()
    for device in range(len(given_devices)):  # one job at a time
        own = np.array(log.device) == device
        really = own & (ended > started)
        assert (taken[really][1:] >= ended[really][:-1] - 1e-9).all()
    if not any(one["fails"] or one["outage"] for one in given_devices):
        assert not log.given_up
    again, other = play()
    assert again == accepted and other.log == log and other.end == outcome.end


def test_an_outage_delays_jobs_and_a_long_one_loses_the_device() -> None:
    up, down = Device("up", (1.0,)), Device("down", (1.0,), outages=(Outage(2.5, 10.0),), patience_s=30.0)
    outcome = VirtualRun([up, down], plan_of(np.ones(20)), np.zeros(20, int), POLICY).run()
    log = outcome.log
    begun = [log.started[job] for job in range(len(log)) if log.device[job] == 1]
    assert outcome.statistics.accepted == 20 and not log.lost
    assert begun[:3] == [0.0, 1.0, 2.0] and all(b >= 12.5 for b in begun[3:]) and begun[3:]  # one that runs goes on
    gone = Device("gone", (1.0,), outages=(Outage(2.5, 1000.0),), patience_s=30.0)
    fresh = Device("up", (1.0,))
    outcome = VirtualRun([fresh, gone], plan_of(np.ones(20)), np.zeros(20, int), POLICY).run()
    assert outcome.statistics.accepted == 20 and "3 jobs in a row failed" in outcome.log.lost["gone"]


def test_an_outage_of_everything_is_said() -> None:
    devices = [Device(f"q{k}", (1.0,), outages=(Outage(0.0, 1e9),), patience_s=30.0) for k in range(3)]
    outcome = VirtualRun(devices, plan_of(np.ones(10)), np.zeros(10, int), POLICY).run()
    assert outcome.statistics.accepted == 0 and set(outcome.log.given_up) == set(range(10))
    assert set(outcome.log.lost) == {"q0", "q1", "q2"}
    assert any("no device is left" in cause for cause in outcome.log.given_up.values())


def test_sessions_skip_the_queue_and_the_overhead_until_they_end() -> None:
    device = Device("q", (2.0,), follows=(1.0,), session_s=5.0, waits=lambda: 10.0)
    spans = [device.run(0.0, 0) for _ in range(8)]
    # A session of 5 s is over while its first job is still waiting.
    assert [(start - taken, end - start) for taken, start, end, _ in spans] == [(10.0, 2.0)] * 8
    device = Device("q", (2.0,), follows=(1.0,), session_s=30.0, waits=lambda: 10.0)
    spans = [device.run(0.0, 0) for _ in range(25)]
    lengths = [(start - taken, end - start) for taken, start, end, _ in spans]
    assert lengths[0] == (10.0, 2.0) and lengths[1:19] == [(0.0, 1.0)] * 18 and lengths[19] == (10.0, 2.0)


BIG = """
import sys, random, numpy as np, math, time, resource
from dqk.qpu._virtual import Device, VirtualRun
from dqk.scheduler import Plan, Policy
workers, tiles = 10_000, 1_000_000
chance = random.Random(0)
devices = [Device(f"q{k}", (10 * chance.uniform(0.3, 3),), waits=random.Random(k).random, latency_s=0.01) for k in range(workers)]
plan = Plan(np.zeros((tiles, 2), np.int32), np.full(tiles, 10.0), 1)
began = time.process_time()
outcome = VirtualRun(devices, plan, np.zeros(tiles, int), Policy(message_s=0.0, hedge=False, hang_factor=math.inf)).run()
print(time.process_time() - began, sum(outcome.log.accepted), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_ten_thousand_devices_and_a_million_tiles() -> None:
    """Under 60 s and 4 GiB; in processor time, since others may use the machine."""
    done = subprocess.run([sys.executable, "-c", BIG], capture_output=True, text=True, timeout=280, check=True)
    seconds, accepted, kib = (float(text) for text in done.stdout.split())
    assert accepted == 1_000_000
    assert seconds < 60 and kib < 4 * 2**20


def test_a_thousand_devices() -> None:
    """Little memory, and nobody waits for more than the slowest device's last jobs."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    devices = [Device(f"q{k}", (1.0 + k % 7,)) for k in range(1000)]
    outcome = VirtualRun(devices, plan_of(np.ones(30_000)), np.zeros(30_000, int), POLICY).run()
    assert sum(outcome.log.accepted) == 30_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024
    speed = sum(1 / (1.0 + k % 7) for k in range(1000))
    assert 30_000 / speed <= outcome.end <= 30_000 / speed + 14
