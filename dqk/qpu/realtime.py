"""A fleet as services of this machine: the same jobs in real time and in virtual time, side by side.

Choose `beside` (`dqk emulate --real-time`) to see how far a fleet's emulation can be trusted, `calibrated` to measure what this
machine's network and services take beside the devices' own time. GPUs and CPUs of a fleet are no services; they are left out.
"""

from __future__ import annotations

import contextlib
import math
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dqk._measure import Measurement, cut_jobs, job_rows
from dqk._pooled import OnPool
from dqk.backends.sampled import DeviceLimits
from dqk.circuit import simplify_for_fidelity
from dqk.errors import ClusterError, InvalidInputError
from dqk.kernels.feature_maps import reuploading_feature_map
from dqk.qpu._virtual import VirtualRun
from dqk.qpu.client import QPUClient
from dqk.qpu.experiment import Experiment
from dqk.qpu.fleet import QPU, Fleet, Network
from dqk.qpu.models import JobKind, modelled, offer, seconds_of
from dqk.qpu.pool import QPUPool
from dqk.qpu.profile import Noise
from dqk.qpu.running import up
from dqk.scheduler import Demand, Offer, Placement, Plan, Policy, Strategy, strategy

_ROUNDS = 4
_WIDEST = 20  # that a service emulates
_CIRCUIT = simplify_for_fidelity(reuploading_feature_map(2, layers=1).circuit).circuit


@dataclass(frozen=True)
class Comparison:
    """A run in real time, and what virtual time makes of it.

    Attributes:
        real_s: makespan.
        virtual_s: of the emulation.
        real_used: share of the devices' time for which the services charged us.
        virtual_used: the same in the emulation.
    """

    real_s: float
    virtual_s: float
    real_used: float
    virtual_used: float

    @property
    def deviation(self) -> float:
        """Of the virtual makespan, relative to the real one."""
        return self.virtual_s / self.real_s - 1


@contextlib.contextmanager
def raised(fleet: Fleet) -> Iterator[list[str]]:
    """URLs of a fleet's processors, each a service process of this machine until the block ends.

    Raises:
        ClusterError: if one does not start.
    """
    with tempfile.TemporaryDirectory(prefix="dqk-fleet-") as folder:
        running = up(fleet, Path(folder) / "services")
        try:
            yield [str(service.url) for service in running.services]
        finally:
            running.drop()


def calibrated(devices: int = 1, jobs: int = 15, job_s: float = 0.05) -> Network:
    """What jobs on this machine's services take beside the devices' own time: a way, and a pause between two jobs.

    Of several rounds the shortest: what is longer was disturbed.

    Args:
        devices: services side by side; more of them get in each other's way.
        jobs: to measure on each, and three times as many: what both have in common is no pause between jobs.
        job_s: of the device, for each.
    """
    probe = QPU("probe", devices, qubits=2, job_s=job_s, shot_rate_hz=1e9, max_circuits_per_job=20)
    fleet = Fleet(qpu=(probe,))
    with raised(fleet) as urls:
        one, some, more = (
            _Jobs.of(fleet, [20 * count], 1, strategy("pull")) for count in (1, jobs * devices, 3 * jobs * devices)
        )
        alone = [_real(fleet, urls, one)[0] for _ in range(5)]
        short, long = (min(_real(fleet, urls, work)[0] for _ in range(_ROUNDS)) for work in (some, more))
    between = max(0.0, (long - short) / (2 * jobs) - job_s)
    return Network(latency_s=max(0.0, (min(alone) - job_s - between) / 2), overhead_s=between)


def compare(
    fleet: Fleet,
    entries: Sequence[int],
    shots: int,
    policy: str = "pull",
    network: Network | None = None,
    rows: int | None = None,
    deadline_s: float | None = None,
) -> Comparison:
    """The same jobs of a small circuit on a fleet's services and in virtual time.

    Errors are left out, so that what the services simulate takes no longer than what they wait for; they matter for no time.

    Args:
        fleet: whose processors are used.
        entries: of each matrix; one begins when the one before it is done.
        shots: of each entry.
        policy: of both runs.
        network: of the emulation; None to measure it first, see `calibrated`.
        rows: circuits of a job, if fewer than the processors take.
        deadline_s: for the policy `deadline`.
    """
    network = calibrated(sum(kind.count for kind in fleet.qpu)) if network is None else network
    quiet_ones = tuple(replace(q, noise=Noise(), qubits=min(q.qubits, _WIDEST)) for q in fleet.qpu)
    quiet = replace(fleet, qpu=quiet_ones, worker=(), network=network)
    work = _Jobs.of(quiet, entries, shots, strategy(policy), rows, deadline_s)
    with raised(quiet) as urls:
        ages = [_metric(url, "dqk_qpu_calibrated_seconds_ago") for url in urls]
        real_s, real_used = _real(quiet, urls, work)
    virtual_s, virtual_used = _virtual(quiet, ages, work)
    return Comparison(real_s, virtual_s, real_used, virtual_used)


