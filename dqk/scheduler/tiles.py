"""Tiles: squares of K of a fixed side, the unit of work.

The grid starts at entry (0, 0) and its side does not depend on the size of K, so that growing K keeps the old tiles.
"""

from __future__ import annotations

from dataclasses import dataclass

from dqk.errors import InvalidInputError


@dataclass(frozen=True, slots=True, order=True)
class Tile:
    """One square of K.

    Attributes:
        row: index of its block of rows.
        column: index of its block of columns.
    """

    row: int
    column: int

    @property
    def is_diagonal(self) -> bool:
        """Whether rows and columns are the same block; meaningful in a symmetric K only."""
        return self.row == self.column


def blocks(n: int, side: int) -> list[slice]:
    """The samples of each block: `side` of them, the last block may be ragged."""
    if side < 1 or n < 0:
        raise InvalidInputError(
            f"blocks of side {side} over {n} samples, expected a positive side and no negative number"
        )
    return [slice(start, min(start + side, n)) for start in range(0, n, side)]


def partition(n_rows: int, n_columns: int, symmetric: bool, band: int, chunk: int) -> list[list[Tile]]:
    """All tiles of a grid of blocks, grouped so that each group needs few blocks at a time.

    A group spans `band` blocks of rows and `chunk` blocks of columns; groups of one band follow each other, so that its rows
    are kept. Inside a group neighbours share their column.

    Args:
        n_rows: number of blocks of rows.
        n_columns: number of blocks of columns.
        symmetric: only tiles on and above the diagonal.
        band: blocks of rows that fit into memory together.
        chunk: blocks of columns that fit beside them.

    Returns:
        Groups of tiles; every tile occurs exactly once.
    """
    if band < 1 or chunk < 1:
        raise InvalidInputError(f"band {band} and chunk {chunk}, expected at least 1 block each")
    groups = []
    for top in range(0, n_rows, band):
        rows = range(top, min(top + band, n_rows))
        for left in range(0, n_columns, chunk):
            columns = range(left, min(left + chunk, n_columns))
            tiles = [Tile(r, c) for c in columns for r in rows if not symmetric or r <= c]
            if tiles:
                groups.append(tiles)
    return groups
