"""MPI ranks as workers: rank 0 drives, and every rank computes, rank 0 included.

Choose it where the site's batch system starts MPI programs. Two modes:

- driver and servers: rank 0 opens the pool, all other ranks are in `serve`, which returns when rank 0 closes it.

      if comm.Get_rank() == 0:
          with MPIPool(comm) as pool:
              K = gram(kernel, X, executor=pool)
      else:
          serve(comm)

- all ranks call the same function (SPMD): `run_everywhere`, on which `gram(..., executor="mpi")` rests.

The main thread of each rank does what MPI has to do and sleeps between; `slots` threads compute. MPI knows no lost rank: when
one is killed the job ends, and goes on from its store. A rank that fails outside a task ends the job with its message.
"""

from __future__ import annotations

import contextlib
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

import dqk.errors
from dqk._task import run_task
from dqk._wire import pack, unpack
from dqk.cluster._mpi_session import Kind, Message, Session, Waiting, broadcast, end_job, load_mpi
from dqk.cluster.base import Arrays, Buffer, Done, Failed, Joined, PoolEvent, Worker, WorkerPool
from dqk.errors import ClusterError, DQKError, cause

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class MPIPool(WorkerPool):
    """All ranks of a communicator, driven from its rank 0.

    Args:
        comm: an mpi4py communicator; None for MPI.COMM_WORLD.
        problem: what the ranks were called for, if all of them say it (`run_everywhere`); empty where the others `serve`.
    """

    name = "mpi"

    def __init__(self, comm: Any = None, problem: str = ""):
        self._given, self._problem = comm, problem
        self._session: Session | None = None
        self._events: list[PoolEvent] = []

    def start(self) -> None:
        """Meets the other ranks; waits for them without using a core, and says so after half a minute."""
        comm = self._given or load_mpi().COMM_WORLD
        if is_server(comm):
            raise ClusterError(
                f"the pool was opened on rank {comm.Get_rank()}; open it on rank 0 and call `serve(comm)` on all others"
            )
        self._session = Session(comm, self._problem)
        self._slots = _Slots(self._session.members[0].slots)
        self._restore = _exit_on_terminate()
        self._events = [Joined(worker) for worker in self._session.members]
        self._ranks = {worker.id: rank for rank, worker in enumerate(self._session.members)}

    def workers(self) -> tuple[Worker, ...]:
        """All ranks."""
        return self._session.members if self._session else ()

    def put(self, digest: str, arrays: Arrays) -> None:
        """Broadcasts to all ranks; rank 0 keeps a reference."""
        self._tell_all(Kind.PUT, digest)
        self._slots.arrays[digest] = arrays
        self._open.broadcast(arrays)

    def drop(self, digest: str) -> None:
        """Lets all ranks forget."""
        self._tell_all(Kind.DROP, digest)
        self._slots.arrays.pop(digest, None)

    def submit(self, worker: str, ticket: int, task: bytes) -> None:
        """Sends the task to its rank, or to the threads of this one."""
        rank = self._ranks[worker]
        if rank == 0:
            self._slots.submit(ticket, task)
        else:
            self._open.send(rank, Kind.TASK, ticket, task)

    def poll(self, timeout_s: float) -> list[PoolEvent]:
        """What has arrived; sleeps between two looks."""
        session, waiting = self._open, Waiting()
        while True:
            while message := session.receive():
                self._events.append(self._event(message))
            sending = session.progress()
            left = 0.0 if self._events else timeout_s - waiting.elapsed_s
            self._events += [
                _event(self.workers()[0].id, *done) for done in self._slots.finished(waiting.pause(sending, left))
            ]
            if self._events or left <= 0:
                events, self._events = self._events, []
                return events

    def kill(self, worker: str) -> None:
        """Ends the job: MPI cannot end one rank and go on."""
        if worker in self._ranks:
            end_job(
                self._given or load_mpi().COMM_WORLD,
                ClusterError(f"worker {worker} hangs, and MPI cannot end it alone"),
            )

    def close(self) -> None:
        """Ends the session: tasks that run are waited for, those that wait are dropped, and `serve` returns on all other ranks."""
        if self._session is None:
            return
        session, self._session = self._session, None
        try:
            for rank in range(1, session.size):
                session.send(rank, Kind.STOP)
            self._slots.close()
            waiting, leaving = Waiting(), session.size - 1
            while leaving:
                sending, message = session.progress(), session.receive()
                if message is None:
                    time.sleep(waiting.pause(sending))
                else:
                    leaving -= message.kind == Kind.BYE
            session.close()
        except BaseException as error:  # such as a second Ctrl-C: the others would wait for ever
            end_job(self._given or load_mpi().COMM_WORLD, error)
        finally:
            self._restore()

    @property
    def _open(self) -> Session:
        if self._session is None:
            raise ClusterError("the MPI pool is not open; use `with MPIPool(comm) as pool:`")
        return self._session

    def _tell_all(self, kind: Kind, digest: str) -> None:
        for rank in range(1, self._open.size):
            self._open.send(rank, kind, payload=digest.encode())

    def _event(self, message: Message) -> PoolEvent:
        result = message.payload if message.kind == Kind.DONE else None
        why = "" if message.kind == Kind.DONE else message.payload.tobytes().decode()
        return _event(self.workers()[message.source].id, message.ticket, result, why)


