"""Plays an experiment through in virtual time.

The scheduler, the cutting into jobs and the sharing out of shots are those of real runs; the clock and the devices are models.
`emulate(Experiment.read("examples/fleets/hetero6.toml"), downstream=qklstm_loss)` is what `dqk emulate` does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np

from dqk._estimate import Estimate, SampledJob, estimate
from dqk._measure import Device as Named
from dqk._measure import cut_jobs
from dqk.backends.sampled import DeviceLimits, SampledBackend
from dqk.errors import InvalidInputError, TileError
from dqk.kernels.shot_plan import ShotPlan
from dqk.qpu._virtual import Device, Outcome, VirtualRun
from dqk.qpu.experiment import Experiment, Settings, Variant
from dqk.qpu.fleet import QPU, Fleet, Simulator
from dqk.qpu.mixture import MixtureBackend
from dqk.qpu.models import JobKind, fitting, modelled, offer
from dqk.qpu.results import Results, Run, measures
from dqk.qpu.workload import Part, Workload, workload
from dqk.scheduler import Demand, Offer, Plan, Policy

Downstream: TypeAlias = Callable[[SampledBackend, int, int], dict[str, float]]
"""From a device that measures, the qubits of a circuit and the shots of a value to further figures."""


class _NotDone(TileError):
    """Jobs that no device is left for."""


@dataclass
class _Play:
    """One policy, one time.

    Attributes:
        fleet: on which devices.
        settings: of the experiment.
        rows: circuits of a full job.
        variant: the policy.
        seed: of all that is drawn.
        devices: of the fleet, one by one.
        models: the same in virtual time, once they are known.
        outcomes: of the stages so far, with their kinds of jobs.
        clock: virtual seconds.
    """

    fleet: Fleet
    settings: Settings
    rows: int
    variant: Variant
    seed: int
    devices: list[QPU | Simulator]
    models: list[Device] = field(default_factory=list)
    outcomes: list[tuple[Outcome, list[JobKind], np.ndarray]] = field(default_factory=list)
    clock: float = 0.0
    not_done: dict[str, int] = field(default_factory=dict)

    def stage(
        self,
        kinds: list[JobKind],
        kind: np.ndarray,
        importance: np.ndarray | None,
        circuit: Any,
        accepted: Callable[[int, int], None] | None = None,
    ) -> Outcome:
        """Plays some jobs through, from where the clock stands."""
        self._model(kinds)
        alive = [device for device, model in zip(self.devices, self.models, strict=True) if not model.lost]
        reasons = fitting(alive, kinds)
        beyond = np.array([bool(reason) for reason in reasons])[kind]
        if beyond.all() and len(alive) == len(self.devices):
            raise InvalidInputError("; ".join(dict.fromkeys(reasons)))
        for reason, count in zip(reasons, np.bincount(kind, minlength=len(kinds)).tolist(), strict=True):
            if reason:
                self._note(reason, count)
        offers = [offer(device, kinds, circuit) for device in self.devices]
        able = [one for one, model in zip(offers, self.models, strict=True) if not model.lost]
        strategy, placement = self.variant.strategy, None
        if not beyond.all():  # nobody will ask for what fits nowhere: it counts as something that fits
            fits = next(number for number, reason in enumerate(reasons) if not reason)
            demand = Demand(np.where(beyond, fits, kind), importance)
            placement = strategy.placement(demand, able, self.settings.deadline_s)
        done = np.flatnonzero(beyond)
        plan = Plan(np.stack([kind, kind], axis=1).astype(np.int32), _predicted(offers)[kind], self.rows)
        policy = Policy(message_s=0.0, hedge=strategy.hedge, hang_factor=math.inf)
        run = VirtualRun(self.models, plan, kind, policy, placement, done.tolist(), self.clock, accepted)
        outcome = run.run()
        self.clock = outcome.end
        self.outcomes.append((outcome, kinds, kind))
        for cause in outcome.log.given_up.values():
            self._note(cause, 1)
        return outcome

    def _note(self, reason: str, jobs: int) -> None:
        self.not_done[reason] = self.not_done.get(reason, 0) + jobs

    def _model(self, kinds: list[JobKind]) -> None:
        """The devices for these kinds of jobs; what they remember of earlier stages stays."""
        fresh = [
            modelled(device, self.fleet.network, kinds, self.seed, self.variant.session) for device in self.devices
        ]
        for new, old in zip(fresh, self.models, strict=False):
            new.free_at, new.session_until, new.lost, new.failures = (
                old.free_at,
                old.session_until,
                old.lost,
                old.failures,
            )
            new.waits, new.fails = old.waits, old.fails
        self.models = fresh


def _predicted(offers: list[Offer]) -> np.ndarray:
    """Seconds of a job of each kind: the mean over the devices that can do it, 1 where none can."""
    seconds = np.array([one.seconds for one in offers])
    able = np.isfinite(seconds)
    total = np.where(able, seconds, 0.0).sum(axis=0)
    return np.asarray(np.where(able.any(axis=0), total / np.maximum(able.sum(axis=0), 1), 1.0))


class VirtualMeasurement:
    """Stands in for `dqk._measure.Measurement` in `dqk._estimate.estimate`: its jobs run in virtual time.

    Args:
        play: the policy, its devices and its clock.
        part: the matrix.
        circuit: simplified.
        number: of the matrix in the experiment, for the seeds.
    """

    most_shots: int | None = None

    def __init__(self, play: _Play, part: Part, circuit: Any, number: int):
        self._play, self._part, self._circuit, self._number = play, part, circuit, number
        self.planned = self.found = 0

    def afford_stages(self, count: int, pilot: int, total: int) -> None:
        """Virtual shots cost nothing."""

    def frequencies(
        self,
        left: np.ndarray,
        right: np.ndarray,
        shots: np.ndarray | None,
        stage: str = "0",
        needed: np.ndarray | None = None,
        arrived: Callable[[np.ndarray, np.ndarray], None] = lambda rows, found: None,
    ) -> np.ndarray:
        """How often each entry would be found as 0...0; see `Measurement.frequencies`.

        Raises:
            TileError: if there are entries for which no device is left.
        """
        assert shots is not None
        play, part = self._play, self._part
        split = play.variant.split
        order = np.argsort(-part.importance, kind="stable") if play.variant.strategy.name == "error_aware" else None
        entry = np.arange(len(left)) if order is None else order
        each = [(shots[entry] + k) // split for k in range(split)]  # sums to the entry's shots
        copies, counts = np.concatenate([entry] * split), np.concatenate(each)
        jobs = cut_jobs(counts, len(copies), play.rows)
        shapes = [(len(rows), int(counts[rows[0]])) for rows in jobs]
        distinct = sorted(set(shapes))
        kinds = [JobKind(self._circuit.n_qubits, rows, n, 2 * self._circuit.n_data) for rows, n in distinct]
        kind = np.array([distinct.index(shape) for shape in shapes])
        importance = np.array([part.importance[copies[rows]].mean() for rows in jobs])
        results: dict[int, int] = {}
        outcome = play.stage(kinds, kind, importance, self._circuit, results.__setitem__)
        hits, total = np.zeros(len(left)), np.zeros(len(left))
        for item, job in results.items():
            rows = copies[jobs[item]]
            found = self._hits(outcome, job, rows, shapes[item][1], f"{stage}/{item}")
            np.add.at(hits, rows, found * shapes[item][1])  # a job may have several parts of an entry
            np.add.at(total, rows, shapes[item][1])
        self.planned += int(counts.sum())
        self.found += int(total.sum())
        if len(results) < len(jobs):
            raise _NotDone(f"{len(jobs) - len(results)} of {len(jobs)} jobs could not be done")
        found = hits / np.maximum(total, 1)
        arrived(np.arange(len(left)), found)
        return np.where(total > 0, found, 0.0)

    def _hits(self, outcome: Outcome, job: int, rows: np.ndarray, shots: int, key: str) -> np.ndarray:
        """Relative frequencies that a job found."""
        device = self._play.devices[outcome.log.device[job]]
        if isinstance(device, Simulator):
            return self._part.response.exact[rows]
        noise = device.profile().noise_at(outcome.log.started[job])
        swaps = _swaps(self._circuit, device.coupling)
        p = np.clip(self._part.response.measured(rows, noise, swaps), 0.0, 1.0)
        seed = [self._play.seed, self._number, *key.encode()]
        return np.random.default_rng(seed).binomial(shots, p) / shots


def _swaps(circuit: Any, coupling: str) -> int:
    from dqk.qpu.coupling import swaps

    return swaps(circuit.compute_uncompute(), coupling)


def emulate(
    experiment: Experiment, told: Callable[[str], None] = lambda text: None, downstream: Downstream | None = None
) -> Results:
    """Plays every combination of the sweep, every policy and every repeat through.

    Args:
        experiment: what to play through.
        told: is told what is being done.
        downstream: what else the errors are to act on, for experiments that ask for it: `dqk.training.emulated.qklstm_loss`.

    Raises:
        InvalidInputError: if the experiment cannot be, as where its circuits fit no device.
        UnsupportedError: if its circuits are too wide for values to be worked out.
    """
    if experiment.settings.downstream != "svc" and downstream is None:
        raise InvalidInputError("the experiment asks for a QK-LSTM: give downstream=dqk.training.emulated.qklstm_loss")
    runs: list[Run] = []
    points = list(experiment.points())
    for number, (point, one) in enumerate(points, 1):
        where = f" ({number} of {len(points)}: {', '.join(f'{k} = {v}' for k, v in point.items())})" if point else ""
        for variant in one.variants:
            told(f"{variant.name}{where}")
            runs += [replace(run, point=point) for run in _repeats(one, variant, downstream)]
    return Results(experiment.name, experiment.fleet.currency, runs)


def _repeats(experiment: Experiment, variant: Variant, downstream: Downstream | None) -> Iterator[Run]:
    for repeat in range(experiment.settings.repeats):
        seed = int(np.random.SeedSequence([experiment.settings.seed, repeat]).generate_state(1)[0])
        play = _Play(
            experiment.fleet, experiment.settings, experiment.job_rows, variant, seed, list(experiment.fleet.devices())
        )
        values = _times(play, experiment) if experiment.kernels else _values(play, workload(experiment.settings))
        if experiment.settings.downstream != "svc" and "accuracy" in values:
            assert downstream is not None
            values |= downstream(_mixture(play), experiment.settings.qubits, experiment.settings.shots)
        figures = {**measures(play.devices, play.outcomes, play.clock), **values}
        trace = play.outcomes if repeat == 0 else []
        names = [device.name for device in play.devices]
        yield Run(variant.name, repeat, {}, figures, play.not_done, names, trace)


def _times(play: _Play, experiment: Experiment) -> dict[str, float]:
    """Kernels of which only times matter: their jobs, all together."""
    rows = play.rows
    kinds: list[JobKind] = []
    parts: list[np.ndarray] = []
    for kernel in experiment.kernels:
        entries = kernel.samples * (kernel.samples - 1) // 2
        full, rest = divmod(entries, rows)
        for count, size in ((full, rows), (1, rest)):
            if count and size:
                parts.append(np.full(count, len(kinds)))
                kinds.append(JobKind(kernel.qubits, size, kernel.shots or play.settings.shots))
    play.stage(kinds, np.concatenate(parts or [np.zeros(0, int)]), None, None)
    return {}


def _values(play: _Play, work: Workload) -> dict[str, float]:
    """The matrices of the workload, one after the other, and how good they are."""
    found: list[np.ndarray] = []
    planned = measured = 0
    for number, part in enumerate((work.train, work.test)):
        measurement = VirtualMeasurement(play, part, work.circuit, number)
        shots, allocation, count = play.settings.shots, play.variant.allocation, len(part.entries)
        plan = ShotPlan(
            shots if allocation == "uniform" else None,
            allocation=allocation,  # type: ignore[arg-type]
            budget=None if allocation == "uniform" else shots * count,
            weights=part.weights if allocation == "weighted" else None,
        )
        job = SampledJob(Named("virtual", DeviceLimits(), False), work.circuit, plan, play.seed)
        try:
            known: Estimate = estimate(job, measurement, part.entries)  # type: ignore[arg-type]
        except _NotDone:
            return {"planned_shots": planned + measurement.planned, "kept_shots": measured + measurement.found}
        finally:
            planned, measured = planned + measurement.planned, measured + measurement.found
        found.append(part.entries.matrix(known.frequencies, 1.0))
    return {
        "planned_shots": planned,
        "kept_shots": measured,
        "error": _frobenius(found[0], work.train, None),
        "weighted_error": _frobenius(found[0], work.train, work.train.weights),
        "accuracy": work.accuracy(*found),
        "exact_accuracy": work.accuracy(work.train.exact(), work.test.exact()),
    }


def _mixture(play: _Play) -> MixtureBackend:
    """The devices, as often as each has measured an entry, with their errors at the mean of these times."""
    rows, when = np.zeros(len(play.devices)), np.zeros(len(play.devices))
    for outcome, kinds, kind in play.outcomes:
        log = outcome.log
        kept = np.frombuffer(bytes(log.accepted), np.uint8) > 0
        device = np.frombuffer(log.device, np.int64)[kept]
        own = np.array([k.rows for k in kinds])[kind[np.frombuffer(log.item, np.int64)[kept]]]
        rows += np.bincount(device, own, len(rows))
        when += np.bincount(device, own * np.frombuffer(log.started, np.float64)[kept], len(rows))
    mean = when / np.maximum(rows, 1)
    errors = [
        (one.profile().noise_at(at), one.coupling) if isinstance(one, QPU) else None
        for one, at in zip(play.devices, mean.tolist(), strict=True)
    ]
    return MixtureBackend(rows / rows.sum(), errors, play.seed)


def _frobenius(found: np.ndarray, part: Part, weights: np.ndarray | None) -> float:
    """Relative error of the matrix off its diagonal, in Frobenius' norm."""
    exact = part.exact()
    w = np.ones_like(exact) if weights is None else weights.copy()
    np.fill_diagonal(w, 0.0)
    return float(np.linalg.norm(w * (found - exact)) / np.linalg.norm(w * exact))
