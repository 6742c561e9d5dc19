"""Where tiles of a matrix are: their extents, and the files of their chunks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

CHECKSUM_BYTES = 4


@dataclass(frozen=True, slots=True)
class Grid:
    """The tiles of an (N, M) matrix.

    Attributes:
        shape: (N, M).
        side: of a full tile; those at the lower and right edges may be smaller.
        symmetric: only tiles on and above the diagonal are computed; the others are their transposes.
        dtype: of the values, in the machine's byte order.
    """

    shape: tuple[int, int]
    side: int
    symmetric: bool
    dtype: np.dtype[Any]

    @property
    def blocks(self) -> tuple[int, int]:
        """Number of blocks of rows and of columns."""
        return -(-self.shape[0] // self.side), -(-self.shape[1] // self.side)

    @property
    def total(self) -> int:
        """Number of tiles that are computed."""
        rows, columns = self.blocks
        return rows * (rows + 1) // 2 if self.symmetric else rows * columns

    def tiles(self) -> Iterator[tuple[int, int]]:
        """(row, column) of every tile that is computed, in that order."""
        rows, columns = self.blocks
        return ((r, c) for r in range(rows) for c in range(r if self.symmetric else 0, columns))

    def has(self, row: int, column: int) -> bool:
        """Whether this is a tile that is computed."""
        rows, columns = self.blocks
        return 0 <= row < rows and (row if self.symmetric else 0) <= column < columns

    def extent(self, row: int, column: int) -> tuple[int, int]:
        """Shape of a tile."""
        return self.span(row, 0)[1] - row * self.side, self.span(column, 1)[1] - column * self.side

    def span(self, block: int, axis: int) -> tuple[int, int]:
        """First sample of a block of rows (axis 0) or of columns (axis 1), and the one behind the last."""
        return block * self.side, min((block + 1) * self.side, self.shape[axis])

    def where(self, row: int, column: int) -> str:
        """A tile, for messages."""
        (top, bottom), (left, right) = self.span(row, 0), self.span(column, 1)
        return f"tile ({row}, {column}): rows {top}-{bottom - 1}, columns {left}-{right - 1}"

    def places(self, row: int, column: int) -> tuple[tuple[int, int], ...]:
        """Chunks that hold a tile: its own, and off the diagonal of a symmetric matrix that of its transpose."""
        return ((row, column), (column, row)) if self.symmetric and row != column else ((row, column),)

    @property
    def chunk_bytes(self) -> int:
        """Size of the file of every chunk."""
        return self.side**2 * self.dtype.itemsize + CHECKSUM_BYTES

    def encode(self, values: np.ndarray) -> np.ndarray:
        """A chunk in zarr's format: little-endian, padded with NaN, its CRC-32C behind it.

        Args:
            values: of a tile, at most (side, side).

        Returns:
            Bytes, shape (chunk_bytes,).
        """
        data = np.empty(self.chunk_bytes, np.uint8)
        body = data[:-CHECKSUM_BYTES]
        chunk = body.view(self.dtype.newbyteorder("<")).reshape(self.side, self.side)
        if values.shape != chunk.shape:
            chunk.fill(np.nan)
        chunk[: values.shape[0], : values.shape[1]] = values
        data[-CHECKSUM_BYTES:] = _checksum(body)
        return data

    def decode(self, data: bytes, extent: tuple[int, int]) -> np.ndarray:
        """The tile in a chunk, shape `extent`.

        Raises:
            ValueError: if the chunk is damaged; says how.
        """
        if len(data) != self.chunk_bytes:
            raise ValueError(f"has {len(data):,} bytes, expected {self.chunk_bytes:,}")
        content = np.frombuffer(data, np.uint8)
        body = content[:-CHECKSUM_BYTES]
        if not np.array_equal(_checksum(body), content[-CHECKSUM_BYTES:]):
            raise ValueError("its checksum does not fit its content")
        chunk = body.view(self.dtype.newbyteorder("<")).reshape(self.side, self.side)
        return chunk[: extent[0], : extent[1]].astype(self.dtype, copy=False)


def _checksum(body: np.ndarray) -> np.ndarray:
    """CRC-32C of bytes, as zarr stores it, shape (4,)."""
    import google_crc32c

    # The extension takes the array itself, but not a memoryview of it.
    return np.array([google_crc32c.value(cast(bytes, body))], "<u4").view(np.uint8)
