"""A run in virtual time: `Dispatch` decides, devices are models, SimPy keeps the clock.

One event of SimPy for each job: a device runs jobs in the order in which they arrive, so that the end of each is known when it
is submitted. What happens in between (others in the queue, an outage, a failure) is in that number.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dqk.errors import BackendUnavailableError
from dqk.qpu.profile import Outage
from dqk.scheduler import (
    Accept,
    Assign,
    Dispatch,
    Done,
    Failed,
    GiveUp,
    Joined,
    Kill,
    Lost,
    Placement,
    Plan,
    Policy,
    Ready,
    Statistics,
    Tick,
)

_FAILURES = 3  # in a row, after which `QPUPool` drains a device
_SOON_S = 1e-6


@dataclass(slots=True)
class Device:
    """A device as virtual time knows it.

    Attributes:
        name: of it.
        seconds: of the device for a job of each kind.
        follows: the same for a job that follows another one of its session; None where there are no sessions.
        session_s: length of a session.
        waits: draws how long others keep the device before a job.
        fails: draws whether a job fails.
        outages: when it runs nothing.
        latency_s: of a message, one way.
        transfer_s: seconds that the message of a job of each kind takes beside that.
        overhead_s: between two jobs.
        patience_s: a job fails that would not be taken for so long.
        free_at: when its last job ends.
        session_until: when its session ends.
        failures: jobs that failed, in a row.
        lost: whether it was given up.
    """

    name: str
    seconds: Sequence[float]
    follows: Sequence[float] | None = None
    session_s: float = math.inf
    waits: Callable[[], float] | None = None
    fails: Callable[[], bool] | None = None
    outages: tuple[Outage, ...] = ()
    latency_s: float = 0.0
    transfer_s: Sequence[float] | None = None
    overhead_s: float = 0.0
    patience_s: float = math.inf
    free_at: float = -math.inf
    session_until: float = -math.inf
    failures: int = 0
    lost: bool = False

    def up_at(self, when: float) -> float:
        """The first time from then on at which it works; infinity for never."""
        for _ in range(1000):
            left = max((outage.left_s(when) for outage in self.outages), default=0.0)
            if not left:
                return when
            when += left
        return math.inf

    def run(self, now: float, kind: int) -> tuple[float, float, float, bool]:
        """A job that is submitted now: when the device takes it, when it begins, when it ends, and whether it gives a result."""
        arrives = now + self.latency_s
        if self.transfer_s is not None:
            arrives += self.transfer_s[kind]
        if self.outages:
            submitted, arrives = arrives, self.up_at(arrives)
            if (
                arrives - submitted > self.patience_s
            ):  # the client asks when it may come back, and does not wait so long
                return submitted, submitted, submitted, False
        starts = max(arrives, self.free_at + self.overhead_s)
        if self.outages:
            starts = self.up_at(starts)
        seconds, taken = self.seconds[kind], starts
        if self.follows is not None and starts < self.session_until:
            seconds = self.follows[kind]
        else:
            self.session_until = starts + self.session_s
            if self.waits is not None:
                starts += self.waits()
        worked = self.fails is None or not self.fails()
        ends = starts + (seconds if worked else seconds / 2)
        self.free_at = ends
        return taken, starts, ends, worked


@dataclass
class Log:
    """What happened to each job: one number of each list for each. Times are virtual seconds.

    Attributes:
        item, device: which.
        submitted, taken, started, ended: see `Device.run`; in between are: the way and the wait for our own jobs, the wait for
            others, the device's time.
        worked: whether it gave a result.
        accepted: whether that was the first of its item; others are waste.
        given_up: items that failed as often as they may, or could not be done, with the cause.
        lost: devices that were given up, with the cause.
    """

    item: array[int] = field(default_factory=lambda: array("q"))
    device: array[int] = field(default_factory=lambda: array("q"))
    submitted: array[float] = field(default_factory=lambda: array("d"))
    taken: array[float] = field(default_factory=lambda: array("d"))
    started: array[float] = field(default_factory=lambda: array("d"))
    ended: array[float] = field(default_factory=lambda: array("d"))
    worked: bytearray = field(default_factory=bytearray)
    accepted: bytearray = field(default_factory=bytearray)
    given_up: dict[int, str] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.item)


@dataclass(frozen=True)
class Outcome:
    """What came of a run.

    Attributes:
        start, end: virtual seconds; the end is when the driver had the last result.
        log: of all jobs.
        statistics: of `Dispatch`.
    """

    start: float
    end: float
    log: Log
    statistics: Statistics


class VirtualRun:
    """Plays a plan through.

    Args:
        devices: that there are; what they remember goes on from run to run.
        plan: what there is to do.
        kind: of each item, as the devices count them, shape (T,).
        policy: the rules.
        placement: who may have what; None for everybody everything.
        done: items that need not be done.
        start: of the clock.
        accepted: is told (item, number of the job in the log), in the order in which results come.
        arrivals: when each item is there to be done, shape (T,); None for all from the start.
    """

    def __init__(
        self,
        devices: Sequence[Device],
        plan: Plan,
        kind: np.ndarray,
        policy: Policy,
        placement: Placement | None = None,
        done: Collection[int] = (),
        start: float = 0.0,
        accepted: Callable[[int, int], None] | None = None,
        arrivals: np.ndarray | None = None,
    ):
        self._devices = {device.name: (number, device) for number, device in enumerate(devices)}
        self._dispatch = Dispatch(plan, policy, done, arrivals is not None, placement)
        self._arrivals = arrivals
        self._kind = kind.tolist()
        self._env: Any = _simpy().Environment(initial_time=start)
        self._start = start
        self._accepted = accepted
        self._log = Log()
        self._job = -1  # whose result is being told
        self._tick_at = math.inf

    def run(self) -> Outcome:
        """To the end; items that cannot be done are in the log."""
        env, dispatch = self._env, self._dispatch
        alive = [device.name for _, device in self._devices.values() if not device.lost]
        for place, name in enumerate(alive, 1):
            self._tell(Joined(name, more=place < len(alive)))
        if self._arrivals is not None:
            for item, when in enumerate(self._arrivals.tolist()):
                self._later(max(0.0, when - env.now), item, lambda event: self._tell(Ready((event.value,))))
        step = env.step
        while not dispatch.finished and env.peek() < math.inf:
            step()
        if not dispatch.finished:
            self._strand()
        return Outcome(self._start, env.now, self._log, dispatch.statistics)

    def _strand(self) -> None:
        """Nothing will ever happen: what is open cannot be done."""
        causes = "; ".join(f"{name}: {cause}" for name, cause in self._log.lost.items()) or "no device may have it"
        state = self._dispatch.open_items()
        self._log.given_up.update(dict.fromkeys(state, f"no device is left: {causes}"))

    def _tell(self, event: Any) -> None:
        env, dispatch = self._env, self._dispatch
        now = env.now
        for action in dispatch.on(event, now):
            if type(action) is Assign:
                self._submit(action, now)
            elif type(action) is Accept:
                self._log.accepted[self._job] = 1
                if self._accepted is not None:
                    for item in action.items:
                        self._accepted(item, self._job)
            elif type(action) is GiveUp:
                self._log.given_up[action.item] = action.cause
            elif type(action) is Kill:
                self._devices[action.worker][1].lost = True
        wake = dispatch.wake_at(now)
        if wake is not None and wake < self._tick_at:
            self._tick_at = max(wake, now + _SOON_S)
            self._later(self._tick_at - now, None, self._on_tick)

    def _later(self, delay: float, value: Any, then: Callable[[Any], None]) -> None:
        self._env.timeout(delay, value).callbacks.append(then)

    def _submit(self, action: Assign, now: float) -> None:
        number, device = self._devices[action.worker]
        log = self._log
        for item in action.items:
            taken, started, ended, worked = device.run(now, self._kind[item])
            job = len(log.item)
            log.item.append(item)
            log.device.append(number)
            log.submitted.append(now)
            log.taken.append(taken)
            log.started.append(started)
            log.worked.append(worked)
            log.accepted.append(0)
            log.ended.append(ended)
            then = self._on_done if worked else self._on_failed
            self._later(ended + device.latency_s - now, (device, action.ticket, item, job), then)

    def _on_done(self, event: Any) -> None:
        device, ticket, item, job = event.value
        device.failures = 0
        self._job = job
        self._tell(Done(device.name, ticket, (item,)))

    def _on_failed(self, event: Any) -> None:
        device, ticket, item, job = event.value
        cause = "was down, for too long to wait for it," if self._log.ended[job] == self._log.started[job] else "failed"
        self._tell(Failed(device.name, ticket, (item,), f"{device.name} {cause} when it was to run the job"))
        device.failures += 1
        if device.failures >= _FAILURES:
            self._lose(device, f"{_FAILURES} jobs in a row failed")

    def _lose(self, device: Device, cause: str) -> None:
        if not device.lost:
            device.lost = True
            self._log.lost[device.name] = cause
            self._tell(Lost(device.name, cause))

    def _on_tick(self, _: Any) -> None:
        if self._env.now >= self._tick_at:
            self._tick_at = math.inf
            self._tell(Tick())


def _simpy() -> Any:
    try:
        import simpy
    except ImportError as error:
        raise BackendUnavailableError("virtual time needs SimPy: pip install 'dqk[emulate]'") from error
    return simpy
