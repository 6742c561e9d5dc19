"""A lease: a file that says which process writes to a folder, so that no second one does.

No flock, which does not reach across the nodes of every shared file system: creating a file that must not exist does. A
lease outlives a process that is killed; the next one takes it silently if the holder is certainly gone, else it is refused
with the holder's name. Nothing depends on clocks.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from dqk.errors import LeaseError

_PATIENCE_S = 10.0  # for others to finish some file operations
_WRITING_S = 0.3  # between making a file and its content
_POLL_S = 0.01
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)


@dataclass(frozen=True)
class Holder:
    """The process that holds a lease.

    Attributes:
        host: name of its machine.
        boot_id: of the machine's present run; empty where the system has none.
        pid_namespace: where `pid` has its meaning; empty where the system has none.
        pid: process number.
        start_time: when it started, in the kernel's ticks since boot; None where the system does not say.
        job_id: the Slurm job that it belongs to, None outside of one.
        restart_count: how often that job was requeued before.
        heartbeat: when it was last heard of, ISO 8601, for people to read.
        token: different for every lease.
    """

    host: str
    boot_id: str
    pid_namespace: str
    pid: int
    start_time: int | None
    job_id: str | None
    restart_count: int
    heartbeat: str
    token: str

    @classmethod
    def this_process(cls) -> Holder:
        """The process that asks."""
        return cls.of(os.getpid())

    @classmethod
    def of(cls, pid: int) -> Holder:
        """A process of this machine that runs now."""
        boot_id, namespace = "", ""
        with contextlib.suppress(OSError):
            boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
            namespace = os.readlink("/proc/self/ns/pid")
        return cls(
            socket.gethostname(),
            boot_id,
            namespace,
            pid,
            _start_time(pid),
            os.environ.get("SLURM_JOB_ID"),
            int(os.environ.get("SLURM_RESTART_COUNT") or 0),
            _now(),
            uuid.uuid4().hex,
        )

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Holder | None:
        """The process that holds a lease; None if nobody does, or if the file is damaged."""
        found = _read(Path(path))
        return _parsed(found) if found is not None else None

    def certainly_gone(self, here: Holder) -> bool:
        """Whether this process cannot be running any more, as far as another process, `here`, can know."""
        if self.job_id is not None and self.job_id == here.job_id and self.restart_count < here.restart_count:
            return True
        if self.host != here.host:
            return False
        if self.boot_id != here.boot_id:
            return True
        return self.pid_namespace == here.pid_namespace and not _runs(self.pid, self.start_time)

    def __str__(self) -> str:
        job = f", Slurm job {self.job_id}" if self.job_id is not None else ""
        return f"process {self.pid} on {self.host}{job} (last heard of {self.heartbeat})"


class Lease:
    """The right to write, held until `release` or the end of a `with` block.

    Made by `Lease.acquire`, not by its constructor.

    Attributes:
        path: the file.
        holder: this process.
    """

    def __init__(self, path: Path, holder: Holder):
        self.path = path
        self.holder = holder

    @classmethod
    def acquire(cls, path: str | os.PathLike[str], take_over: bool = False) -> Lease:
        """Takes a lease that nobody has, or whose holder is certainly gone.

        Certain is: dead on this machine, from before this machine's last start, or an earlier run of the same Slurm job.

        Args:
            path: the file, in a folder that exists.
            take_over: takes it from whoever holds it now; that process is told so by its next `refresh`.

        Raises:
            LeaseError: names the holder and what to do, or says why the file cannot be written.
        """
        path, here = Path(path), Holder.this_process()
        asked_for: bytes | None = None  # the lease that `take_over` is about: not one that another taker has just made
        try:
            while not _create(path, _content(here)):
                found = _read(path)
                if found is None:
                    continue
                holder = _parsed(found)
                asked_for = asked_for or _identity(found)
                if not (take_over and asked_for == _identity(found)) and not (holder and holder.certainly_gone(here)):
                    raise LeaseError(_refusal(path, holder, here))
                with _guarded(path):  # two takers may have judged the same lease: the later one finds another
                    if _identity(_read(path)) == _identity(found):
                        path.unlink()
        except OSError as error:
            raise LeaseError(f"cannot write the lease {path}: {error.strerror or error}") from error
        return cls(path, here)

    def refresh(self) -> None:
        """Says that the holder is alive.

        Raises:
            LeaseError: if the lease was taken over or removed: the caller must write nothing more.
        """
        try:
            with _guarded(self.path):
                self._check_own()
                alive = replace(self.holder, heartbeat=_now())
                fresh = self.path.with_name(f".{self.path.name}.tmp")
                _write(os.open(fresh, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o644), _content(alive))
                fresh.replace(self.path)
        except OSError as error:
            raise LeaseError(f"cannot refresh the lease {self.path}: {error.strerror or error}") from error

    def release(self) -> None:
        """Gives the lease up; does nothing if somebody has taken it over, or in a forked child."""
        if os.getpid() != self.holder.pid:
            return
        with contextlib.suppress(OSError, LeaseError), _guarded(self.path):
            self._check_own()
            self.path.unlink()

    def _check_own(self) -> None:
        found = _read(self.path)
        if _identity(found) != self.holder.token.encode():
            holder = _parsed(found) if found is not None else None
            by = f"taken over by {holder}" if holder else "removed or damaged"
            raise LeaseError(f"the lease {self.path} of this process was {by}; this process writes nothing more")

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


@contextlib.contextmanager
def _guarded(path: Path) -> Iterator[None]:
    """Alone among those who change or remove an existing lease; held for some file operations only.

    The guard is a lease on the lease. It is never taken over by force, and one that a killed process left behind is removed
    under a guard of its own.
    """
    guard, here = path.with_name(f"{path.name}.guard"), Holder.this_process()
    deadline = time.monotonic() + _PATIENCE_S
    while not _create(guard, _content(here)):
        found = _read(guard)
        holder = _parsed(found) if found is not None else None
        if holder is not None and holder.certainly_gone(here):
            with _guarded(guard):
                if _read(guard) == found:
                    guard.unlink()
        elif time.monotonic() > deadline:
            raise LeaseError(
                f"{guard} is in the way, made by {holder or 'an unknown process'}; remove it if that is gone"
            )
        else:
            time.sleep(_POLL_S)
    try:
        yield
    finally:
        guard.unlink(missing_ok=True)


def _create(path: Path, content: bytes) -> bool:
    """Makes a file that must not exist, with all of its content at once; False if it exists.

    A link either is made or is not. A process that is killed between making a file and writing it would leave a lease that
    nobody can judge.
    """
    if path.exists():
        return False
    fresh = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}")
    try:
        _write(os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644), content)
        os.link(fresh, path)
        return True
    except FileExistsError:
        return fresh.stat().st_nlink == 2  # over a network a link can be made and its answer lost
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return _create_without_link(path, content)
    finally:
        fresh.unlink(missing_ok=True)


def _create_without_link(path: Path, content: bytes) -> bool:
    """The same on file systems that have no hard links, with the gap between the file and its content."""
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    try:
        _write(descriptor, content)
    except BaseException:
        path.unlink()
        raise
    return True


def _write(descriptor: int, content: bytes) -> None:
    with open(descriptor, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())  # a loss of power must not leave a lease without a holder


def _read(path: Path) -> bytes | None:
    """The content of a lease, None if there is none; waits for a process that is just writing it."""
    deadline = time.monotonic() + _WRITING_S
    while True:
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        if _parsed(content) is not None or time.monotonic() > deadline:
            return content
        time.sleep(_POLL_S)


def _content(holder: Holder) -> bytes:
    return (json.dumps(asdict(holder), indent=2) + "\n").encode()


def _parsed(content: bytes) -> Holder | None:
    """Who holds a lease; None if the file is damaged."""
    try:
        return Holder(**json.loads(content))
    except (TypeError, ValueError):
        return None


def _identity(content: bytes | None) -> bytes | None:
    """What stays the same while a lease is refreshed."""
    holder = _parsed(content) if content is not None else None
    return holder.token.encode() if holder is not None else content


def _refusal(path: Path, holder: Holder | None, here: Holder) -> str:
    force = f"--take-over (take_over=True) takes the lease {path}"
    if holder is None:
        return f"{path.parent} has a damaged lease, and who holds it is unknown; if no process writes there, {force}"
    in_use = f"{path.parent} is in use by {holder}"
    same_machine = (holder.host, holder.boot_id, holder.pid_namespace) == (here.host, here.boot_id, here.pid_namespace)
    if same_machine and holder.pid == here.pid:
        return f"{in_use}, which is this process itself; wait for what it does there"
    if same_machine:
        return f"{in_use}, which is running; wait for it, or stop it with `kill {holder.pid}`; {force} from it"
    return f"{in_use}, and {here.host} cannot see whether that still runs; if it does not, {force}"


def _runs(pid: int, start_time: int | None) -> bool:
    """Whether a process of this machine runs; another process with the same number started at another time."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # somebody else's
    now = _start_time(pid)
    return now is None or start_time is None or now == start_time


def _start_time(pid: int) -> int | None:
    """In ticks since boot; None if the system does not say, -1 for a process that has ended and is not yet reaped."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return -1 if fields[0] in "ZX" else int(fields[19])


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
