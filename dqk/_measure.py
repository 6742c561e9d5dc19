"""Circuits to devices, in jobs: what a kernel matrix, a time step or a gradient asks a quantum processor for.

Rows are cut into jobs in the order in which they come, as many in each as the device takes, so that which circuit is in which
job, and its seed, depend on the problem alone: not on the number of devices, nor on what was done before a crash.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dqk._budget import Budget
from dqk._entries import named, opened
from dqk._pooled import Executor, digest_of, shipped
from dqk._run import Observer, Work, run
from dqk._wire import pack
from dqk.backends.sampled import DeviceLimits, SampledBackend
from dqk.circuit import Circuit
from dqk.cluster import Arrays, WorkerPool
from dqk.errors import BudgetError, DQKError, TileError, UnsupportedError
from dqk.scheduler import Placement, Plan, Policy
from dqk.store.jobs import JobLog, JobRecord

_ROWS = 1024  # of a job, where the device sets no limit
_LEAST_S = 1e-4  # predicted for a row of which nothing is known


@dataclass(frozen=True)
class Device:
    """What measures.

    Attributes:
        name: by which workers open the backend.
        limits: what a job may be.
        exact: whether it gives probabilities where no shots are asked for.
        label: what stores and messages call it.
        backend: the object that a name of this process stands for, so that it lives; None for a name that travels.
        check: raises UnsupportedError for a circuit that it cannot run.
    """

    name: str
    limits: DeviceLimits
    exact: bool
    label: str = ""
    backend: SampledBackend | None = None
    check: Callable[[Circuit], None] = lambda circuit: None

    @classmethod
    def of(cls, backend: SampledBackend, name: str | None) -> Device:
        """A backend, and the name that it was asked for by; None for an object, which stays in this process."""
        own = named(backend) if name is None else name
        kept = None if name else backend
        exact = backend.capabilities.exact
        return cls(own, backend.limits, exact, name or backend.name, kept, backend.check_supported)


def job_rows(limits: DeviceLimits, wanted: int | None) -> int:
    """Circuits of a full job on such a device; `wanted` asks for fewer than it takes."""
    most = limits.max_circuits_per_job or wanted or _ROWS
    return min(wanted or most, most)


@dataclass
class Measurement:
    """A circuit and who measures it.

    Attributes:
        device: what measures.
        circuit: simplified.
        shared: shared angles, shape (A_s,).
        executor: who runs the jobs.
        seed: of all measurements; None for a new one each time.
        rows: circuits of a job at most; None for what the device takes.
        budget: what may be spent.
        log: of the jobs.
        observers: of the run.
        placement: makes of the jobs' rows and all rows' shots who may have which job; None for whoever has room.
        hedge: whether idle devices get copies of what is late; None for where that costs nothing.
    """

    device: Device
    circuit: Circuit
    shared: np.ndarray
    executor: Executor
    seed: int | None = None
    rows: int | None = None
    budget: Budget = field(default_factory=Budget)
    log: JobLog = field(default_factory=lambda: JobLog(None))
    observers: Sequence[Observer] = ()
    placement: Callable[[list[np.ndarray], np.ndarray | None], Placement | None] | None = None
    hedge: bool | None = None

    @property
    def most_shots(self) -> int | None:
        """Measurements of one circuit at most; None for any number."""
        return self.device.limits.max_shots

    @property
    def job_rows(self) -> int:
        """Circuits of a full job."""
        return job_rows(self.device.limits, self.rows)

    def frequencies(
        self,
        left: np.ndarray,
        right: np.ndarray,
        shots: np.ndarray | None,
        stage: str = "0",
        needed: np.ndarray | None = None,
        arrived: Callable[[np.ndarray, np.ndarray], None] = lambda rows, found: None,
    ) -> np.ndarray:
        """How often each row is found as 0...0.

        Args:
            left: data angles of x, shape (P, A_d).
            right: data angles of y, shape (P, A_d).
            shots: of each row, shape (P,); rows of equal shots share jobs. None for probabilities.
            stage: tells this call from others about the same problem, in the log and for the seed.
            needed: which rows are asked for, shape (P,); the others need not be measured. None for all.
            arrived: is called with row numbers and their frequencies, once for each job.

        Returns:
            Relative frequencies or probabilities, shape (P,), NaN where a row was not needed and not measured.

        Raises:
            BudgetError: if the budget does not cover all.
            TileError: if jobs failed as often as they may.
            UnsupportedError: if the device takes no such shots, or says that it cannot run the circuit.
        """
        self._check(shots)
        jobs = cut_jobs(shots, len(left), self.job_rows)
        found = np.full(len(left), np.nan)
        work = _Jobs(self, jobs, shots, left, right, stage, found, arrived)
        if not jobs:
            return found
        done = work.known(needed)
        placement = None if self.placement is None else self.placement(jobs, shots)

        def drive(pool: WorkerPool) -> Arrays:
            work.pool = pool
            done.extend(work.recovered(pool))
            self.afford(*work.least_cost(done))
            with shipped(pool, work.digest, work.arrays):
                try:
                    run(pool, work.plan, work, self._policy(), done, self.observers, placement)
                except BudgetError as error:
                    raise BudgetError(f"{error}; {self._kept(found)}") from error
                except TileError as error:
                    if work.unsupported is None or np.isfinite(found).any():
                        raise
                    raise UnsupportedError(work.unsupported) from error
            return {"found": found}

        problem = digest_of({"left": left, "right": right, **work.arrays})
        found[:] = self.executor.everywhere(f"{problem} {stage}", drive)["found"]
        return found

    def afford(self, jobs: int, circuits: int, shots: int) -> None:
        """Refuses, before anything is submitted, what costs more than is left if nothing fails.

        Raises:
            BudgetError: says what it costs.
        """
        seconds, what = self.device.limits.seconds(circuits, shots, jobs), f"{jobs:,} job{'s' * (jobs != 1)}"
        try:
            self.budget.require(f"nothing was submitted: what is left to measure ({what}) needs", shots, seconds)
        except BudgetError as error:
            raise BudgetError(f"{error}; {self.budget.enough(shots, seconds)}") from None

    def afford_stages(self, count: int, pilot: int, total: int) -> None:
        """The same for a pilot of so many shots for each of `count` circuits, and a second stage with the rest of `total`.

        Of what an earlier run began every stage is looked at by itself.
        """
        if not self.budget.jobs:
            rest = total - pilot * count
            rest = rest if self.most_shots is None else min(rest, self.most_shots * count)
            self.afford(2 * -(-count // self.job_rows), 2 * count, pilot * count + rest)

    def _kept(self, found: np.ndarray) -> str:
        """What became of results that a budget did not let be completed."""
        known = f"{np.isfinite(found).sum():,} of {len(found):,} circuits were measured"
        if self.log.path is None:
            return (
                f"{known}, and are lost: measure into a store (store='K.zarr'), which a larger budget goes on with, or give a "
                "larger budget from the start"
            )
        return f"{known} and are kept in the store: give a larger budget, and --resume (resume=True) goes on with it"

    def _check(self, shots: np.ndarray | None) -> None:
        limits, label = self.device.limits, self.device.label or self.device.name
        if shots is None and not self.device.exact:
            raise UnsupportedError(f"backend {label!r} measures: give shots=1000, say")
        if self.budget.seconds is not None and not limits.seconds(1, 1):
            raise UnsupportedError(
                f"a budget of {self.budget.seconds:g} s, but {label!r} names no times; give a budget of shots instead"
            )
        if shots is not None and len(shots) and limits.max_shots is not None and shots.max() > limits.max_shots:
            raise UnsupportedError(
                f"{shots.max():,} shots for one circuit, {label!r} takes at most {limits.max_shots:,}; give fewer"
            )

    def _policy(self) -> Policy:
        limits = self.device.limits
        # Of a device that does not say how long it takes nobody knows when it is late.
        free = self.budget.shots is None and self.budget.seconds is None
        hedge = not limits.priced and limits.seconds(1, 1) > 0 and free if self.hedge is None else self.hedge
        return Policy(message_s=0.0, hedge=hedge, hang_factor=math.inf)


def cut_jobs(shots: np.ndarray | None, count: int, rows: int) -> list[np.ndarray]:
    """Row numbers of each job: rows of equal shots together, most shots first, otherwise in their order.

    Args:
        shots: of each row, shape (count,); those without any are in no job. None where probabilities are asked for.
        count: of rows.
        rows: of a job at most.
    """
    if shots is None:
        groups = [np.arange(count)]
    else:
        groups = [np.flatnonzero(shots == level) for level in np.unique(shots)[::-1] if level > 0]
    return [group[start : start + rows] for group in groups for start in range(0, len(group), rows)]


class _Jobs(Work):
    """Jobs as items of a run."""

    unit = "jobs"

    def __init__(
        self,
        measurement: Measurement,
        jobs: list[np.ndarray],
        shots: np.ndarray | None,
        left: np.ndarray,
        right: np.ndarray,
        stage: str,
        found: np.ndarray,
        arrived: Callable[[np.ndarray, np.ndarray], None],
    ):
        m = measurement
        self.measurement, self.jobs, self.stage, self.found, self.arrived = m, jobs, stage, found, arrived
        self.left, self.right = left, right
        self.shots = [None if shots is None else int(shots[rows[0]]) for rows in jobs]
        spec = {"backend": m.device.name, "circuit": m.circuit.to_dict()}
        self.arrays = {"spec": np.frombuffer(json.dumps(spec).encode(), np.uint8), "shared": m.shared}
        self.digest = digest_of(self.arrays)
        self.pool: WorkerPool | None = None
        limits = m.device.limits
        seconds = [
            limits.seconds(len(rows), len(rows) * (shots or 0)) + _LEAST_S * len(rows)
            for rows, shots in zip(jobs, self.shots, strict=True)
        ]
        numbers = np.arange(len(jobs), dtype=np.int32)
        self.plan = Plan(np.stack([numbers, numbers], axis=1), np.array(seconds), m.job_rows)
        self.again: dict[int, JobRecord] = {}  # open intents of an earlier run
        self.tries: dict[int, int] = {}
        self.unsupported: str | None = None  # what a device said that it cannot do

    def known(self, needed: np.ndarray | None) -> list[int]:
        """Items that need not be measured: their results are in the log, or nobody asks for their rows."""
        m, done = self.measurement, []
        for item, rows in enumerate(self.jobs):
            record = m.log.records.get(self._key(item))
            if record is not None and record.frequencies is not None and len(record.frequencies) == len(rows):
                self._keep(item, record.frequencies)
                done.append(item)
            elif needed is not None and not needed[rows].any():
                done.append(item)
            elif record is not None:
                self.again[item] = record
                self.tries[item] = record.intents
        return done

    def recovered(self, pool: WorkerPool) -> list[int]:
        """Items whose jobs were submitted by an earlier run, found again where they were submitted: they cost nothing more.

        Asked from this process, as it can where workers are its own threads; elsewhere such jobs are measured again.
        """
        m, found = self.measurement, []
        if pool.name not in ("inline", "qpu"):
            return []
        here = {pool.backend_of(worker.id) or m.device.name for worker in pool.workers()}
        for item, record in self.again.items():
            if record.worker in here:
                with contextlib.suppress(DQKError):  # unknown there, or failed: measured again
                    frequencies = self._ask(item, record)
                    if frequencies is not None and len(frequencies) == len(self.jobs[item]):
                        m.log.result(self._key(item), frequencies)
                        self._keep(item, frequencies)
                        found.append(item)
        return found

    def _ask(self, item: int, record: JobRecord) -> np.ndarray | None:
        """What a job gave that was submitted before, by the device's own name of it or by its tag."""
        m, rows = self.measurement, self.jobs[item]
        backend = opened(record.worker, m.circuit)
        if record.device_job is not None:
            return backend.attach(record.device_job)
        if not backend.limits.recovers:
            return None
        left, right = self.left[rows], self.right[rows]
        return backend.run(m.circuit, left, right, m.shared, record.shots, seed=self._seed(item), tag=record.tag)

    def least_cost(self, done: Collection[int]) -> tuple[int, int, int]:
        """Jobs, circuits and shots of what is left to do, if nothing fails: checks of calibration that are due included."""
        assert self.pool is not None
        left = sorted(set(range(len(self.jobs))) - set(done))
        checks = [shots for worker in self.pool.workers() if (shots := self.pool.due_check(worker.id))] if left else []
        sizes = [(len(self.jobs[item]), self.shots[item] or 0) for item in left] + [(1, shots) for shots in checks]
        return len(sizes), sum(rows for rows, _ in sizes), sum(rows * shots for rows, shots in sizes)

    def task(self, worker: str, items: Sequence[int]) -> bytes:
        """Notes that these jobs are about to be submitted, and says what they are."""
        assert self.pool is not None
        if check := self.pool.due_check(worker):
            where = self.pool.backend_of(worker) or ""
            self._pay(f"check/{where}", f"dqk-{self.measurement.log.nonce}-check-{where}", where, 1, check)
            self.pool.order_check(worker)
        m, entries, angles = self.measurement, [], {}
        for item in items:
            rows, shots = self.jobs[item], self.shots[item]
            tag = self._tag(item) if shots is None else self._paid(item, worker, shots)
            entries.append((item, shots, self._seed(item), tag))
            angles[f"{item}.left"], angles[f"{item}.right"] = self.left[rows], self.right[rows]
        header = {"backend": self.pool.backend_of(worker), "log": m.log.path, "entries": entries}
        return pack({"kind": "entries", "job": self.digest, **header}, angles)

    def _paid(self, item: int, worker: str, shots: int) -> str:
        """The job's tag, once its shots are taken off the budget."""
        assert self.pool is not None
        where = self.pool.backend_of(worker) or self.measurement.device.name
        tag = self._tag(item)
        self.tries[item] = self.tries.get(item, 0) + 1
        self._pay(self._key(item), tag, where, len(self.jobs[item]), shots)
        return tag

    def _pay(self, key: str, tag: str, where: str, rows: int, shots: int) -> None:
        """Takes a job off the budget, writes down that it may have been submitted, and tells observers."""
        m = self.measurement
        m.budget.spend(m.device.limits, rows, shots * rows)
        m.log.intent(key, tag, shots, rows, where)
        for observer in m.observers:
            observer.submitted(rows, shots * rows, m.device.limits.seconds(rows, shots * rows))

    def refused(self, items: Collection[int], document: dict[str, Any]) -> None:
        """Gives back the shots of jobs that the device did not run, or does not charge for."""
        m = self.measurement
        self.unsupported = document.get("unsupported") or self.unsupported
        for item in set(items) & set(document.get("uncharged", ())):
            shots, rows = self.shots[item], len(self.jobs[item])
            if shots is not None:
                seconds = m.device.limits.seconds(rows, shots * rows)
                m.budget.note(-shots * rows, -seconds, -1)
                m.log.refund(self._key(item))
                for observer in m.observers:
                    observer.refunded(rows, shots * rows, seconds)

    def accept(self, items: Collection[int], document: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """Keeps the frequencies."""
        for item in items:
            frequencies = np.array(arrays[str(item)], np.float64)
            if self.shots[item] is not None:
                self.measurement.log.result(self._key(item), frequencies)
            self._keep(item, frequencies)

    def _keep(self, item: int, frequencies: np.ndarray) -> None:
        rows = self.jobs[item]
        self.found[rows] = frequencies
        self.arrived(rows, frequencies)

    def _key(self, item: int) -> str:
        return f"{self.stage}/{item}"

    def _tag(self, item: int) -> str:
        """Of this job of this run, or of this store: a device that knows tags runs it once. Another try has another one."""
        return f"dqk-{self.measurement.log.nonce}-{self.stage}-{item}-{self.tries.get(item, 0)}"

    def _seed(self, item: int) -> int | None:
        """Of the job's measurements."""
        if self.measurement.seed is None:
            return None
        key = f"{self.measurement.seed} {self._key(item)}".encode()
        return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 1
