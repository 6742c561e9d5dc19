"""A fleet's devices as virtual time runs them, and what they offer to the scheduler, for jobs of some kinds."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dqk.circuit import Circuit
from dqk.qpu._virtual import Device
from dqk.qpu.coupling import swaps
from dqk.qpu.fleet import QPU, Network, Simulator
from dqk.qpu.profile import Noise
from dqk.scheduler import Offer

_NUMBER_BYTES = 8 * 4 / 3  # an angle in a job's table, in base64


@dataclass(frozen=True)
class JobKind:
    """Jobs that take the same everywhere.

    Attributes:
        qubits: of the circuit.
        rows: circuits of the job.
        shots: of each.
        angles: numbers that each circuit is sent with.
    """

    qubits: int
    rows: int
    shots: int
    angles: int = 0

    @property
    def measurements(self) -> int:
        """Shots of the job."""
        return self.rows * self.shots


def seconds_of(device: QPU | Simulator, kind: JobKind, follows: bool = False) -> float:
    """Seconds of a device for a job; infinity if it cannot do it."""
    if kind.qubits > device.qubits:
        return float("inf")
    if isinstance(device, Simulator):
        return device.job_s + kind.rows * _entry_s(device, kind.qubits)
    if kind.rows > device.max_circuits_per_job or kind.shots > device.max_shots:
        return float("inf")
    return device.times.seconds(kind.rows, kind.shots, follows)


def _entry_s(device: Simulator, qubits: int) -> float:
    if device.entries_per_s is None:
        return _calibrated_s(qubits)
    rate = device.entries_per_s * 2.0 ** min(device.at_qubits - qubits, 100)
    return 1 / min(rate, device.most_entries_per_s)


def _calibrated_s(qubits: int) -> float:
    """An entry on one thread of this machine, by its cost model: of a circuit with three layers that entangle."""
    from dqk._calibration import cost_model
    from dqk.backends.efforts import statevector_effort
    from dqk.kernels.feature_maps import reuploading_feature_map

    side = 256
    effort = statevector_effort(reuploading_feature_map(qubits).circuit, np.dtype(np.float64).itemsize, side)
    cost = cost_model().of(effort, np.float64, side)
    return (2 * cost.encode_s + cost.tile_s) / side**2


def price_of(device: QPU | Simulator, kind: JobKind, seconds: float) -> float:
    """What a job costs that takes so many seconds of the device."""
    price = device.price
    shots = 0 if isinstance(device, Simulator) else kind.measurements
    return price.per_job + price.per_s * seconds + price.per_shot * shots


def modelled(
    device: QPU | Simulator, network: Network, kinds: Sequence[JobKind], seed: int | None, sessions: bool = False
) -> Device:
    """A device for a virtual run.

    Args:
        device: one of a fleet.
        network: between it and the driver.
        kinds: of jobs that there are.
        seed: of what is drawn, beside the device's own; None to draw what a service with the device's profile draws.
        sessions: whether its jobs follow each other in sessions.
    """
    seconds = [seconds_of(device, kind) for kind in kinds]
    transfer = [kind.rows * kind.angles * _NUMBER_BYTES / (network.bandwidth_mib_s * 2**20) for kind in kinds]
    found = Device(
        device.name,
        seconds,
        outages=device.outage,
        latency_s=network.latency_s,
        transfer_s=transfer if any(transfer) else None,
        overhead_s=network.overhead_s,
        patience_s=network.patience_s,
    )
    if isinstance(device, QPU):
        if sessions:
            found.follows = [seconds_of(device, kind, True) for kind in kinds]
            found.session_s = device.session.length_s
        if device.queue.expected_s > 0:
            found.waits = device.queue.waits(None if seed is None else _mixed(seed, device.queue.seed))
        if device.failures.job > 0:
            own = device.failures.seed
            chance = random.Random(own if seed is None else _mixed(seed, own))
            found.fails = lambda limit=device.failures.job: chance.random() < limit
    return found


def _mixed(*seeds: int) -> int:
    return int(np.random.SeedSequence(seeds).generate_state(1, np.uint64)[0]) >> 1


def offer(device: QPU | Simulator, kinds: Sequence[JobKind], circuit: Circuit | None) -> Offer:
    """What the scheduler is told about a device.

    Args:
        device: one of a fleet.
        kinds: of jobs that there are.
        circuit: that is run, for the device's error; None where only times matter.
    """
    seconds = [seconds_of(device, kind) for kind in kinds]
    prices = [price_of(device, kind, s) if s < float("inf") else 0.0 for kind, s in zip(kinds, seconds, strict=True)]
    if isinstance(device, Simulator):
        return Offer(device.name, tuple(seconds), tuple(prices), simulates=True)
    waits = device.queue.expected_s
    return Offer(device.name, tuple(s + waits for s in seconds), tuple(prices), error_of(device, circuit))


def error_of(device: QPU, circuit: Circuit | None) -> float:
    """Probability that something goes wrong in `U(y)^dagger U(x)` and its readout, errors before any drift."""
    noise: Noise = device.noise
    widths = [len(gate.wires) for gate in circuit.compute_uncompute().gates] if circuit is not None else [1, 2]
    more = 0 if circuit is None else 3 * swaps(circuit.compute_uncompute(), device.coupling)
    readout = (noise.readout_0 + noise.readout_1) / 2
    right = (
        (1 - noise.depolarising_1q) ** widths.count(1)
        * (1 - noise.depolarising_2q) ** (2 * (widths.count(2) + more))
        * (1 - readout) ** (circuit.n_qubits if circuit is not None else 1)
    )
    return 1 - right


def fitting(devices: Sequence[QPU | Simulator], kinds: Sequence[JobKind]) -> list[str]:
    """For each kind of jobs why none of these devices takes it; an empty text if one does."""
    if not devices:
        return ["no device is left"] * len(kinds)
    widest = max(devices, key=lambda device: device.qubits)
    found = []
    for kind in kinds:
        if any(seconds_of(device, kind) < float("inf") for device in devices):
            found.append("")
        elif kind.qubits > widest.qubits:
            found.append(
                f"circuits of {kind.qubits} qubits fit nowhere: the widest device, {widest.name}, has {widest.qubits}"
            )
        else:
            found.append(
                f"jobs of {kind.rows} circuits with {kind.shots:,} shots on {kind.qubits} qubits exceed every device's limits"
            )
    return found
