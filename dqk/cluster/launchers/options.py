"""What is asked of Slurm for a job, and everything that can be wrong with it before it is handed in."""

from __future__ import annotations

import re
from dataclasses import dataclass

from dqk.cluster.launchers.payload import Payload
from dqk.cluster.launchers.site import Site

_TIME = re.compile(r"(?:(?P<d>\d+)-(?P<dh>\d+)(?::(?P<dm>\d+)(?::(?P<ds>\d+))?)?|(?P<n>\d+(?::\d+){0,2}))")


@dataclass(frozen=True)
class SlurmOptions:
    """The resources of a job.

    Attributes:
        nodes: how many.
        gpus_per_node: GPUs of each node; with MPI and data-parallel training there is one task for each.
        tasks_per_node: MPI ranks, or ranks of training, on each node; None for one per GPU, or one without GPUs.
        cpus_per_task: None for the site's number, else all CPUs of the nodes, which are then asked for as a whole.
        time: limit in Slurm's notation, such as `2:00:00` or `1-12`; None for the partition's.
        name: of the job; None for one made from the command.
        array: number of jobs that share one kernel matrix, each of them a shard.
        signal_s: how long before the time limit the job is warned, so that it saves its state.
        requeue: whether it is queued again after a warning or a preemption, and goes on.
        qpu: names of quantum resources of the site, separated by commas, which the SPANK plugin of QRMI gives to the job.
        emulated_qpus: fleet file whose QPUs are tasks of the job, one each on all of its nodes; the program gets their URLs.
    """

    nodes: int = 1
    gpus_per_node: int = 0
    tasks_per_node: int | None = None
    cpus_per_task: int | None = None
    time: str | None = None
    name: str | None = None
    array: int | None = None
    signal_s: int = 120
    requeue: bool = True
    qpu: str | None = None
    emulated_qpus: str | None = None

    @property
    def qpus(self) -> tuple[str, ...]:
        """Names of its quantum resources."""
        return () if self.qpu is None else tuple(self.qpu.split(","))

    def tasks(self, payload: Payload) -> int:
        """Processes of the payload on each node; 1 where Ray has a node of its own on each."""
        return (self.tasks_per_node or self.gpus_per_node or 1) if payload.engine in ("mpi", "torch") else 1

    def problems(self, payload: Payload, site: Site) -> list[str]:
        """Everything that is wrong with the options and with how they go with a payload."""
        found = payload.problems() + site.problems()
        for name, value, least in (
            ("--nodes", self.nodes, 1),
            ("--gpus-per-node", self.gpus_per_node, 0),
            ("--tasks-per-node", self.tasks_per_node, 1),
            ("--cpus-per-task", self.cpus_per_task, 1),
            ("--array", self.array, 2),
            ("--signal-seconds", self.signal_s, 5),
        ):
            if value is not None and value < least:
                found.append(f"{name} {value}, expected at least {least}")
        found += self._of_time()
        if self.name is not None and not re.fullmatch(r"[^\s/%\\\"']+", self.name):
            found.append(f"--name {self.name!r}, expected a name without blanks, quotes, slashes and percent signs")
        found += self._of_qpus() + self._of_emulated_qpus(payload)
        if self.nodes >= 1 and payload.words:
            found += self._of_engine(payload)
        if self.array is not None:
            found += self._of_array(payload)
        if site.container is not None and payload.engine == "mpi" and site.mpi is None:
            found.append(
                "the site's container has an MPI library that cannot be looked at from here; say mpi = "
                "'pmi2' or 'pmix' in the site file"
            )
        return found

    def _of_time(self) -> list[str]:
        if self.time is None:
            return []
        limit = seconds(self.time)
        if not limit:
            return [f"--time {self.time!r}, expected Slurm's notation: minutes, hours:minutes:seconds or days-hours"]
        if limit <= self.signal_s:
            return [
                f"--time {self.time} is no longer than the {self.signal_s} s before its end at which the job is warned; give more "
                "time, or a smaller --signal-seconds"
            ]
        return []

    def _of_qpus(self) -> list[str]:
        if not all(re.fullmatch(r"[\w.@+:-]+", name, re.ASCII) for name in self.qpus):
            return [
                f"--qpu {self.qpu!r}, expected names of the site's quantum resources with commas between, such as a,b"
            ]
        if len(set(self.qpus)) < len(self.qpus):
            return [f"--qpu {self.qpu} names one of them twice"]
        return []

    def _of_emulated_qpus(self, payload: Payload) -> list[str]:
        if self.emulated_qpus is None:
            return []
        found = []
        if payload.command != "gram" or payload.engine != "single" or payload.value("--qpu") is not None:
            found.append(
                "--emulated-qpus gives --qpu to a gram without --qpu and without an --executor of ranks; leave that out"
            )
        return found

    def _of_engine(self, payload: Payload) -> list[str]:
        engine, found = payload.engine, []
        nodes = 1 if self.emulated_qpus is not None else self.nodes  # its QPUs use the others
        if engine == "single" and (nodes > 1 or (self.tasks_per_node or 1) > 1):
            how = "--distributed" if payload.command == "train" else "--executor ray or --executor mpi"
            found.append(
                f"{payload} is one process, which {self.nodes} nodes with {self.tasks_per_node or 1} tasks would not make "
                f"faster; add {how} to it, or ask for one node"
            )
        if engine == "ray" and (self.tasks_per_node or 1) > 1:
            found.append(
                f"--tasks-per-node {self.tasks_per_node}: Ray has one node for each node of the job, and starts workers on it by "
                "itself; leave the option out (--workers of the command says how many)"
            )
        if engine in ("mpi", "torch") and self.gpus_per_node and self.tasks_per_node not in (None, self.gpus_per_node):
            found.append(
                f"--tasks-per-node {self.tasks_per_node} with --gpus-per-node {self.gpus_per_node}: there is one task for each "
                "GPU; leave --tasks-per-node out"
            )
        if engine == "mpi" and payload.value("--workers") is not None:
            found.append(
                "--workers with --executor mpi: every rank is a worker; say --nodes and --tasks-per-node instead"
            )
        return found

    def _of_array(self, payload: Payload) -> list[str]:
        found = []
        if not payload.has_store:
            found.append(f"--array {self.array} cuts a kernel matrix with a store: -- gram X.npy -o K.zarr ...")
        if payload.value("--shard") is not None:
            found.append(f"--array {self.array} gives each job its --shard; leave that out")
        return found


def seconds(time: str) -> int | None:
    """A time limit in Slurm's notation, None if it is none.

    Example:
        >>> seconds("90"), seconds("1:30"), seconds("2:00:00"), seconds("1-12"), seconds("1-12:30"), seconds("soon")
        (5400, 90, 7200, 129600, 131400, None)
    """
    match = _TIME.fullmatch(time)
    if match is None:
        return None
    if match["n"] is None:
        days, hours, minutes, rest = (int(match[key] or 0) for key in ("d", "dh", "dm", "ds"))
        return ((24 * days + hours) * 60 + minutes) * 60 + rest
    numbers = [int(number) for number in match["n"].split(":")]
    if len(numbers) == 1:
        return 60 * numbers[0]
    total = 0
    for number in numbers:
        total = 60 * total + number
    return total
