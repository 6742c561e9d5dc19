"""MPI ranks that have met: their communicator, their places, and messages between them.

Messages are buffers with a tag: a header of three numbers (kind, ticket, bytes), then the bytes. Nothing is pickled. All calls
come from one thread of a rank, so that MPI_THREAD_FUNNELED is enough.
"""

from __future__ import annotations

import enum
import json
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import numpy as np

from dqk._resources import _cgroup_cpus, cpu_threads
from dqk.cluster.base import Arrays, Buffer, Worker
from dqk.cluster.resources import take_gpu
from dqk.errors import BackendUnavailableError, ClusterError, InvalidInputError

_RECORD = 4096  # bytes that each rank tells the others when they meet
_CHUNK = 2**30  # bytes in one MPI call: older libraries count in 32 bits
_HEADER, _DATA = 1, 2  # tags
_MEETING_NOTICE_S = 30.0
_LAST_WORDS_S = 0.5  # for the launcher to pass on what was said, before it ends itself
_SHORTEST_PAUSE_S, _LONGEST_PAUSE_S = 2e-5, 4e-3

_MPICH_WITH_BOTH = 5  # major version of the wheel known to be built as ch4:ucx,ofi
_SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS")


class Kind(enum.IntEnum):
    """What a message is about."""

    TASK = enum.auto()
    PUT = enum.auto()
    DROP = enum.auto()
    STOP = enum.auto()
    DONE = enum.auto()
    FAILED = enum.auto()
    BYE = enum.auto()


@dataclass(frozen=True, slots=True)
class Message:
    """A message that has arrived."""

    source: int
    kind: Kind
    ticket: int
    payload: np.ndarray


def load_mpi() -> Any:
    """The module `mpi4py.MPI`, with MPI initialised.

    Raises:
        BackendUnavailableError: if mpi4py or an MPI library is missing.
        ClusterError: if MPI was initialised for fewer threads than a rank has, or ranks do not see each other.
    """
    _shorten_addresses()
    try:
        with _bounded():
            from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # the latter: mpi4py is there, but finds no MPI library
        raise BackendUnavailableError(
            f"MPI cannot be used ({error}); on a cluster load its MPI module and `pip install 'dqk[mpi]'`, "
            "on a laptop `pip install 'dqk[mpi-local]'`"
        ) from error
    level = MPI.Query_thread()
    if level < MPI.THREAD_FUNNELED or (level == MPI.THREAD_FUNNELED and not MPI.Is_thread_main()):
        raise ClusterError(
            f"MPI was initialised with thread level {level} and this is {'' if MPI.Is_thread_main() else 'not '}its main "
            f"thread; a rank computes in threads, so MPI has to be called from the main thread at level "
            f"{MPI.THREAD_FUNNELED} (MPI_THREAD_FUNNELED) or more: set mpi4py.rc.thread_level before the first import of "
            "mpi4py.MPI"
        )
    _check_world_size(MPI.COMM_WORLD.Get_size())
    return MPI


def _shorten_addresses() -> None:
    """Has ranks that meet through Slurm's PMI use libfabric, if their MPI library is the wheel of MPICH, which has it and UCX.

    UCX's addresses are nine lines of up to 900 characters with whatever was in memory before. Of slurmstepd (22.05) such lines
    are sometimes misread: "mpi/pmi2: invalid client request", and the ranks wait for ever. Those of libfabric are one short line.
    """
    if "PMI_FD" not in os.environ or "SLURM_STEP_ID" not in os.environ or "MPI4PY_LIBMPI" in os.environ:
        return
    with suppress(metadata.PackageNotFoundError):
        if int(metadata.version("mpich").partition(".")[0]) >= _MPICH_WITH_BOTH:
            os.environ.setdefault("MPIR_CVAR_CH4_NETMOD", "ofi")


@contextmanager
def _bounded() -> Iterator[None]:
    """Ends this process by SIGALRM if the ranks do not meet within DQK_MPI_INIT_S seconds (600).

    MPI_Init is one call in C that keeps the interpreter to itself, so nothing else can look at a clock meanwhile. Ranks that a
    launcher does not bring together wait in it for ever, and their job until its time limit.
    """
    given = os.environ.get("DQK_MPI_INIT_S", "600")
    if not given.isdecimal():
        raise InvalidInputError(f"DQK_MPI_INIT_S is {given!r}, expected a whole number of seconds; 0 waits for ever")
    free = signal.getsignal(signal.SIGALRM) == signal.SIG_DFL and not any(signal.getitimer(signal.ITIMER_REAL))
    mine = free and threading.current_thread() is threading.main_thread()
    if mine:
        signal.setitimer(signal.ITIMER_REAL, int(given))
    try:
        yield
    finally:
        if mine:
            signal.setitimer(signal.ITIMER_REAL, 0)


