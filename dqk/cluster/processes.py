"""Processes of this machine as workers.

Choose it on one machine if tasks hold Python's lock, or may crash: a worker that dies costs what it was computing. Processes
are started afresh, not forked, and never import the user's main module, so that it works in scripts, sessions and notebooks.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass

from dqk._resources import cpu_threads
from dqk.cluster.base import Arrays, Done, Failed, Joined, Lost, PoolEvent, Worker, WorkerPool
from dqk.cluster.channel import Channel, Kind
from dqk.cluster.mapped import write_arrays
from dqk.cluster.resources import cpu_share, worker_environment
from dqk.errors import ClusterError, InvalidInputError, UnsupportedError

_GRACE_S = 1.0  # for a worker to end by itself
_REPLACEMENTS_PER_WORKER = 3  # as many as a tile that kills every worker needs to be found


@dataclass(slots=True)
class _Process:
    """A worker process, from its start to its loss."""

    worker: Worker
    rank: int
    process: subprocess.Popen[bytes]
    channel: Channel
    joined: bool = False
    killed: bool = False

    def end(self, grace_s: float) -> int:
        """Waits until the process has ended, which it has to after some time. Gives its return code."""
        try:
            return self.process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def cause(self) -> str:
        """Why it ended."""
        code = self.end(_GRACE_S)
        when = "" if self.joined else " before it was ready; standard error has what it said"
        if self.killed:
            return "was killed, as the pool had been told to"
        if code >= 0:
            return f"ended with exit code {code}{when}"
        perhaps = ", the system's out-of-memory killer perhaps" if code == -signal.SIGKILL else ""
        return f"was killed by signal {-code} ({signal.Signals(-code).name}{perhaps}){when}"


class ProcessPool(WorkerPool):
    """Worker processes, each on its share of the CPUs that this process may use.

    Args:
        workers: how many; None for as many as this process may keep busy.
        threads: of each worker, which runs so many tasks at once. They share encoded samples; they do not survive each other.
    """

    name = "processes"

    def __init__(self, workers: int | None = None, threads: int = 1):
        if (workers is not None and workers < 1) or threads < 1:
            raise InvalidInputError(f"workers={workers} with threads={threads}, expected whole numbers of at least 1")
        self._wanted = workers if workers is not None else max(1, cpu_threads() // threads)
        self._slots = threads
        self._members: dict[str, _Process] = {}
        self._arrays: dict[str, int] = {}  # descriptors of memory without a name: no crash can leave any behind
        self._launched = 0
        self._last_cause = "was never started"

    def start(self) -> None:
        """Starts all processes and returns; they join when they have imported what they need, after a second or two.

        Raises:
            UnsupportedError: on systems other than Linux.
            ClusterError: if a process cannot be started.
        """
        if sys.platform != "linux":
            raise UnsupportedError(f"executor 'processes' needs Linux, this is {sys.platform}; use executor='inline'")
        self._selector = selectors.DefaultSelector()
        self._replacements = _REPLACEMENTS_PER_WORKER * self._wanted
        for rank in range(self._wanted):
            self._launch(rank)

    def _launch(self, rank: int) -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        # The system's signal at a parent's death is one at the death of the thread that made the process.
        parent = os.getpid() if threading.current_thread() is threading.main_thread() else 0
        arguments = [theirs.fileno(), self._slots, parent]
        try:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "dqk.cluster.worker", *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=2,  # the standard output belongs to the driver
                pass_fds=[theirs.fileno()],
                process_group=0,  # Ctrl-C reaches the driver alone
                env={
                    **os.environ,
                    **worker_environment(rank, self._wanted, self._slots),
                    "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path if isinstance(path, str)),
                },
            )
        except OSError as error:
            ours.close()
            raise ClusterError(f"cannot start a worker process with {sys.executable!r}: {error}") from error
        finally:
            theirs.close()
        with contextlib.suppress(ProcessLookupError):  # it has ended already, as `poll` will find
            os.sched_setaffinity(process.pid, cpu_share(rank, self._wanted))
        worker = Worker(f"process-{self._launched}", self._slots, socket.gethostname())
        self._launched += 1
        member = self._members[worker.id] = _Process(worker, rank, process, Channel(ours))
        self._selector.register(member.channel, selectors.EVENT_READ, member)
        for digest, descriptor in self._arrays.items():
            self._send(member, Kind.PUT, digest.encode(), descriptor)

    def _send(
        self, member: _Process, kind: Kind, payload: bytes, descriptor: int | None = None, ticket: int = 0
    ) -> None:
        member.channel.send(kind, ticket, payload, None if descriptor is None else os.dup(descriptor))
        self._watch(member)

    def _watch(self, member: _Process) -> None:
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if member.channel.has_waiting else 0)
        if self._selector.get_key(member.channel).events != wanted:
            self._selector.modify(member.channel, wanted, member)

    def workers(self) -> tuple[Worker, ...]:
        """Those that were ready when `poll` last looked."""
        return tuple(member.worker for member in self._members.values() if member.joined)

    def put(self, digest: str, arrays: Arrays) -> None:
        """Copies arrays into memory that all workers map."""
        self.drop(digest)
        self._arrays[digest] = os.memfd_create("dqk-arrays")
        with open(self._arrays[digest], "wb", closefd=False) as stream:
            write_arrays(stream, arrays)
        for member in self._members.values():
            self._send(member, Kind.PUT, digest.encode(), self._arrays[digest])

    def drop(self, digest: str) -> None:
        """The memory is free as soon as no worker uses it any more."""
        descriptor = self._arrays.pop(digest, None)
        if descriptor is not None:
            os.close(descriptor)
            for member in self._members.values():
                self._send(member, Kind.DROP, digest.encode())

    def submit(self, worker: str, ticket: int, task: bytes) -> None:
        """Hands the task to the system; what does not fit goes out while `poll` waits."""
        if worker in self._members:
            self._send(self._members[worker], Kind.TASK, task, ticket=ticket)

    def poll(self, timeout_s: float) -> list[PoolEvent]:
        """Results, workers that are ready, and workers that died, which are replaced."""
        events: list[PoolEvent] = []
        deadline = time.monotonic() + timeout_s
        while not events:
            if not self._members:
                raise ClusterError(
                    f"no worker process is left: the last one {self._last_cause}; {self._launched} were started in all"
                )
            left = deadline - time.monotonic()
            for key, _ in self._selector.select(max(0.0, left)):
                events += self._serve(key.data)
            if left <= 0:
                break
        return events

    def _serve(self, member: _Process) -> list[PoolEvent]:
        events: list[PoolEvent] = []
        member.channel.flush()
        for message in member.channel.receive():
            if message.kind is Kind.READY:
                member.joined = True
                events.append(Joined(member.worker))
            elif message.kind is Kind.DONE:
                events.append(Done(member.worker.id, message.ticket, message.payload))
            else:
                text = message.payload.tobytes().decode(errors="replace")
                events.append(Failed(member.worker.id, message.ticket, text))
        if member.channel.ended:
            return [*events, *self._lose(member)]
        self._watch(member)
        return events

    def _lose(self, member: _Process) -> list[PoolEvent]:
        self._forget(member)
        self._last_cause = member.cause()
        if self._replacements:
            self._replacements -= 1
            self._launch(member.rank)
        return [Lost(member.worker.id, self._last_cause)] if member.joined else []

    def _forget(self, member: _Process) -> None:
        del self._members[member.worker.id]
        self._selector.unregister(member.channel)
        member.channel.close()

    def kill(self, worker: str) -> None:
        """Ends the process with SIGKILL."""
        member = self._members.get(worker)
        if member is not None:
            member.killed = True
            member.process.kill()

    def close(self) -> None:
        """Ends all processes, also those that compute; those that do not notice are killed."""
        members = list(self._members.values())
        for member in members:
            self._forget(member)
        deadline = time.monotonic() + _GRACE_S
        for member in members:
            member.end(max(0.0, deadline - time.monotonic()) if member.joined else 0.0)
        for digest in list(self._arrays):
            self.drop(digest)
        if self._launched:
            self._selector.close()
