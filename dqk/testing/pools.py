"""The laws of worker pools: what the scheduler relies on, wherever workers run.

The pool's workers have to be on this machine and to see its files.
"""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dqk._task import run_task
from dqk._wire import unpack
from dqk.cluster.base import Failed, Joined, Lost, Worker, WorkerPool
from dqk.testing import pool_subject as tools
from dqk.testing.jobs import job_arrays, tiles_task
from dqk.testing.law import Law
from dqk.testing.pool_subject import PoolSubject, answers_to, collect, expect_held, pool_law, probe, read, submit

_LONG_S = 600.0  # a task that no law waits for


def check_pool(subject: PoolSubject) -> list[str]:
    """Runs every law that binds a pool.

    Args:
        subject: how to make the pool, and what it can do.

    Returns:
        The names of the laws that were checked.

    Raises:
        AssertionError: names the law and what happened.
    """
    laws = [law for law in POOL_LAWS if law.applies(subject)]
    with subject:
        for law in laws:
            law(subject)
    return [law.name for law in laws]


# --- laws on a shared pool -------------------------------------------------------------------------------------------


@pool_law()
def a_task_returns_from_its_worker(subject: PoolSubject) -> None:
    """A result names the worker that the task was sent to, and its ticket; and that worker is one process."""
    pool = subject.pool
    seen: dict[str, set[int]] = {}
    for worker in pool.workers() * 3:
        ticket = probe(pool, worker)
        answer = answers_to(pool, [ticket])[ticket]
        assert answer.worker == worker.id, f"a task for {worker.id} came back from {answer.worker}"
        seen.setdefault(worker.id, set()).add(read(answer)[0]["pid"])
    if not subject.anonymous:
        assert all(len(pids) == 1 for pids in seen.values()), f"processes of each worker: {seen}, expected one"
    if subject.owns_processes:
        pids = set().union(*seen.values())
        assert len(pids) == len(seen) and os.getpid() not in pids, f"processes {seen}, expected one for each worker"


@pool_law()
def each_of_many_tasks_returns_once(subject: PoolSubject) -> None:
    """Hundreds of small tasks on few workers: each ticket comes back once, with the payload that it was sent."""
    pool, workers = subject.pool, subject.pool.workers()
    sent = {probe(pool, workers[k % len(workers)], {"payload": np.full(k % 7, k)}): k for k in range(300)}
    answers = answers_to(pool, sent)
    for ticket, k in sent.items():
        payload = read(answers[ticket])[1]["payload"]
        assert np.array_equal(payload, np.full(k % 7, k)), f"task {k} came back with {payload}"
    again = tools.tickets_of(collect(pool, tools.QUIET_S)) & sent.keys()
    assert not again, f"{len(again)} of {len(sent)} tasks came back twice"


@pool_law()
def a_task_that_fails_costs_nothing_else(subject: PoolSubject) -> None:
    """A task that raises, or is no task at all, gives Failed with type and message; its worker goes on."""
    pool = subject.pool
    for worker in pool.workers():
        expected = {
            probe(pool, worker, error="on purpose"): "UnsupportedError: on purpose",
            submit(pool, worker, {"kind": "nonsense"}): "'nonsense'",
            submit(pool, worker, tiles_task("no such job", [(0, 0, 0)])): "no such job",
            submit(pool, worker, b"no message"): "",
            submit(pool, worker, b""): "",
        }
        good = probe(pool, worker)
        answers = answers_to(pool, [*expected, good])
        for ticket, text in expected.items():
            answer = answers[ticket]
            assert isinstance(answer, Failed), f"a task that raises gives {answer}"
            assert text in answer.cause and ":" in answer.cause, f"cause {answer.cause!r}, expected {text!r} in it"
        read(answers[good])
    assert not [e for e in collect(pool, tools.QUIET_S) if isinstance(e, Lost)], "a task that raises costs a worker"


@pool_law()
def arrays_are_there_until_dropped(subject: PoolSubject) -> None:
    """Tasks sent after `put` find the arrays on every worker, those sent after `drop` do not; both may be called twice."""
    pool = subject.pool
    for digest in ("first", "second", "first"):
        pool.put(digest, {"x": np.arange(5.0)})
    expect_held(pool, {"first", "second"}, set())
    pool.drop("first")
    expect_held(pool, {"second"}, {"first"})
    for digest in ("first", "second", "never there"):
        pool.drop(digest)
    expect_held(pool, set(), {"first", "second"})