def _check_world_size(size: int) -> None:
    """A launcher that does not belong to the MPI library starts N programs that each believe to be alone."""
    name = next((name for name in _SIZES if os.environ.get(name, "").isdigit()), None)
    if name is None or size > 1 or (launched := int(os.environ[name])) <= 1:
        return
    raise ClusterError(
        f"{name} says that {launched} ranks were launched, but MPI's world has size {size}: the launcher does not belong to "
        "the MPI library of mpi4py. Use the mpiexec that comes with that library, or `srun --mpi=pmi2` (MPICH and its "
        "relatives) or `srun --mpi=pmix` (Open MPI); inside an allocation the program has to be started by one of them"
    )


class Session:
    """All ranks of a communicator, from when they have met until they part. Made by all of them together.

    Args:
        comm: their communicator; messages travel on a copy of it.
        problem: what this rank was called for; all ranks must say the same.

    Attributes:
        rank: this one's.
        size: number of ranks.
        members: all ranks as workers.

    Raises:
        ClusterError: on all ranks, if they were called for different things.
    """

    def __init__(self, comm: Any, problem: str):
        self._mpi = load_mpi()
        _end_job_on_uncaught(comm)
        try:
            self._comm = self._meet(comm)
            self.rank, self.size = self._comm.Get_rank(), self._comm.Get_size()
            records = self._exchange(
                {"problem": problem, "node": socket.gethostname(), "kernel": _kernel(), "cpus": f"{_cpu_mask():x}"}
            )
        except BaseException as error:  # half met: there is no way to part in good order
            end_job(comm, error)
        self._sends: list[Any] = []
        self._status = self._mpi.Status()
        self._require_same([record["problem"] for record in records])
        neighbours = [r for r in records if r["kernel"] == records[self.rank]["kernel"]]
        os.environ["DQK_NODE_WORKERS"] = str(len(neighbours))
        before = [r for r in records[: self.rank] if r["kernel"] == records[self.rank]["kernel"]]
        take_gpu(len(before), len(neighbours))
        slots = _slots(_cpu_mask(), [int(r["cpus"], 16) for r in neighbours])
        counts = self._exchange({"slots": slots})
        self.members = tuple(
            Worker(f"rank-{rank}", count["slots"], record["node"])
            for rank, (record, count) in enumerate(zip(records, counts, strict=True))
        )

    def _meet(self, comm: Any) -> Any:
        """Waits for all ranks without keeping a core busy."""
        own, request = comm.Idup()
        waiting, noticed = Waiting(), False
        while not request.Test():
            time.sleep(waiting.pause())
            if waiting.elapsed_s > _MEETING_NOTICE_S and not noticed:
                noticed = True
                print(
                    f"dqk: rank {comm.Get_rank()} has waited {_MEETING_NOTICE_S:.0f} s for the other ranks of "
                    f"{comm.Get_size()} to call the same function (rank 0 the pool and the others `serve`, or all `gram`); "
                    "if one has failed, `python -m mpi4py` ends the job with its message",
                    file=sys.stderr,
                    flush=True,
                )
        own.Set_errhandler(self._mpi.ERRORS_ARE_FATAL)  # a lost rank ends the job, by MPI's nature
        return own

    def _exchange(self, record: dict[str, Any]) -> list[dict[str, Any]]:
        mine = np.frombuffer(json.dumps(record).encode().ljust(_RECORD), np.uint8)
        assert mine.size == _RECORD, record
        everyone = np.empty((self.size, _RECORD), np.uint8)
        self._comm.Allgather([mine, self._mpi.BYTE], [everyone, self._mpi.BYTE])
        return [json.loads(row.tobytes()) for row in everyone]

    def _require_same(self, problems: list[str]) -> None:
        if len(set(problems)) == 1:
            return
        groups: dict[str, list[int]] = {}
        for rank, problem in enumerate(problems):
            groups.setdefault(problem, []).append(rank)
        said = "; ".join(f"{_ranks(ranks)}: {problem or 'serve'}" for problem, ranks in groups.items())
        self.close()
        raise ClusterError(
            f"the ranks were called for different things ({said}); all of them must call the same function with the same "
            "samples, kernel and options, or rank 0 opens the pool and all others call `serve`"
        )

    def send(self, rank: int, kind: Kind, ticket: int = 0, payload: Buffer = b"") -> None:
        """Starts to send; `progress` completes it."""
        view = np.frombuffer(payload, np.uint8)
        header = np.array([kind, ticket, view.nbytes], np.int64)
        self._sends.append(self._comm.Isend([header, self._mpi.INT64_T], rank, _HEADER))
        for start in range(0, view.nbytes, _CHUNK):
            self._sends.append(self._comm.Isend([view[start : start + _CHUNK], self._mpi.BYTE], rank, _DATA))

    def progress(self) -> bool:
        """Completes sends; whether some are still under way."""
        if self._sends:
            self._sends = [request for request in self._sends if not request.Test()]
        return bool(self._sends)

    def receive(self) -> Message | None:
        """The next message, if there is one."""
        # MPICH looks first and takes in what the network has brought after that: it finds a message at the second look.
        if not any(self._comm.Iprobe(self._mpi.ANY_SOURCE, _HEADER, self._status) for _ in range(2)):
            return None
        source, header = self._status.Get_source(), np.empty(3, np.int64)
        self._comm.Recv([header, self._mpi.INT64_T], source, _HEADER)
        kind, ticket, size = map(int, header)
        payload = np.empty(size, np.uint8)
        for start in range(0, size, _CHUNK):
            self._comm.Recv([payload[start : start + _CHUNK], self._mpi.BYTE], source, _DATA)
        return Message(source, Kind(kind), ticket, payload)

    def broadcast(self, arrays: Arrays | None) -> Arrays:
        """Gives the arrays of rank 0 to all ranks; the others pass None. Called by all of them together."""
        return broadcast(self._comm, arrays)

    def close(self) -> None:
        """Parts; all ranks do it together, after the last message was received."""
        waiting = Waiting()
        while self.progress():
            time.sleep(waiting.pause(moving=True))
        self._comm.Free()


