"""Estimates of kernel entries: which are measured, how often, in one stage or after a pilot, and how sure the result is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dqk._budget import Budget
from dqk._measure import Device, Measurement
from dqk._pooled import Executor
from dqk._resources import require_memory
from dqk._run import Observer
from dqk.backends.sampled import SIDE
from dqk.circuit import Circuit
from dqk.errors import InvalidInputError
from dqk.kernels.shot_plan import ShotPlan
from dqk.scheduler import pilot_shots, standard_error, variance_driven, weighted, wilson_interval
from dqk.store import Grid
from dqk.store.jobs import JobLog


@dataclass(frozen=True)
class SampledJob:
    """A kernel matrix that a device measures.

    Attributes:
        device: what measures.
        circuit: simplified.
        plan: how often; None for probabilities.
        seed: of the measurements.
    """

    device: Device
    circuit: Circuit
    plan: ShotPlan | None
    seed: int | None

    def measurement(
        self, executor: Executor, shared: np.ndarray, log: JobLog, observers: Sequence[Observer] = ()
    ) -> Measurement:
        """Of this circuit, within the plan's budget."""
        plan = self.plan
        budget = Budget() if plan is None else Budget(plan.budget, plan.budget_s)
        rows = None if plan is None else plan.max_circuits_per_job
        return Measurement(self.device, self.circuit, shared, executor, self.seed, rows, budget, log, observers)


class Entries:
    """The entries of a matrix that are measured, tile by tile, and where their values go.

    Args:
        ax: data angles of the rows, shape (N, A_d).
        ay: of the columns; None for the symmetric matrix.
        duplicates: see `ShotPlan`.

    Attributes:
        grid: the tiles.
        rows: row of each entry, shape (E,).
        columns: column of each entry, shape (E,).
        tile_of: number of its tile, shape (E,).
    """

    def __init__(self, ax: np.ndarray, ay: np.ndarray | None, duplicates: str):
        self.symmetric = ay is None
        others = ax if ay is None else ay
        self.grid = Grid((len(ax), len(others)), SIDE, self.symmetric, ax.dtype)
        parts = []
        for number, (row, column) in enumerate(self.grid.tiles()):
            r, c = (np.arange(*self.grid.span(block, axis)) for axis, block in enumerate((row, column)))
            i, j = (part.ravel() for part in np.meshgrid(r, c, indexing="ij"))
            if self.symmetric and row == column:
                kept = i <= j if duplicates == "all" else i < j
                i, j = i[kept], j[kept]
            parts.append((i, j, np.full(len(i), number)))
        self.rows, self.columns, self.tile_of = (
            np.concatenate(part).astype(np.int64) for part in zip(*parts, strict=True)
        )
        if duplicates == "none":
            differ = (ax[self.rows] != others[self.columns]).any(axis=1)
            self.rows, self.columns, self.tile_of = self.rows[differ], self.columns[differ], self.tile_of[differ]
        self.left, self.right = (np.asarray(a, np.float64) for a in (ax, others))

    def __len__(self) -> int:
        return len(self.rows)

    def tile(self, own: np.ndarray, place: tuple[int, int], values: np.ndarray, otherwise: float) -> np.ndarray:
        """A tile from its own entries' numbers and values; what is not measured has the other value."""
        row, column = place
        tile = np.full(self.grid.extent(row, column), otherwise, self.grid.dtype)
        i, j = self.rows[own] - row * self.grid.side, self.columns[own] - column * self.grid.side
        tile[i, j] = values
        if self.symmetric and row == column:
            tile[j, i] = values
        return tile

    def matrix(self, values: np.ndarray, otherwise: float) -> np.ndarray:
        """All tiles, shape (N, M)."""
        n, m = self.grid.shape
        require_memory(n * m * self.grid.dtype.itemsize, f"the {n} x {m} entries of K, which a store= need not hold,")
        found = np.full((n, m), otherwise, self.grid.dtype)
        found[self.rows, self.columns] = values
        if self.symmetric:
            found[self.columns, self.rows] = values
        return found


@dataclass
class Estimate:
    """What was measured of each entry.

    Attributes:
        frequencies: of 0...0, shape (E,).
        shots: measurements behind them, shape (E,).
        effective: measurements in one go that would be as sure, shape (E,): fewer where a pilot is mixed in.
    """

    frequencies: np.ndarray
    shots: np.ndarray
    effective: np.ndarray

    def part(self, own: np.ndarray) -> Estimate:
        """Of some entries."""
        return Estimate(self.frequencies[own], self.shots[own], self.effective[own])

    def beside(self) -> dict[str, tuple[np.ndarray, float]]:
        """What a store keeps beside K, and its value where nothing was measured: standard errors, bounds and shots."""
        low, high = wilson_interval(self.frequencies, self.effective)
        return {
            "std_error": (standard_error(self.frequencies, self.effective), 0.0),
            "low": (low, 1.0),
            "high": (high, 1.0),
            "shots": (self.shots.astype(np.float64), 0.0),
        }


