"""Any `concurrent.futures.Executor` as a pool: the standard library's, Dask's `client.get_executor()`, mpi4py's.

Choose it where workers are already there under another roof. An executor cannot name a worker, so the pool's workers are
places in its queue: no task goes to a certain process, none can be killed, and a process that dies may take all with it.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import queue
import shutil
import tempfile
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import BrokenExecutor, Executor, Future
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from dqk._task import run_task
from dqk.cluster.base import Arrays, Done, Failed, Joined, Lost, PoolEvent, Worker, WorkerPool
from dqk.cluster.mapped import map_arrays, read_arrays, write_arrays
from dqk.errors import ClusterError, InvalidInputError, cause


def from_executor(executor: Executor, workers: int | None = None) -> ExecutorPool:
    """A pool on top of a foreign executor, which stays the caller's: closing the pool does not shut it down.

    Args:
        executor: anything whose tasks can import dqk.
        workers: how many tasks it runs at once; None to ask it, which executors of the standard library and of mpi4py answer.

    Raises:
        InvalidInputError: if the number is not known.
    """
    if workers is None:
        known = (getattr(executor, name, None) for name in ("_max_workers", "num_workers"))
        workers = next((number for number in known if isinstance(number, int)), None)
    if workers is None or workers < 1:
        raise InvalidInputError(
            f"workers is {workers} and {type(executor).__name__} does not say how many tasks it runs at once; "
            "use from_executor(executor, workers=8), say"
        )
    return ExecutorPool(executor, workers)


@dataclass(frozen=True, slots=True)
class _Shipment:
    """Where a task finds arrays.

    Attributes:
        digest: their name.
        path: a file with them, which every process that sees this disk maps once.
        content: what the file holds, for a process that does not see it.
    """

    digest: str
    path: str
    content: bytes | None = None


@dataclass(frozen=True, slots=True)
class _Flight:
    """A task that was given to the executor."""

    worker: str
    ticket: int
    task: bytes


class ExecutorPool(WorkerPool):
    """Places in the queue of an executor, see `from_executor`."""

    name = "executor"
    kills = False

    def __init__(self, executor: Executor, workers: int):
        self._executor, self._count = executor, workers
        self._reset()

    def _reset(self) -> None:
        self._workers: dict[str, Worker] = {}
        self._flights: dict[Future[_Answer], _Flight] = {}
        self._arrays: dict[str, tuple[_Shipment, Arrays]] = {}
        self._happened: queue.SimpleQueue[PoolEvent | Future[_Answer]] = queue.SimpleQueue()
        self._folder: Path | None = None
        self._cause = "the pool is not open"

    def start(self) -> None:
        """All places join at once."""
        for k in range(self._count):
            worker = self._workers[f"place-{k}"] = Worker(f"place-{k}")
            self._happened.put(Joined(worker))

    def workers(self) -> tuple[Worker, ...]:
        """The places that are not given up."""
        return tuple(self._workers.values())

    def put(self, digest: str, arrays: Arrays) -> None:
        """Writes arrays to a temporary file (TMPDIR chooses where); processes that cannot open it get them with a task."""
        self.drop(digest)
        try:
            if self._folder is None:
                self._folder = Path(tempfile.mkdtemp(prefix="dqk-"))
            path = self._folder / uuid.uuid4().hex
            with path.open("wb") as stream:
                write_arrays(stream, arrays)
        except OSError as error:
            raise ClusterError(f"cannot write arrays for the workers: {error}; TMPDIR names another folder") from error
        self._arrays[digest] = _Shipment(digest, str(path)), arrays

    def drop(self, digest: str) -> None:
        """Removes the file; processes let go of it when they have used others."""
        shipment, _ = self._arrays.pop(digest, (None, None))
        if shipment is not None:
            Path(shipment.path).unlink(missing_ok=True)

    def submit(self, worker: str, ticket: int, task: bytes) -> None:
        """Puts the task into the executor's queue."""
        if worker in self._workers:
            self._send(_Flight(worker, ticket, task))

    def _send(self, flight: _Flight, by_value: Sequence[str] = ()) -> None:
        shipments = [
            replace(shipment, content=_content(arrays)) if digest in by_value else shipment
            for digest, (shipment, arrays) in self._arrays.items()
        ]
        try:
            future = self._executor.submit(_run, flight.task, shipments, os.getpid(), self._count)
        except RuntimeError as error:  # broken, or shut down
            self._lose_all(error)
            return
        self._flights[future] = flight
        future.add_done_callback(self._happened.put)

    def poll(self, timeout_s: float) -> list[PoolEvent]:
        """What came out of the queue."""
        if not self._workers and self._happened.empty():
            raise ClusterError(f"nothing is left of {self._executor!r}: {self._cause}")
        events: list[PoolEvent] = []
        deadline = time.monotonic() + timeout_s
        with contextlib.suppress(queue.Empty):
            while not events:
                events += self._understand(self._happened.get(timeout=max(1e-6, deadline - time.monotonic())))
            while True:
                events += self._understand(self._happened.get_nowait())
        return events

    def _understand(self, happened: PoolEvent | Future[_Answer]) -> list[PoolEvent]:
        if not isinstance(happened, Future):
            return [happened]
        flight = self._flights.pop(happened, None)
        if flight is None or flight.worker not in self._workers:
            return []
        try:
            answer = happened.result()
        except BrokenExecutor as error:
            self._lose_all(error)
            return []
        except Exception as error:
            return [Failed(flight.worker, flight.ticket, cause(error))]
        if answer.missing:
            self._send(flight, answer.missing)
            return []
        if answer.cause:
            return [Failed(flight.worker, flight.ticket, answer.cause)]
        return [Done(flight.worker, flight.ticket, answer.result)]

    def _lose_all(self, error: BaseException) -> None:
        self._cause = cause(error)
        for worker in list(self._workers):
            self._give_up(worker, f"the executor is broken: {self._cause}")

    def _give_up(self, worker: str, why: str) -> None:
        del self._workers[worker]
        self._happened.put(Lost(worker, why))

    def kill(self, worker: str) -> None:
        """Gives the place up: what runs there cannot be ended from outside, and may run on."""
        if worker in self._workers:
            self._cause = "all places were given up"
            self._give_up(worker, "was given up; a task of a foreign executor cannot be ended")
            for future, flight in self._flights.items():
                if flight.worker == worker:
                    future.cancel()

    def close(self) -> None:
        """Takes waiting tasks out of the queue; what runs there runs to its end, and the executor stays open."""
        for future in list(self._flights):
            future.cancel()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._reset()


