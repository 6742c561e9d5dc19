"""MPI pools with real ranks: each test starts mpiexec on a program of `mpi_programs`."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dqk.cluster._mpi_session import _slots
from tests.requirements import mpiexec, require

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(__file__).parent / "mpi_programs"
LIMIT_S = 120

pytestmark = pytest.mark.timeout(LIMIT_S + 30)
network = pytest.mark.parametrize("no_local", ["0", "1"], ids=["shared memory", "network"])


@pytest.fixture(autouse=True)
def needs_mpi() -> None:
    require("mpi")


@contextmanager
def started(
    ranks: int, program: str, *arguments: object, prefix: tuple[str, ...] = (), **variables: str
) -> Iterator[Any]:
    """Ranks that run a program; ended with the block."""
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


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_every_rank_computes(tmp_path: Path, ranks: int) -> None:
    done = run(ranks, "servers.py", tmp_path)
    assert done.returncode == 0, done.stderr
    facts = [told(tmp_path, rank) for rank in range(ranks)]
    seen = facts[0]["seen"]
    assert {name: fact["pid"] for name, fact in seen.items()} == {f"rank-{r}": f["pid"] for r, f in enumerate(facts)}
    assert all(fact["held"] == ["some"] for fact in seen.values())
    assert all(fact["ended"] and fact["node_workers"] == str(ranks) for fact in facts)
    threads = len(os.sched_getaffinity(0))
    assert set(facts[0]["slots"].values()) == {max(1, threads // ranks)}


@pytest.mark.parametrize(("ranks", "no_local"), [(1, "0"), (2, "0"), (3, "0"), (4, "0"), (2, "1")])
def test_all_ranks_return_what_rank_0_found_or_raise_its_error(tmp_path: Path, ranks: int, no_local: str) -> None:
    done = run(ranks, "everywhere.py", tmp_path, MPIR_CVAR_NOLOCAL=no_local)
    assert done.returncode == 0, done.stderr
    facts = [told(tmp_path, rank) for rank in range(ranks)]
    for rank, fact in enumerate(facts):
        assert sorted(fact["pids"]) == sorted(f["pid"] for f in facts)
        assert fact["K"] == [[0, 1, 2], [3, 4, 5]] and fact["none"] == [2, 0]
        assert fact["dqk_error"] == "TileError: tile 3 failed three times"
        expected = "ClusterError: rank 0 failed: " if rank else ""
        assert fact["other_error"] == f"{expected}ZeroDivisionError: by nothing"
        assert fact["digest"] == fact["expected"]


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
        ("serving", "rank 1 of 3 ends the job: ValueError: 99"),
        ("after", "ValueError: rank 1 stumbles"),
        ("killed", "worker rank-1 hangs"),
    ],
)
def test_a_rank_that_fails_ends_the_job_with_its_message(tmp_path: Path, way: str, message: str) -> None:
    done = run(3, "failing.py", tmp_path, way)
    assert done.returncode != 0
    assert message in done.stderr
    assert not any("passed" in told(tmp_path, rank) for rank in range(3))


@pytest.mark.faults
@network
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_rank_ends_the_job(tmp_path: Path, victim: int, no_local: str) -> None:
    with started(3, "interrupted.py", tmp_path, MPIR_CVAR_NOLOCAL=no_local) as process:
        wait_for(tmp_path, 0, "busy")
        pid = next(p for p in rank_pids(process.pid) if f"PMI_RANK={victim}" in environment_of(p))
        os.kill(pid, signal.SIGKILL)
        process.communicate(timeout=30)
        assert process.returncode != 0
    assert not any("served" in told(tmp_path, rank) for rank in (1, 2))


@pytest.mark.faults
@pytest.mark.parametrize("to", ["launcher", "rank 0"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_the_other_ranks_end_in_good_order(tmp_path: Path, number: int, to: str) -> None:
    with started(3, "interrupted.py", tmp_path) as process:
        fact = wait_for(tmp_path, 0, "busy")
        os.kill(process.pid if to == "launcher" else fact["pid"], number)
        process.communicate(timeout=30)
        assert process.returncode != 0
    assert told(tmp_path, 0)["stopped_by"] == ("KeyboardInterrupt" if number == signal.SIGINT else "SystemExit")
    assert told(tmp_path, 1)["served"] and told(tmp_path, 2)["served"]


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
    done = run(2, "refused.py", tmp_path, "pool", prefix=(*alone, "-u", "PMI_SIZE"), SLURM_STEP_NUM_TASKS="2")
    assert done.stdout.count("ClusterError: SLURM_STEP_NUM_TASKS says that 2 ranks") == 2
    assert "srun --mpi=pmi2" in done.stdout


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
