"""Journals: which tiles are committed. One file per writer, lines are only ever added to its end.

    {"journal": 1, "writer": "w0", "host": "n1", "pid": 4711, "class": "5e01f2aa", "numeric": {...}}
    {"tile": [0, 3], "extent": [128, 100], "digest": "..."}

A line that is torn or damaged is ignored: its tile is computed again.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dqk.errors import StoreError
from dqk.store.digests import DIGEST_BYTES, class_id, numeric_class
from dqk.store.grid import Grid

FOLDER = "journal"

Tile = tuple[int, int]


def header(writer: str) -> str:
    """First line of a journal of this process."""
    numeric = numeric_class()
    process = {"writer": writer, "host": socket.gethostname(), "pid": os.getpid()}
    return json.dumps({"journal": 1, **process, "class": class_id(numeric), "numeric": dict(numeric)}) + "\n"


def line(row: int, column: int, extent: tuple[int, int], digest: str) -> str:
    """One committed tile."""
    return f'{{"tile": [{row}, {column}], "extent": [{extent[0]}, {extent[1]}], "digest": "{digest}"}}\n'


@dataclass
class Entries:
    """What all journals of a store say about the tiles of its present grid.

    Attributes:
        digests: of each tile that is listed with its present extent.
        rivals: further digests of tiles that were committed again with other bits, in no order.
        classes: numeric classes by their short names.
        class_of: the class in which each tile was computed.
        damaged_lines: number of lines that cannot be read; a torn last line is none.
    """

    digests: dict[Tile, str] = field(default_factory=dict)
    rivals: dict[Tile, dict[str, str]] = field(default_factory=dict)
    classes: dict[str, Mapping[str, str]] = field(default_factory=dict)
    class_of: dict[Tile, str] = field(default_factory=dict)
    damaged_lines: int = 0


def read(store: Path, grid: Grid) -> Entries:
    """Reads all journals.

    Raises:
        StoreError: if the folder cannot be read.
    """
    entries = Entries()
    try:
        for path in sorted((store / FOLDER).glob("*.jsonl")):
            _read_one(path.read_bytes(), grid, entries)
    except OSError as error:
        raise StoreError(f"cannot read the journals of {store}: {error.strerror or error}") from error
    return entries


def _read_one(content: bytes, grid: Grid, entries: Entries) -> None:
    complete, _, _torn = content.rpartition(b"\n")
    current = "unknown"
    for entry in _documents(complete, entries):
        try:
            if "journal" in entry:
                current = entry["class"]
                entries.classes[current] = entry["numeric"]
                continue
            (row, column), digest = entry["tile"], entry["digest"]
            if len(bytes.fromhex(digest)) != DIGEST_BYTES or type(row) is not int or type(column) is not int:
                raise ValueError(entry)
            if grid.has(row, column) and tuple(entry["extent"]) == grid.extent(row, column):
                _add(entries, (row, column), digest, current)
        except (KeyError, TypeError, ValueError):
            entries.damaged_lines += 1


def _add(entries: Entries, tile: Tile, digest: str, current: str) -> None:
    known = entries.digests.setdefault(tile, digest)
    if known == digest:
        entries.class_of.setdefault(tile, current)
    else:
        entries.rivals.setdefault(tile, {known: entries.class_of[tile]}).setdefault(digest, current)


def _documents(complete: bytes, entries: Entries) -> Iterator[dict[str, Any]]:
    """The lines' documents; all in one call as long as none is damaged."""
    lines = complete.split(b"\n") if complete else []
    try:
        documents = json.loads(b"[" + b",".join(lines) + b"]")
        if len(documents) == len(lines):
            yield from documents
            return
    except ValueError:
        pass
    for text in lines:
        try:
            yield json.loads(text)
        except ValueError:
            entries.damaged_lines += 1