def _content(arrays: Arrays) -> bytes:
    stream = io.BytesIO()
    write_arrays(stream, arrays)
    return stream.getvalue()


# --- inside a worker -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a task came to: a result, the cause of its failure, or arrays that it did not find."""

    result: bytes = b""
    cause: str = ""
    missing: tuple[str, ...] = ()


_KEPT = 4
_held: OrderedDict[str, Arrays] = OrderedDict()  # by path, those used last at the end
_holding = threading.Lock()


def _run(task: bytes, shipments: Sequence[_Shipment], driver: int, workers: int) -> _Answer:
    """Runs a task in a process of the executor. Exceptions travel as text, since not all of them survive pickling."""
    if os.getpid() != driver and multiprocessing.parent_process() is not None:  # its threads and memory are ours
        os.environ.setdefault("DQK_NODE_WORKERS", str(workers))
        torch.set_num_threads(1)
    try:
        arrays = _find(shipments)
        missing = tuple(shipment.digest for shipment in shipments if shipment.digest not in arrays)
        return _Answer(missing=missing) if missing else _Answer(run_task(task, arrays))
    except BaseException as error:
        return _Answer(cause=cause(error))


def _find(shipments: Sequence[_Shipment]) -> dict[str, Arrays]:
    """Arrays by digest: those held from earlier tasks, those that can be mapped and those that came along."""
    found = {}
    with _holding:
        for shipment in shipments:
            if shipment.content is not None:
                _held[shipment.path] = read_arrays(shipment.content)
            elif shipment.path not in _held:
                with contextlib.suppress(FileNotFoundError), open(shipment.path, "rb") as stream:
                    _held[shipment.path] = map_arrays(stream.fileno())
            if shipment.path in _held:
                _held.move_to_end(shipment.path)
                found[shipment.digest] = _held[shipment.path]
        while len(_held) > max(_KEPT, len(found)):
            _held.popitem(last=False)
    return found
