"""Ray pools on a real Ray: one cluster for the whole test session, and Rays of their own in other processes."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dqk
from dqk.cli.gram import _stoppable
from dqk.cluster import Done, Joined, Lost, WorkerPool, open_pool
from dqk.cluster._ray import RayPool
from dqk.errors import BackendUnavailableError, ClusterError, InvalidInputError
from dqk.testing import POOL_LAWS, Law, PoolSubject
from dqk.testing.pool_subject import answers_to, probe, read, wait, worker_pids
from dqk.training.interrupt import Interrupted
from tests.cluster.ray_session import HEAD_CPUS
from tests.processes import wait_for_end
from tests.requirements import require

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(__file__).parent / "ray_programs"
HALF = HEAD_CPUS // 2 + 1  # CPUs of a worker of which the head holds one
START_S = 120.0  # for workers on a machine that does other things, too
LONG_S = 600.0

pytestmark = pytest.mark.timeout(300)


def make_pool(workers: int | None, **options: Any) -> RayPool:
    return RayPool(workers, start_timeout_s=START_S, **options)


# --- what every pool must do ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def subject(ray_cluster: Any) -> Iterator[PoolSubject]:
    with PoolSubject(make_pool, owns_processes=True, can_kill=True, replaces=True) as subject:
        yield subject


@pytest.mark.parametrize("law", POOL_LAWS, ids=lambda law: law.name)
def test_pool(subject: PoolSubject, law: Law) -> None:
    law(subject)


def test_a_worker_with_two_slots(ray_cluster: Any) -> None:
    """What may go wrong when calls of one actor overtake each other."""
    laws = {law.name: law for law in POOL_LAWS}
    with PoolSubject(lambda slots: make_pool(1, slots=slots)) as subject:
        assert [worker.slots for worker in subject.pool.workers()] == [2]
        for name in ("slots_run_at_once", "arrays_are_there_until_dropped", "each_of_many_tasks_returns_once"):
            laws[name](subject)


# --- workers ----------------------------------------------------------------------------------------------------------


def test_workers_know_their_threads_and_how_many_share_the_node(subject: PoolSubject) -> None:
    worker_pids(subject.pool)  # they have been told when they have run a task
    for environment in environments(subject.pool):
        assert environment["DQK_NODE_WORKERS"] == "2"
        assert (
            environment["DQK_THREADS"] == environment["OMP_NUM_THREADS"] == environment["OPENBLAS_NUM_THREADS"] == "1"
        )


def test_memory_of_results_is_freed(subject: PoolSubject, ray_cluster: Any) -> None:
    """Results of 40 x 8 MB pass through; none stays in the object store."""
    from ray._private.internal_api import memory_summary

    def megabytes() -> float:
        found = re.search(r"Plasma memory usage (\d+) MiB", memory_summary(ray_cluster.address, stats_only=True))
        assert found
        return float(found[1])

    def settled() -> float:
        """What is left when arrays of earlier tests have been freed, which takes Ray a while."""
        found, since, deadline = megabytes(), time.monotonic(), time.monotonic() + 30
        while time.monotonic() < min(since + 2, deadline):
            time.sleep(0.1)
            if (now := megabytes()) != found:
                found, since = now, time.monotonic()
        return found

    payload = {"x": np.ones(1_000_000)}
    pool, worker = subject.pool, subject.pool.workers()[0]
    before, most = settled(), 0.0
    for _ in range(40):
        answers = answers_to(pool, [probe(pool, worker, payload)])
        most = max(most, megabytes())
        del answers
    deadline = time.monotonic() + 20
    while megabytes() > before + 1 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert most > before + 7, "results did not pass through the object store: this test looks at the wrong place"
    assert megabytes() <= before + 1


# --- placement --------------------------------------------------------------------------------------------------------


def test_workers_that_cannot_be_placed(ray_cluster: Any) -> None:
    needed = f"each needs 100 CPU, the cluster has {HEAD_CPUS} CPU \\(\\d free\\)"
    with pytest.raises(ClusterError, match=f"0 of 2 workers .* within 1 s: {needed}"):
        RayPool(2, cpus_per_worker=100, start_timeout_s=1).start()


def test_one_gpu_per_worker(ray_cluster: Any) -> None:
    """Ray counts GPUs without looking for them, so that a node can be said to have two."""
    with added_node(ray_cluster, num_cpus=2, num_gpus=2), make_pool(2, gpus_per_worker=1) as pool:
        assert sorted(environment["CUDA_VISIBLE_DEVICES"] for environment in environments(pool)) == ["0", "1"]


@pytest.mark.faults
def test_nodes_that_join_are_used(ray_cluster: Any) -> None:
    with make_pool(None, cpus_per_worker=HALF) as pool:
        (first,) = joined(pool, 1)
        with added_node(ray_cluster, num_cpus=2 * HALF):
            others = joined(pool, 2)
            assert len({first, *others}) == 3
            assert {answer.worker for answer in ask_all(pool)} == {first, *others}


@pytest.mark.faults
def test_a_node_that_dies_costs_its_worker_until_another_node_joins(ray_cluster: Any) -> None:
    with added_node(ray_cluster, num_cpus=HALF) as node:
        pool = make_pool(2, cpus_per_worker=HALF)  # one on each node
        with pool:
            pool.put("early", {"x": np.arange(3)})
            before = set(joined(pool, 2))
            tickets = [probe(pool, worker, sleep_s=3) for worker in pool.workers()]
            began = time.monotonic()
            ray_cluster.remove_node(node, allow_graceful=False)
            events = wait(
                pool,
                lambda events: {Lost, Done} <= {type(event) for event in events},
                "loss of one worker and result of the other",
            )
            took = time.monotonic() - began
            (lost,) = (event for event in events if isinstance(event, Lost))
            (done,) = (event for event in events if isinstance(event, Done))
            assert {lost.worker, done.worker} == before and done.ticket in tickets
            assert took < 60, "the pool noticed nothing, only the scheduler's patience would have ended this"
            with added_node(ray_cluster, num_cpus=HALF):
                (fresh,) = joined(pool, 1)
                assert fresh not in before
                assert {answer.worker for answer in ask_all(pool)} == {done.worker, fresh}


# --- losses -----------------------------------------------------------------------------------------------------------


@pytest.mark.faults
def test_a_worker_that_does_not_even_listen_is_killed(ray_cluster: Any) -> None:
    with make_pool(1) as pool:
        ((worker, pid),) = worker_pids(pool).items()
        os.kill(pid, signal.SIGSTOP)
        pool.kill(worker)
        assert any(isinstance(event, Lost) and event.worker == worker for event in pool.poll(10))
        assert not wait_for_end({pid}, 20), "the process is still there"
        assert joined(pool, 1) != [worker]


@pytest.mark.faults
def test_workers_that_crash_again_and_again_are_not_replaced_for_ever(ray_cluster: Any) -> None:
    with make_pool(1, max_replacements=1) as pool:
        for _ in range(2):
            joined(pool, 1)
            (pid,) = worker_pids(pool).values()
            os.kill(pid, signal.SIGKILL)
            wait(pool, lambda events: any(isinstance(event, Lost) for event in events), "Lost event")
        with pytest.raises(ClusterError, match="all workers on Ray were lost.*ray-2 on .* worker process has died"):
            pool.poll(60)


def test_workers_with_another_version_are_refused(ray_cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dqk, "__version__", "99.0")
    with pytest.raises(ClusterError, match=r"has dqk \d\S+, the driver has 99.0; install the same"), make_pool(1):
        pass


# --- Rays of which this process knows nothing -------------------------------------------------------------------------


@contextmanager
def program(*arguments: str, name: str = "probes.py", **variables: str) -> Iterator[subprocess.Popen[str]]:
    """Another driver, which finds its Ray by itself."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    process = subprocess.Popen(
        [sys.executable, str(PROGRAMS / name), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=kept | {"PYTHONPATH": str(ROOT)} | variables,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.faults
def test_a_ray_of_our_own_leaves_nothing_behind() -> None:
    """Not a process, a file, a handler or a word on stdout, although a worker was lost; and it has a secret of its own."""
    require("ray")
    with tempfile.TemporaryDirectory(dir="/tmp") as folder, program("lose", TMPDIR=folder) as driver:
        out, err = driver.communicate(timeout=200)
        left = list(Path(folder).iterdir())
    assert driver.returncode == 0, err
    seen = json.loads(out)
    assert seen["handler_kept"] and len(seen["token"]) == 64 and seen["token_left"] is None
    assert "ray_listen_error_messages" not in seen["threads"], (
        "what would print, and spins once its connection is closed"
    )
    processes = set(map(int, seen["processes"]))
    assert set(seen["pids"]) < processes
    assert not wait_for_end(processes, 20), "processes were left behind"
    assert not left


@pytest.mark.faults
def test_a_ray_of_our_own_ends_with_a_driver_that_is_killed() -> None:
    """The workers and all that they need; some helpers of Ray notice it only after a minute."""
    require("ray")
    folder = tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True)
    with folder, program("hold", TMPDIR=folder.name) as driver:
        assert driver.stdout
        seen = json.loads(driver.stdout.readline())
        driver.kill()
        driver.wait()
        large = {
            int(pid) for pid, command in seen["processes"].items() if "gcs_server" in command or "raylet" in command
        }
        assert len(large) >= 2
        assert not wait_for_end(large | set(seen["pids"]), 60), "Ray outlives its driver"


