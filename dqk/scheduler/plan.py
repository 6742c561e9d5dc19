"""The plan of a kernel matrix: its tiles in the order in which they are best computed, with predicted times."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dqk.errors import InvalidInputError
from dqk.scheduler.cost import TileCost
from dqk.scheduler.tiles import Tile, partition


@dataclass(frozen=True, eq=False, slots=True)
class Plan:
    """Tiles in order; an *item* is an index into them.

    Attributes:
        tiles: block of rows and block of columns of each tile, shape (T, 2), int32.
        seconds: predicted seconds of each tile on one thread, shape (T,), float64.
        side: samples in a block; the last block of either axis may be ragged.
    """

    tiles: np.ndarray
    seconds: np.ndarray
    side: int

    def __len__(self) -> int:
        return len(self.tiles)

    def tile(self, item: int) -> Tile:
        """The tile of an item."""
        row, column = self.tiles[item].tolist()
        return Tile(row, column)


def plan(
    n_rows: int,
    n_columns: int,
    symmetric: bool,
    side: int,
    cost: TileCost,
    keep_blocks: int,
    shard: tuple[int, int] | None = None,
) -> Plan:
    """Orders the tiles of a kernel matrix so that neighbours share rows and columns.

    Args:
        n_rows: samples of the rows, N.
        n_columns: samples of the columns, M.
        symmetric: only tiles on and above the diagonal are planned.
        side: samples in a block, from the backend.
        cost: predicted cost of a full block and a full tile.
        keep_blocks: encoded blocks that a worker's memory holds.
        shard: (i, k) for the i-th of k parts, 1 <= i <= k; together they are exactly all tiles, balanced by cost.

    Raises:
        InvalidInputError: for sizes, a side or a shard that cannot be.
    """
    if side < 1 or min(n_rows, n_columns) < 0 or keep_blocks < 2 or (symmetric and n_rows != n_columns):
        raise InvalidInputError(
            f"a {n_rows} x {n_columns} matrix (symmetric: {symmetric}) in tiles of side {side} with {keep_blocks} blocks kept; "
            "expected sizes of at least 0, equal ones if symmetric, a side of at least 1 and 2 blocks or more"
        )
    rows, columns = -(-n_rows // side), -(-n_columns // side)
    band = max(1, keep_blocks - max(1, keep_blocks // 4))
    groups = partition(rows, columns, symmetric, band, keep_blocks - band)
    tiles = np.array([(t.row, t.column) for group in groups for t in group], np.int32).reshape(-1, 2)
    seconds = np.full(len(tiles), cost.tile_s + cost.encode_s / 8)
    if shard is not None:
        part = _shard(seconds, *shard)
        tiles, seconds = tiles[part], seconds[part]
    return Plan(tiles, seconds, side)


def _shard(seconds: np.ndarray, i: int, k: int) -> slice:
    """The stretch of the order whose predicted time is the i-th of k equal parts."""
    if not 1 <= i <= k:
        raise InvalidInputError(f"shard {i}/{k}, expected i/k with 1 <= i <= k")
    middles = np.cumsum(seconds) - seconds / 2
    cuts = np.searchsorted(middles, np.array([i - 1, i]) * (seconds.sum() / k))
    if i == k:
        cuts[1] = len(seconds)
    return slice(int(cuts[0]), int(cuts[1]))
