"""Places where tests kill the process, to see that what it leaves behind can be used.

`DQK_FAILPOINT=after_chunk:3` ends the process by SIGKILL when it passes `after_chunk` for the third time. Without that
variable a passage costs one comparison.
"""

from __future__ import annotations

import os
import signal
import threading

from dqk.errors import InvalidInputError, unknown_name

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

_armed: tuple[str, int] | None = None
_passed = 0
_lock = threading.Lock()


def arm(setting: str | None) -> None:
    """Sets the failpoint `name` or `name:passage`, or none; the environment variable does so when dqk is imported."""
    global _armed, _passed
    _armed, _passed = None, 0
    if setting:
        name, _, passage = setting.partition(":")
        if name not in FAILPOINTS:
            raise unknown_name("failpoint", name, FAILPOINTS)
        if passage and not passage.isdigit():
            raise InvalidInputError(f"failpoint {setting!r}, expected a name and the number of a passage: {name}:1")
        _armed = name, int(passage or 1)


def armed(name: str) -> bool:
    """Whether this failpoint is set."""
    return _armed is not None and _armed[0] == name


def failpoint(name: str) -> None:
    """Kills the process here if this failpoint is set and its passage has come."""
    if not armed(name):
        return
    global _passed
    with _lock:
        _passed += 1
        if _armed is not None and _passed == _armed[1]:
            os.kill(os.getpid(), signal.SIGKILL)


arm(os.environ.get("DQK_FAILPOINT"))
