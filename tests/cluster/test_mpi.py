"""MPI pools with real ranks: each test starts mpiexec on a program of `mpi_programs`."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dqk import FidelityKernel
from dqk._resources import cpu_threads
from dqk.cluster._mpi import MPIPool
from dqk.cluster._mpi_session import _check_world_size, _shorten_addresses, _slots, load_mpi
from dqk.errors import ClusterError, InvalidInputError
from dqk.kernels.feature_maps import ising_feature_map
from dqk.testing import POOL_LAWS, PoolSubject
from tests.requirements import mpiexec, require

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(__file__).parent / "mpi_programs"
LIMIT_S = 120

pytestmark = pytest.mark.timeout(LIMIT_S + 30)
SHARED_MEMORY, NETWORK = "0", "1"  # of MPIR_CVAR_NOLOCAL: how the ranks of one machine talk


@contextmanager
def started(
    ranks: int, program: str, *arguments: object, prefix: tuple[str, ...] = (), **variables: str
) -> Iterator[Any]:
    """Ranks that run a program; ended with the block."""
    require("mpi")
    launcher = mpiexec()
    assert launcher
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables}
    command = [launcher, "-n", str(ranks), *prefix, sys.executable, str(PROGRAMS / program), *map(str, arguments)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | environment, cwd=ROOT
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()  # which it passes on
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
        process.communicate()


def run(ranks: int, program: str, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs ranks to their end."""
    with started(ranks, program, *arguments, **options) as process:
        out, err = process.communicate(timeout=LIMIT_S)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def told(folder: Path, rank: int) -> dict[str, Any]:
    path = folder / f"rank-{rank}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def wait_for(folder: Path, rank: int, fact: str) -> dict[str, Any]:
    deadline = time.monotonic() + LIMIT_S
    while fact not in told(folder, rank):
        assert time.monotonic() < deadline, f"rank {rank} did not come so far"
        time.sleep(0.02)
    return told(folder, rank)


