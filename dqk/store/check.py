"""Checks of stored matrices: every tile against its digest, and two matrices against each other."""

from __future__ import annotations

import contextlib
import math
import os
from dataclasses import dataclass, replace

import numpy as np

from dqk.errors import InvalidInputError
from dqk.store import leases
from dqk.store.digests import tile_digest
from dqk.store.files import chunk_path, explained, sync
from dqk.store.journal import Tile
from dqk.store.stored import StoredGram


@dataclass(frozen=True)
class Damage:
    """A tile that is not what its journal says.

    Attributes:
        tile: (row, column).
        rows: first and last row of K.
        columns: first and last column of K.
        problem: what is wrong, with the file.
    """

    tile: Tile
    rows: tuple[int, int]
    columns: tuple[int, int]
    problem: str


@dataclass(frozen=True)
class Verification:
    """What `verify` found.

    Attributes:
        checked: number of tiles that were recomputed from disk and compared with their digests.
        total: number of tiles of the matrix; those that are neither checked nor damaged are not computed yet.
        damaged: tiles that are damaged, in order.
        dropped: whether their chunks were removed.
        digest: of the whole matrix; None if tiles are missing or damaged.
    """

    checked: int
    total: int
    damaged: tuple[Damage, ...]
    dropped: bool
    digest: str | None


def verify(path: str | os.PathLike[str], drop_damaged: bool = False) -> Verification:
    """Reads every tile and compares it with the digest that was written when it was computed.

    Args:
        path: the store.
        drop_damaged: removes the chunks of damaged tiles, so that `--resume` computes them again.

    Raises:
        StoreError: if there is no store, or with `drop_damaged` if it is in use or cannot be written.
    """
    stored = StoredGram(path)
    state = stored.state
    damaged = []
    for tile in sorted(state.entries.digests):
        problem = _problem(stored, tile)
        if problem:
            (top, bottom), (left, right) = stored.grid.span(tile[0], 0), stored.grid.span(tile[1], 1)
            damaged.append(Damage(tile, (top, bottom - 1), (left, right - 1), problem))
    if damaged and drop_damaged:
        _drop(stored, damaged)
    checked = len(state.entries.digests)
    digest = None if damaged else state.digest
    return Verification(checked, stored.total, tuple(damaged), bool(damaged) and drop_damaged, digest)


def _problem(stored: StoredGram, tile: Tile) -> str | None:
    """What is wrong with a tile; None if nothing is."""
    grid, values = stored.grid, None
    for place in grid.places(*tile):
        path = chunk_path(stored.path, *place)
        try:
            chunk = grid.decode(path.read_bytes(), grid.extent(*place))
        except FileNotFoundError:
            return f"{path} is missing"
        except OSError as error:
            return f"{path} cannot be read: {error.strerror or error}"
        except ValueError as error:
            return f"{path} {error}"
        if values is None:
            values = chunk
            if tile_digest(values) != stored.state.entries.digests[tile]:
                return f"{path} is not what the journal lists"
        elif not np.array_equal(chunk, values.T, equal_nan=True):
            return f"{path} is not the transpose of {chunk_path(stored.path, *tile)}"
    return None


def _drop(stored: StoredGram, damaged: list[Damage]) -> None:
    with explained(f"remove damaged tiles of {stored.path}", "check its permissions"), leases.alone(stored.path, False):
        leases.require_free(leases.others(stored.path, "", None), take_over=False)
        folders = set()
        for damage in damaged:
            for place in stored.grid.places(*damage.tile):
                path = chunk_path(stored.path, *place)
                path.unlink(missing_ok=True)
                folders.add(path.parent)
        for folder in folders:
            with contextlib.suppress(FileNotFoundError):
                sync(folder)


@dataclass(frozen=True)
class Comparison:
    """How far two matrices are apart.

    Attributes:
        max_difference: largest |A - B|; infinite where one is NaN, or where one is infinite and the other is not.
        row: where that is; None if the matrices are equal.
        column: where that is.
        values: of A and B there.
        differing: number of entries that are not equal.
    """

    max_difference: float
    row: int | None
    column: int | None
    values: tuple[float, float] | None
    differing: int


def compare(a: str | os.PathLike[str], b: str | os.PathLike[str]) -> Comparison:
    """Compares two complete matrices tile by tile; sides of tiles may differ.

    Raises:
        StoreError: if one of them is no store, incomplete or damaged.
        InvalidInputError: if they have different shapes.
    """
    first, second = StoredGram(a), StoredGram(b)
    for stored in (first, second):
        stored.require_complete()
    if first.shape != second.shape:
        raise InvalidInputError(
            f"{a} has shape {first.shape} and {b} {second.shape}; only equal shapes can be compared"
        )
    worst = Comparison(0.0, None, None, None, 0)
    differing = 0
    rows, columns = first.grid.blocks
    for tile in ((r, c) for r in range(rows) for c in range(columns)):
        found = _compare_tile(first, second, tile)
        differing += found.differing
        if found.differing and (worst.row is None or found.max_difference > worst.max_difference):
            worst = found
    return replace(worst, differing=differing)


def _compare_tile(first: StoredGram, second: StoredGram, tile: Tile) -> Comparison:
    area = first.grid.span(tile[0], 0), first.grid.span(tile[1], 1)
    same = first.grid.side == second.grid.side
    x = first.tile(*tile).astype(float)
    y = (second.tile(*tile) if same else second[slice(*area[0]), slice(*area[1])]).astype(float)
    apart = x != y
    with np.errstate(invalid="ignore"):
        difference = np.where(apart, np.abs(x - y), 0.0)
    difference[np.isnan(difference)] = math.inf
    row, column = map(int, np.unravel_index(int(difference.argmax()), difference.shape))
    values = float(x[row, column]), float(y[row, column])
    place = area[0][0] + row, area[1][0] + column
    return Comparison(float(difference[row, column]), *place, values, int(apart.sum()))
