"""Kernel matrices that devices measure: which entries, how often, what they come to, and how sure that is.

A symmetric matrix is measured above its diagonal and is symmetric by construction. Tiles are committed when their last entry is
known; until then the log of jobs beside the store has what was paid for.
"""

# torch.autograd.Function's methods have no useful static types.
# mypy: disable-error-code="no-untyped-def,no-untyped-call,override"

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dqk._budget import Budget
from dqk._estimate import Entries, Estimate, SampledJob, estimate
from dqk._measure import Measurement, job_rows
from dqk._pooled import Executor, OnPool, digest_of
from dqk._rehearsal import FREQUENCY, RehearsalPool
from dqk._run import Observer
from dqk._stored import Destination
from dqk.backends.autograd import first_derivative_only
from dqk.backends.sampled import folded, pulled_back
from dqk.backends.shifts import WHICH, Jacobian, shift_terms
from dqk.errors import StoreError, UnsupportedError
from dqk.scheduler import standard_error
from dqk.store import Fingerprint, GramStore, StoredGram
from dqk.store.files import DESCRIPTION, read_description
from dqk.store.jobs import JobLog
from dqk.store.journal import Tile


def sampled_fidelity(
    job: SampledJob,
    executor: Executor,
    ax: Tensor,
    ay: Tensor | None,
    shared: Tensor,
    observers: Sequence[Observer] = (),
) -> tuple[Tensor, Tensor]:
    """K and its standard errors, shapes (N, M). K is differentiable in all angles, by shift rules, measured as K is."""
    found: tuple[Tensor, Tensor] = _Sampled.apply(job, executor, tuple(observers), ax, ay, shared)
    return found


class _Sampled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, job: SampledJob, executor: Executor, observers, ax: Tensor, ay: Tensor | None, shared: Tensor):
        ctx.job, ctx.executor, ctx.symmetric, ctx.observers = job, executor, ay is None, observers
        ctx.save_for_backward(ax, ax if ay is None else ay, shared)
        entries = Entries(_array(ax), None if ay is None else _array(ay), _duplicates(job))
        measurement = job.measurement(executor, _array(shared), JobLog(None), observers)
        found = estimate(job, measurement, entries)
        ctx.budget = measurement.budget
        spread = standard_error(found.frequencies, found.effective) if job.plan else np.zeros(len(entries))
        both = [entries.matrix(found.frequencies, 1.0), entries.matrix(spread, 0.0)]
        values, errors = (torch.from_numpy(matrix).to(ax) for matrix in both)
        ctx.mark_non_differentiable(errors)
        return values, errors

    @staticmethod
    @first_derivative_only
    def backward(ctx, cotangent: Tensor, _: Tensor):
        ax, ay, shared = ctx.saved_tensors
        job = ctx.job
        entries = Entries(_array(ax), None if ctx.symmetric else _array(ay), _duplicates(job))
        weights = folded(_array(cotangent), ctx.symmetric)[entries.rows, entries.columns]
        kept = np.flatnonzero(weights)
        weights, rows, columns = weights[kept], entries.rows[kept], entries.columns[kept]
        found = slopes(
            job,
            ctx.executor,
            entries.left[rows],
            entries.right[columns],
            _array(shared),
            ctx.observers,
            budget=ctx.budget,
        )
        parts = pulled_back(weights, found, rows, columns, (len(ax), None if ctx.symmetric else len(ay)))
        dax, day, d_shared = (None if part is None else torch.from_numpy(part).to(ax) for part in parts)
        return None, None, None, dax, day, d_shared


def slopes(
    job: SampledJob,
    executor: Executor,
    left: np.ndarray,
    right: np.ndarray,
    shared: np.ndarray,
    observers: Sequence[Observer] = (),
    which: tuple[str, ...] = WHICH,
    budget: Budget | None = None,
) -> Jacobian[np.ndarray]:
    """Derivatives of entries by all of their angles, by shift rules: all shifts of all entries go out together.

    Args:
        job: the problem.
        executor: who measures.
        left: data angles of x, shape (P, A_d).
        right: data angles of y, shape (P, A_d).
        shared: shape (A_s,).
        observers: of the run.
        which: derivatives that are wanted; the others are zero, and measured by nobody.
        budget: that has to cover them, too; None for one of their own.

    Returns:
        dk/d(left) (P, A_d), dk/d(right) (P, A_d), dk/d(shared) (P, A_s).
    """
    terms = shift_terms(job.circuit, which)
    rows_left, rows_right = terms.shifted(left, right, shared)
    whole = SampledJob(job.device, terms.circuit, job.plan, job.seed)
    measurement = whole.measurement(executor, np.zeros(0), JobLog(None), observers)
    measurement.budget = budget or measurement.budget
    shots = None
    if job.plan is not None:
        count = job.plan.shots or job.plan.per_entry(max(1, len(left)))
        shots = np.full(len(rows_left), count, np.int64)
    about = digest_of({"left": rows_left, "right": rows_right})
    values = measurement.frequencies(rows_left, rows_right, shots, f"shifts-{about[:12]}")
    return terms.jacobian(values, len(left))


