"""The device of a service without its HTTP: whom it takes next, what it waits for, when it takes nothing."""

import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from dqk.qpu.jobs import JobStore, Request
from dqk.qpu.machine import Machine
from dqk.qpu.profile import Outage, Profile, Queue
from tests.qpu.server import until
from tests.qpu.test_service import TURN

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def store() -> Iterator[JobStore]:
    made = JobStore(None)
    yield made
    made.close()


@pytest.fixture
def started() -> Iterator[list[Machine]]:
    """Machines that are stopped in the end."""
    machines: list[Machine] = []
    yield machines
    for machine in machines:
        machine.stop()
        machine.join(10)


def submit(store: JobStore, session: str | None = None) -> str:
    request = Request(TURN, np.zeros((1, 1)), 10, 1, "zeros", session)
    return store.submit("owner", f"{store.totals()}", request, 100)[0]


def is_done(store: JobStore, job: str) -> bool:
    return store.status("owner", job)["state"] == "done"


def test_others_keep_the_device_before_a_job_but_not_within_a_session(store, started) -> None:
    """Three jobs of a session wait for others once, two without one each time; what they wait is the profile's."""
    machine = Machine(store, Profile(queue=Queue("fixed", 0.2)), lambda job: None)
    others, waits = machine._others, []
    machine._others = lambda: waits.append(others()) or waits[-1]  # type: ignore[func-returns-value]
    session = store.open_session("owner", 600.0, 1)
    jobs = [submit(store, session) for _ in range(3)] + [submit(store) for _ in range(2)]
    started.append(machine)
    began = time.monotonic()
    machine.start()
    until(lambda: all(is_done(store, job) for job in jobs))
    assert time.monotonic() - began >= 3 * 0.2
    assert waits == [0.2, 0.2, 0.2]


def test_an_outage_holds_what_is_queued_already(store, started) -> None:
    machine = Machine(store, Profile(outage=(Outage(0.0, 3600.0),)), lambda job: None)
    looks, take = [], store.take
    store.take = lambda session: looks.append(session) or take(session)  # type: ignore[func-returns-value,method-assign]
    job = submit(store)
    started.append(machine)
    machine.start()
    for _ in range(20):
        machine.wake()
        time.sleep(0.01)
    assert not looks and store.status("owner", job)["state"] == "queued"
    store.born -= 3600.0  # an hour later
    until(lambda: is_done(store, job))
    assert looks


def test_a_session_that_is_closed_has_no_precedence(store) -> None:
    session = store.open_session("owner", 600.0, 1)
    first, later = submit(store), submit(store, session)
    assert store.take(session).id == later  # type: ignore[union-attr]
    last = submit(store, session)
    store.close_session("owner", session)
    assert [store.take(session).id for _ in range(2)] == [first, last]  # type: ignore[union-attr]


def test_jobs_fail_as_often_as_the_profile_says_and_the_same_each_time(store, started) -> None:
    """Against the profile's own chance: which of 40 fail is fixed by its seed."""
    profile = Profile()
    profile = replace(profile, failures=replace(profile.failures, job=0.3, seed=5))
    jobs = [submit(store) for _ in range(40)]
    started.append(Machine(store, profile, lambda job: None))
    started[0].start()
    until(lambda: all(store.status("owner", job)["state"] in ("done", "failed") for job in jobs))
    import random

    chance = random.Random(5)
    expected = ["failed" if chance.random() < 0.3 else "done" for _ in jobs]
    assert [store.status("owner", job)["state"] for job in jobs] == expected
