"""Worker processes: how they start, what they see, how they end; faults of workers and of the driver."""

import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dqk.cluster import Lost, processes
from dqk.cluster.processes import ProcessPool
from dqk.errors import ClusterError, InvalidInputError
from dqk.testing.pool_subject import answers_to, expect_held, probe, read, wait, wait_until_joined, worker_pids
from tests.processes import running, wait_for_end

# What each program below starts with. It has no `if __name__ == "__main__"`.
HEAD = """
import os, signal, sys, time
import numpy as np
from dqk.cluster.processes import ProcessPool
from dqk.testing.pool_subject import answers_to, probe, read, wait_until_joined, worker_pids
print("main", flush=True)
"""


@pytest.fixture
def pool() -> Iterator[ProcessPool]:
    with ProcessPool(2) as pool:
        wait_until_joined(pool, 2)
        yield pool


def program(body: str) -> str:
    return HEAD + textwrap.dedent(body)


def start(code: str, **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, **options)  # type: ignore[call-overload]


def status(pid: int, field: str) -> str:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line for line in lines if line.startswith(f"{field}:")).split()[1]


@pytest.mark.parametrize("how", ["script", "standard input", "argument"])
def test_the_main_module_is_not_imported_again(how: str, tmp_path: Path) -> None:
    code = program("""
        pool = ProcessPool(1)
        with pool:
            (worker,) = wait_until_joined(pool, 1)
            print("worker" if worker_pids(pool)[worker.id] != os.getpid() else "itself")
    """)
    script = tmp_path / "script.py"
    script.write_text(code)
    arguments = {"script": [str(script)], "standard input": ["-"], "argument": ["-c", code]}[how]
    given = code if how == "standard input" else None
    done = subprocess.run([sys.executable, *arguments], input=given, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["main", "worker"], done.stderr


def test_a_worker_has_its_share_of_the_node(pool: ProcessPool) -> None:
    pids = list(worker_pids(pool).values())
    for pid in pids:
        pairs = (pair.partition("=") for pair in Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0"))
        environment = {name: value for name, _, value in pairs}
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "DQK_THREADS")
        assert [environment[name] for name in names] == ["1"] * 5
        assert environment["DQK_NODE_WORKERS"] == "2"
    masks = [os.sched_getaffinity(pid) for pid in pids]
    assert masks[0] | masks[1] == os.sched_getaffinity(0)
    assert not masks[0] & masks[1] or len(os.sched_getaffinity(0)) == 1


def test_a_worker_with_threads_runs_tasks_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "message").write_text("hello")
    with ProcessPool(1, threads=2) as pool:
        (worker,) = wait_until_joined(pool, 2)
        assert worker.slots == 2
        reads = probe(pool, worker, nonce=str(tmp_path / "pipe"), reply=str(tmp_path / "reply"))
        writes = probe(pool, worker, nonce=str(tmp_path / "message"), reply=str(tmp_path / "pipe"))
        assert all(read(answer)[0]["shared"] for answer in answers_to(pool, [reads, writes]).values())


def test_standard_output_belongs_to_the_driver(pool: ProcessPool) -> None:
    for pid in worker_pids(pool).values():
        assert os.readlink(f"/proc/{pid}/fd/1") == os.readlink("/proc/self/fd/2")
        assert os.readlink(f"/proc/{pid}/fd/0") == "/dev/null"


def test_wrong_numbers_are_refused() -> None:
    for workers, threads in ((0, 1), (-1, 1), (1, 0)):
        with pytest.raises(InvalidInputError, match=f"workers={workers} with threads={threads}"):
            ProcessPool(workers, threads)


def test_all_descriptors_are_given_back() -> None:
    def cycle() -> None:
        with ProcessPool(1) as pool:
            pool.put("kept", {"x": np.arange(5)})
            pool.put("dropped", {"x": np.arange(5)})
            pool.drop("dropped")
            (worker,) = wait_until_joined(pool, 1)
            expect_held(pool, {"kept"}, {"dropped"})
            pool.kill(worker.id)
            wait(pool, lambda events: any(isinstance(event, Lost) for event in events), "loss")

    cycle()
    before = set(os.listdir("/proc/self/fd"))
    cycle()
    assert set(os.listdir("/proc/self/fd")) == before


def test_the_same_pool_can_be_opened_again() -> None:
    pool = ProcessPool(1)
    for _ in range(2):
        with pool:
            wait_until_joined(pool, 1)
            assert len(worker_pids(pool)) == 1
        with pytest.raises(ClusterError, match="no worker process is left"):
            pool.poll(0.0)


def test_workers_outlive_the_thread_that_started_them() -> None:
    pool = ProcessPool(1)
    thread = threading.Thread(target=pool.start)
    try:
        thread.start()
        thread.join()
        (worker,) = wait_until_joined(pool, 1)
        answers_to(pool, [probe(pool, worker)])
    finally:
        pool.close()


