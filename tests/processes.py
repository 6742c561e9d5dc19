"""Children of the test process: found cheaply, so that a test which leaves one behind fails."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from multiprocessing import resource_tracker
from pathlib import Path

_session_long: set[int] = set()


@contextlib.contextmanager
def session_long() -> Iterator[None]:
    """Processes that are started inside may outlive the test, such as a Ray that all tests share."""
    before = children()
    yield
    _session_long.update(children() - before)


def children() -> set[int]:
    """Children of this process, those included that have ended and were not waited for."""
    found: set[int] = set()
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError):  # the thread has just ended
            found.update(map(int, Path(f"/proc/self/task/{thread}/children").read_text().split()))
    return found


def running(pid: int) -> bool:
    """Whether a process exists and has not ended, reaped or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait_for_end(pids: set[int], timeout_s: float) -> set[int]:
    """Waits until all have ended; gives those that still run after the time."""
    deadline = time.monotonic() + timeout_s
    while (left := {pid for pid in pids if running(pid)}) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


@contextlib.contextmanager
def none_left_behind(patience_s: float = 2.0) -> Iterator[None]:
    """Raises AssertionError if children that were started inside still run a little later, and ends them."""
    before = children()
    yield
    # Python's own helper is made once and lives as long as the interpreter.
    known = before | _session_long | {getattr(resource_tracker._resource_tracker, "_pid", None)}  # type: ignore[attr-defined]
    left = wait_for_end(children() - known, patience_s)
    commands = []
    for pid in sorted(left):
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            commands.append(f"{pid} ({command.strip()[:120]})")
            os.kill(pid, signal.SIGKILL)
    assert not left, (
        f"the test left processes behind, which are ended now: {', '.join(commands)}; "
        "what outlives a test on purpose is started in a fixture of wider scope or inside tests.processes.session_long()"
    )