def estimate(
    job: SampledJob,
    measurement: Measurement,
    entries: Entries,
    needed: np.ndarray | None = None,
    finished: Any = lambda rows, known: None,
) -> Estimate:
    """Measures entries as the plan says, in one stage or, with a pilot, in two.

    Args:
        job: the problem.
        measurement: who measures.
        entries: which.
        needed: whether an entry is asked for, shape (E,); None for all.
        finished: is called with entry numbers and the `Estimate` so far, when these entries are final.
    """
    left, right = entries.left[entries.rows], entries.right[entries.columns]
    stage, plan, count = "x".join(map(str, entries.grid.shape)), job.plan, len(entries)
    known = Estimate(np.full(count, np.nan), np.zeros(count, np.int64), np.ones(count))

    def first(rows: np.ndarray, found: np.ndarray) -> None:
        known.frequencies[rows] = found
        finished(rows, known)

    if not count:  # one sample against itself, or nothing but duplicates
        return known
    if plan is None:
        _elsewhere(measurement.frequencies(left, right, None, stage, needed, first), known, first)
        return known
    if plan.allocation != "variance":
        known.shots[:] = _fixed(plan, entries, measurement.most_shots)
        known.effective[:] = np.maximum(known.shots, 1)
        _elsewhere(measurement.frequencies(left, right, known.shots, stage, needed, first), known, first)
        return known
    weights = _weights(plan, entries)  # refused before anything is measured
    each = _pilot(plan, count)
    # All of the pilot, also where tiles are there already: the second stage follows from it.
    asked = None if needed is None or needed.any() else needed
    if asked is None:
        measurement.afford_stages(count, each, plan.total(count))
    pilot = measurement.frequencies(left, right, np.full(count, each), f"{stage}-pilot", asked)
    if asked is not None:
        return known
    most = measurement.most_shots
    allocation = variance_driven(pilot, each, plan.total(count), weights, most=most)
    known.shots[:] = each + allocation.shots
    then = np.full(count, np.nan)

    def second(rows: np.ndarray, found: np.ndarray) -> None:
        then[rows] = found
        mixed, effective = allocation.combine(pilot, np.where(np.isnan(then), 0.0, then))
        known.frequencies[rows], known.effective[rows] = mixed[rows], effective[rows]
        finished(rows, known)

    found = measurement.frequencies(left, right, allocation.shots, f"{stage}-rest", needed, second)
    late = np.flatnonzero(np.isnan(then) & ~np.isnan(found))  # on ranks that do not drive
    if len(late):
        second(late, found[late])
    return known


def _elsewhere(found: np.ndarray, known: Estimate, arrived: Any) -> None:
    """On the ranks of an MPI job that do not drive, results come all at once."""
    late = np.flatnonzero(np.isnan(known.frequencies) & ~np.isnan(found))
    if len(late):
        arrived(late, found[late])


def _pilot(plan: ShotPlan, count: int) -> int:
    """Shots of each entry's pilot; the second stage needs one more at least."""
    total = plan.total(count)
    if total < 2 * count or (plan.shots or 1) * count > total - count:
        given = "a pilot" if plan.shots is None else f"a pilot of {plan.shots:,} shots"
        raise InvalidInputError(
            f"{given} for each of {count:,} entries, and a shot for each after it, need {(plan.shots or 1) * count + count:,} "
            f"shots, the budget is {total:,}; give a larger budget or fewer shots"
        )
    return plan.shots or pilot_shots(count, total)


def _fixed(plan: ShotPlan, entries: Entries, most: int | None) -> int | np.ndarray:
    """Shots that follow from the plan alone."""
    count = len(entries)
    if plan.allocation == "uniform":
        return plan.per_entry(count)
    weights = _weights(plan, entries)
    assert weights is not None
    return weighted(weights, plan.total(count), most=most).shots


def _weights(plan: ShotPlan, entries: Entries) -> np.ndarray | None:
    """The weights of the entries that are measured, shape (E,)."""
    if plan.weights is None:
        return None
    if plan.weights.shape != entries.grid.shape:
        raise InvalidInputError(f"weights of shape {plan.weights.shape}, the kernel matrix has {entries.grid.shape}")
    found = plan.weights[entries.rows, entries.columns]
    if entries.symmetric:  # the entry stands in both places
        found = found + np.where(entries.rows == entries.columns, 0.0, plan.weights[entries.columns, entries.rows])
    if not found.any():
        raise InvalidInputError(
            "weights are 0 at every entry that is measured: entries of equal samples, such as the diagonal of a symmetric matrix, "
            "are 1 and are not (evaluate_duplicates='all' measures them); expected weights above 0 at others"
        )
    return np.asarray(found)
