"""What happens to a run and what is to be done about it: the language between `Dispatch` and whoever drives it.

An *item* is the index of a tile in its plan; a *ticket* is the number of one assignment of items to a worker.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Joined:
    """A worker that computes `slots` assignments at once can be given work.

    With `more`, others join at this moment, too: work is given out when the last of them has, so that little work is spread.
    """

    worker: str
    slots: int = 1
    more: bool = False


@dataclass(frozen=True, slots=True)
class Lost:
    """A worker is gone."""

    worker: str
    cause: str


@dataclass(frozen=True, slots=True)
class Done:
    """Items of an assignment have been computed. The rest of its items, if any, is reported by further events."""

    worker: str
    ticket: int
    items: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Failed:
    """Items of an assignment raised; their worker lives."""

    worker: str
    ticket: int
    items: tuple[int, ...]
    cause: str


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed: see `Dispatch.wake_at`. Send it after the events that have arrived, not before."""


@dataclass(frozen=True, slots=True)
class Ready:
    """Items that were held back can be computed now, for what they follow from is known."""

    items: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Drain:
    """Nothing more is to be started: what is in flight is waited for."""


Event: TypeAlias = Joined | Lost | Done | Failed | Tick | Ready | Drain


@dataclass(frozen=True, slots=True)
class Assign:
    """Send items to a worker."""

    worker: str
    ticket: int
    items: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Accept:
    """Keep these results: they are the first of their items."""

    items: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Discard:
    """Drop these results: their items have been accepted, or given up, before."""

    items: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Kill:
    """End a worker that hangs. It counts as lost from now on."""

    worker: str
    cause: str


@dataclass(frozen=True, slots=True)
class GiveUp:
    """An item has failed as often as it may."""

    item: int
    cause: str


Action: TypeAlias = Assign | Accept | Discard | Kill | GiveUp