def test_ray_is_shut_down_under_a_pool() -> None:
    """It is said, or the pool is opened again; no call starts a Ray that nobody asked for, none ends another one."""
    require("ray")
    with program(name="shutdowns.py") as driver:
        out, err = driver.communicate(timeout=280)
    assert driver.returncode == 0, err
    seen = json.loads(out)
    assert seen["same_again"] and seen["theirs_runs"] and not seen["ray_at_the_end"]
    assert len(seen["messages"]) == 3 and all("was shut down" in message for message in seen["messages"])


def test_the_cluster_at_ray_address(ray_cluster: Any) -> None:
    token = {name: os.environ[name] for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")}
    with program(RAY_ADDRESS=ray_cluster.address, **token) as driver:
        out, err = driver.communicate(timeout=200)
    assert driver.returncode == 0, err
    seen = json.loads(out)
    assert seen["address"] == ray_cluster.address and seen["handler_kept"]
    assert not wait_for_end(set(seen["pids"]), 10), "workers were left behind"
    import ray

    assert ray.cluster_resources()["CPU"] == HEAD_CPUS, "the cluster ended with a driver that did not start it"


def test_a_signal_while_ray_waits_stops_a_command_in_good_order(ray_cluster: Any) -> None:
    """Ray makes a SystemError of what a handler raises in `ray.wait`."""
    with make_pool(1) as pool:
        alarm = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGUSR1))
        with pytest.raises(Interrupted, match="SIGUSR1; what is done is in K.zarr"), _stoppable(Path("K.zarr"), True):
            pool.poll(0.0)
            alarm.start()
            while True:
                pool.poll(5.0)