def stored_sampled(
    job: SampledJob,
    executor: Executor,
    ax: Tensor,
    ay: Tensor | None,
    shared: Tensor,
    observers: Sequence[Observer],
    destination: Destination,
    about: str,
) -> StoredGram:
    """Measures what a store lacks: K, and beside it standard errors, bounds and shots.

    Raises:
        StoreError: if the store belongs to another problem, is damaged or in use, or cannot be written.
        BudgetError: if the budget does not cover all; what is measured stays.
    """
    begun = _begun(job, executor, ax, ay, shared, destination, about)
    if not (Path(destination.path) / DESCRIPTION).exists():  # what is refused leaves no store behind
        rehearse_sampled(job, executor, ax, ay, shared, (), destination, about)
    opened = GramStore.open(
        destination.path, begun.fingerprint, resume=destination.resume, take_over=destination.take_over
    )
    with opened as store:
        measurement = begun.measurement(executor, shared, JobLog(Path(destination.path)), observers)
        writer = _Writer(begun.entries, store, job.plan is not None)
        estimate(begun.job, measurement, begun.entries, writer.needed, writer.finished)
    return StoredGram(destination.path)


def rehearse_sampled(
    job: SampledJob,
    executor: Executor,
    ax: Tensor,
    ay: Tensor | None,
    shared: Tensor,
    observers: Sequence[Observer] = (),
    destination: Destination | None = None,
    about: str = "",
) -> None:
    """Tells observers which jobs `sampled_fidelity` or `stored_sampled` would submit; measures and writes nothing.

    Raises:
        DQKError: what those would raise before, or instead of, submitting anything.
    """
    pool = RehearsalPool(executor.pool if isinstance(executor, OnPool) else None)
    with pool:
        on_pool = OnPool(pool)
        if destination is None:
            entries = Entries(_array(ax), None if ay is None else _array(ay), _duplicates(job))
            estimate(job, job.measurement(on_pool, _array(shared), JobLog(None), observers), entries)
            return
        begun = _begun(job, executor, ax, ay, shared, destination, about)
        done = GramStore.inspect(destination.path, begun.fingerprint, resume=destination.resume)
        log = JobLog(Path(destination.path), writes=False)
        measurement = begun.measurement(on_pool, shared, log, observers)
        here = {pool.backend_of(worker.id) or job.device.name for worker in pool.workers()}
        for record in log.records.values():
            submitted = record.frequencies is None and record.intents > record.refunds and record.worker in here
            if submitted and job.device.limits.recovers:
                record.frequencies = np.full(record.rows, FREQUENCY)  # asked for again, for nothing
        estimate(begun.job, measurement, begun.entries, _needed(begun.entries, done))


@dataclass(frozen=True)
class _Begun:
    """A matrix in a store.

    Attributes:
        job: with the budget by which its shots were shared out.
        entries: what there is to measure.
        fingerprint: what the store is of.
        cap: shots that may be spent in all.
    """

    job: SampledJob
    entries: Entries
    fingerprint: Fingerprint
    cap: int | None

    def measurement(
        self, executor: Executor, shared: Tensor, log: JobLog, observers: Sequence[Observer]
    ) -> Measurement:
        """Within what earlier runs left of the budget."""
        measurement = self.job.measurement(executor, _array(shared), log, observers)
        measurement.budget.shots = self.cap
        for record in log.records.values():
            seconds = self.job.device.limits.seconds(record.rows, record.shots * record.rows)
            measurement.budget.note(record.spent, (record.intents - record.refunds) * seconds, record.intents)
        return measurement