@pool_law()
def tiles_have_the_bits_of_this_process(subject: PoolSubject) -> None:
    """Every tile has the same bits whoever computes it: symmetric and general, float64 and float32, values and logarithms."""
    pool = subject.pool
    cases: list[tuple[str, bool, bool, Any]] = [
        ("statevector", True, False, np.float64),
        ("reference", False, True, np.float64),
        ("reference", True, True, np.float32),
    ]
    for backend, symmetric, log, dtype in cases:
        arrays = job_arrays(n=41, side=16, symmetric=symmetric, log=log, dtype=dtype, backend=backend)
        what = f"{backend} symmetric={symmetric} log={log} {np.dtype(dtype)}"
        _expect_tiles(pool, what, arrays, arrays, [(k, *divmod(k, 3)) for k in range(9) if k // 3 <= k % 3])


@pool_law()
def large_arrays_travel_unharmed(subject: PoolSubject) -> None:
    """50 MB put, in whatever memory layout; 50 MB in a task, and in its result."""
    pool = subject.pool
    arrays = job_arrays(n=800_000, side=1024, symmetric=True, log=False, backend="mps")
    assert arrays["ax"].nbytes > 50e6
    last = len(arrays["ax"]) // 1024
    fortran = {**arrays, "ax": np.asfortranarray(arrays["ax"])}
    _expect_tiles(pool, "50 MB", arrays, fortran, [(0, 0, 0), (1, last // 2, last // 2 + 1), (2, 0, last)])
    payload = np.random.default_rng(3).integers(0, 2**62, 6_500_000)
    sent = {probe(pool, worker, {"payload": payload + k}): k for k, worker in enumerate(pool.workers())}
    for ticket, answer in answers_to(pool, sent).items():
        same = np.array_equal(read(answer)[1]["payload"], payload + sent[ticket])
        assert same, f"{payload.nbytes} bytes came back with other content"


@pool_law()
def slots_run_at_once(subject: PoolSubject) -> None:
    """Two tasks that wait for each other come to an end if they are in different slots."""
    pool = subject.pool
    slots = [worker for worker in pool.workers() for _ in range(worker.slots)]
    # A task that was let go in vain may write its reply while the folder is removed.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        pipe, message, reply = (Path(folder, name) for name in ("pipe", "message", "reply"))
        os.mkfifo(pipe)
        message.write_text("hello")
        # Opening a pipe waits for who opens its other end.
        tickets = [
            probe(pool, slots[0], nonce=str(pipe), reply=str(reply)),
            probe(pool, slots[1], nonce=str(message), reply=str(pipe)),
        ]
        try:
            for answer in answers_to(pool, tickets).values():
                assert read(answer)[0]["shared"], "a task did not find the other one"
        finally:
            both_ends = os.open(pipe, os.O_RDWR)  # lets a task go that waits in vain
            pipe.unlink()
            os.close(both_ends)
        assert reply.read_text() == "hello"


@pool_law()
def submit_does_not_wait(subject: PoolSubject) -> None:
    """A worker whose slots are all taken is sent more tasks, large ones too, and runs them later."""
    pool, workers = subject.pool, subject.pool.workers()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        pipes = [Path(folder, f"{k}-{worker.id}") for worker in workers for k in range(worker.slots)]
        for pipe in pipes:
            os.mkfifo(pipe)
        busy = [w for w in workers for _ in range(w.slots)]
        tickets = [probe(pool, w, nonce=str(p), reply=f"{p}.reply") for w, p in zip(busy, pipes, strict=True)]
        release = threading.Event()
        # Should a submission wait for the tasks before it, they end after some time, so that the law does too.
        feeder = threading.Thread(target=_feed, args=(pipes, release, tools.PATIENCE_S / 2))
        feeder.start()
        began = time.monotonic()
        tickets += [probe(pool, worker, {"payload": np.arange(1_000_000)}) for worker in workers * 5]
        waited = time.monotonic() - began
        release.set()
        answers_to(pool, tickets)
        feeder.join()
    assert waited < tools.PATIENCE_S / 2, "submit waits until the worker has time"


@pool_law()
def unknown_workers_are_ignored(subject: PoolSubject) -> None:
    """`kill` of a worker that is not there does nothing, and polling while nothing happens gives nothing."""
    pool = subject.pool
    before = set(pool.workers())
    pool.kill("nobody")
    assert not collect(pool, tools.QUIET_S) + pool.poll(0.0), "something happened"
    assert set(pool.workers()) == before, f"{before} became {pool.workers()}"


# --- laws that need a pool of their own ------------------------------------------------------------------------------


@pool_law()
def workers_join_with_what_was_put(subject: PoolSubject) -> None:
    """Each worker joins once, under a name of its own, and holds what was put while it started."""
    with subject.fresh() as pool:
        assert not pool.workers(), f"before the start there are workers: {pool.workers()}"
        pool.start()
        pool.put("early", {"x": np.arange(3)})
        joined = tools.wait_until_joined(pool, 2)
        assert len({worker.id for worker in joined}) == len(joined), f"a worker joined twice: {joined}"
        assert set(joined) == set(pool.workers()), f"joined: {joined}, listed: {pool.workers()}"
        assert sum(worker.slots for worker in joined) == 2, f"asked for 2 slots, got {joined}"
        expect_held(pool, {"early"}, set())
        again = [event for event in collect(pool, tools.QUIET_S) if isinstance(event, Joined)]
        assert not again, f"joined a second time: {again}"


@pool_law()
def closing_twice_is_closing(subject: PoolSubject) -> None:
    """A pool can be closed before it is started, at once after that, and twice; then it has no workers."""
    with subject.fresh() as pool:
        pool.close()
    with subject.fresh() as pool:
        pool.start()
        pool.close()
        assert not pool.workers(), f"after closing there are workers: {pool.workers()}"
        pool.close()


@pool_law("owns_processes")
def nothing_runs_after_closing(subject: PoolSubject) -> None:
    """Closing ends the workers' processes, also when they are busy."""
    with subject.fresh() as pool:
        pool.start()
        tools.wait_until_joined(pool, 2)
        pids = tools.worker_pids(pool)
        for worker in pool.workers():
            probe(pool, worker, sleep_s=_LONG_S)
        pool.close()
        left = tools.wait_for_end(pids.values())
        assert not left, f"processes {left} of workers run after closing"


@pool_law("owns_processes")
def a_worker_that_dies_is_lost_alone(subject: PoolSubject) -> None:
    """A worker killed in a task is Lost, with a cause; nothing more comes from it; sending it more is no error; others work."""
    _check_loss(subject, lambda pool, worker, pid: os.kill(pid, signal.SIGKILL))


@pool_law("can_kill")
def a_worker_that_is_killed_is_lost_alone(subject: PoolSubject) -> None:
    """The same for a worker that the pool ends itself."""
    _check_loss(subject, lambda pool, worker, pid: pool.kill(worker.id))


def _check_loss(subject: PoolSubject, end: Callable[[WorkerPool, Worker, int], None]) -> None:
    with subject.fresh() as pool:
        pool.start()
        tools.wait_until_joined(pool, 2)
        pool.put("early", {"x": np.arange(3)})
        first, *others = pool.workers()
        assert others, "one worker holds both slots, expected a pool of two workers"
        pid = tools.worker_pids(pool)[first.id]
        ours = [probe(pool, first, sleep_s=_LONG_S), probe(pool, first)]
        end(pool, first, pid)
        events = tools.wait(pool, lambda events: any(isinstance(e, Lost) for e in events), "Lost event")
        lost = [event for event in events if isinstance(event, Lost)]
        assert [event.worker for event in lost] == [first.id], f"{first.id} ended, lost were {lost}"
        assert lost[0].cause, "no cause is given"
        ours.append(probe(pool, first))
        theirs = {probe(pool, worker) for worker in others}
        events = tools.wait(pool, lambda events: theirs <= tools.tickets_of(events), "result of another worker")
        if subject.replaces:
            events += tools.wait(pool, lambda _: sum(worker.slots for worker in pool.workers()) == 2, "replacement")
        events += collect(pool, tools.QUIET_S)
        assert not [event for event in events if isinstance(event, Lost)], f"others were lost too: {events}"
        assert not tools.tickets_of(events) & set(ours), "tasks of a lost worker came back"
        if subject.replaces:
            expect_held(pool, {"early"}, set())
        assert first.id not in {worker.id for worker in pool.workers()}, (
            "a lost worker is listed, or its name is used again"
        )


POOL_LAWS: tuple[Law, ...] = tuple(value for value in vars().values() if isinstance(value, Law))
"""Every law of pools, in the order in which `check_pool` runs them: those that share a pool come first."""


def _expect_tiles(
    pool: WorkerPool,
    what: str,
    arrays: dict[str, np.ndarray],
    sent: dict[str, np.ndarray],
    tiles: Sequence[tuple[int, int, int]],
) -> None:
    """AssertionError unless every worker gives tiles the bits that `run_task` gives them here."""
    here, digest = f"here-{uuid.uuid4()}", f"there-{uuid.uuid4()}"  # jobs are kept by name, perhaps in this process
    _, expected = unpack(run_task(tiles_task(here, tiles), {here: arrays}))
    task = tiles_task(digest, tiles)
    pool.put(digest, sent)
    for answer in answers_to(pool, [submit(pool, worker, task) for worker in pool.workers() * 2]).values():
        document, values = read(answer)
        assert not document["failed"], f"{what}: {document['failed']}"
        assert values.keys() == expected.keys(), f"{what}: tiles {sorted(values)}, expected {sorted(expected)}"
        for item, value in values.items():
            same = value.dtype == expected[item].dtype and value.tobytes() == expected[item].tobytes()
            assert same, f"{what}: tile {item} of {answer.worker} has other bits than here"
    pool.drop(digest)


def _feed(pipes: Sequence[Path], release: threading.Event, patience_s: float) -> None:
    """Lets tasks go that wait for the other end of a pipe."""
    release.wait(patience_s)
    deadline = time.monotonic() + patience_s
    waiting: set[Any] = set(pipes)
    while waiting and time.monotonic() < deadline:
        for pipe in list(waiting):
            try:
                os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
            except OSError:  # nobody reads yet
                continue
            waiting.remove(pipe)
        time.sleep(0.01)