def serve(comm: Any = None, problem: str = "") -> None:
    """Computes what rank 0 asks for until it closes its pool. SIGINT, SIGTERM and SIGUSR1 are left to rank 0 meanwhile.

    Args:
        comm: an mpi4py communicator; None for MPI.COMM_WORLD.
        problem: as for `MPIPool`.

    Raises:
        ClusterError: on rank 0, or if the ranks were called for different things.
    """
    comm = comm or load_mpi().COMM_WORLD
    if not is_server(comm):
        raise ClusterError("serve was called on rank 0, which has to open the pool: `with MPIPool(comm) as pool:`")
    session = Session(comm, problem)
    try:
        with _signals_left_to_rank_0():
            _serve(session)
    except BaseException as error:
        end_job(comm, error)


def _serve(session: Session) -> None:
    slots, waiting = _Slots(session.members[session.rank].slots), Waiting()
    while True:
        sending = session.progress()
        message = session.receive()
        if message is None:
            for ticket, result, why in slots.finished(waiting.pause(sending)):
                waiting = Waiting()
                if result is None:
                    session.send(0, Kind.FAILED, ticket, why.encode())
                else:
                    session.send(0, Kind.DONE, ticket, result)
            continue
        waiting, text = Waiting(), message.payload.tobytes()
        if message.kind == Kind.TASK:
            slots.submit(message.ticket, text)
        elif message.kind == Kind.PUT:
            slots.arrays[text.decode()] = session.broadcast(None)
        elif message.kind == Kind.DROP:
            slots.arrays.pop(text.decode(), None)
        else:
            break
    slots.close()
    session.send(0, Kind.BYE)
    session.close()


def is_server(comm: Any = None) -> bool:
    """Whether this rank has to `serve`: any but rank 0."""
    rank: int = (comm or load_mpi().COMM_WORLD).Get_rank()
    return rank != 0


def run_everywhere(comm: Any, problem: str, drive: Callable[[WorkerPool], Arrays]) -> Arrays:
    """What all ranks call together: rank 0 drives, the others serve, and all return what rank 0 found.

    Args:
        comm: an mpi4py communicator; None for MPI.COMM_WORLD.
        problem: digest of what is asked; the same on all ranks.
        drive: called on rank 0 only, with the open pool; gives arrays under any names but `error`.

    Returns:
        The arrays that `drive` returned; on rank 0 the very same, elsewhere copies that may be written to.

    Raises:
        ClusterError: on all ranks, if they were called for different problems.
        DQKError: on all ranks the error that `drive` raised on rank 0; other exceptions are raised as they are on rank 0 and
            as ClusterError elsewhere.
    """
    comm = comm or load_mpi().COMM_WORLD
    if is_server(comm):
        serve(comm, problem)
        return _outcome(broadcast(comm, None))
    failure: BaseException | None = None
    with MPIPool(comm, problem) as pool:
        try:
            found = drive(pool)
        except BaseException as error:
            failure, found = error, _as_arrays(error)
    broadcast(comm, found)
    if failure is not None:
        raise failure
    return found


def _as_arrays(error: BaseException) -> Arrays:
    name = type(error).__name__ if isinstance(error, DQKError | KeyboardInterrupt | SystemExit) else ""
    return {"error": np.frombuffer(pack({"name": name, "text": str(error), "cause": cause(error)}), np.uint8)}


def _outcome(found: dict[str, np.ndarray]) -> Arrays:
    if "error" not in found:
        return found
    error = unpack(found["error"])[0]
    name, text = error["name"], error["text"]
    if name == "KeyboardInterrupt":
        raise KeyboardInterrupt
    if name == "SystemExit":  # a signal to rank 0
        raise SystemExit(int(text) if text.isdigit() else text)
    kind = getattr(dqk.errors, name, None) if name else None
    raise kind(text) if kind else ClusterError(f"rank 0 failed: {error['cause']}")


_Finished = tuple[int, bytes | None, str]  # ticket, result or None, cause


class _Slots:
    """The threads of a rank that compute. None of them calls MPI."""

    def __init__(self, slots: int):
        self.arrays: dict[str, Arrays] = {}
        self._torch_threads = torch.get_num_threads()
        torch.set_num_threads(1)  # tasks are the parallel unit, on this node's other ranks too
        self._threads = ThreadPoolExecutor(2 * slots, thread_name_prefix="dqk")
        self._gate = threading.BoundedSemaphore(slots)
        self._finished: queue.SimpleQueue[_Finished] = queue.SimpleQueue()

    def submit(self, ticket: int, task: bytes) -> None:
        """Queues a task; those beyond the number of threads wait."""
        self._threads.submit(self._run, ticket, task)

    def _run(self, ticket: int, task: bytes) -> None:
        try:
            self._finished.put((ticket, run_task(task, self.arrays, self._gate), ""))
        except BaseException as error:
            self._finished.put((ticket, None, cause(error)))

    def finished(self, timeout_s: float) -> list[_Finished]:
        """What has finished; waits for the first one, so that a result wakes the thread that sends it."""
        found = []
        with contextlib.suppress(queue.Empty):
            found.append(self._finished.get(timeout=timeout_s) if timeout_s > 0 else self._finished.get_nowait())
            while True:
                found.append(self._finished.get_nowait())
        return found

    def close(self) -> None:
        """Waits for tasks that run; those that wait are dropped."""
        self._threads.shutdown(cancel_futures=True)
        torch.set_num_threads(self._torch_threads)


def _event(worker: str, ticket: int, result: Buffer | None, why: str) -> PoolEvent:
    return Failed(worker, ticket, why) if result is None else Done(worker, ticket, result)


@contextlib.contextmanager
def _signals_left_to_rank_0() -> Iterator[None]:
    """Launchers give signals to all ranks; rank 0 ends the others in good order, or is ended and they with it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, signal.SIG_IGN) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _exit_on_terminate() -> Callable[[], object]:
    """Makes SIGTERM an exception, unless the program handles it, so that the pool is closed; returns what undoes that."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        return lambda: None
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    return lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL)
