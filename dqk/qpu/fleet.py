"""Fleets of quantum processors, GPUs and CPU workers, from a TOML file: what `dqk emulate` plays through.

Choose `Fleet.read` for a file of your own. `device = "trapped_ion"` in a `[[qpu]]` takes the figures of a published class of
devices from `devices.toml`, which names their sources; what the file says itself goes before them.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from dqk.errors import InvalidInputError, unknown_name
from dqk.qpu.coupling import COUPLINGS
from dqk.qpu.profile import Drift, Failures, Limits, Noise, Outage, Price, Profile, Queue, Times, found_trace
from dqk.qpu.tables import read_toml, real, section, whole

MOST_DEVICES = 100_000
_BESIDE = {"experiment", "sweep", "kernel"}  # keys of a file that are about something else than its fleet


@dataclass(frozen=True)
class Session:
    """What holds for a job that follows another one of its session: others do not get between, and `job_s` is its overhead.

    Attributes:
        job_s: seconds in place of the device's `job_s`; None for the same.
        length_s: after so many seconds a session ends by itself.
    """

    job_s: float | None = field(default=None, metadata={"most": 86400.0, "positive": False})
    length_s: float = real(900.0, positive=True)


@dataclass(frozen=True)
class QPU:
    """A quantum processor, or several alike.

    Attributes:
        name: of the processor; with `count` they are `name-0`, `name-1`, ...
        count: how many there are.
        qubits: widest circuit.
        coupling: which qubits a two-qubit gate can act on: `all`, `line`, `ring` or `grid`; other pairs need swaps.
        shot_rate_hz: shots of a circuit in a second.
        job_s: seconds of the device for a job beside its circuits.
        circuit_s: seconds of the device for a circuit beside its shots.
        max_circuits_per_job: circuits of a job at most.
        max_shots: of a circuit at most.
        power_w: electric power while it works on a job.
        idle_w: electric power otherwise.
        queue, session, noise, drift, failures, price, outage: see there.
    """

    name: str
    count: int = whole(1, MOST_DEVICES)
    qubits: int = whole(20, 1_000_000)
    coupling: str = field(default="all", metadata={"choices": COUPLINGS})
    shot_rate_hz: float = real(10_000.0, positive=True)
    job_s: float = real(0.0, most=86400.0)
    circuit_s: float = real(0.0, most=3600.0)
    max_circuits_per_job: int = whole(1000, 1_000_000)
    max_shots: int = whole(1_000_000, 10**9)
    power_w: float = real(0.0)
    idle_w: float = real(0.0)
    queue: Queue = Queue()
    session: Session = Session()
    noise: Noise = Noise()
    drift: Drift = Drift()
    failures: Failures = Failures()
    price: Price = Price()
    outage: tuple[Outage, ...] = field(default=(), metadata={"tables": Outage})

    @property
    def times(self) -> Times:
        """Seconds of the device, as a service has them."""
        return Times(self.job_s, self.circuit_s, 1 / self.shot_rate_hz, self.session.job_s, self.session.length_s)

    def profile(self) -> Profile:
        """The same device for `dqk qpu serve`, where its times are really waited for."""
        return Profile(
            name=self.name,
            coupling=self.coupling,
            limits=Limits(max_circuits_per_job=self.max_circuits_per_job, max_shots=self.max_shots),
            times=self.times,
            queue=self.queue,
            noise=self.noise,
            drift=self.drift,
            failures=self.failures,
            price=self.price,
            outage=self.outage,
        )


@dataclass(frozen=True)
class Simulator:
    """A GPU or CPU that computes entries exactly, or several alike.

    Attributes:
        name: of the worker; with `count` they are `name-0`, `name-1`, ...
        kind: `gpu` or `cpu`.
        count: how many there are.
        qubits: widest state that its memory holds.
        entries_per_s: of circuits of `at_qubits` qubits; each qubit more halves it, each less doubles it up to
            `most_entries_per_s`. None for the rates of this machine's cost model, see `dqk doctor --calibrate`.
        at_qubits: see there.
        most_entries_per_s: whatever the width.
        job_s: seconds for a job beside its entries.
        power_w: electric power while it works on a job.
        idle_w: electric power otherwise.
        price, outage: see there.
    """

    name: str
    kind: str = field(default="gpu", metadata={"choices": ("gpu", "cpu")})
    count: int = whole(1, MOST_DEVICES)
    qubits: int = whole(30, 1_000)
    entries_per_s: float | None = field(default=None, metadata={"most": 1e15, "positive": True})
    at_qubits: int = whole(10, 1_000)
    most_entries_per_s: float = real(1e9, most=1e15, positive=True)
    job_s: float = real(0.0, most=86400.0)
    power_w: float = real(0.0)
    idle_w: float = real(0.0)
    price: Price = Price()
    outage: tuple[Outage, ...] = field(default=(), metadata={"tables": Outage})


@dataclass(frozen=True)
class Network:
    """What lies between the driver and the devices.

    Attributes:
        latency_s: of a message, one way.
        bandwidth_mib_s: of a driver's connection to one device, in MiB/s.
        overhead_s: seconds between two jobs of one device in which it does nothing although one waits.
        patience_s: a job fails whose device is down for longer; after three in a row the device is given up.
    """

    latency_s: float = real(0.0, most=3600.0)
    bandwidth_mib_s: float = real(1e6, positive=True)
    overhead_s: float = real(0.0, most=3600.0)
    patience_s: float = real(30.0, positive=True)


@dataclass(frozen=True)
class Fleet:
    """Devices and the network between them and the driver.

    Attributes:
        name: of the fleet.
        qpu: kinds of processors.
        worker: kinds of GPUs and CPUs.
        network: see there.
    """

    name: str = "fleet"
    network: Network = Network()
    qpu: tuple[QPU, ...] = field(default=(), metadata={"tables": QPU})
    worker: tuple[Simulator, ...] = field(default=(), metadata={"tables": Simulator})

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Fleet:
        """The fleet of a TOML file; what it says about an experiment is passed over.

        Raises:
            InvalidInputError: names everything that is wrong with it.
        """
        file = Path(path)
        return cls.from_dict(read_toml(file, "fleet"), file.parent, f"the fleet {file}")

    @classmethod
    def from_dict(cls, given: Mapping[str, Any], folder: Path, what: str = "the fleet") -> Fleet:
        """The fleet of a document whose paths count from a folder.

        Raises:
            InvalidInputError: names everything that is wrong with it; `what` is how it begins.
        """
        problems: list[str] = []
        document = {name: value for name, value in given.items() if name not in _BESIDE}
        if isinstance(document.get("qpu"), list):
            rows = enumerate(document["qpu"], 1)
            document["qpu"] = [_with_class(row, f"qpu {place}", problems) for place, row in rows]
        fleet = section(cls, document, "", problems)
        if not problems:
            rows = enumerate(fleet.qpu, 1)
            found = [replace(q, queue=found_trace(q.queue, folder, f"qpu {k}.queue", problems)) for k, q in rows]
            fleet = replace(fleet, qpu=tuple(found))
            problems += fleet._together()
        if problems:
            raise InvalidInputError(f"{what}:\n" + "\n".join(problems))
        made: Fleet = fleet
        return made

    def _together(self) -> list[str]:
        kinds = self.kinds
        count = sum(kind.count for kind in kinds)
        found = []
        if not kinds:
            found.append("there is no [[qpu]] and no [[worker]], expected at least one")
        if count > MOST_DEVICES:
            found.append(f"{count:,} devices, at most {MOST_DEVICES:,} can be emulated")
        else:  # "a-0" may be one of two "a", too
            times = Counter(kind.name for kind in kinds) | Counter(name for kind in kinds for name in _names(kind))
            several = sorted(name for name, number in times.items() if number > 1)
            found += [f"{name!r} is the name of several, expected different names" for name in several]
        currencies = {k.price.currency for k in kinds if any((k.price.per_job, k.price.per_s, k.price.per_shot))}
        if len(currencies) > 1:
            found.append(f"prices in {' and '.join(sorted(currencies))}, expected one currency")
        return found

    @property
    def kinds(self) -> tuple[QPU | Simulator, ...]:
        """What its file lists."""
        return (*self.qpu, *self.worker)

    @property
    def currency(self) -> str:
        """Of its prices."""
        return next((kind.price.currency for kind in self.kinds if kind.price != Price()), Price().currency)

    def devices(self) -> Iterator[QPU | Simulator]:
        """Each device under a name of its own, and with a seed of its own where something is drawn."""
        for kind in self.kinds:
            for place, name in enumerate(_names(kind)):
                one = replace(kind, count=1, name=name)
                if isinstance(one, QPU) and place:
                    queue = replace(one.queue, seed=one.queue.seed + place)
                    one = replace(one, queue=queue, failures=replace(one.failures, seed=one.failures.seed + place))
                yield one


def _names(kind: QPU | Simulator) -> list[str]:
    return [kind.name] if kind.count == 1 else [f"{kind.name}-{place}" for place in range(kind.count)]


@lru_cache(maxsize=1)
def device_classes() -> dict[str, dict[str, Any]]:
    """The classes of devices that `device = ` names."""
    return read_toml(Path(__file__).with_name("devices.toml"), "device classes")


def _with_class(row: Any, where: str, problems: list[str]) -> Any:
    """A `[[qpu]]` with what its class of devices says where it says nothing itself."""
    if not isinstance(row, dict) or "device" not in row:
        return row
    own = {name: value for name, value in row.items() if name != "device"}
    known = device_classes()
    if row["device"] not in known:
        problems.append(f"{where}.device: {unknown_name('class of devices', row['device'], known)}")
        return own
    return _merged(known[row["device"]], own)


def _merged(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(base)
    for name, value in own.items():
        inner = found.get(name)
        found[name] = _merged(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return found