def _begun(
    job: SampledJob,
    executor: Executor,
    ax: Tensor,
    ay: Tensor | None,
    shared: Tensor,
    destination: Destination,
    about: str,
) -> _Begun:
    if executor.compares:
        raise UnsupportedError(
            "a measured matrix in a store, on all ranks of an MPI job: have one process measure it (leave out executor='mpi')"
        )
    if destination.shard is not None:
        raise UnsupportedError(
            "shards of a measured matrix: let one process drive all devices (--qpu A --qpu B; QPUPool([A, B])) instead"
        )
    cap = None if job.plan is None else job.plan.budget
    job = _as_begun(job, Path(destination.path), (len(ax), len(ax if ay is None else ay)))
    entries = Entries(_array(ax), None if ay is None else _array(ay), _duplicates(job))
    fingerprint = Fingerprint.of(
        job.circuit.to_dict(),
        job.device.label,
        entries.grid.side,
        _array(ax),
        None if ay is None else _array(ay),
        _array(shared),
        shots=None if job.plan is None else job.plan.shots,
        seed=job.seed,
        about=about,
        sampling=_sampling(job),
    )
    return _Begun(job, entries, fingerprint, cap)


def _as_begun(job: SampledJob, store: Path, shape: tuple[int, int]) -> SampledJob:
    """The job with the budget that a store was begun with, by which its shots were shared out; a larger one pays for the rest."""
    if job.plan is None or job.plan.budget is None or not (store / DESCRIPTION).exists():
        return job
    begun = read_description(store)
    known = (begun.sampling or {}).get("budget")
    if known is None:
        return job
    if (begun.n_rows, begun.n_columns) != shape:
        raise StoreError(
            f"{store} is of {begun.n_rows} x {begun.n_columns} samples, now there are {shape[0]} x {shape[1]}: shots that a budget "
            "shared out do not grow with a matrix; choose another path, or give shots= alone"
        )
    if not known < job.plan.budget:
        return job
    return replace(job, plan=replace(job.plan, budget=known))


def _needed(entries: Entries, done: Mapping[Tile, str]) -> np.ndarray:
    """Whether the tile of an entry is missing, shape (E,)."""
    return ~np.array([place in done for place in entries.grid.tiles()], bool)[entries.tile_of]


class _Writer:
    """Commits the tiles of a store when their last entry is final."""

    def __init__(self, entries: Entries, store: GramStore, measured: bool):
        self.entries, self.store, self.measured = entries, store, measured
        self.places = list(entries.grid.tiles())
        done = np.array([place in store.done for place in self.places], bool)
        self.needed = _needed(entries, store.done)
        self.open = np.bincount(entries.tile_of, minlength=len(self.places))
        self.final = np.zeros(len(entries), bool)
        order = np.argsort(entries.tile_of, kind="stable")
        self.of_tile = np.split(order, np.cumsum(self.open)[:-1])
        empty = np.flatnonzero((self.open == 0) & ~done)  # one sample against itself
        self._commit(empty.tolist(), Estimate(np.zeros(0), np.zeros(0, np.int64), np.ones(0)))

    def finished(self, rows: np.ndarray, known: Estimate) -> None:
        """Notes entries; commits the tiles that are complete with them."""
        rows = rows[self.needed[rows] & ~self.final[rows]]
        self.final[rows] = True
        np.subtract.at(self.open, self.entries.tile_of[rows], 1)
        touched = np.unique(self.entries.tile_of[rows])
        self._commit(touched[self.open[touched] == 0].tolist(), known)

    def _commit(self, numbers: list[int], known: Estimate) -> None:
        tiles, beside = [], []
        for number in numbers:
            own, place = self.of_tile[number], self.places[number]
            tiles.append((*place, self.entries.tile(own, place, known.frequencies[own], 1.0)))
            if self.measured:
                part = known.part(own).beside().items()
                beside.append({name: self.entries.tile(own, place, *pair) for name, pair in part})
        if tiles:
            self.store.commit(tiles, beside)


def _sampling(job: SampledJob) -> dict[str, Any] | None:
    """What values depend on beside shots and seed: jobs of another size have other seeds."""
    if job.plan is None:
        return None
    rows = job_rows(job.device.limits, job.plan.max_circuits_per_job)
    return {**job.plan.to_dict(), "rows": rows, "seeded": job.device.limits.seeded}


def _duplicates(job: SampledJob) -> str:
    return "off_diagonal" if job.plan is None else job.plan.evaluate_duplicates


def _array(tensor: Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.detach().cpu().numpy())
