"""The device of a service: a thread that takes one job at a time, and the time that a job takes."""

from __future__ import annotations

import random
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from dqk.errors import DQKError
from dqk.qpu.jobs import Job, JobStore
from dqk.qpu.profile import Noise, Profile
from dqk.qpu.qasm import parse

_LOOK_EVERY_S = 0.25  # for the end of an outage, or of a cancelled job


class Load:
    """The share of the last minute in which a device was busy with jobs, waits for those of others included."""

    over_s = 60.0

    def __init__(self) -> None:
        self._born = time.monotonic()
        self._spans: deque[tuple[float, float]] = deque()
        self._lock = threading.Lock()

    def add(self, begin: float, end: float) -> None:
        """A job that has ended."""
        with self._lock:
            self._spans.append((begin, end))
            while self._spans[0][1] < end - self.over_s:
                self._spans.popleft()

    def share(self, now: float, running_since: float | None) -> float:
        """From 0 to 1; a younger device is asked about its whole life."""
        start = max(self._born, now - self.over_s)
        with self._lock:
            spans = list(self._spans)
        if running_since is not None:
            spans.append((running_since, now))
        busy = sum(max(0.0, min(end, now) - max(begin, start)) for begin, end in spans)
        return min(1.0, busy / (now - start)) if now > start else 0.0


class _Cancelled(Exception):
    pass


class Machine(threading.Thread):
    """Runs jobs until it is stopped.

    Args:
        store: where the jobs are.
        profile: what the device is like.
        ended: is told the id of each job that has ended.

    Attributes:
        load: how busy it is.
        running: the job at work and when it began, of `time.monotonic`; None between jobs.
    """

    def __init__(self, store: JobStore, profile: Profile, ended: Callable[[str], None]):
        super().__init__(name="dqk-qpu", daemon=True)
        self._store, self._profile, self._ended = store, profile, ended
        self._wake = threading.Event()
        self._stopping = False
        self._session: str | None = None  # of the last job
        self._chance = random.Random(profile.failures.seed)
        self._others = profile.queue.waits()
        self.load = Load()
        self.running: tuple[Job, float] | None = None

    @property
    def noise(self) -> Noise:
        """Probabilities of errors now."""
        return self._profile.noise_at(self._store.age_s)

    def wake(self) -> None:
        """Says that there is a job, or that one was cancelled."""
        self._wake.set()

    def stop(self) -> None:
        """Ends the thread; a job that runs is left as it is, to run again when its folder is opened next."""
        self._stopping = True
        self.wake()

    def run(self) -> None:
        """Takes jobs one after the other; called by `start`."""
        while not self._stopping:
            self._wake.clear()
            outage_s = self._profile.outage_left_s(self._store.age_s)
            job = None if outage_s else self._store.take(self._session)
            if job is None:
                self._wake.wait(min(outage_s, _LOOK_EVERY_S) if outage_s else _LOOK_EVERY_S)
                continue
            began = time.monotonic()
            self.running = (job, began)
            try:
                self._run(job)
            except _Cancelled:
                pass
            except Exception as error:  # of any kind: a job must not take the device with it
                known = isinstance(error, DQKError)
                print(f"job {job.id} failed: {type(error).__name__}", file=sys.stderr, flush=True)
                self._store.fail(job.id, str(error) if known else f"the device failed: {type(error).__name__}")
            self.running = None
            self.load.add(began, time.monotonic())
            self._session = job.session
            self._ended(job.id)

    def _run(self, job: Job) -> None:
        started = time.monotonic()
        rows, follows = len(job.parameters), job.session is not None and job.session == self._session
        seconds = self._profile.times.seconds(rows, job.shots, follows)
        if not follows:
            started += self._others()
        if self._chance.random() < self._profile.failures.job:
            self._wait(job, started + seconds / 2)
            self._store.fail(job.id, "the device failed while it ran the job (injected by its profile)")
            return
        found = self._measure(job)
        self._wait(job, started + seconds)
        price = self._profile.price
        cost = price.per_job + price.per_s * seconds + price.per_shot * rows * job.shots
        self._store.finish(job.id, {job.outcome: found}, seconds, cost)

    def _measure(self, job: Job) -> list[Any]:
        from dqk.qpu._simulate import measure

        program = parse(job.qasm)
        found: list[Any] = []
        for chunk in measure(
            program,
            program.angles(job.parameters),
            job.shots,
            job.seed,
            job.outcome == "zeros",
            self.noise,
            self._profile.coupling,
        ):
            found += chunk
            if self._wake.is_set():
                self._look(job)
        return found

    def _wait(self, job: Job, until: float) -> None:
        """Waits as long as the device would work."""
        while (left := until - time.monotonic()) > 0:
            if self._wake.wait(min(left, _LOOK_EVERY_S)):
                self._look(job)

    def _look(self, job: Job) -> None:
        """Why the thread was woken."""
        self._wake.clear()
        if self._stopping or not self._store.is_running(job.id):
            raise _Cancelled