@pytest.mark.parametrize(("ranks", "transport"), [(1, SHARED_MEMORY), (2, SHARED_MEMORY), (2, NETWORK)])
def test_laws_of_pools(tmp_path: Path, ranks: int, transport: str) -> None:
    # The laws ask for two slots. Messages are split into calls of a million bytes, as real ones are of a gigabyte.
    variables = {"MPIR_CVAR_NOLOCAL": transport, "DQK_THREADS": str(2 // ranks)}
    done = run(ranks, "laws.py", tmp_path, 1_000_000, **variables)
    assert done.returncode == 0, done.stderr
    subject = PoolSubject(lambda slots: MPIPool())
    assert told(tmp_path, 0)["laws"] == [law.name for law in POOL_LAWS if law.applies(subject)]


@pytest.mark.parametrize("ranks", [1, 3])
def test_every_rank_computes(tmp_path: Path, ranks: int) -> None:
    done = run(ranks, "servers.py", tmp_path)
    assert done.returncode == 0, done.stderr
    facts = [told(tmp_path, rank) for rank in range(ranks)]
    seen = facts[0]["seen"]
    assert {name: fact["pid"] for name, fact in seen.items()} == {f"rank-{r}": f["pid"] for r, f in enumerate(facts)}
    assert all(fact["held"] == ["some"] for fact in seen.values())
    assert all(fact["ended"] and fact["node_workers"] == str(ranks) for fact in facts)
    assert set(facts[0]["slots"].values()) == {max(1, cpu_threads() // ranks)}


@pytest.mark.parametrize(
    ("ranks", "mebibytes", "transport"),
    [(1, 1, SHARED_MEMORY), (2, 300, SHARED_MEMORY), (2, 300, NETWORK), (3, 1, SHARED_MEMORY), (4, 1, SHARED_MEMORY)],
)
def test_all_ranks_return_what_rank_0_found_or_raise_its_error(
    tmp_path: Path, ranks: int, mebibytes: int, transport: str
) -> None:
    done = run(ranks, "everywhere.py", tmp_path, mebibytes, MPIR_CVAR_NOLOCAL=transport)
    assert done.returncode == 0, done.stderr
    facts = [told(tmp_path, rank) for rank in range(ranks)]
    for rank, fact in enumerate(facts):
        assert sorted(fact["pids"]) == sorted(f["pid"] for f in facts)
        assert fact["K"] == [[0, 1, 2], [3, 4, 5]] and fact["none"] == [2, 0]
        assert fact["dqk_error"] == "TileError: tile 3 failed three times"
        expected = "ClusterError: rank 0 failed: " if rank else ""
        assert fact["other_error"] == f"{expected}ZeroDivisionError: by nothing"
        assert fact["exit"] == "SystemExit: 3"
        assert fact["digest"] == fact["expected"]


def test_ranks_that_differ_in_memory_take_the_backend_of_rank_0(tmp_path: Path) -> None:
    """And a store keeps it, whatever rank 0 would choose by then."""
    done = run(2, "choice.py", tmp_path, DQK_THREADS="1")
    assert done.returncode == 0, done.stderr
    first, second = told(tmp_path, 0), told(tmp_path, 1)
    assert (first.pop("alone"), second.pop("alone")) == ("mps", "statevector") and first == second
    x = np.random.default_rng(0).uniform(-1, 1, (140, 10))
    matrix = FidelityKernel(ising_feature_map(10, reps=3), "mps")(x)
    assert first["digest"] == first["stored"] == sha256(matrix.tobytes()).hexdigest()
    assert first["name"] == first["still"] == "mps" and first["grown"] == [144, 144]


def test_ranks_called_for_different_things_are_named(tmp_path: Path) -> None:
    done = run(3, "mismatch.py", tmp_path)
    assert done.returncode == 0, done.stderr
    for rank in range(3):
        fact = told(tmp_path, rank)
        assert "(ranks 0, 2: data; rank 1: other data)" in fact["data"]
        assert "(ranks 0, 2: data; rank 1: serve)" in fact["mode"]
        assert fact["after"] == []


@pytest.mark.faults
@pytest.mark.parametrize(
    ("way", "message"),
    [
        ("serving", "rank 1 of 2 ends the job: ValueError: 99"),
        ("after", "ValueError: rank 1 stumbles"),
        ("killed", "worker rank-1 hangs"),
    ],
)
def test_a_rank_that_fails_ends_the_job_with_its_message(tmp_path: Path, way: str, message: str) -> None:
    done = run(2, "failing.py", tmp_path, way)
    assert done.returncode != 0
    assert message in done.stderr
    assert not any("passed" in told(tmp_path, rank) for rank in (0, 1))


@pytest.mark.faults
@pytest.mark.parametrize(("victim", "transport"), [(0, SHARED_MEMORY), (1, SHARED_MEMORY), (1, NETWORK)])
def test_a_killed_rank_ends_the_job(tmp_path: Path, victim: int, transport: str) -> None:
    with started(2, "interrupted.py", tmp_path, 0.5, MPIR_CVAR_NOLOCAL=transport) as process:
        wait_for(tmp_path, 0, "busy")
        pid = next(p for p in rank_pids(process.pid) if f"PMI_RANK={victim}" in environment_of(p))
        os.kill(pid, signal.SIGKILL)
        process.communicate(timeout=30)
        assert process.returncode != 0
    assert "served" not in told(tmp_path, 1)


@pytest.mark.faults
@pytest.mark.parametrize(
    ("number", "to"), [(signal.SIGINT, "launcher"), (signal.SIGTERM, "launcher"), (signal.SIGTERM, "rank 0")]
)
def test_a_signal_lets_the_other_ranks_end_in_good_order(tmp_path: Path, number: int, to: str) -> None:
    with started(2, "interrupted.py", tmp_path, 0.5) as process:
        pid = wait_for(tmp_path, 0, "busy")["pid"]
        os.kill(process.pid if to == "launcher" else pid, number)
        process.communicate(timeout=30)
        assert process.returncode != 0
    assert told(tmp_path, 0)["stopped_by"] == ("KeyboardInterrupt" if number == signal.SIGINT else "SystemExit")
    assert told(tmp_path, 1)["served"]


@pytest.mark.faults
def test_a_second_signal_does_not_wait_for_tasks_that_run(tmp_path: Path) -> None:
    with started(2, "interrupted.py", tmp_path, 300) as process:
        pid = wait_for(tmp_path, 0, "busy")["pid"]
        deadline = time.monotonic() + 30
        while process.poll() is None and time.monotonic() < deadline:
            os.kill(pid, signal.SIGINT)
            time.sleep(1.0)
        assert process.returncode not in (None, 0)
        assert "rank 0 of 2 ends the job: KeyboardInterrupt" in process.stderr.read()


def rank_pids(launcher: int) -> list[int]:
    """Processes of the ranks: grandchildren of mpiexec, below its proxy."""
    return [pid for proxy in children_of(launcher) for pid in children_of(proxy)]


def children_of(pid: int) -> list[int]:
    return [
        int(p)
        for t in os.listdir(f"/proc/{pid}/task")
        for p in Path(f"/proc/{pid}/task/{t}/children").read_text().split()
    ]


def environment_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/environ").read_text().split("\0")


def test_ranks_that_do_not_see_each_other_are_found(tmp_path: Path) -> None:
    alone = ("env", "-u", "PMI_FD", "-u", "PMI_RANK", "-u", "PMI_PORT")  # what a launcher of another MPI amounts to
    done = run(2, "refused.py", tmp_path, "pool", prefix=alone)
    assert done.stdout.count("ClusterError: PMI_SIZE says that 2 ranks were launched, but MPI's world has size 1") == 2


def test_ranks_that_never_meet_do_not_wait_for_ever() -> None:
    began = time.monotonic()
    done = run(2, "apart.py", DQK_MPI_INIT_S="2")
    assert time.monotonic() - began < 30 and done.returncode != 0 and "Alarm clock" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("around", "version", "wanted"),
    [
        ({"PMI_FD": "3", "SLURM_STEP_ID": "0"}, "5.0.2", "ofi"),
        ({"PMI_FD": "3"}, "5.0.2", None),  # mpiexec
        ({"SLURM_STEP_ID": "0"}, "5.0.2", None),  # PMIx
        ({"PMI_FD": "3", "SLURM_STEP_ID": "0"}, "4.3.2", None),
        ({"PMI_FD": "3", "SLURM_STEP_ID": "0"}, None, None),
        ({"PMI_FD": "3", "SLURM_STEP_ID": "0", "MPI4PY_LIBMPI": "/site/libmpi.so"}, "5.0.2", None),
        ({"PMI_FD": "3", "SLURM_STEP_ID": "0", "MPIR_CVAR_CH4_NETMOD": "ucx"}, "5.0.2", "ucx"),
    ],
)
def test_the_wheel_of_mpich_meets_through_slurm_by_libfabric(
    monkeypatch: pytest.MonkeyPatch, around: dict[str, str], version: str | None, wanted: str | None
) -> None:
    """And nothing else does, nor against what the user says."""

    def version_of(name: str) -> str:
        assert name == "mpich"
        if version is None:
            raise metadata.PackageNotFoundError
        return version

    monkeypatch.setattr(metadata, "version", version_of)
    monkeypatch.setattr(os, "environ", dict(around))
    _shorten_addresses()
    assert os.environ.get("MPIR_CVAR_CH4_NETMOD") == wanted


def test_a_time_to_meet_is_whole_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DQK_MPI_INIT_S", "soon")
    with pytest.raises(InvalidInputError, match="'soon', expected a whole number of seconds"):
        load_mpi()


@pytest.mark.parametrize("name", ["OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"])
def test_every_launcher_says_how_many_ranks_there_should_be(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for other in ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"):
        monkeypatch.delenv(other, raising=False)
    _check_world_size(1)  # started by hand
    monkeypatch.setenv(name, "4")
    _check_world_size(4)
    with pytest.raises(ClusterError, match=f"{name} says that 4 ranks were launched.*size 1.*srun --mpi=pmi2"):
        _check_world_size(1)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("serve", "ClusterError: serve was called on rank 0"),
        ("single", "ClusterError: MPI was initialised with thread level 0"),
        ("funneled", "(Worker(id='rank-0', "),
        ("missing", "pip install 'dqk[mpi-local]'"),
    ],
)
def test_what_cannot_work_is_refused(tmp_path: Path, case: str, message: str) -> None:
    done = run(1, "refused.py", tmp_path, case)
    assert message in done.stdout, done.stdout + done.stderr


def test_no_mpi_library_is_a_missing_backend(tmp_path: Path) -> None:
    done = run(1, "refused.py", tmp_path, "pool", MPI4PY_LIBMPI="/no/such/libmpi.so")
    assert "BackendUnavailableError: MPI cannot be used" in done.stdout, done.stdout + done.stderr
    assert "pip install 'dqk[mpi]'" in done.stdout


def test_a_rank_that_waits_leaves_its_core_alone(tmp_path: Path) -> None:
    done = run(2, "idle.py", tmp_path, 1.0)
    assert done.returncode == 0, done.stderr
    assert max(told(tmp_path, rank)["share"] for rank in (0, 1)) < 0.3  # a loop without sleeping takes 1


def test_threads_of_a_rank_are_its_share_of_the_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DQK_THREADS", raising=False)
    monkeypatch.setattr("dqk.cluster._mpi_session._cgroup_cpus", lambda: None)
    assert _slots(0b1111, [0b1111]) == 4
    assert _slots(0b1111, [0b1111] * 2) == 2  # not bound: two ranks share four processors
    assert _slots(0b0011, [0b0011, 0b1100]) == 2  # bound to two each
    assert _slots(0b0001, [0b0001] * 3) == 1  # more ranks than processors
    monkeypatch.setattr("dqk.cluster._mpi_session._cgroup_cpus", lambda: 4)
    assert _slots(0xFF, [0xFF] * 2) == 2  # the quota is for the whole node
