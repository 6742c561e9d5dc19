"""Several quantum processors as workers of one pool: each pulls jobs at its own speed.

Choose it where one matrix is measured by a fleet. A processor that stops answering, fails one job after the other or is found
out of calibration is drained: what it had goes to the others.
"""

from __future__ import annotations

import math
import queue
import re
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dqk._measure import Device
from dqk._task import run_task
from dqk._wire import pack, unpack
from dqk.backends.resolve import resolve
from dqk.backends.sampled import DeviceLimits, SampledBackend
from dqk.circuit import Circuit, Gate, data
from dqk.cluster import Arrays, Done, Failed, Joined, Lost, PoolEvent, Worker, WorkerPool
from dqk.errors import ClusterError, InvalidInputError, cause
from dqk.qpu.records import service_url

_IN_FLIGHT = 2  # jobs at a processor: one runs, one waits there, so that none is idle between two
_FAILURES = 3  # in a row, after which a processor is drained
_CHECK_SHOTS = 500
_THIS_MACHINE = re.compile(r"//(localhost|127\.0\.0\.1|\[::1\])(?![^:/])")


@dataclass
class QPUReport:
    """What one processor did.

    Attributes:
        name: of the backend, such as `qpu:http://127.0.0.1:8000`.
        jobs: that it gave results for.
        seconds: from the submission of each to its result, in all.
        fidelity: of the last check of its calibration: k(x, x), which is 1 without errors; None without checks.
        drained: why it gets no more work; None if it does.
    """

    name: str
    jobs: int = 0
    seconds: float = 0.0
    fidelity: float | None = None
    drained: str | None = None


@dataclass
class _QPU:
    worker: Worker
    backend: SampledBackend
    report: QPUReport
    threads: ThreadPoolExecutor
    events: queue.SimpleQueue[PoolEvent]
    failures: int = 0
    checked: float = -math.inf
    check_ordered: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)
    checking: threading.Lock = field(default_factory=threading.Lock)