def broadcast(comm: Any, arrays: Arrays | None) -> dict[str, np.ndarray]:
    """Gives the arrays of rank 0 to all ranks of a communicator, without a copy on rank 0.

    Args:
        comm: the communicator; all its ranks call this together.
        arrays: C-contiguous arrays of numbers; None on all other ranks.

    Returns:
        The arrays, on every rank.
    """
    mpi = load_mpi()
    kept = {name: np.asarray(array, order="C") for name, array in (arrays or {}).items()}
    table = json.dumps([(name, array.dtype.str, array.shape) for name, array in kept.items()]).encode()
    size = np.array([len(table)], np.int64)
    comm.Bcast([size, mpi.INT64_T], 0)
    text = np.frombuffer(table, np.uint8) if comm.Get_rank() == 0 else np.empty(size[0], np.uint8)
    comm.Bcast([text, mpi.BYTE], 0)
    if comm.Get_rank():
        kept = {name: np.empty(shape, dtype) for name, dtype, shape in json.loads(text.tobytes())}
    for array in kept.values():
        flat = array.reshape(-1).view(np.uint8)
        for start in range(0, flat.size, _CHUNK):
            comm.Bcast([flat[start : start + _CHUNK], mpi.BYTE], 0)
    return kept


class Waiting:
    """How long to sleep between two looks: an eighth of the time waited so far, so that a look is late by no more than that.

    A rank that polls without sleeping would take the core on which its tasks run.
    """

    def __init__(self) -> None:
        self._since = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        """Seconds waited so far."""
        return time.monotonic() - self._since

    def pause(self, moving: bool = False, left_s: float = _LONGEST_PAUSE_S) -> float:
        """Seconds to sleep now.

        Args:
            moving: a message is under way, which some libraries move only while they are called.
            left_s: at most so long.
        """
        pause = _SHORTEST_PAUSE_S if moving else max(self.elapsed_s / 8, _SHORTEST_PAUSE_S)
        return min(pause, left_s, _LONGEST_PAUSE_S)


def end_job(comm: Any, error: BaseException) -> NoReturn:
    """Prints an exception on standard error and ends all ranks: they would wait for this one for ever."""
    traceback.print_exception(error)
    _abort(comm, f"dqk: rank {comm.Get_rank()} of {comm.Get_size()} ends the job: {type(error).__name__}: {error}")


def _abort(comm: Any, message: str) -> NoReturn:
    print(message, file=sys.stderr, flush=True)
    sys.stdout.flush()
    sys.stderr.flush()
    time.sleep(_LAST_WORDS_S)
    comm.Abort(1)
    raise SystemExit(1)  # not reached


def _end_job_on_uncaught(comm: Any) -> None:
    """A rank that ends with an exception would leave the others waiting, unless it was started with `python -m mpi4py`."""
    previous = sys.excepthook
    if comm.Get_size() == 1 or getattr(previous, "ends_mpi_job", False):
        return

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        previous(kind, error, trace)
        if not issubclass(kind, KeyboardInterrupt):  # which the launcher gives to all ranks
            _abort(comm, f"dqk: rank {comm.Get_rank()} of {comm.Get_size()} failed and ends the job")

    hook.ends_mpi_job = True  # type: ignore[attr-defined]
    sys.excepthook = hook


def _kernel() -> str:
    """Which running machine this is, whatever its name and however the ranks talk to each other."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return socket.gethostname()


def _cpu_mask() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return sum(1 << cpu for cpu in (affinity(0) if affinity else range(cpu_threads())))


def _slots(mine: int, masks: list[int]) -> int:
    """Threads for a rank: its share of each processor that it may use, among the ranks of its node that may use it."""
    if "DQK_THREADS" in os.environ:
        return cpu_threads()
    share = sum(1 / sum(mask >> cpu & 1 for mask in masks) for cpu in range(mine.bit_length()) if mine >> cpu & 1)
    quota = _cgroup_cpus()
    return max(1, int(min(share, quota / len(masks) if quota else share) + 1e-9))


def _ranks(ranks: list[int]) -> str:
    return f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {', '.join(map(str, ranks))}"
