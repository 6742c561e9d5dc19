"""A lease: one holder, dead holders replaced silently, living ones never; with real processes."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from dqk._lease import Holder, Lease
from dqk.errors import LeaseError

# Takes the lease at a first sign, looks whether it still has it at a second, and releases it at a third.
_HOLD = """
import sys
from dqk._lease import Lease
from dqk.errors import LeaseError
print("ready", flush=True)
sys.stdin.readline()
try:
    lease = Lease.acquire(sys.argv[1], take_over="force" in sys.argv)
    print("got it", flush=True)
except LeaseError as error:
    print(error, flush=True)
    sys.exit(1)
sys.stdin.readline()
try:
    lease.refresh()
    print("still has it", flush=True)
except LeaseError as error:
    print(error, flush=True)
sys.stdin.readline()
lease.release()
"""

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts processes that want the lease as soon as they are told to `go`."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", _HOLD, str(tmp_path / "lease"), *arguments]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert heard(process) == "ready"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            stream.close()


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def heard(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def left_behind(path: Path, **changes: object) -> Holder:
    """Writes the lease of a process like this one, but for some changes."""
    holder = replace(Holder.this_process(), **changes)  # type: ignore[arg-type]
    path.write_text(json.dumps(asdict(holder)))
    return holder


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lease"


def ended_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_acquire_refresh_release(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    with Lease.acquire(path) as lease:
        written = json.loads(path.read_text())
        assert (written["host"], written["pid"]) == (socket.gethostname(), os.getpid())
        assert (written["job_id"], written["restart_count"]) == ("17", 2)
        assert written["boot_id"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        assert written["start_time"] == int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        time.sleep(1.1)
        lease.refresh()
        again = json.loads(path.read_text())
        assert again.pop("heartbeat") > written.pop("heartbeat")
        assert again == written
        with pytest.raises(LeaseError, match=f"process {os.getpid()} on .*Slurm job 17.* this process itself"):
            Lease.acquire(path)
    assert list(path.parent.iterdir()) == []


def test_released_when_an_error_passes(path: Path) -> None:
    with pytest.raises(ZeroDivisionError), Lease.acquire(path):
        raise ZeroDivisionError
    assert list(path.parent.iterdir()) == []


def test_a_running_holder_is_named_and_keeps_its_lease(path: Path, start: Start) -> None:
    process = start()
    go(process)
    assert heard(process) == "got it"
    with pytest.raises(LeaseError) as refused:
        Lease.acquire(path)
    for part in (f"process {process.pid}", socket.gethostname(), f"kill {process.pid}", "--take-over"):
        assert part in str(refused.value)
    go(process)
    go(process)
    assert process.wait(5) == 0
    Lease.acquire(path).release()


@pytest.mark.faults
def test_a_killed_holder_is_replaced_silently(path: Path, start: Start) -> None:
    process = start()
    go(process)
    assert heard(process) == "got it"
    process.send_signal(signal.SIGKILL)
    time.sleep(0.1)
    assert process.returncode is None  # not reaped: a zombie still has its number
    Lease.acquire(path).release()


def test_a_number_that_was_given_to_another_process(path: Path) -> None:
    left_behind(path, start_time=1)
    Lease.acquire(path).release()


def test_a_machine_that_was_restarted(path: Path) -> None:
    left_behind(path, boot_id="another")
    Lease.acquire(path).release()


def test_a_dead_number_means_nothing_elsewhere(path: Path) -> None:
    """On another machine, or in another container, a process may well have a number that is free here."""
    for elsewhere in ({"host": "node17", "boot_id": "another"}, {"pid_namespace": "pid:[1]"}):
        left_behind(path, pid=ended_process(), **elsewhere)
        with pytest.raises(LeaseError, match="cannot see whether that still runs.*--take-over"):
            Lease.acquire(path)


def test_somebody_elses_process_is_alive(path: Path) -> None:
    """Process 1 may not be signalled by an ordinary user; nothing else is known here about its owner."""
    started = int(Path("/proc/1/stat").read_text().rpartition(")")[2].split()[19])
    left_behind(path, pid=1, start_time=started)
    with pytest.raises(LeaseError, match="process 1 on"):
        Lease.acquire(path)


@pytest.mark.parametrize(
    ("before", "now", "granted"), [(0, "1", True), (1, "1", False), (2, "1", False), (0, None, False)]
)
def test_a_requeued_job(
    path: Path, monkeypatch: pytest.MonkeyPatch, before: int, now: str | None, granted: bool
) -> None:
    """The same job, started again, perhaps on another node: Slurm has ended its earlier run."""
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    if now is not None:
        monkeypatch.setenv("SLURM_RESTART_COUNT", now)
    left_behind(path, host="node17", boot_id="another", job_id="17", restart_count=before)
    if granted:
        Lease.acquire(path).release()
    else:
        with pytest.raises(LeaseError, match="process .* on node17, Slurm job 17"):
            Lease.acquire(path)


def test_another_job_with_more_restarts(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "18")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "5")
    left_behind(path, host="node17", boot_id="another", job_id="17")
    with pytest.raises(LeaseError, match="node17"):
        Lease.acquire(path)


def test_taken_over_by_force(path: Path, start: Start) -> None:
    """The old holder hears of it, and takes nothing away from the new one."""
    old = Lease.acquire(path)
    process = start("force")
    go(process)
    assert heard(process) == "got it"
    with pytest.raises(LeaseError, match=f"taken over by process {process.pid}"):
        old.refresh()
    old.release()
    assert json.loads(path.read_text())["pid"] == process.pid


def test_a_lease_that_was_removed(path: Path) -> None:
    lease = Lease.acquire(path)
    path.unlink()
    with pytest.raises(LeaseError, match="removed"):
        lease.refresh()
    assert list(path.parent.iterdir()) == []


def test_a_damaged_lease(path: Path) -> None:
    path.write_text('{"host": ')
    with pytest.raises(LeaseError, match="damaged lease.*--take-over"):
        Lease.acquire(path)
    Lease.acquire(path, take_over=True).release()


@pytest.mark.parametrize("links", [True, False])
def test_without_hard_links(path: Path, links: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(source: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    if not links:
        monkeypatch.setattr(os, "link", link)
    with Lease.acquire(path) as lease:
        assert Holder.read(path) == lease.holder
        with pytest.raises(LeaseError, match="this process itself"):
            Lease.acquire(path)
        lease.refresh()
    assert list(path.parent.iterdir()) == []


@pytest.mark.faults
@pytest.mark.parametrize("step", ["fsync", "link", "unlink"])
def test_killed_while_taking_it(path: Path, step: str) -> None:
    """At any moment there is no lease, or one that says who made it."""
    child = os.fork()
    if child == 0:
        setattr(os, step, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        Lease.acquire(path)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert path.exists() == (step == "unlink")
    Lease.acquire(path).release()
    assert not path.exists()


def test_a_forked_child_does_not_release(path: Path) -> None:
    with Lease.acquire(path):
        child = os.fork()
        if child == 0:
            with Lease(path, Holder(**json.loads(path.read_text()))):
                pass
            os._exit(0)
        os.waitpid(child, 0)
        assert path.exists()


def test_a_folder_that_is_missing(path: Path) -> None:
    with pytest.raises(LeaseError, match="cannot write the lease"):
        Lease.acquire(path / "missing" / "lease")


@pytest.mark.faults
@pytest.mark.parametrize("forced", [False, True])
def test_of_many_takers_at_once_one_wins(path: Path, start: Start, forced: bool) -> None:
    takers = [start(*["force"] * forced) for _ in range(6)]
    left_behind(path, **{"host": "node17", "boot_id": "another"} if forced else {"pid": ended_process()})
    for taker in takers:
        go(taker)
    answers = [heard(taker) for taker in takers]
    winners = [taker for taker, answer in zip(takers, answers, strict=True) if answer == "got it"]
    assert forced or len(winners) == 1  # by force a late taker may take it from an early one, which must hear of it
    for winner in winners:
        go(winner)
    survivors = [winner.pid for winner in winners if heard(winner) == "still has it"]
    assert survivors == [json.loads(path.read_text())["pid"]]
    assert all(answer == "got it" or "is in use by process" in answer for answer in answers)


@pytest.mark.faults
def test_a_taker_that_was_killed_half_way(path: Path) -> None:
    """It left its guard, and a guard on the guard, behind."""
    dead = ended_process()
    for name in ("lease", "lease.guard", "lease.guard.guard"):
        left_behind(path.with_name(name), pid=dead)
    Lease.acquire(path).release()
    assert list(path.parent.iterdir()) == []


# Takes the lease again and again, in children that die with it; only one process at a time can make the marker.
_DIE_HOLDING = """
import os, sys, time
from dqk._lease import Lease
from dqk.errors import LeaseError
path, marker = sys.argv[1], sys.argv[1] + ".marker"
held, end = 0, time.monotonic() + 20
while held < 40 and time.monotonic() < end:
    child = os.fork()
    if child == 0:
        try:
            Lease.acquire(path)
        except LeaseError:
            os._exit(1)
        try:
            os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
            time.sleep(0.001)
            os.unlink(marker)
        except OSError:
            os._exit(2)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    held += code == 0
    assert code != 2, "two holders"
print(held)
"""


@pytest.mark.faults
def test_never_two_holders(path: Path) -> None:
    command = [sys.executable, "-c", _DIE_HOLDING, str(path)]
    pipe = subprocess.PIPE
    processes = [subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) for _ in range(3)]
    results = [process.communicate(timeout=60) for process in processes]
    assert [(out.strip(), err) for out, err in results] == [("40", "")] * 3