class QPUPool(WorkerPool):
    """Quantum processors, each known by the name of a backend.

    Args:
        qpus: names of backends that measure, such as `qpu:http://127.0.0.1:8000`; a URL alone will do.
        least_fidelity: checks each processor's calibration when it joins and every `check_s`: it measures k(x, x), which is 1
            without errors, and is drained if it finds less than this. None for no checks. A check takes 500 shots of the budget.
        check_s: seconds between two checks.

    Example:
        >>> pool = QPUPool(["http://127.0.0.1:8001", "http://127.0.0.1:8002"])  # connects when it is entered
        >>> pool
        QPUPool(['qpu:http://127.0.0.1:8001', 'qpu:http://127.0.0.1:8002'])
    """

    name = "qpu"
    kills = False
    by_name = False

    def __init__(self, qpus: Sequence[str], least_fidelity: float | None = None, check_s: float = 60.0):
        if isinstance(qpus, str) or not qpus or not all(isinstance(name, str) for name in qpus):
            raise InvalidInputError(f"qpus is {qpus!r}, expected URLs of QPU services or names of backends, in a list")
        if least_fidelity is not None and not 0 < least_fidelity <= 1:
            raise InvalidInputError(f"least_fidelity is {least_fidelity!r}, expected a number above 0 and at most 1")
        self.names = [_backend_name(name) for name in qpus]
        for place, name in enumerate(self.names):
            first = next(k for k, other in enumerate(self.names) if _same(other, name))
            if first < place:
                raise InvalidInputError(
                    f"a QPU is named twice: {qpus[first]} and {qpus[place]} are the same processor; name each one once"
                )
        self.least_fidelity, self.check_s = least_fidelity, check_s
        self._qpus: dict[str, _QPU] = {}
        self._arrays: dict[str, Arrays] = {}
        self._events: queue.SimpleQueue[PoolEvent] = queue.SimpleQueue()
        self._device: Device | None = None
        self.reports: list[QPUReport] = []

    def __repr__(self) -> str:
        return f"QPUPool({self.names!r})"

    @property
    def device(self) -> Device:
        """All processors as one device, whose jobs each of them takes."""
        if self._device is None:
            raise InvalidInputError(
                "the QPU pool is not open; use it inside a block: with pool: gram(..., executor=pool)"
            )
        return self._device

    def backend_of(self, worker: str) -> str | None:
        """The processor's backend."""
        return self._qpus[worker].report.name if worker in self._qpus else None

    def due_check(self, worker: str) -> int:
        """See `WorkerPool.due_check`."""
        qpu = self._qpus.get(worker)
        due = self.least_fidelity is not None and qpu is not None and not qpu.check_ordered
        return _CHECK_SHOTS if due and qpu and time.monotonic() - qpu.checked >= self.check_s else 0

    def order_check(self, worker: str) -> None:
        """See `WorkerPool.order_check`."""
        self._qpus[worker].check_ordered = True

    def start(self) -> None:
        """Asks every processor for its limits; one that does not answer is drained at once."""
        self.reports, self._events = [], queue.SimpleQueue()  # threads of an earlier opening have their own queue
        for number, name in enumerate(self.names):
            report = QPUReport(name)
            self.reports.append(report)
            try:
                backend = resolve(name, Circuit(1, ()))
                if not isinstance(backend, SampledBackend):
                    raise InvalidInputError(f"backend {name!r} measures no circuits, expected a QPU")
                backend.limits  # noqa: B018  # asks the processor
            except ClusterError as error:
                report.drained = str(error)
                continue
            worker = Worker(f"qpu-{number}", 1, name)
            threads = ThreadPoolExecutor(_IN_FLIGHT, thread_name_prefix=f"dqk-{worker.id}")
            self._qpus[worker.id] = _QPU(worker, backend, report, threads, self._events)
            self._events.put(Joined(worker))
        if not self._qpus:
            causes = "; ".join(f"{report.name}: {report.drained}" for report in self.reports)
            raise ClusterError(f"no QPU answers: {causes}")
        backends = [qpu.backend for qpu in self._qpus.values()]
        exact = all(backend.capabilities.exact for backend in backends)

        def check(circuit: Circuit) -> None:
            for backend in backends:
                backend.check_supported(circuit)

        self._device = Device("qpu", _common([backend.limits for backend in backends]), exact, check=check)

    def workers(self) -> tuple[Worker, ...]:
        """The processors that are not drained."""
        return tuple(qpu.worker for qpu in self._qpus.values())

    def put(self, digest: str, arrays: Arrays) -> None:
        """Keeps a reference."""
        self._arrays[digest] = arrays

    def drop(self, digest: str) -> None:
        """Lets go of it."""
        self._arrays.pop(digest, None)

    def submit(self, worker: str, ticket: int, task: bytes) -> None:
        """Has one of the processor's threads submit the task's jobs and wait for them."""
        qpu = self._qpus.get(worker)
        if qpu is None:  # drained since the caller heard of it
            self._events.put(Done(worker, ticket, _unsubmitted(task)))
        else:
            qpu.threads.submit(self._run, qpu, ticket, task)

    def _run(self, qpu: _QPU, ticket: int, task: bytes) -> None:
        began = time.monotonic()
        try:
            self._check(qpu)
            if qpu.report.drained:
                qpu.events.put(Done(qpu.worker.id, ticket, _unsubmitted(task)))
                return
            event: Done | Failed = Done(qpu.worker.id, ticket, run_task(task, self._arrays))
        except BaseException as error:
            event = Failed(qpu.worker.id, ticket, cause(error))
        failed = event.cause if isinstance(event, Failed) else _why_all_failed(event.result)
        with qpu.lock:
            qpu.failures = 0 if failed is None else qpu.failures + 1
            if failed is None:
                qpu.report.jobs += 1
                qpu.report.seconds += time.monotonic() - began
            ended = qpu.failures >= _FAILURES
        silent = failed is not None and not qpu.backend.answers()
        if silent:  # told before the failure, so that the job is not given to it again, and paid for
            self._drain(qpu, "it does not answer")
        elif ended:
            self._drain(qpu, f"{_FAILURES} jobs in a row failed, the last one: {failed}")
        qpu.events.put(event)

    def _check(self, qpu: _QPU) -> None:
        """Measures what should be 1, when it was ordered; no other job of the processor begins meanwhile."""
        if self.least_fidelity is None:
            return
        with qpu.checking:
            if qpu.check_ordered and not qpu.report.drained:
                try:
                    self._measure_one(qpu, self.least_fidelity)
                finally:
                    qpu.check_ordered = False

    def _measure_one(self, qpu: _QPU, least: float) -> None:
        width = min(4, qpu.backend.capabilities.max_qubits or 4)
        angles = np.full((1, 2 * width), 1.0)
        found = float(qpu.backend.run(_probe(width), angles, angles, np.zeros(0), _CHECK_SHOTS)[0])
        qpu.report.fidelity, qpu.checked = found, time.monotonic()
        if found < least:
            self._drain(qpu, f"out of calibration: k(x, x) is {found:.3f}, expected at least {least:g}")

    def _drain(self, qpu: _QPU, why: str) -> None:
        with qpu.lock:
            if not qpu.report.drained:
                qpu.events.put(Lost(qpu.worker.id, why))
                qpu.report.drained = why

    def poll(self, timeout_s: float) -> list[PoolEvent]:
        """What the processors' threads have to tell."""
        events: list[PoolEvent] = []
        if not self._qpus and self._events.empty():
            causes = "; ".join(f"{report.name}: {report.drained}" for report in self.reports)
            raise ClusterError(f"no QPU is left: {causes}")
        try:
            events.append(self._events.get(timeout=timeout_s) if timeout_s > 0 else self._events.get_nowait())
            while True:
                events.append(self._events.get_nowait())
        except queue.Empty:
            pass
        for event in events:
            if isinstance(event, Lost):
                gone = self._qpus.pop(event.worker)
                gone.threads.shutdown(wait=False, cancel_futures=True)
                gone.backend.close()
        return events

    def kill(self, worker: str) -> None:
        """Does nothing: a job at a processor is waited for."""

    def close(self) -> None:
        """Lets threads end that wait for results; jobs that were submitted stay at the processors."""
        for qpu in self._qpus.values():
            qpu.threads.shutdown(wait=False, cancel_futures=True)
            qpu.backend.close()
        self._qpus, self._device = {}, None


