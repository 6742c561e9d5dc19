"""What is to be emulated: a fleet, a kernel matrix, policies, and parameters that are swept, from a TOML file.

A file is a fleet with a table `[experiment]`, or names one with `fleet = "fleets/hetero6.toml"`. `[sweep]` has lists of values
for keys such as `"experiment.shots"`, `"network.latency_s"`, `"qpu.queue.mean_s"` (of all QPUs) or `"qpu.fast.count"` (of the one
of this name); every combination is played through. With `[[kernel]]` only times are emulated, of one or several widths.
"""

from __future__ import annotations

import copy
import itertools
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dqk._measure import job_rows
from dqk.backends.sampled import DeviceLimits
from dqk.errors import InvalidInputError, unknown_name
from dqk.kernels.feature_maps import FEATURE_MAPS
from dqk.qpu.fleet import Fleet
from dqk.qpu.models import JobKind, fitting
from dqk.qpu.tables import read_toml, real, section, whole
from dqk.scheduler import STRATEGIES, Strategy, strategy

DATA = ("breast_cancer", "wine", "digits", "random")
ALLOCATIONS = ("uniform", "variance", "weighted")
_TOLD = (
    "told how much each entry matters by a support-vector machine on the exact matrix, which nobody has beforehand; what that "
    "gains is a bound on what weights from a pilot, or from an earlier machine, could gain"
)
_MOST_POINTS = 10_000
_MOST_ENTRIES = 2_000_000  # whose values are worked out
_MOST_JOBS = 5_000_000
_ROWS = 1000  # circuits of a job where neither devices nor the experiment say less


@dataclass(frozen=True)
class Variant:
    """A policy as a file names it: a strategy, and after plus signs how shots are shared out, `splitK`, `session`.

    Attributes:
        name: of all of it, such as `pull+variance` or `hedged+split2`.
        strategy: who gets what.
        allocation: of shots, see `dqk.kernels.ShotPlan`.
        split: each entry's shots are measured in so many parts, by whichever device takes each.
        session: jobs follow each other in sessions of the devices.
    """

    name: str
    strategy: Strategy
    allocation: str = "uniform"
    split: int = 1
    session: bool = False

    @property
    def is_told(self) -> bool:
        """Whether it uses how much entries matter."""
        return self.strategy.name == "error_aware" or self.allocation == "weighted"

    @classmethod
    def parse(cls, name: str) -> Variant:
        """A variant from its name.

        Raises:
            InvalidInputError: for names that nobody knows.
        """
        first, *rest = name.split("+")
        allocation, split, session = "uniform", 1, False
        for part in rest:
            if part in ALLOCATIONS:
                allocation = part
            elif part.startswith("split") and part[5:].isdigit() and 1 <= int(part[5:]) <= 1000:
                split = int(part[5:])
            elif part == "session":
                session = True
            else:
                raise unknown_name(f"part of the policy {name!r}", part, [*ALLOCATIONS, "splitK", "session"])
        return cls(name, strategy(first), allocation, split, session)


@dataclass(frozen=True)
class Settings:
    """The table `[experiment]`.

    Attributes:
        name: of the report.
        data: `breast_cancer`, `wine` or `digits` of scikit-learn, of which two classes are told apart, or `random` samples.
        samples: of the symmetric matrix.
        test_samples: whose rows are measured too, for the accuracy of a support-vector machine.
        qubits: features of a sample, one each (principal components).
        feature_map: as in `dqk gram`.
        bandwidth: multiplies samples, which are scaled to [-1, 1] before.
        shots: of an entry; where shots are shared out, their mean.
        max_circuits_per_job: fewer than the devices take.
        penalty: C of the support-vector machine.
        downstream: `qklstm` for the loss of a QK-LSTM whose kernel values come from the devices, beside the machine's accuracy.
        policies: see `Variant`.
        deadline_s: for the policy `deadline`; None for twice what all devices together would take.
        repeats: of everything that is drawn.
        seed: of all that.
    """

    name: str | None = None
    data: str = field(default="breast_cancer", metadata={"choices": DATA})
    samples: int = whole(40, 100_000, least=2)
    test_samples: int = whole(40, 100_000)
    qubits: int = whole(4, 1000)
    feature_map: str = field(default="reuploading", metadata={"choices": tuple(FEATURE_MAPS)})
    bandwidth: float = real(1.0, positive=True)
    shots: int = whole(500, 10**9)
    max_circuits_per_job: int | None = field(default=None, metadata={"most": 1_000_000, "positive": True})
    penalty: float = real(10.0, positive=True)
    downstream: str = field(default="svc", metadata={"choices": ("svc", "qklstm")})
    policies: tuple[str, ...] = tuple(name for name in STRATEGIES if name != "mixed")
    deadline_s: float | None = field(default=None, metadata={"most": 1e9, "positive": True})
    repeats: int = whole(5, 10_000)
    seed: int = field(default=0, metadata={"most": 2**63 - 1, "positive": False})

    def problems(self, where: str) -> list[str]:
        """What is wrong with its values together."""
        entries = self.samples * (self.samples - 1) // 2 + self.samples * self.test_samples
        if entries <= _MOST_ENTRIES:
            return []
        return [
            f"{where}: {self.samples:,} samples and {self.test_samples:,} test samples are {entries:,} entries, at most "
            f"{_MOST_ENTRIES:,} can be emulated with their values; [[kernel]] emulates times alone"
        ]


