"""The errors that dqk raises.

Every error says what was given, what was expected and what to do next.
"""

from __future__ import annotations

import difflib
import math
import operator
from collections.abc import Iterable
from typing import Any


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
    """A store of a kernel matrix that is damaged, in use, or belongs to another problem; the message says what differs.

    Attributes:
        transient: whether another worker may succeed where this one failed, as after an error of one machine's disk.
    """

    transient = False


class TileError(DQKError, RuntimeError):
    """Tiles that failed as often as they may; the message has their causes. Everything else was computed."""


class BudgetError(TileError):
    """A budget that does not cover what is left to measure; what was submitted before was waited for and kept."""


def exit_code(error: BaseException) -> int:
    """What a process exits with after an error: the error's own code, 2 if what was typed cannot be used, else 1."""
    own = getattr(error, "exit_code", None)
    if own is not None:
        return int(own)
    return 2 if isinstance(error, InvalidInputError) and not isinstance(error, DataFileError) else 1


def cause(error: BaseException) -> str:
    """An exception as one line, for a message from another process."""
    return f"{type(error).__name__}: {error}"


def unknown_name(what: str, given: object, known: Iterable[str]) -> InvalidInputError:
    """An error for a name that is not in a list, with the nearest known name if there is one.

    >>> str(unknown_name("backend", "statevectr", ["mps", "statevector"]))
    "unknown backend 'statevectr'; did you mean 'statevector'? Known: 'mps', 'statevector'"
    """
    names = sorted(known)
    spelt = {name.lower(): name for name in names}
    near = difflib.get_close_matches(str(given).lower(), spelt, n=1)
    hint = f" did you mean {spelt[near[0]]!r}?" if near else ""
    return InvalidInputError(f"unknown {what} {given!r};{hint} Known: {', '.join(map(repr, names))}")


def whole_number(name: str, given: Any, least: int, or_else: str = "") -> int:
    """A count as Python's integer, whichever kind of integer it was given as.

    Args:
        name: how messages call it.
        given: anything.
        least: the smallest number that will do.
        or_else: what else the caller takes, for the message.

    Raises:
        InvalidInputError: if it is no integer (True and False are none here) or too small.
    """
    try:
        number = operator.index(given)
    except TypeError:
        number = None
    if number is None or isinstance(given, bool) or number < least:
        raise InvalidInputError(f"{name} is {given!r}, expected {or_else}a whole number of at least {least}")
    return number


def real_number(name: str, given: Any, above: float = -math.inf) -> float:
    """A factor as Python's float, whichever kind of number it was given as.

    Raises:
        InvalidInputError: if it is no number (texts, True and False are none here), not finite or too small.
    """
    try:
        number = math.nan if isinstance(given, str | bytes | bool) else float(given)
    except (TypeError, ValueError, RuntimeError):  # RuntimeError: what torch makes of a tensor with several elements
        number = math.nan
    if not (math.isfinite(number) and number > above):
        least = "" if above == -math.inf else f" above {above:g}"
        raise InvalidInputError(f"{name} is {given!r}, expected a finite number{least}")
    return number
