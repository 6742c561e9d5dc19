"""Places where tests kill the process, to see that what it leaves behind can be used.

`DQK_FAILPOINT=after_chunk:3` ends the process by SIGKILL when it passes `after_chunk` for the third time. Without that
variable a passage costs one comparison.
"""

from __future__ import annotations

import os
import signal
import threading

from dqk.errors import unknown_name

FAILPOINTS = {
    "store_created": "the folder of a store exists and is empty",
    "store_described": "a store has its description, and nobody holds its lease",
    "store_grown": "the description says a new size, and no tile of it is there",
    "store_leased": "the lease is taken, nothing is computed",
    "before_chunk": "a tile is computed, nothing of it is written",
    "half_chunk": "a temporary file has a part of a chunk",
    "after_write": "all chunks of a commit are written to temporary files, nothing is durable",
    "after_sync": "the temporary files are durable",
    "after_chunk": "a chunk has its name, others of its commit may not",
    "after_folders": "all chunks of a commit are durable under their names, the journal does not list them",
    "half_line": "a part of a commit's lines is in the journal",
    "after_line": "the journal lists a commit, which is not durable yet",
    "after_journal": "a commit is durable",
}
"""Every step of a commit at which a process may die, in order."""


def _read(setting: str | None) -> tuple[str, int] | None:
    if not setting:
        return None
    name, _, count = setting.partition(":")
    if name not in FAILPOINTS:
        raise unknown_name("failpoint in DQK_FAILPOINT", name, FAILPOINTS)
    return name, int(count or 1)


_armed = _read(os.environ.get("DQK_FAILPOINT"))
_passed = 0
_lock = threading.Lock()


def armed(name: str) -> bool:
    """Whether this failpoint is set."""
    return _armed is not None and _armed[0] == name


def failpoint(name: str) -> None:
    """Kills the process here if `DQK_FAILPOINT` says so."""
    if _armed is None or _armed[0] != name:
        return
    global _passed
    with _lock:
        _passed += 1
        if _passed == _armed[1]:
            os.kill(os.getpid(), signal.SIGKILL)