def _backend_name(qpu: str) -> str:
    """The backend's name for what a user names: for a service the one that logs and stores have."""
    is_service = qpu.lower().startswith(("qpu:", "http://", "https://"))
    return f"qpu:{service_url(qpu.removeprefix('qpu:'))}" if is_service else qpu


def _same(one: str, other: str) -> bool:
    """Whether two names stand for one processor: names of this machine for itself count as one."""
    return _THIS_MACHINE.sub("//localhost", one) == _THIS_MACHINE.sub("//localhost", other)


def _unsubmitted(task: bytes) -> bytes:
    """The answer for a task whose jobs were not submitted: they cost nothing."""
    items = [item for item, *_ in unpack(task)[0]["entries"]]
    return pack({"failed": [(item, "its processor was drained") for item in items], "uncharged": items}, {})


def _why_all_failed(result: Any) -> str | None:
    """The cause if all jobs of a task failed; None if not."""
    document, arrays = unpack(result)
    return str(document["failed"][0][1]) if document.get("failed") and not arrays else None


def _common(limits: list[DeviceLimits]) -> DeviceLimits:
    """What every processor takes; seconds and prices are the largest, so that a budget holds wherever a job goes."""
    currencies = {one.currency for one in limits if one.priced}
    if len(currencies) > 1:
        raise InvalidInputError(
            f"QPUs with prices in {' and '.join(sorted(currencies))}; use those of one currency together"
        )
    return DeviceLimits(
        max_circuits_per_job=_least(one.max_circuits_per_job for one in limits),
        max_shots=_least(one.max_shots for one in limits),
        seeded=all(one.seeded for one in limits),
        recovers=all(one.recovers for one in limits),
        priced=any(one.priced for one in limits),
        job_s=max(one.job_s for one in limits),
        circuit_s=max(one.circuit_s for one in limits),
        shot_s=max(one.shot_s for one in limits),
        price_per_job=max(one.price_per_job for one in limits),
        price_per_s=max(one.price_per_s for one in limits),
        price_per_shot=max(one.price_per_shot for one in limits),
        currency=next(iter(currencies), ""),
    )


def _least(bounds: Iterable[int | None]) -> int | None:
    return min((bound for bound in bounds if bound is not None), default=None)


def _probe(width: int) -> Circuit:
    """Rotations by 1 about y and z on every qubit: undone by their inverses, they leave 0...0."""
    gates = [Gate(name, (q,), data(2 * q + k)) for q in range(width) for k, name in enumerate(("ry", "rz"))]
    entanglers = [Gate("cx", (q, q + 1)) for q in range(width - 1)]
    return Circuit(width, (*gates, *entanglers), 2 * width)
