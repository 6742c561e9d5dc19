"""What a store holds: the tiles that its journals list and whose chunks are there."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from dqk.store import journal
from dqk.store.digests import matrix_digest, tile_digest
from dqk.store.files import chunk_path, explained
from dqk.store.grid import Grid
from dqk.store.journal import Entries, Tile


@dataclass(frozen=True)
class State:
    """What a store holds.

    Attributes:
        grid: its tiles.
        done: digest of every tile that is committed.
        lost: tiles that a journal lists and whose chunk is missing or has another size; they count as not computed.
        entries: what the journals say.
    """

    grid: Grid
    done: dict[Tile, str]
    lost: tuple[Tile, ...]
    entries: Entries

    @property
    def digest(self) -> str | None:
        """Of the whole matrix; None while tiles are missing."""
        if len(self.done) < self.grid.total:
            return None
        grid = self.grid
        return matrix_digest(
            grid.shape, grid.dtype, grid.side, grid.symmetric, (self.done[tile] for tile in grid.tiles())
        )

    @property
    def classes(self) -> dict[str, int]:
        """Number of tiles of each numeric class, by its short name."""
        counts: dict[str, int] = {}
        for tile in self.done:
            name = self.entries.class_of[tile]
            counts[name] = counts.get(name, 0) + 1
        return counts


def load(store: Path, grid: Grid) -> State:
    """Reads the journals and looks for the chunks that they list.

    Raises:
        StoreError: if the store cannot be read.
    """
    entries = journal.read(store, grid)
    _settle(store, grid, entries)
    present = _present(store, grid)
    done, lost = {}, []
    for tile, digest in entries.digests.items():
        if tile in present and (not grid.symmetric or (tile[1], tile[0]) in present):
            done[tile] = digest
        else:
            lost.append(tile)
    return State(grid, done, tuple(sorted(lost)), entries)


def _present(store: Path, grid: Grid) -> set[Tile]:
    """Chunks whose files have the right size."""
    present: set[Tile] = set()
    size = grid.chunk_bytes
    if not (store / "c").exists():
        return present
    with explained(f"read the chunks of {store}", "check its permissions"), os.scandir(store / "c") as folders:
        for folder in folders:
            if not folder.name.isdigit():
                continue
            row = int(folder.name)
            with os.scandir(folder.path) as files:
                present |= {
                    (row, int(file.name)) for file in files if file.name.isdigit() and file.stat().st_size == size
                }
    return present


def _settle(store: Path, grid: Grid, entries: Entries) -> None:
    """A tile that was committed with different bits, by machines of different kinds, has the digest of what is on disk."""
    for tile, digests in entries.rivals.items():
        try:
            found = tile_digest(grid.decode(chunk_path(store, *tile).read_bytes(), grid.extent(*tile)))
        except (OSError, ValueError):
            continue
        if found in digests:
            entries.digests[tile], entries.class_of[tile] = found, digests[found]
