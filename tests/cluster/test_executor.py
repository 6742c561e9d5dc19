"""Foreign executors as pools: those of the standard library. Dask's and mpi4py's have the same interface and are not run here."""

import os
import signal
import tempfile
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch

from dqk.cluster import Lost, open_pool
from dqk.cluster.executor import ExecutorPool, from_executor
from dqk.errors import ClusterError, InvalidInputError
from dqk.testing import pool_subject
from dqk.testing.jobs import job_arrays, tiles_task
from dqk.testing.pool_subject import answers_to, expect_held, probe, read, submit, wait, wait_until_joined


@pytest.fixture
def processes() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(2, get_context("spawn")) as executor:
        yield executor


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


class Counting(Executor):
    """Counts what would travel to another process."""

    def __init__(self, executor: Executor):
        self.executor, self.contents = executor, 0

    def submit(self, function, /, *arguments, **options) -> Future:  # type: ignore[no-untyped-def, type-arg]
        self.contents += sum(shipment.content is not None for shipment in arguments[1])
        return self.executor.submit(function, *arguments, **options)


def test_the_number_of_workers_is_asked_for() -> None:
    with ThreadPoolExecutor(3) as executor:
        for pool in (from_executor(executor), open_pool(executor)):
            with pool:
                assert len(wait_until_joined(pool, 3)) == 3
        with open_pool(executor, 2) as pool:
            assert len(wait_until_joined(pool, 2)) == 2
    with pytest.raises(InvalidInputError, match=r"Counting does not say .* from_executor\(executor, workers=8\)"):
        from_executor(Counting(executor))


def test_arrays_travel_as_a_file_which_is_removed(processes: ProcessPoolExecutor, temporary: Path) -> None:
    executor = Counting(processes)
    with from_executor(executor, 2) as pool:
        wait_until_joined(pool, 2)
        pool.put("job", {"x": np.arange(1000)})
        expect_held(pool, {"job"}, set())
        assert len(list(temporary.rglob("*"))) == 2  # a folder with one file
    assert executor.contents == 0
    assert list(temporary.iterdir()) == []
    assert processes.submit(os.getpid).result() > 0  # the executor is the caller's


def test_processes_that_do_not_see_the_file_get_the_arrays_once(
    processes: ProcessPoolExecutor, temporary: Path
) -> None:
    executor = Counting(processes)
    arrays = job_arrays(n=20, side=16, symmetric=False, log=False, backend="reference")
    task = tiles_task("job", [(0, 0, 0), (1, 1, 0)])
    with from_executor(executor, 2) as pool, ThreadPoolExecutor(1) as here, from_executor(here) as local:
        local.put("job", arrays)
        wait_until_joined(local, 1)
        (expected,) = answers_to(local, [submit(local, *local.workers(), task)]).values()
        pool.put("job", arrays)
        for file in temporary.rglob("*/*"):
            if str(file.parent) == str(pool._folder):  # type: ignore[attr-defined]
                file.unlink()
        workers = wait_until_joined(pool, 2)
        for _ in range(10):
            for answer in answers_to(pool, [submit(pool, worker, task) for worker in workers]).values():
                for item, value in read(answer)[1].items():
                    assert value.tobytes() == read(expected)[1][item].tobytes()
    assert 1 <= executor.contents <= 4  # once for each process, or twice if both places fell to one


def test_forked_processes_work_beside_the_threads_of_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A forked child has none of the threads that OpenMP started here, and must not wait for them."""
    monkeypatch.setattr(pool_subject, "PATIENCE_S", 30.0)
    torch.set_num_threads(2)
    try:
        x = torch.rand(600, 600, dtype=torch.float64)
        (x @ x).exp().sum()
        arrays = job_arrays(n=300, side=256, symmetric=True, log=True, backend="reference")
        with ProcessPoolExecutor(1, get_context("fork")) as executor, from_executor(executor) as pool:
            (worker,) = wait_until_joined(pool, 1)
            pool.put("job", arrays)
            try:
                (answer,) = answers_to(pool, [submit(pool, worker, tiles_task("job", [(0, 0, 0), (1, 0, 1)]))]).values()
            except AssertionError:
                for process in executor._processes.values():
                    process.kill()
                raise
            assert not read(answer)[0]["failed"]
    finally:
        torch.set_num_threads(1)


def test_a_place_can_be_given_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with ThreadPoolExecutor(2) as executor, from_executor(executor) as pool:
        first, second = wait_until_joined(pool, 2)
        hangs = probe(pool, first, nonce=str(tmp_path / "pipe"), reply=str(tmp_path / "reply"))
        pool.kill(first.id)
        assert [event.worker for event in pool.poll(1.0) if isinstance(event, Lost)] == [first.id]
        assert pool.workers() == (second,)
        answers_to(pool, [probe(pool, second)])
        (tmp_path / "pipe").write_text("go on")
        probe(pool, first)
        assert hangs and pool.poll(0.3) == []
        pool.kill(second.id)
        pool.poll(1.0)
        with pytest.raises(ClusterError, match="all places were given up"):
            pool.poll(1.0)


def test_an_executor_that_is_shut_down_loses_all() -> None:
    executor = ThreadPoolExecutor(2)
    with from_executor(executor) as pool:
        first, _ = wait_until_joined(pool, 2)
        executor.shutdown()
        probe(pool, first)
        events = wait(pool, lambda events: sum(isinstance(event, Lost) for event in events) == 2, "loss")
        assert all("cannot schedule new futures after shutdown" in event.cause for event in events)  # type: ignore[union-attr]
        with pytest.raises(ClusterError, match="cannot schedule new futures"):
            pool.poll(1.0)


def test_a_full_disk_is_named(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(temporary / "missing"))
    with ThreadPoolExecutor(1) as executor, from_executor(executor) as pool:
        with pytest.raises(ClusterError, match="cannot write arrays for the workers: .*; TMPDIR names another folder"):
            pool.put("job", {"x": np.arange(3)})


@pytest.mark.faults
def test_a_process_that_dies_takes_the_executor_with_it(processes: ProcessPoolExecutor) -> None:
    with from_executor(processes) as pool:
        first, second = wait_until_joined(pool, 2)
        (answer,) = answers_to(pool, [probe(pool, first)]).values()
        probe(pool, second, sleep_s=60)
        os.kill(read(answer)[0]["pid"], signal.SIGKILL)
        events = wait(pool, lambda events: sum(isinstance(event, Lost) for event in events) == 2, "loss")
        assert {event.worker for event in events} == {first.id, second.id}
        assert all("BrokenProcessPool" in event.cause for event in events)  # type: ignore[union-attr]
        probe(pool, first)
        with pytest.raises(ClusterError, match="BrokenProcessPool"):
            pool.poll(1.0)


def test_a_pool_of_an_executor_is_a_pool() -> None:
    with ThreadPoolExecutor(1) as executor:
        assert isinstance(open_pool(executor), ExecutorPool)