def test_processes_that_cannot_start_are_not_tried_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    with (
        ProcessPool(2) as pool,
        pytest.raises(ClusterError, match="ended with exit code 3 before it was ready.* 8 were"),
    ):
        for _ in range(5):
            assert pool.poll(5.0) == []
    monkeypatch.setattr(sys, "executable", str(tmp_path / "missing"))
    with pytest.raises(ClusterError, match="cannot start a worker process with .*missing"), ProcessPool(2):
        pass


@pytest.mark.faults
def test_a_killed_worker_names_the_signal_and_is_replaced_a_number_of_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_REPLACEMENTS_PER_WORKER", 1)
    with ProcessPool(1) as pool:
        for number, text in (
            (signal.SIGKILL, "signal 9 .*out-of-memory killer"),
            (signal.SIGSEGV, "signal 11 .SIGSEGV"),
        ):
            (worker,) = wait_until_joined(pool, 1)
            pid = worker_pids(pool)[worker.id]
            probe(pool, worker, sleep_s=60)
            os.kill(pid, number)
            (lost,) = wait(pool, lambda events: any(isinstance(event, Lost) for event in events), "loss")
            assert isinstance(lost, Lost) and lost.worker == worker.id
            assert re.search(text, lost.cause), lost.cause
        with pytest.raises(ClusterError, match="no worker process is left: the last one was killed by signal 11"):
            pool.poll(10.0)


@pytest.mark.faults
def test_a_stopped_worker_blocks_nobody_and_can_be_killed(pool: ProcessPool) -> None:
    first, second = pool.workers()
    pid = worker_pids(pool)[first.id]
    os.kill(pid, signal.SIGSTOP)
    for _ in range(5):
        probe(pool, first, {"payload": np.arange(1_000_000)})
    answers_to(pool, [probe(pool, second, {"payload": np.arange(1_000_000)}) for _ in range(5)])
    pool.kill(first.id)
    events = wait(pool, lambda events: any(isinstance(event, Lost) for event in events), "loss")
    assert [event for event in events if isinstance(event, Lost)] == [
        Lost(first.id, "was killed, as the pool had been told to")
    ]
    wait(pool, lambda _: len(pool.workers()) == 2, "replacement")
    answers_to(pool, [probe(pool, worker) for worker in pool.workers()])
    pids = worker_pids(pool)
    os.kill(pids[second.id], signal.SIGSTOP)
    began = time.monotonic()
    pool.close()
    assert time.monotonic() - began < 30
    assert not any(map(running, pids.values()))


@pytest.mark.faults
def test_signals_to_the_whole_job_leave_the_workers_to_the_driver() -> None:
    code = program("""
        with ProcessPool(1) as pool:
            (worker,) = wait_until_joined(pool, 1)
            pid = worker_pids(pool)[worker.id]
            signal.signal(signal.SIGTERM, signal.default_int_handler)
            for _ in range(2):
                try:
                    print(pid, flush=True)
                    time.sleep(60)
                except KeyboardInterrupt:
                    print("still" if worker_pids(pool) == {worker.id: pid} else "another", flush=True)
    """)
    driver = start(code, start_new_session=True)
    try:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "main\n"
        worker = int(driver.stdout.readline())
        assert os.getpgid(worker) != driver.pid  # a terminal's Ctrl-C goes to the process group in front
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(worker, number)
            os.killpg(driver.pid, number)
            assert driver.stdout.readline() == "still\n"
            driver.stdout.readline()
        assert driver.wait(30) == 0
    finally:
        driver.kill()
        driver.communicate()


@pytest.mark.faults
def test_a_killed_driver_leaves_nothing_behind(tmp_path: Path) -> None:
    code = program("""
        pool = ProcessPool(3)
        pool.start()
        wait_until_joined(pool, 3)
        pool.put("large", {"x": np.zeros(4_000_000)})
        pids = worker_pids(pool)
        print(*pids.values(), flush=True)
        first, second, _ = pool.workers()
        probe(pool, first, sleep_s=600)
        os.kill(pids[second.id], signal.SIGSTOP)
        print("busy", flush=True)
        time.sleep(600)
    """)
    driver = start(code, env={**os.environ, "TMPDIR": str(tmp_path)})
    try:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "main\n"
        workers = list(map(int, driver.stdout.readline().split()))
        assert driver.stdout.readline() == "busy\n"
        for pid in (*workers, driver.pid):
            open_files = {os.readlink(f"/proc/{pid}/fd/{number}") for number in os.listdir(f"/proc/{pid}/fd")}
            mapped = {line.split(maxsplit=5)[-1] for line in Path(f"/proc/{pid}/maps").read_text().splitlines()}
            assert not [name for name in open_files | mapped if name.startswith(("/dev/shm", str(tmp_path)))]
        assert all(map(running, workers))
    finally:
        driver.kill()
        driver.communicate()
    assert not wait_for_end(set(workers), 10.0)
    assert list(tmp_path.iterdir()) == []
