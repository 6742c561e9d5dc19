"""What an emulated device is like: limits, times, noise, drift, outages, failures and prices, from a TOML file."""

from __future__ import annotations

import itertools
import math
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from dqk.errors import InvalidInputError
from dqk.qpu.coupling import COUPLINGS
from dqk.qpu.tables import read_toml, real, section, toml_lines, whole


@dataclass(frozen=True)
class Limits:
    """What one token may ask for."""

    max_circuits_per_job: int = whole(1000, 1_000_000)
    max_shots: int = whole(1_000_000, 10**9)
    max_open_jobs: int = whole(1000, 1_000_000)
    max_sessions: int = whole(16, 10_000)
    max_body_mib: float = real(16.0, most=1024.0, positive=True)


@dataclass(frozen=True)
class Times:
    """Seconds of the device for a job, for each of its circuits, for each shot of a circuit; really waited for.

    `session_job_s` is in place of `job_s` where a job follows another one of its session; None for the same.
    A session ends by itself after `session_s`.
    """

    job_s: float = real(0.0, most=86400.0)
    circuit_s: float = real(0.0, most=3600.0)
    shot_s: float = real(0.0, most=3600.0)
    session_job_s: float | None = field(default=None, metadata={"most": 86400.0, "positive": False})
    session_s: float = real(900.0, positive=True)

    def seconds(self, rows: int, shots: int, follows: bool = False) -> float:
        """Of a job; `follows` says that the one before it was of the same session."""
        job_s = self.job_s if self.session_job_s is None or not follows else self.session_job_s
        return job_s + rows * (self.circuit_s + shots * self.shot_s)


@dataclass(frozen=True)
class Noise:
    """Probabilities of errors.

    Attributes:
        depolarising_1q: of a Pauli error after a one-qubit gate (X, Y and Z alike).
        depolarising_2q: the same on each of the two qubits of a two-qubit gate.
        readout_0: of reading 1 where the qubit is 0.
        readout_1: of reading 0 where the qubit is 1.
    """

    depolarising_1q: float = real(0.0, most=0.75)
    depolarising_2q: float = real(0.0, most=0.75)
    readout_0: float = real(0.0, most=0.5)
    readout_1: float = real(0.0, most=0.5)

    @property
    def of_gates(self) -> bool:
        """Whether states are mixed."""
        return self.depolarising_1q > 0 or self.depolarising_2q > 0

    @property
    def any(self) -> bool:
        """Whether anything goes wrong."""
        return self.of_gates or self.readout_0 > 0 or self.readout_1 > 0

    def times(self, factor: float) -> Noise:
        """Noise whose probabilities are a multiple of these, as far as there are such."""
        return Noise(
            **{item.name: min(item.metadata["most"], factor * getattr(self, item.name)) for item in fields(self)}
        )


@dataclass(frozen=True)
class Drift:
    """How the device gets worse: its probabilities of errors grow by `per_hour` of themselves until it is calibrated."""

    per_hour: float = real(0.0, most=1e6)
    calibrate_every_s: float = real(3600.0, positive=True)


@dataclass(frozen=True)
class Failures:
    """What goes wrong by chance: a job, a request that is refused with 503, an answer that is lost after the request was served."""

    job: float = real(0.0, most=1.0)
    refused: float = real(0.0, most=0.9)
    lost: float = real(0.0, most=0.9)
    seed: int = field(default=0, metadata={"most": 2**63 - 1, "positive": False})


@dataclass(frozen=True)
class Price:
    """Of a job that is done."""

    per_job: float = real(0.0)
    per_s: float = real(0.0)
    per_shot: float = real(0.0)
    currency: str = "EUR"


QUEUES = ("fixed", "exponential", "lognormal", "trace")


@dataclass(frozen=True)
class Queue:
    """How long others keep the device before it begins one of our jobs; not where that follows another one of its session.

    Attributes:
        model: `fixed`: always `mean_s`; `exponential`; `lognormal`, with `sigma` of its logarithm; `trace`: the numbers of a file.
        mean_s: mean of the first three.
        sigma: of `lognormal`.
        file: of `trace`: seconds, one number in each line, taken in turn; its path counts from the TOML file's folder.
        seed: of what is drawn, and of where a trace begins.
    """

    model: str = field(default="fixed", metadata={"choices": QUEUES})
    mean_s: float = real(0.0, most=1e7)
    sigma: float = real(1.0, most=5.0)
    file: str | None = None
    seed: int = field(default=0, metadata={"most": 2**63 - 1, "positive": False})

    def problems(self, where: str) -> list[str]:
        """What is wrong with its values together."""
        if (self.model == "trace") != (self.file is not None):
            return [
                f"{where}: model is {self.model!r} and file is {self.file!r}; a trace needs a file, nothing else takes one"
            ]
        return []

    def waits(self, seed: int | None = None) -> Callable[[], float]:
        """A source of waiting times in seconds; fixed by the seed, which is the queue's own if it is None."""
        chance = random.Random(self.seed if seed is None else seed)
        if self.model == "exponential" and self.mean_s > 0:
            return lambda rate=1 / self.mean_s: chance.expovariate(rate)  # type: ignore[misc]
        if self.model == "lognormal" and self.mean_s > 0:
            middle = math.log(self.mean_s) - self.sigma**2 / 2
            return lambda: chance.lognormvariate(middle, self.sigma)
        if self.file is not None:
            known = read_trace(Path(self.file))
            start = chance.randrange(len(known))
            around = itertools.cycle(known[start:] + known[:start])
            return lambda: next(around)
        return lambda: self.mean_s

    @property
    def expected_s(self) -> float:
        """Mean of the waiting times."""
        if self.file is None:
            return self.mean_s
        known = read_trace(Path(self.file))
        return sum(known) / len(known)


