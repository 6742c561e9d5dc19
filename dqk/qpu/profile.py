"""What an emulated device is like: limits, times, noise, drift, outages, failures and prices, from a TOML file."""

from __future__ import annotations

import math
import os
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from dqk.errors import InvalidInputError, unknown_name


def _number(default: float | None, most: float = 1e9, positive: bool = False) -> Any:
    return field(default=MISSING if default is None else default, metadata={"most": most, "positive": positive})


def _count(default: int, most: int) -> Any:
    return field(default=default, metadata={"most": most, "positive": True})


@dataclass(frozen=True)
class Limits:
    """What one token may ask for."""

    max_circuits_per_job: int = _count(1000, 1_000_000)
    max_shots: int = _count(1_000_000, 10**9)
    max_open_jobs: int = _count(1000, 1_000_000)
    max_sessions: int = _count(16, 10_000)
    max_body_mib: float = _number(16.0, most=1024.0, positive=True)


@dataclass(frozen=True)
class Times:
    """Seconds of the device for a job, for each of its circuits, for each shot of a circuit; really waited for.

    `session_job_s` is in place of `job_s` where a job follows another one of its session; None for the same.
    A session ends by itself after `session_s`.
    """

    job_s: float = _number(0.0, most=86400.0)
    circuit_s: float = _number(0.0, most=3600.0)
    shot_s: float = _number(0.0, most=3600.0)
    session_job_s: float | None = field(default=None, metadata={"most": 86400.0, "positive": False})
    session_s: float = _number(900.0, positive=True)

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

    depolarising_1q: float = _number(0.0, most=0.75)
    depolarising_2q: float = _number(0.0, most=0.75)
    readout_0: float = _number(0.0, most=0.5)
    readout_1: float = _number(0.0, most=0.5)

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

    per_hour: float = _number(0.0, most=1e6)
    calibrate_every_s: float = _number(3600.0, positive=True)


@dataclass(frozen=True)
class Failures:
    """What goes wrong by chance: a job, a request that is refused with 503, an answer that is lost after the request was served."""

    job: float = _number(0.0, most=1.0)
    refused: float = _number(0.0, most=0.9)
    lost: float = _number(0.0, most=0.9)
    seed: int = field(default=0, metadata={"most": 2**63 - 1, "positive": False})


@dataclass(frozen=True)
class Price:
    """Of a job that is done."""

    per_job: float = _number(0.0)
    per_s: float = _number(0.0)
    per_shot: float = _number(0.0)
    currency: str = "EUR"


@dataclass(frozen=True)
class Outage:
    """A time in which the device starts no job and takes none, counted from the service's first start."""

    start_s: float = _number(None)
    duration_s: float = _number(None, positive=True)
    every_s: float | None = field(default=None, metadata={"most": 1e9, "positive": True})

    def left_s(self, age_s: float) -> float:
        """Seconds until it is over; 0 if it is not now."""
        since = age_s - self.start_s
        if since < 0:
            return 0.0
        if self.every_s is not None:
            since %= self.every_s
        return max(0.0, self.duration_s - since)


@dataclass(frozen=True)
class Profile:
    """An emulated device. The default one has no noise, drift, outage or delay.

    Attributes:
        name: that the service shows.
        limits, times, noise, drift, failures, price, outage: see there.
    """

    name: str = "dqk emulator"
    limits: Limits = Limits()
    times: Times = Times()
    noise: Noise = Noise()
    drift: Drift = Drift()
    failures: Failures = Failures()
    price: Price = Price()
    outage: tuple[Outage, ...] = ()

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Profile:
        """The profile of a TOML file.

        Raises:
            InvalidInputError: names everything that is wrong with it.
        """
        file = Path(path)
        try:
            given: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise InvalidInputError(f"the profile {file} cannot be read: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InvalidInputError(f"the profile {file} is not TOML: {error}") from error
        problems: list[str] = []
        profile = _section(cls, given, "", problems)
        if problems:
            raise InvalidInputError(f"the profile {file}:\n" + "\n".join(problems))
        return profile

    def outage_left_s(self, age_s: float) -> float:
        """Seconds until the device works; 0 if it does."""
        return max((outage.left_s(age_s) for outage in self.outage), default=0.0)

    def noise_at(self, age_s: float) -> Noise:
        """Probabilities of errors so many seconds after the first calibration."""
        return self.noise.times(1.0 + self.drift.per_hour * self.calibrated_s_ago(age_s) / 3600.0)

    def calibrated_s_ago(self, age_s: float) -> float:
        """Seconds since the last calibration."""
        return age_s % self.drift.calibrate_every_s


def _section(kind: Any, given: Mapping[str, Any], where: str, problems: list[str]) -> Any:
    """A dataclass from a table; what is wrong goes to `problems`, and the result is then not used."""
    known = {item.name: item for item in fields(kind)}
    for name in sorted(given.keys() - known.keys()):
        problems.append(str(unknown_name(f"key of [{where}]" if where else "key", name, known)))
    values: dict[str, Any] = {}
    for name, item in known.items():
        place = f"{where}.{name}" if where else name
        if name not in given:
            if item.default is MISSING:
                problems.append(f"{where} lacks {name}")
                values[name] = 1.0
        elif name == "outage":
            values[name] = _outages(given[name], problems)
        elif is_dataclass(item.default):
            if isinstance(given[name], dict):
                values[name] = _section(type(item.default), given[name], place, problems)
            else:
                problems.append(f"{place} is {given[name]!r}, expected a table: [{place}]")
        else:
            values[name] = _value(item, given[name], place, problems)
    made = kind(**values)
    if isinstance(made, Outage) and made.every_s is not None and made.every_s <= made.duration_s:
        problems.append(f"{where}: every_s is {made.every_s:g}, expected more than duration_s, {made.duration_s:g}")
    return made


def _outages(given: Any, problems: list[str]) -> tuple[Outage, ...]:
    if not isinstance(given, list) or not all(isinstance(row, dict) for row in given):
        problems.append(f"outage is {given!r}, expected tables: [[outage]]")
        return ()
    return tuple(_section(Outage, row, f"outage {number}", problems) for number, row in enumerate(given, 1))


def _value(item: Any, given: Any, place: str, problems: list[str]) -> Any:
    """A value of a field if it will do, else the field's own or 1."""
    if item.type == "str":
        if isinstance(given, str) and given.isprintable() and 0 < len(given) <= 100:
            return given
        problems.append(f"{place} is {given!r}, expected a text of one line")
        return ""
    whole, most = item.type == "int", item.metadata["most"]
    kinds = int if whole else (int, float)
    fits = isinstance(given, kinds) and not isinstance(given, bool) and math.isfinite(given)
    if fits and (given > 0 if item.metadata["positive"] else given >= 0) and given <= most:
        return given if whole else float(given)
    least = "above 0" if item.metadata["positive"] and not whole else f"of at least {int(item.metadata['positive'])}"
    problems.append(f"{place} is {given!r}, expected a {'whole ' * whole}number {least} and at most {most:g}")
    return 1
