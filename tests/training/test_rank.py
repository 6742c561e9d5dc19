"""Launchers' environments, as torchrun, MPICH, Open MPI and Slurm make them."""

import pytest

from dqk.cluster.nodes import expand
from dqk.errors import InvalidInputError
from dqk.training.rank import Rank

TORCHRUN = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "a",
    "MASTER_PORT": "5",
}
MPICH = {"PMI_RANK": "1", "PMI_SIZE": "3", "MPI_LOCALRANKID": "0", "MPI_LOCALNRANKS": "2"}
OPEN_MPI = {f"OMPI_COMM_WORLD_{name}": value for name, value in (("RANK", "2"), ("SIZE", "3"), ("LOCAL_RANK", "2"))}
SLURM_BATCH = {
    "SLURM_JOB_ID": "77",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
}
SLURM_STEP = {
    **SLURM_BATCH,
    "SLURM_STEP_ID": "2",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "2",
    "SLURM_STEP_NODELIST": "node[08-10]",
    "SLURM_STEP_TASKS_PER_NODE": "2,1(x2)",
}
PORT = 15_000 + (101 * 77 + 2) % 15_000


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        (TORCHRUN, Rank(3, 4, 1, 2, "torchrun", "a", 5)),
        ({**SLURM_STEP, **MPICH, **TORCHRUN}, Rank(3, 4, 1, 2, "torchrun", "a", 5)),
        (MPICH, Rank(1, 3, 0, 2, "MPICH")),
        ({**MPICH, "MASTER_ADDR": "b", "MASTER_PORT": "6"}, Rank(1, 3, 0, 2, "MPICH", "b", 6)),
        (OPEN_MPI, Rank(2, 3, 2, 3, "Open MPI")),
        # mpiexec inside a Slurm job starts its helpers as a step of one task per node.
        ({**SLURM_STEP, **MPICH, "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1"}, Rank(1, 3, 0, 2, "MPICH")),
        (SLURM_STEP, Rank(3, 4, 0, 1, "srun", "node08", PORT)),
        # srun --mpi=pmi2 sets both: the address comes from Slurm, without an MPI library.
        ({**SLURM_STEP, "PMI_RANK": "3", "PMI_SIZE": "4"}, Rank(3, 4, 0, 1, "srun", "node08", PORT)),
        ({**SLURM_STEP, "MASTER_PORT": "9"}, Rank(3, 4, 0, 1, "srun", "node08", 9)),
        ({**MPICH, "PMI_SIZE": "1", "PMI_RANK": "0"}, Rank(0, 1, 0, 2, "MPICH")),
    ],
)
def test_what_launchers_say(environ: dict[str, str], expected: Rank) -> None:
    assert Rank.from_environ(environ) == expected


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({}, "no launcher has started this process"),
        (SLURM_BATCH, "srun -n 2 dqk train pos"),  # a batch script is one process whatever its variables say
        ({"RANK": "0", "WORLD_SIZE": "2"}, "MASTER_ADDR and MASTER_PORT not"),
        ({**TORCHRUN, "RANK": "4"}, "rank 4 of 4"),
        ({**TORCHRUN, "RANK": "x"}, "RANK is 'x'"),
        ({**SLURM_STEP, "PMI_RANK": "0", "PMI_SIZE": "1"}, "srun started 4 processes, but MPICH tells each"),
        (
            {**SLURM_STEP, **TORCHRUN, "RANK": "0", "WORLD_SIZE": "1"},
            "srun started 4 processes, but torchrun tells each",
        ),
    ],
)
def test_what_cannot_be_meant(environ: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        Rank.from_environ(environ)


def test_lists_of_nodes() -> None:
    assert expand("a,b[1-2],c") == ["a", "b1", "b2", "c"]
    assert expand("n[098-101]") == ["n098", "n099", "n100", "n101"]
    assert expand("") == []
