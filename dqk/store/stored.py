"""`StoredGram`: a stored matrix to read from, complete or not, larger than memory or not."""

from __future__ import annotations

import os
import uuid
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from dqk._resources import require_memory
from dqk.errors import StoreError
from dqk.store.files import BESIDE, DESCRIPTION, chunk_path, explained, read_description, sync
from dqk.store.fingerprint import Fingerprint
from dqk.store.state import State, load


class StoredGram:
    """A read-only handle on a store; entries are read when they are asked for.

    `handle[:100, 3]` reads these entries, `np.asarray(handle)` all. Entries of missing tiles are NaN. What is done is looked
    up once: open the store again to see later work.

    Args:
        path: the store.

    Attributes:
        path: the store.
        fingerprint: what it is a matrix of.
        grid: its tiles.

    Raises:
        StoreError: if there is no store, or a damaged one.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        self.fingerprint: Fingerprint = read_description(self.path)
        self.grid = self.fingerprint.grid

    @property
    def shape(self) -> tuple[int, int]:
        """(N, M)."""
        return self.grid.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the entries."""
        return self.grid.dtype

    @property
    def ndim(self) -> int:
        """2."""
        return 2

    @cached_property
    def state(self) -> State:
        """What is done."""
        return load(self.path, self.grid)

    @property
    def done(self) -> int:
        """Number of tiles that are there."""
        return len(self.state.done)

    @property
    def total(self) -> int:
        """Number of tiles of the matrix."""
        return self.grid.total

    @property
    def digest(self) -> str | None:
        """Digest of the matrix according to its journals, None while tiles are missing; `verify` proves it."""
        return self.state.digest

    @cached_property
    def _zarr(self) -> Any:
        import zarr

        try:
            return zarr.open_array(self.path, mode="r")
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(
                f"{self.path / DESCRIPTION} is damaged: {error!r}; restore it from a copy, or compute the store again"
            ) from error

    @property
    def std_error(self) -> np.ndarray:
        """Standard errors of the entries of a measured matrix, shape (N, M): as stored, or of simulated shots from K.

        Raises:
            StoreError: if the entries are exact.
        """
        if self.fingerprint.sampling is None and self.fingerprint.shots is not None:
            k = np.asarray(self)
            return np.sqrt(k * (1 - k) / self.fingerprint.shots)
        return np.asarray(self.beside("std_error")[:])

    def beside(self, name: str) -> Any:
        """What a measured matrix has beside its entries, a zarr array of shape (N, M).

        Args:
            name: `std_error`; `low` or `high`, bounds of 95 % (Wilson); `shots`.

        Raises:
            StoreError: if the matrix was not measured by a device.
        """
        import zarr

        if self.fingerprint.sampling is None or name not in BESIDE:
            raise StoreError(
                f"{self.path} has no {name!r}: "
                + ("its entries are exact" if self.fingerprint.sampling is None else f"it has {', '.join(BESIDE)}")
            )
        with explained(f"read {name} of {self.path}", "check its permissions"):
            return zarr.open_array(self.path / name, mode="r")

    def __getitem__(self, key: Any) -> Any:
        with explained(f"read {self.path}", "check the disk, then run: dqk store verify"):
            try:
                return np.asarray(self._zarr[key])[()]
            except ValueError as error:
                raise StoreError(
                    f"cannot read [{key!r}] of {self.path}: {error}. If that is an index into {self.shape}, then chunks are "
                    f"damaged; which ones says: dqk store verify {self.path}"
                ) from error

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError(f"{self.path} cannot become an array without a copy; it is on disk")
        require_memory(self.shape[0] * self.shape[1] * self.dtype.itemsize, f"the entries of {self.path}")
        values = self[:]
        return values if dtype is None else values.astype(dtype, copy=False)

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"StoredGram({str(self.path)!r}, shape {self.shape}, {self.dtype}, {self.done} of {self.total} tiles)"

    def tile(self, row: int, column: int) -> np.ndarray:
        """The values in one chunk, also below the diagonal, shape (rows of the block, columns of the block).

        Raises:
            StoreError: if the chunk is missing or damaged.
        """
        path = chunk_path(self.path, row, column)
        with explained(f"read {self.grid.where(row, column)} of {self.path}", _repair(self.path)):
            data = path.read_bytes()
        try:
            return self.grid.decode(data, self.grid.extent(row, column))
        except ValueError as error:
            place = self.grid.where(row, column)
            raise StoreError(f"{place} of {self.path} is damaged: {path} {error}; {_repair(self.path)}") from error

    def require_complete(self) -> None:
        """Raises StoreError if tiles are missing."""
        if self.done < self.total:
            raise StoreError(
                f"{self.path} has {self.done:,} of {self.total:,} tiles; compute the others with --resume (resume=True)"
            )

    def export(self, target: str | os.PathLike[str]) -> None:
        """Writes the matrix to a `.npy` file; no more than one block of rows is in memory.

        Args:
            target: a file that does not exist; it appears when it is complete.

        Raises:
            StoreError: if tiles are missing or damaged, or the file cannot be written.
        """
        self.require_complete()
        target = Path(target)
        if target.exists():
            raise StoreError(f"{target} exists; choose another file, or remove it")
        part = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
        try:
            with explained(f"write {target}", "check that its folder exists and has room"):
                self._export(part)
                part.replace(target)
                sync(target.parent)
        finally:
            part.unlink(missing_ok=True)

    def _export(self, part: Path) -> None:
        # Plain writes: a memory map on a full disk ends the process with SIGBUS.
        with part.open("wb") as stream:
            head = {"descr": self.dtype.newbyteorder("<").str, "fortran_order": False, "shape": self.shape}
            np.lib.format.write_array_header_1_0(stream, head)
            for row in range(self.grid.blocks[0]):
                stream.write(self.band(row).data.cast("B"))
            stream.flush()
            os.fsync(stream.fileno())

    def band(self, row: int) -> np.ndarray:
        """All entries of one block of rows, shape (rows of the block, M).

        Raises:
            StoreError: if a chunk is missing or damaged.
        """
        top, bottom = self.grid.span(row, 0)
        values = np.empty((bottom - top, self.shape[1]), self.dtype.newbyteorder("<"))
        for column in range(self.grid.blocks[1]):
            values[:, slice(*self.grid.span(column, 1))] = self.tile(row, column)
        return values


def _repair(path: Path) -> str:
    return f"find what is damaged with: dqk store verify {path} --drop-damaged, then compute it again with --resume (resume=True)"
