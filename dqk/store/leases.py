"""Who may write to a store: one driver, or one for each shard of one division."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from pathlib import Path

from dqk._lease import Holder, Lease
from dqk.errors import LeaseError, StoreError

WHOLE = "lease"
OPENING = "opening.lease"

_PATIENCE_S = 20.0  # for others that are just opening the store
_POLL_S = 0.02


def lease_name(shard: tuple[int, int] | None) -> str:
    """The file of a shard's lease, or of the lease on the whole store."""
    return WHOLE if shard is None else f"{WHOLE}-{shard[0]}-of-{shard[1]}"


def others(store: Path, own: str, beside: tuple[int, int] | None) -> list[Path]:
    """Files of leases that do not go together with one's own.

    Args:
        store: the folder.
        own: file name of one's own lease.
        beside: a shard, whose division's other shards may work at the same time; None if nobody may.
    """
    division = None if beside is None else f"-of-{beside[1]}"
    found = [
        file for file in store.iterdir() if re.fullmatch(rf"{WHOLE}(-\d+-of-\d+)?", file.name) and file.name != own
    ]
    return sorted(file for file in found if division is None or not file.name.endswith(division))


def acquire(path: Path, take_over: bool) -> Lease:
    """A lease on a store.

    Raises:
        StoreError: if another process has it.
    """
    with as_store_error():
        return Lease.acquire(path, take_over)


def require_free(paths: list[Path], take_over: bool) -> None:
    """Raises StoreError if one of these leases is held; `take_over` ends them."""
    for path in paths:
        acquire(path, take_over).release()


def holders(store: Path) -> list[Holder]:
    """The processes that hold leases, without those that are certainly gone."""
    found, here = (Holder.read(path) for path in others(store, "", None)), Holder.this_process()
    return [holder for holder in found if holder is not None and not holder.certainly_gone(here)]


@contextlib.contextmanager
def alone(store: Path, take_over: bool) -> Iterator[None]:
    """Alone among those who open a store: tasks of a job array start at the same moment.

    Raises:
        StoreError: if another one does not finish opening it, or if the folder cannot be written.
    """
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            lease = Lease.acquire(store / OPENING)
            break
        except LeaseError as error:
            if isinstance(error.__cause__, OSError):
                raise StoreError(str(error)) from error
            if time.monotonic() > deadline:
                lease = acquire(store / OPENING, take_over)
                break
            time.sleep(_POLL_S)
    with lease:
        yield


@contextlib.contextmanager
def as_store_error() -> Iterator[None]:
    """Refusals of leases as those of the store."""
    try:
        yield
    except LeaseError as error:
        raise StoreError(str(error)) from error