def test_no_ray_at_the_address() -> None:
    require("ray")
    with program(RAY_ADDRESS="127.0.0.1:9") as driver:
        _, err = driver.communicate(timeout=200)
    assert driver.returncode == 1
    assert "ClusterError: no Ray answers at '127.0.0.1:9'" in err


@pytest.mark.faults
def test_calls_that_get_lost_are_repeated() -> None:
    """Ray loses a quarter of the calls, and a quarter of their answers: no worker is lost, every task comes back once."""
    require("ray")
    chances = {"num_failures": 40, "req_failure_prob": 25, "resp_failure_prob": 25, "in_flight_failure_prob": 0}
    with program(
        "many", RAY_testing_rpc_failure=json.dumps({"CoreWorkerService.grpc_client.PushTask": chances})
    ) as driver:
        out, err = driver.communicate(timeout=200)
    assert driver.returncode == 0, err
    assert json.loads(out)["tickets"] == list(range(200))


# --- what needs no Ray ------------------------------------------------------------------------------------------------


def test_ray_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(BackendUnavailableError, match=r"pip install 'dqk\[ray\]'"), open_pool("ray", 2):
        pass


def test_ray_client_is_refused() -> None:
    require("ray")
    with program(RAY_ADDRESS="ray://127.0.0.1:10001") as driver:
        _, err = driver.communicate(timeout=200)
    assert "ClusterError: the address 'ray://127.0.0.1:10001'" in err and "RAY_ADDRESS=auto" in err


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ({"workers": 0}, "workers=0"),
        ({"workers": 2, "slots": 0}, "slots=0"),
        ({"cpus_per_worker": 0}, "cpus_per_worker=0"),
        ({"gpus_per_worker": -1}, "gpus_per_worker=-1"),
    ],
)
def test_numbers_that_make_no_sense(options: dict[str, int], wrong: str) -> None:
    with pytest.raises(InvalidInputError, match=f"{wrong}.*, expected"):
        RayPool(**options)


# --- tools ------------------------------------------------------------------------------------------------------------


@contextmanager
def added_node(cluster: Any, **resources: float) -> Iterator[Any]:
    """A node that is there for a while; the block may remove it."""
    node = cluster.add_node(**resources)
    try:
        yield node
    finally:
        if node in cluster.list_all_nodes():
            cluster.remove_node(node, allow_graceful=False)


def joined(pool: RayPool, number: int) -> list[str]:
    """Names of the next workers that join, so many of them."""

    def names(events: list[Any]) -> list[str]:
        return [event.worker.id for event in events if isinstance(event, Joined)]

    return names(wait(pool, lambda events: len(names(events)) == number, f"{number} workers that join"))


def environments(pool: WorkerPool) -> list[dict[str, str]]:
    """Variables that the workers have now."""
    import ray

    assert isinstance(pool, RayPool)
    return ray.get([member.actor.__ray_call__.remote(lambda _: dict(os.environ)) for member in pool._members.values()])


def ask_all(pool: RayPool) -> list[Any]:
    """An answer from each worker."""
    answers = list(answers_to(pool, [probe(pool, worker) for worker in pool.workers()]).values())
    for answer in answers:
        read(answer)
    return answers
