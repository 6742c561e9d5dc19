"""Figures of emulated runs: what was busy, what waited, what it cost; means over repeats and their confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dqk.qpu._virtual import Outcome
from dqk.qpu.fleet import QPU, Simulator
from dqk.qpu.models import JobKind, price_of
from dqk.qpu.profile import Outage

# Quantiles 0.975 of Student's t with 1, 2, ... degrees of freedom; 1.96 beyond.
_STUDENT = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131]
_STUDENT += [2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042]

FIGURES = {
    "makespan_s": "seconds until the last result",
    "done": "share of the jobs that were done",
    "utilisation": "share of the devices' time in which they worked on our jobs",
    "queue_share": "share in which others had the device while a job of ours was next",
    "down_share": "share in which the device did not work",
    "idle_share": "share in which nothing of ours was there or on its way",
    "jobs": "jobs that devices took",
    "retries": "jobs that were sent again",
    "duplicates": "results that came too late to be used",
    "shots": "measurements, also those that failed or came too late",
    "planned_shots": "measurements that were asked for",
    "kept_shots": "measurements in the result",
    "price": "of all jobs that are done",
    "energy_kwh": "electric energy, as far as the fleet says",
    "error": "relative error of the matrix, Frobenius' norm, off the diagonal",
    "weighted_error": "the same, entries weighted by what a support-vector machine on the exact matrix makes of them",
    "accuracy": "of a support-vector machine on the test samples",
    "exact_accuracy": "the same with exact matrices",
    "lstm_loss": "of a QK-LSTM on the paper's sentences, nats a word: trained exactly, its kernel values are then these devices'",
    "exact_lstm_loss": "the same with exact values",
}


@dataclass(frozen=True)
class Run:
    """One policy, one time.

    Attributes:
        policy: its name.
        repeat: counted from 0.
        point: of the sweep.
        figures: see `FIGURES`; what could not be worked out is missing.
        not_done: jobs that were not done, by the reason.
        devices: their names.
        stages: what happened, for pictures: outcomes, kinds of jobs, the kind of each item; of the first repeat only.
    """

    policy: str
    repeat: int
    point: dict[str, Any]
    figures: dict[str, float]
    not_done: dict[str, int]
    devices: list[str]
    stages: list[tuple[Outcome, list[JobKind], np.ndarray]]


@dataclass(frozen=True)
class Row:
    """A policy at a point of the sweep: means over repeats.

    Attributes:
        policy: its name.
        point: of the sweep.
        mean: of each figure.
        margin: half the 95 % confidence interval of each mean; 0 for one repeat.
        runs: behind it.
    """

    policy: str
    point: dict[str, Any]
    mean: dict[str, float]
    margin: dict[str, float]
    runs: list[Run]


@dataclass(frozen=True)
class Results:
    """All runs of an experiment.

    Attributes:
        name: of the experiment.
        currency: of prices.
        runs: one after the other.
    """

    name: str
    currency: str
    runs: list[Run]

    @property
    def rows(self) -> list[Row]:
        """Means, in the order in which policies and points were played through."""
        groups: dict[tuple[Any, ...], list[Run]] = {}
        for run in self.runs:
            groups.setdefault((repr(run.point), run.policy), []).append(run)
        found = []
        for runs in groups.values():
            mean, margin = {}, {}
            for name in FIGURES:
                values = [run.figures[name] for run in runs if name in run.figures]
                if len(values) == len(runs):
                    mean[name], margin[name] = mean_and_margin(values)
            found.append(Row(runs[0].policy, runs[0].point, mean, margin, runs))
        return found


def mean_and_margin(values: Sequence[float]) -> tuple[float, float]:
    """The mean and half its 95 % confidence interval, by Student's t; 0 for a single value."""
    count = len(values)
    mean = sum(values) / count
    if count < 2:
        return mean, 0.0
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (count - 1))
    return mean, (_STUDENT[count - 2] if count - 2 < len(_STUDENT) else 1.96) * deviation / math.sqrt(count)


def measures(
    devices: Sequence[QPU | Simulator], outcomes: Sequence[tuple[Outcome, list[JobKind], np.ndarray]], end: float
) -> dict[str, float]:
    """Figures of a run, from what happened to its jobs."""
    busy, queued = np.zeros(len(devices)), np.zeros(len(devices))
    price = shots = jobs = accepted = items = 0.0
    for outcome, kinds, kind in outcomes:
        log = outcome.log
        item, device = np.frombuffer(log.item, np.int64), np.frombuffer(log.device, np.int64)
        started, taken, ended = (np.frombuffer(part, np.float64) for part in (log.started, log.taken, log.ended))
        worked = np.frombuffer(bytes(log.worked), np.uint8) > 0
        # What runs when the last result is there counts up to then.
        work, wait = (
            np.minimum(ended, end) - np.minimum(started, end),
            np.minimum(started, end) - np.minimum(taken, end),
        )
        busy += np.bincount(device, work, len(devices))
        queued += np.bincount(device, wait, len(devices))
        measured = np.array([not isinstance(one, Simulator) for one in devices])[device] & (ended > started)
        shots += float((np.array([k.measurements for k in kinds])[kind[item]] * measured).sum())
        price += _price(devices, kinds, kind[item], device, ended - started, worked)
        jobs += len(log)
        accepted += sum(log.accepted)
        items += len(kind)
    whole = max(end, 1e-300) * len(devices)
    down = sum(_down_s(device.outage, end) for device in devices)
    energy = sum(d.power_w * b + d.idle_w * max(0.0, end - b) for d, b in zip(devices, busy.tolist(), strict=True))
    found = {
        "makespan_s": end,
        "done": accepted / items if items else 1.0,
        "utilisation": float(busy.sum()) / whole,
        "queue_share": float(queued.sum()) / whole,
        "down_share": down / whole,
        "jobs": jobs,
        "retries": float(sum(outcome.statistics.retries for outcome, _, _ in outcomes)),
        "duplicates": float(sum(outcome.statistics.duplicates for outcome, _, _ in outcomes)),
        "shots": shots,
        "price": price,
        "energy_kwh": energy / 3.6e6,
    }
    found["idle_share"] = max(0.0, 1 - found["utilisation"] - found["queue_share"] - found["down_share"])
    return found


def _price(
    devices: Sequence[QPU | Simulator],
    kinds: list[JobKind],
    kind: np.ndarray,
    device: np.ndarray,
    seconds: np.ndarray,
    worked: np.ndarray,
) -> float:
    """Of the jobs that gave a result."""
    if not any(price_of(one, k, 1.0) for one in devices for k in kinds[:1]):
        return 0.0
    rates = [(d.price.per_job, d.price.per_s, 0.0 if isinstance(d, Simulator) else d.price.per_shot) for d in devices]
    per_job, per_s, per_shot = np.array(rates).T
    measurements = np.array([k.measurements for k in kinds])[kind]
    return float(((per_job[device] + per_s[device] * seconds + per_shot[device] * measurements) * worked).sum())


def _down_s(outages: Sequence[Outage], end: float) -> float:
    """Seconds until `end` in which a device does not work; outages that overlap count twice."""
    total = 0.0
    for outage in outages:
        start = outage.start_s
        if outage.every_s is None:
            total += max(0.0, min(end, start + outage.duration_s) - start)
        elif end > start:
            whole, rest = divmod(end - start, outage.every_s)
            total += whole * outage.duration_s + min(rest, outage.duration_s)
    return total
