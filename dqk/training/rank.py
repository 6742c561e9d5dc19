"""Which of several processes this one is, from the environment that its launcher made.

torchrun and Ray Train are asked first, then MPI's launchers, then Slurm: the inner launcher of two that are nested, such as
mpiexec inside a Slurm job, is the one that counts.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

from dqk.cluster.nodes import expand
from dqk.errors import InvalidInputError

_PORTS = range(15_000, 30_000)  # for Slurm: below those that systems give away by themselves
_MPI = {  # rank, size, rank on the node, size on the node
    "Open MPI": tuple(f"OMPI_COMM_WORLD_{name}" for name in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE")),
    "MVAPICH": tuple(f"MV2_COMM_WORLD_{name}" for name in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE")),
    "MPICH": ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
}
_HOW = """start all ranks with a launcher, by one of:
  torchrun --nproc-per-node 2 -m dqk train pos ... --distributed
  mpiexec -n 2 python -m mpi4py -m dqk train pos ... --distributed
  srun -n 2 dqk train pos ... --distributed
or have Ray start them: dqk train pos ... --distributed --launcher ray --ranks 2"""


@dataclass(frozen=True)
class Rank:
    """One of the processes that train together.

    Attributes:
        rank: its number, from 0.
        world_size: how many there are.
        local_rank: its number on this node.
        local_world_size: how many there are on this node.
        launcher: what started them, for messages.
        master_addr: the machine where rank 0 runs; None where the ranks have to ask one another (MPI).
        master_port: where rank 0 listens; None where they have to ask.
    """

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    launcher: str
    master_addr: str | None = None
    master_port: int | None = None

    @classmethod
    def from_environ(
        cls, environ: Mapping[str, str] = os.environ, *, asked: str = "--distributed", how: str = _HOW
    ) -> Rank:
        """The rank that a launcher's variables describe.

        Args:
            environ: where the variables are.
            asked: what needs ranks, for messages.
            how: how to start them, for messages.

        Raises:
            InvalidInputError: if no launcher started this process, its variables are incomplete, or it started one process
                where another launcher around it started several, each of which would train alone.
        """
        read = _Reader(environ)
        found = _torchrun(read) or _mpi(read) or _slurm(read)
        if found is None:
            raise InvalidInputError(f"{asked}: no launcher has started this process; {how}")
        around = read.number("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS") if "SLURM_STEP_ID" in environ else 1
        if found.world_size == 1 and (around or 1) > 1:
            raise InvalidInputError(
                f"{asked}: srun started {around} processes, but {found.launcher} tells each of them that it is alone; start "
                "the program by one of the two, and give srun the --mpi= that belongs to the MPI library, or none"
            )
        return found


class _Reader:
    def __init__(self, environ: Mapping[str, str]):
        self.environ = environ

    def number(self, *names: str) -> int | None:
        """The first of some variables that is there."""
        name = next((name for name in names if self.environ.get(name)), None)
        if name is None:
            return None
        text = self.environ[name]
        if not text.isdecimal():
            raise InvalidInputError(f"{name} is {text!r}, expected a whole number; did a launcher set it?")
        return int(text)

    def rank(self, launcher: str, rank: int, size: int, local: tuple[int | None, int | None]) -> Rank:
        if not rank < size:
            raise InvalidInputError(
                f"{launcher} says that this is rank {rank} of {size}, expected one from 0 to {size - 1}"
            )
        address = self.environ.get("MASTER_ADDR") or None
        port = self.number("MASTER_PORT")
        local_rank, local_size = local
        return Rank(
            rank,
            size,
            rank if local_rank is None else local_rank,
            size if local_size is None else local_size,
            launcher,
            *((address, port) if address and port else (None, None)),
        )


def _torchrun(read: _Reader) -> Rank | None:
    names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    missing = [name for name in names if not read.environ.get(name)]
    if "RANK" in missing or "WORLD_SIZE" in missing:
        return None
    if missing:
        raise InvalidInputError(
            f"RANK and WORLD_SIZE are set, but {' and '.join(missing)} not: torchrun sets all four; set them too, or none"
        )
    rank, size = read.number("RANK"), read.number("WORLD_SIZE")
    assert rank is not None and size is not None
    return read.rank("torchrun", rank, size, (read.number("LOCAL_RANK"), read.number("LOCAL_WORLD_SIZE")))


def _mpi(read: _Reader) -> Rank | None:
    for launcher, (rank_name, size_name, *local_names) in _MPI.items():
        rank, size = read.number(rank_name), read.number(size_name)
        if rank is None or size is None:
            continue
        # srun --mpi=pmi2 speaks MPI's language, too, but needs no MPI library to say where rank 0 is.
        same = "SLURM_STEP_ID" in read.environ and (rank, size) == _slurm_place(read)
        if not same:
            local_rank, local_size = (read.number(name) for name in local_names)
            return read.rank(launcher, rank, size, (local_rank, local_size))
    return None


def _slurm_place(read: _Reader) -> tuple[int | None, int | None]:
    return read.number("SLURM_PROCID"), read.number("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS")


def _slurm(read: _Reader) -> Rank | None:
    """A task of a job step. A batch script has Slurm's variables too, and is one process whatever they say."""
    rank, size = _slurm_place(read)
    if "SLURM_STEP_ID" not in read.environ or rank is None or size is None:
        return None
    found = read.rank("srun", rank, size, (read.number("SLURM_LOCALID"), _tasks_here(read)))
    nodes = expand(read.environ.get("SLURM_STEP_NODELIST") or read.environ.get("SLURM_NODELIST") or "")
    address = read.environ.get("MASTER_ADDR") or (nodes[0] if nodes else None)
    if address is None:
        raise InvalidInputError(
            "srun started this process, but SLURM_STEP_NODELIST is not set; set MASTER_ADDR to the node of rank 0"
        )
    # Different for the jobs and steps of one node, and the same on all nodes of a step.
    number = 101 * (read.number("SLURM_JOB_ID") or 0) + (read.number("SLURM_STEP_ID") or 0)
    return replace(found, master_addr=address, master_port=read.number("MASTER_PORT") or _PORTS[number % len(_PORTS)])


def _tasks_here(read: _Reader) -> int | None:
    """Tasks on this node, from a list such as `4(x2),3`."""
    counts: list[int] = []
    for part in filter(None, read.environ.get("SLURM_STEP_TASKS_PER_NODE", "").split(",")):
        count, _, times = part.partition("(x")
        counts += [int(count)] * int(times.rstrip(")") or 1)
    node = read.number("SLURM_NODEID") or 0
    return counts[node] if node < len(counts) else None
