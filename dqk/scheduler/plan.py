"""The plan of a kernel matrix: its tiles in the order in which they are best computed, with predicted times."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dqk._cost import TileCost
from dqk.errors import InvalidInputError, MemoryBoundError
from dqk.scheduler.tiles import Tile, partition

_PAD = 8
_LOW_BAND = 8
_MIB = 2**20


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

    The tiles follow from the sizes and the side alone, those of a shard too: neither `cost` nor `keep_blocks` changes which
    there are, so that the tasks of a job array agree about their shards whatever nodes they run on.

    Args:
        n_rows: samples of the rows, N.
        n_columns: samples of the columns, M.
        symmetric: only tiles on and above the diagonal are planned.
        side: samples in a block, from the backend.
        cost: predicted cost of a full block and a full tile.
        keep_blocks: encoded blocks that a worker's memory holds, at least 2.
        shard: (i, k) for the i-th of k parts, 1 <= i <= k; together they are exactly all tiles, equal in entries of K up to one
            tile.

    Raises:
        InvalidInputError: for sizes, a side or a shard that cannot be.
    """
    if side < 1 or min(n_rows, n_columns) < 0 or keep_blocks < 2 or (symmetric and n_rows != n_columns):
        raise InvalidInputError(
            f"a {n_rows} x {n_columns} matrix (symmetric: {symmetric}) in tiles of side {side} with {keep_blocks} blocks kept; "
            "expected sizes of at least 0, equal ones if symmetric, a side of at least 1 and 2 blocks or more"
        )
    rows, columns = _filling(n_rows, side), _filling(n_columns, side)
    # A band as high as an eighth of the matrix makes stretches about square for some dozens of workers: few blocks to encode.
    high = max(_LOW_BAND, len(rows) // 8)
    band = min(high, max(1, keep_blocks - max(1, keep_blocks // 4)))
    tiles = _ordered(len(rows), len(columns), symmetric, band)
    if shard is not None:
        all_tiles = tiles if band == high else _ordered(len(rows), len(columns), symmetric, high)
        part = all_tiles[_stretch(rows[all_tiles[:, 0]] * columns[all_tiles[:, 1]], *shard)]
        tiles = tiles[np.isin(tiles @ [len(columns), 1], part @ [len(columns), 1])]
    return Plan(tiles, _seconds(tiles, rows, columns, band, cost), side)


def blocks_that_fit(bound: int, block_bytes: int, tile_bytes: int, tiles_in_flight: int) -> int:
    """How many encoded blocks a worker may keep beside the tiles in flight.

    Args:
        bound: memory in bytes.
        block_bytes: of one encoded block.
        tile_bytes: of one tile in flight.
        tiles_in_flight: how many are computed at once.

    Raises:
        MemoryBoundError: if two blocks, which one tile needs, do not fit.
    """
    fit = (bound - tiles_in_flight * tile_bytes) // max(1, block_bytes)
    if fit < 2:
        needed = 2 * block_bytes + tiles_in_flight * tile_bytes
        raise MemoryBoundError(
            f"two blocks of states and {tiles_in_flight} tiles need {needed // _MIB:,} MiB, the bound is {bound // _MIB:,} MiB "
            "(DQK_MEMORY_MIB, or half of the free memory); use fewer qubits or float32, or raise the bound"
        )
    return fit


def _filling(n: int, side: int) -> np.ndarray:
    """The part of each block that is computed: 1, but for a ragged last one, which is padded to a multiple of 8 samples."""
    filling = np.ones(-(-n // side))
    if n % side:
        filling[-1] = min(1.0, -(-(n % side) // _PAD) * _PAD / side)
    return filling


def _ordered(rows: int, columns: int, symmetric: bool, band: int) -> np.ndarray:
    """Tiles of a grid in bands of rows, column after column in each, shape (T, 2)."""
    groups = partition(rows, columns, symmetric, band, max(1, columns))
    return np.array([(tile.row, tile.column) for group in groups for tile in group], np.int32).reshape(-1, 2)


def _stretch(weights: np.ndarray, i: int, k: int) -> slice:
    """The i-th of k stretches of equal weight."""
    if not 1 <= i <= k:
        raise InvalidInputError(f"shard {i}/{k}, expected i/k with 1 <= i <= k, such as 1/4")
    middles = np.cumsum(weights) - weights / 2
    start, stop = np.searchsorted(middles, np.array([i - 1, i]) * (weights.sum() / k)).tolist()
    return slice(start if i > 1 else 0, stop if i < k else len(weights))


def _seconds(tiles: np.ndarray, rows: np.ndarray, columns: np.ndarray, band: int, cost: TileCost) -> np.ndarray:
    """Predicted seconds of each tile; encoding a block is shared by the tiles of its band that need it."""
    row, column = tiles[:, 0], tiles[:, 1]
    height, width = rows[row], columns[column]
    strip = (row // band) * max(1, len(columns)) + column
    _, where, in_column = np.unique(strip, return_inverse=True, return_counts=True)
    in_row = np.bincount(row, minlength=len(rows))
    encode = height / in_row[row] + width / in_column[where.reshape(-1)]
    return np.asarray(cost.tile_s * height * width + cost.encode_s * encode)