def read_trace(file: Path) -> list[float]:
    """Waiting times of a trace file.

    Raises:
        InvalidInputError: if it cannot be read, is empty, or has something else than seconds in it.
    """
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
        known = [float(line) for line in lines if line and not line.startswith("#")]
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"the trace {file} cannot be read: {error}") from error
    if not known or not all(0 <= wait < math.inf for wait in known):
        raise InvalidInputError(f"the trace {file} has to have seconds of at least 0, one number in each line")
    return known


@dataclass(frozen=True)
class Outage:
    """A time in which the device starts no job and takes none, counted from the service's first start."""

    start_s: float = real(None)
    duration_s: float = real(None, positive=True)
    every_s: float | None = field(default=None, metadata={"most": 1e9, "positive": True})

    def problems(self, where: str) -> list[str]:
        """What is wrong with its values together."""
        if self.every_s is not None and self.every_s <= self.duration_s:
            return [f"{where}: every_s is {self.every_s:g}, expected more than duration_s, {self.duration_s:g}"]
        return []

    def left_s(self, age_s: float) -> float:
        """Seconds until it is over; 0 if it is not now."""
        since = age_s - self.start_s
        if since < 0:
            return 0.0
        if self.every_s is not None:
            since %= self.every_s
        return max(0.0, self.duration_s - since)

    def spans(self, end_s: float) -> Iterator[tuple[float, float]]:
        """Begin and length of each such time before the end."""
        start = self.start_s
        while start < end_s:
            yield start, min(self.duration_s, end_s - start)
            if self.every_s is None:
                return
            start += self.every_s


@dataclass(frozen=True)
class Profile:
    """An emulated device. The default one has no noise, drift, outage or delay.

    Attributes:
        name: that the service shows.
        coupling: which qubits a two-qubit gate can act on: `all`, `line`, `ring` or `grid`; for other pairs the service brings
            the qubits together by swaps and back, with the errors of three two-qubit gates for each.
        limits, times, queue, noise, drift, failures, price, outage: see there.
    """

    name: str = "dqk emulator"
    coupling: str = field(default="all", metadata={"choices": COUPLINGS})
    limits: Limits = Limits()
    times: Times = Times()
    queue: Queue = Queue()
    noise: Noise = Noise()
    drift: Drift = Drift()
    failures: Failures = Failures()
    price: Price = Price()
    outage: tuple[Outage, ...] = field(default=(), metadata={"tables": Outage})

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Profile:
        """The profile of a TOML file.

        Raises:
            InvalidInputError: names everything that is wrong with it.
        """
        file = Path(path)
        problems: list[str] = []
        profile = section(cls, read_toml(file, "profile"), "", problems)
        queue = found_trace(profile.queue, file.parent, "queue", problems)
        if problems:
            raise InvalidInputError(f"the profile {file}:\n" + "\n".join(problems))
        found: Profile = replace(profile, queue=queue)
        return found

    def to_toml(self) -> str:
        """What `read` gives this profile for."""
        return "\n".join(toml_lines(self, ""))

    def outage_left_s(self, age_s: float) -> float:
        """Seconds until the device works; 0 if it does."""
        return max((outage.left_s(age_s) for outage in self.outage), default=0.0)

    def noise_at(self, age_s: float) -> Noise:
        """Probabilities of errors so many seconds after the first calibration."""
        return self.noise.times(1.0 + self.drift.per_hour * self.calibrated_s_ago(age_s) / 3600.0)

    def calibrated_s_ago(self, age_s: float) -> float:
        """Seconds since the last calibration."""
        return age_s % self.drift.calibrate_every_s


def found_trace(queue: Queue, folder: Path, where: str, problems: list[str]) -> Queue:
    """The queue with its trace's path as it can be opened from anywhere."""
    if queue.file is None:
        return queue
    try:
        read_trace(folder / queue.file)
    except InvalidInputError as error:
        problems.append(f"{where}: {error}")
    return replace(queue, file=str((folder / queue.file).resolve()))