def beside(experiment: Experiment, told: Callable[[str], None] = lambda text: None) -> dict[str, Comparison]:
    """The policies of an experiment in real time and in virtual time; those with a plus sign run in virtual time alone.

    Args:
        experiment: with kernel values, on QPUs.
        told: is told what is being done.

    Raises:
        InvalidInputError: if there is nothing of it that services could run.
        ClusterError: if a service does not start.
    """
    settings, fleet = experiment.settings, experiment.fleet
    policies = [variant.name for variant in experiment.variants if variant.name == variant.strategy.name]
    if not policies or not fleet.qpu or experiment.sweep or experiment.kernels:
        raise InvalidInputError(
            "real time is for the QPUs of a fleet, policies without a plus sign, no [sweep] and no [[kernel]]; leave the rest out"
        )
    told("measuring this machine's network")
    network = calibrated(sum(kind.count for kind in fleet.qpu))
    entries = [settings.samples * (settings.samples - 1) // 2, settings.samples * settings.test_samples]
    found = {}
    for policy in policies:
        told(f"{policy} in real time")
        rows, deadline_s = settings.max_circuits_per_job, settings.deadline_s
        found[policy] = compare(fleet, entries, settings.shots, policy, network, rows, deadline_s)
    return found


def _metric(url: str, name: str) -> float:
    with QPUClient(url) as client:
        text = client._connection().get("/metrics").text
    found = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
    if found is None:
        raise ClusterError(f"{url} has no metric {name}; is it a dqk QPU service of this version?")
    return float(found[1])


@dataclass(frozen=True)
class _Jobs:
    """Matrices cut into jobs, and who may have them."""

    entries: Sequence[int]
    shots: int
    how: Strategy
    rows: int
    kinds: list[JobKind]
    deadline_s: float | None

    @classmethod
    def of(
        cls,
        fleet: Fleet,
        entries: Sequence[int],
        shots: int,
        how: Strategy,
        rows: int | None = None,
        deadline_s: float | None = None,
    ) -> _Jobs:
        limits = DeviceLimits(max_circuits_per_job=min(device.max_circuits_per_job for device in fleet.qpu))
        full = job_rows(limits, rows)
        sizes = sorted({len(part) for count in entries for part in cut_jobs(np.full(count, shots), count, full)})
        kinds = [JobKind(_CIRCUIT.n_qubits, size, shots, 2 * _CIRCUIT.n_data) for size in sizes]
        return cls(entries, shots, how, full, kinds, deadline_s)

    def kind(self, count: int) -> np.ndarray:
        """Of each job of a matrix with so many entries."""
        sizes = [k.rows for k in self.kinds]
        parts = cut_jobs(np.full(count, self.shots), count, self.rows)
        return np.array([sizes.index(len(part)) for part in parts])

    def placement(self, kind: np.ndarray, offers: Sequence[Offer]) -> Placement | None:
        """Who may have which job of a matrix."""
        return self.how.placement(Demand(kind), offers, self.deadline_s)


def _real(fleet: Fleet, urls: Sequence[str], work: _Jobs) -> tuple[float, float]:
    """Makespan, and the share of the devices' time that was charged."""
    before = sum(_metric(url, "dqk_qpu_seconds_total") for url in urls)
    with QPUPool(urls) as pool:
        workers = {pool.backend_of(worker.id): worker.id for worker in pool.workers()}
        devices = zip(fleet.devices(), pool.names, strict=True)
        offers = [
            replace(offer(device, work.kinds, None), worker=workers[name])
            for device, name in devices
            if name in workers
        ]
        began = time.monotonic()
        for number, count in enumerate(work.entries):
            angles, kind = np.random.default_rng(number).uniform(-1, 1, (2, count, _CIRCUIT.n_data)), work.kind(count)
            measurement = Measurement(
                pool.device,
                _CIRCUIT,
                np.zeros(0),
                OnPool(pool),
                seed=number,
                rows=work.rows,
                placement=lambda jobs, counts, kind=kind: work.placement(kind, offers),  # type: ignore[misc]
                hedge=work.how.hedge,
            )
            measurement.frequencies(angles[0], angles[1], np.full(count, work.shots))
        seconds = time.monotonic() - began
    charged = sum(_metric(url, "dqk_qpu_seconds_total") for url in urls) - before
    return seconds, charged / (seconds * len(urls))


def _virtual(fleet: Fleet, ages: Sequence[float], work: _Jobs) -> tuple[float, float]:
    # The services' outages count from their start, which was before the run's.
    devices = [
        replace(device, outage=tuple(replace(o, start_s=o.start_s - age) for o in device.outage))
        for device, age in zip(fleet.devices(), ages, strict=True)
        if isinstance(device, QPU)
    ]
    models = [modelled(device, fleet.network, work.kinds, None) for device in devices]
    offers = [offer(device, work.kinds, None) for device in devices]
    policy = Policy(message_s=0.0, hedge=work.how.hedge, hang_factor=math.inf)
    clock, logs = 0.0, []
    for kind in map(work.kind, work.entries):
        seconds = np.array([one.seconds for one in offers]).mean(axis=0)[kind]
        plan = Plan(np.stack([kind, kind], axis=1).astype(np.int32), seconds, 1)
        outcome = VirtualRun(models, plan, kind, policy, work.placement(kind, offers), start=clock).run()
        clock = outcome.end
        logs.append((kind, outcome.log))
    charged = sum(
        seconds_of(devices[device], work.kinds[kind[item]])
        for kind, log in logs
        for device, item, worked, ended in zip(log.device, log.item, log.worked, log.ended, strict=True)
        if worked and ended <= clock
    )
    return clock, charged / (clock * len(devices))
