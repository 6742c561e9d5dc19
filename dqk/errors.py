"""The errors that dqk raises.

Every error says what was given, what was expected and what to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DQKError(Exception):
    """Base class of every error that dqk raises on purpose."""


class InvalidInputError(DQKError, ValueError):
    """A value, shape or name that cannot be used; the message says which and what was expected."""


class BackendUnavailableError(DQKError, RuntimeError):
    """A backend or executor that is known but not installed, or has no device; the message has the install line."""


class UnsupportedError(DQKError, RuntimeError):
    """A valid request that the chosen backend cannot serve; the message names one that can."""


class MemoryBoundError(DQKError, MemoryError):
    """A problem that does not fit into the memory bound; the message has the sizes."""


class DataFileError(InvalidInputError):
    """A data file that cannot be read; the message names file and line."""


class CheckpointError(DQKError, RuntimeError):
    """A checkpoint or run folder that is missing, damaged or belongs to another configuration."""


class LeaseError(DQKError, RuntimeError):
    """A folder that another process writes to; the message names that process and says how to go on."""


class ClusterError(DQKError, RuntimeError):
    """Workers that cannot be had, or that were all lost; the message says what is missing."""


class StoreError(DQKError, RuntimeError):
    """A store of a kernel matrix that is damaged, in use, or belongs to another problem; the message says what differs."""


class TileError(DQKError, RuntimeError):
    """Tiles that failed as often as they may; the message has their causes. Everything else was computed."""


def unknown_name(what: str, given: object, known: Iterable[str]) -> InvalidInputError:
    """An error for a name that is not in a list, with the nearest known name if there is one.

    >>> str(unknown_name("backend", "statevectr", ["mps", "statevector"]))
    "unknown backend 'statevectr'; did you mean 'statevector'? Known: 'mps', 'statevector'"
    """
    names = sorted(known)
    near = difflib.get_close_matches(str(given), names, n=1)
    hint = f" did you mean {near[0]!r}?" if near else ""
    return InvalidInputError(f"unknown {what} {given!r};{hint} Known: {', '.join(map(repr, names))}")
