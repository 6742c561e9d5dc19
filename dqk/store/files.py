"""Files of a store: its description, and writes that a loss of power cannot undo."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from dqk._failpoint import armed, failpoint
from dqk.errors import InvalidInputError, StoreError
from dqk.store.fingerprint import Fingerprint

DESCRIPTION = "zarr.json"
BESIDE = ("std_error", "low", "high", "shots")
"""Arrays beside a measured matrix, each in a folder of the store: standard errors, 95 % bounds (Wilson), measurements."""

_TEMPORARY = "tmp"
_SYNCS = 4  # at once


def chunk_path(store: Path, row: int, column: int) -> Path:
    """The file of a chunk, as zarr names it."""
    return store / "c" / str(row) / str(column)


def temporary_folder(store: Path) -> Path:
    """Where chunks are written before they get their names."""
    return store / _TEMPORARY


def write_all(descriptor: int, data: bytes | np.ndarray, halfway: str) -> None:
    """Writes all bytes, however many a call takes; `halfway` is the failpoint between the halves."""
    rest = data.data if isinstance(data, np.ndarray) else memoryview(data)
    if armed(halfway):
        rest = rest[os.write(descriptor, rest[: len(rest) // 2]) :]
        failpoint(halfway)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def sync(path: str | os.PathLike[str]) -> None:
    """Makes the content of a file, or the names in a folder, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def syncing(paths: Collection[Path]) -> Iterator[None]:
    """`sync` for several, finished when the block is left: one by one, each would wait for the disk and for a processor."""
    if len(paths) == 1:
        yield
        sync(*paths)
        return
    # Made anew each time, because threads do not survive the fork of a process.
    with ThreadPoolExecutor(_SYNCS, thread_name_prefix="dqk-sync") as threads:
        begun = [threads.submit(sync, path) for path in paths]
        yield
        for done in begun:
            done.result()


def describe(store: Path, fingerprint: Fingerprint) -> None:
    """Writes the array's zarr metadata, with the fingerprint in its attributes, atomically and durably."""
    grid = fingerprint.grid
    document: dict[str, Any] = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(grid.shape),
        "data_type": grid.dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [grid.side, grid.side]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": "NaN",
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
        "attributes": {"dqk": {"format": 1, "fingerprint": fingerprint.to_dict()}},
        "storage_transformers": [],
    }
    if fingerprint.sampling is not None:
        for name in BESIDE:
            (store / name).mkdir(exist_ok=True)
            _write_description(store / name, {**document, "attributes": {}})
    _write_description(store, document)


def _write_description(folder: Path, document: dict[str, Any]) -> None:
    fresh = folder / f".{DESCRIPTION}.tmp"
    fresh.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    sync(fresh)
    fresh.replace(folder / DESCRIPTION)
    sync(folder)


def read_description(store: Path) -> Fingerprint:
    """The fingerprint in a store.

    Raises:
        StoreError: if there is none, it is damaged, or the array is not one of dqk.
    """
    path = store / DESCRIPTION
    try:
        document: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise StoreError(_no_store(store)) from error
    except OSError as error:
        raise StoreError(_no_store(store) if store.is_file() else f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise StoreError(f"{path} is damaged ({error}); {_RESTORE}") from error
    try:
        inside = document["attributes"]["dqk"]
    except (KeyError, TypeError) as error:
        raise StoreError(f"{store} is in zarr's format, but dqk did not write it; choose another path") from error
    try:
        if inside["format"] != 1:
            raise StoreError(f"{store} is a store of format {inside['format']}, this dqk reads 1; use a newer dqk")
        fingerprint = Fingerprint.from_dict(inside["fingerprint"])
        if document["shape"] != list(fingerprint.grid.shape):
            raise InvalidInputError(f"shape {document['shape']}, but the fingerprint says {fingerprint.grid.shape}")
    except (InvalidInputError, KeyError, TypeError) as error:
        raise StoreError(f"{path} is damaged ({error}); {_RESTORE}") from error
    return fingerprint


_RESTORE = "restore that file from a copy, or remove the store and compute it again"


def _no_store(store: Path) -> str:
    if store.is_file():
        return f"{store} is a file, expected a folder such as K.zarr; choose another path"
    if store.is_dir():
        return f"{store} is a folder without {DESCRIPTION}, not a store of dqk; choose another path"
    return f"there is no store {store}"


@contextlib.contextmanager
def explained(doing: str, advice: str) -> Iterator[None]:
    """Turns errors of the system into StoreError that say what was done, what is wrong and what to do."""
    try:
        yield
    except OSError as error:
        found = StoreError(f"cannot {doing}: {error.strerror or error}; {advice}")
        found.transient = error.errno not in _EVERYWHERE
        raise found from error


_EVERYWHERE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENOENT, errno.EACCES, errno.EPERM}