@dataclass(frozen=True)
class TimedKernel:
    """A `[[kernel]]`: the upper triangle of a matrix, of which only the time matters.

    Attributes:
        qubits: of its circuits.
        samples: N: it has N (N - 1) / 2 entries.
        shots: of an entry; None for those of `[experiment]`.
    """

    qubits: int = whole(4, 100_000)
    samples: int = whole(100, 1_000_000, least=2)
    shots: int | None = field(default=None, metadata={"most": 10**9, "positive": True})


@dataclass(frozen=True)
class Experiment:
    """What is to be played through.

    Attributes:
        fleet: on which devices.
        settings: see there.
        kernels: of which only times matter; without any the kernel of the settings is emulated with its values.
        sweep: lists of values by key.
        document: of the file, the fleet's included.
        folder: that its paths count from.
    """

    fleet: Fleet
    settings: Settings
    kernels: tuple[TimedKernel, ...]
    sweep: Mapping[str, list[Any]]
    document: Mapping[str, Any]
    folder: Path

    @classmethod
    def read(
        cls,
        path: str | os.PathLike[str],
        changes: Mapping[str, Any] | None = None,
        sweep: Mapping[str, list[Any]] | None = None,
    ) -> Experiment:
        """The experiment of a TOML file.

        Args:
            path: of the file.
            changes: values for keys as in a sweep, in place of the file's.
            sweep: in place of the file's, if there is anything in it.

        Raises:
            InvalidInputError: names everything that is wrong with it.
        """
        file = Path(path)
        own = read_toml(file, "experiment")
        folder = file.parent
        base: dict[str, Any] = {}
        if "fleet" in own:
            named = own.pop("fleet")
            if not isinstance(named, str):
                raise InvalidInputError(f"{file}: fleet is {named!r}, expected the path of a fleet file")
            base = read_toml(folder / named, "fleet")
            folder = (folder / named).parent
        document = _changed({**base, **own}, changes or {})
        if sweep:
            document["sweep"] = dict(sweep)
        return cls.from_dict(document, folder, str(file))

    @classmethod
    def from_dict(cls, document: Mapping[str, Any], folder: Path, what: str = "the experiment") -> Experiment:
        """The experiment of a document.

        Raises:
            InvalidInputError: names everything that is wrong with it; `what` is how it begins.
        """
        problems: list[str] = []
        fleet = None
        try:
            fleet = Fleet.from_dict(document, folder, "")
        except InvalidInputError as error:
            problems += str(error).splitlines()[1:]
        table = document.get("experiment", {})
        settings = Settings()
        if isinstance(table, dict):
            settings = section(Settings, table, "experiment", problems)
        else:
            problems.append(f"experiment is {table!r}, expected a table: [experiment]")
        problems += _wrong_policies(settings.policies)
        holder = section(_Kernels, {"kernel": document["kernel"]} if "kernel" in document else {}, "", problems)
        sweep = document.get("sweep", {})
        if not isinstance(sweep, dict) or not all(isinstance(values, list) and values for values in sweep.values()):
            problems.append(f"sweep is {sweep!r}, expected lists of values by key")
            sweep = {}
        made = None if fleet is None else cls(fleet, settings, holder.kernel, sweep, document, folder)
        if made is not None and not problems:
            problems += made._together()
        problems += _wrong_in_sweep(document, folder, sweep, problems)
        if problems or made is None:
            raise InvalidInputError(f"{what}:\n" + "\n".join(problems))
        return made

    def _together(self) -> list[str]:
        """What of the circuits fits no device, and what is too much."""
        rows, widths = self.job_rows, [k.qubits for k in self.kernels] or [self.settings.qubits]
        reasons = fitting(self.fleet.kinds, [JobKind(width, 1, 1) for width in widths])
        # What fits nowhere beside what fits somewhere is told by the report.
        found = list(dict.fromkeys(reasons)) if all(reasons) else []
        jobs = sum(k.samples * (k.samples - 1) // 2 // rows + 1 for k in self.kernels)
        if jobs > _MOST_JOBS:
            found.append(f"{jobs:,} jobs of {rows:,} circuits, at most {_MOST_JOBS:,} can be emulated")
        return found

    @property
    def job_rows(self) -> int:
        """Circuits of a full job: what every processor takes."""
        most = [device.max_circuits_per_job for device in self.fleet.qpu]
        return job_rows(DeviceLimits(max_circuits_per_job=min(most, default=_ROWS)), self.settings.max_circuits_per_job)

    @property
    def name(self) -> str:
        """For titles."""
        return self.settings.name or self.fleet.name

    @property
    def variants(self) -> list[Variant]:
        """Its policies."""
        return [Variant.parse(name) for name in self.settings.policies]

    @property
    def told(self) -> str | None:
        """What to know about policies that are given more than a real run has; None if there are none."""
        names = [] if self.kernels else [variant.name for variant in self.variants if variant.is_told]
        return f"{', '.join(names)}: {_TOLD}" if names else None

    def points(self) -> Iterator[tuple[dict[str, Any], Experiment]]:
        """Every combination of swept values, and the experiment with them; without a sweep the experiment alone.

        Raises:
            InvalidInputError: if a key is not there, or a value does not fit.
        """
        keys, lists = list(self.sweep), list(self.sweep.values())
        for chosen in itertools.product(*lists):
            point = dict(zip(keys, chosen, strict=True))
            document = _changed({k: v for k, v in self.document.items() if k != "sweep"}, point)
            yield point, Experiment.from_dict(document, self.folder, f"the sweep's {point}")


@dataclass(frozen=True)
class _Kernels:
    kernel: tuple[TimedKernel, ...] = field(default=(), metadata={"tables": TimedKernel})


def _wrong_policies(names: tuple[str, ...]) -> list[str]:
    found = []
    for name in names:
        try:
            Variant.parse(name)
        except InvalidInputError as error:
            found.append(f"experiment.policies: {error}")
    return found


def _wrong_in_sweep(
    document: Mapping[str, Any], folder: Path, sweep: Mapping[str, list[Any]], known: list[str]
) -> list[str]:
    """What is wrong with swept keys and values, one at a time, and is not wrong without them."""
    count = math.prod(map(len, sweep.values()))
    if count > _MOST_POINTS:
        return [f"the sweep has {count:,} combinations, expected at most {_MOST_POINTS:,}"]
    found: dict[str, None] = {}
    without = {name: value for name, value in document.items() if name != "sweep"}
    for key, values in sweep.items():
        for value in values:
            try:
                Experiment.from_dict(_changed(without, {key: value}), folder, "")
            except InvalidInputError as error:
                found |= dict.fromkeys(
                    line for line in str(error).splitlines() if line.strip(":") and line not in known
                )
    return [f"sweep: {line}" for line in found]


def _changed(document: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    found = copy.deepcopy(dict(document))
    for key, value in changes.items():
        parts = key.split(".")
        if parts[0] in ("qpu", "worker", "kernel") and len(parts) > 1:
            rows = found.get(parts[0], [])
            named = [row for row in rows if isinstance(row, dict) and row.get("name") == parts[1]]
            places = [(row, parts[2:]) for row in named] or [(row, parts[1:]) for row in rows if isinstance(row, dict)]
        elif parts[0] in ("experiment", "network") and len(parts) > 1:
            places = [(found.setdefault(parts[0], {}), parts[1:])]
        else:
            places = []
        if not places or not all(rest for _, rest in places):
            raise InvalidInputError(
                f"the key {key!r} is not there; expected one such as experiment.shots, network.latency_s, qpu.job_s, or "
                "qpu.NAME.queue.mean_s"
            )
        for table, rest in places:
            for part in rest[:-1]:
                table = table.setdefault(part, {})
            table[rest[-1]] = value
    return found
