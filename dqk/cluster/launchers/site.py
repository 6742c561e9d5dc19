"""What a site wants said in every job: a TOML file, written once."""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from dqk.errors import InvalidInputError, unknown_name

MPI_FLAVOURS = ("pmi2", "pmix", "cray_shasta", "none")
_TEXTS = ("partition", "account", "qos", "constraint", "reservation", "gpu_type", "python", "venv", "container", "mpi")
_OURS = {
    *(
        "--array",
        "--chdir",
        "--clusters",
        "--gpus-per-node",
        "--job-name",
        "--no-requeue",
        "--nodes",
        "--ntasks-per-node",
    ),
    *("--open-mode", "--output", "--requeue", "--signal", "--time", "-D", "-J", "-M", "-N", "-a", "-o", "-t"),
}
"""Options of sbatch that the launcher goes by."""
_LISTS = ("modules", "setup", "sbatch")


@dataclass(frozen=True)
class Site:
    """How jobs are submitted at one site. All of it is optional.

    Attributes:
        partition, account, qos, constraint, reservation: as for sbatch.
        gpu_type: name of the GPUs to ask for, as in `--gpus-per-node=a100:4`.
        cpus_per_task: CPUs of each task; None for all of the nodes, which are then asked for as a whole.
        modules: names for `module load`.
        setup: lines of bash that prepare the environment, after the modules.
        venv: folder of a virtual environment.
        container: command in front of every program of the job, such as `apptainer exec --nv dqk.sif`.
        python: the interpreter; None for the one that launches, or `python` of the virtual environment or container.
        mpi: what `srun --mpi=` is given; None to go by the MPI library of mpi4py.
        sbatch: further options of sbatch, such as `--hint=nomultithread`.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    reservation: str | None = None
    gpu_type: str | None = None
    cpus_per_task: int | None = None
    modules: tuple[str, ...] = ()
    setup: tuple[str, ...] = ()
    venv: str | None = None
    container: str | None = None
    python: str | None = None
    mpi: str | None = None
    sbatch: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Site:
        """The site of a TOML file.

        Raises:
            InvalidInputError: names everything that is wrong with it.
        """
        file = Path(path)
        try:
            given: dict[str, Any] = tomllib.loads(file.read_text())
        except OSError as error:
            raise InvalidInputError(f"the site file {file} cannot be read: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InvalidInputError(f"the site file {file} is not TOML: {error}") from error
        names = [field.name for field in fields(cls)]
        problems = [str(unknown_name("key", name, names)) for name in given.keys() - set(names)]
        for name in _TEXTS:
            if name in given and not (isinstance(given[name], str) and given[name]):
                problems.append(f"{name} is {given[name]!r}, expected a text")
        for name in _LISTS:
            value = given.get(name, [])
            if isinstance(value, list) and all(isinstance(item, str) and item for item in value):
                given[name] = tuple(value)
            else:
                problems.append(f"{name} is {value!r}, expected a list of texts")
        cpus = given.get("cpus_per_task", 1)
        if not isinstance(cpus, int) or isinstance(cpus, bool) or cpus < 1:
            problems.append(f"cpus_per_task is {cpus!r}, expected a whole number of at least 1")
        if "mpi" in given and given["mpi"] not in MPI_FLAVOURS:
            problems.append(str(unknown_name("mpi", str(given["mpi"]), MPI_FLAVOURS)))
        if "venv" in given and "container" in given:
            problems.append("venv and container are both given; a container brings its own environment, leave one out")
        for name in ("venv", "container", "python", *_LISTS):
            values = given.get(name, ())
            if any("\n" in item for item in ((values,) if isinstance(values, str) else values)):
                problems.append(f"{name} has a line break in it; give several lines as a list")
        if problems:
            raise InvalidInputError(f"the site file {file}:\n" + "\n".join(problems))
        return cls(**given)

    def problems(self) -> list[str]:
        """What would make another script of it than was meant."""
        found = [
            f"the site's {directive!r} has a line break in it" for directive in self.directives() if "\n" in directive
        ]
        if self.mpi is not None and self.mpi not in MPI_FLAVOURS:
            found.append(str(unknown_name("mpi", self.mpi, MPI_FLAVOURS)))
        names = [option.partition("=")[0].strip() for option in self.sbatch]
        taken = sorted({name for name in names if name in _OURS})
        if taken:
            found.append(f"the site's sbatch has {', '.join(taken)}, which dqk says itself; leave them out")
        return found

    def directives(self) -> list[str]:
        """Its options of sbatch."""
        named = ("partition", "account", "qos", "constraint", "reservation")
        return [f"--{name}={getattr(self, name)}" for name in named if getattr(self, name)] + list(self.sbatch)
