"""Tiles into files, so that what the journal lists is there after any crash.

A commit writes all its chunks to temporary files, makes them durable, gives them their names, makes the names durable, and
only then adds one line per tile to the journal and makes that durable. What happens in between leaves chunks that no journal
lists, which are computed again.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from dqk._failpoint import failpoint
from dqk._lease import Holder
from dqk.errors import InvalidInputError, StoreError
from dqk.store import journal
from dqk.store.digests import tile_digest
from dqk.store.files import chunk_path, explained, read_description, sync, syncing, temporary_folder, write_all


class TileWriter:
    """Commits tiles to a store; in the driver or in a worker that knows the path.

    Use one per thread. Its journal is a file of its own, made with the first commit.

    Args:
        path: the store.
        name: of the writer, for people who read the journal.
        lease: `GramStore.lease` of the driver: every commit then checks that it still holds. So workers that outlive a killed
            driver do not write into what the next one computes.

    Raises:
        StoreError: if there is no store.
    """

    def __init__(self, path: str | os.PathLike[str], name: str, lease: str | None = None):
        self.path = Path(path)
        self.name = "".join(c if c.isalnum() or c in "-_." else "_" for c in name)
        self.grid = read_description(self.path).grid
        self._lease = lease
        self._folders: set[Path] = set()
        self._journal: Path | None = None
        self._token = uuid.uuid4().hex[:12]

    def commit(
        self, tiles: Sequence[tuple[int, int, np.ndarray]], beside: Sequence[Mapping[str, np.ndarray]] = ()
    ) -> list[str]:
        """Makes tiles durable, all in one go: many small tiles in one commit cost less than each alone.

        Args:
            tiles: (row, column, values), values of shape (rows of the tile, columns of the tile) in the store's precision.
            beside: for each tile, what belongs beside it, by the names in `BESIDE`, of the same shape; nothing if left out.

        Returns:
            The digest of each tile.

        Raises:
            InvalidInputError: for tiles that are not of this matrix.
            StoreError: if the disk does not take them, or if another driver took over. Some of them may be committed then.
        """
        for row, column, values in tiles:
            self._check(row, column, values)
        if not tiles:
            return []
        first = self.grid.where(*tiles[0][:2])
        advice = "make room or repair the disk, then go on with --resume (resume=True)"
        with explained(f"write {first} of {self.path}", advice):
            try:
                return self._commit(tiles, beside)
            except BaseException as error:
                self._abandon()
                if isinstance(error, OSError):  # a driver that took over has removed the temporary files
                    self._check_lease()
                raise

    def _check(self, row: int, column: int, values: np.ndarray) -> None:
        if not self.grid.has(row, column):
            raise InvalidInputError(
                f"tile ({row}, {column}) is not one of {self.path}, which has {self.grid.blocks} blocks"
                + (" and holds tiles on and above the diagonal" if self.grid.symmetric else "")
            )
        extent = self.grid.extent(row, column)
        if values.shape != extent or values.dtype != self.grid.dtype:
            raise InvalidInputError(
                f"values of shape {values.shape} and type {values.dtype} for {self.grid.where(row, column)} of {self.path}, "
                f"expected shape {extent} and type {self.grid.dtype}"
            )

    def _check_lease(self) -> None:
        if self._lease is None:
            return
        name, _, token = self._lease.partition(":")
        found = Holder.read(self.path / name)
        if found is None or found.token != token:
            raise StoreError(
                f"the driver that this process works for lost its lease on {self.path}, "
                + (f"which is now held by {found}" if found else "which nobody holds now")
                + "; the tiles that it has just computed are dropped"
            )

    def _commit(
        self, tiles: Sequence[tuple[int, int, np.ndarray]], beside: Sequence[Mapping[str, np.ndarray]]
    ) -> list[str]:
        failpoint("before_chunk")
        moves: list[tuple[Path, Path]] = []
        for k, (row, column, values) in enumerate(tiles):
            for name, part in {"": values, **(beside[k] if beside else {})}.items():
                for place in self.grid.places(row, column):
                    data = self.grid.encode(part if place == (row, column) else part.T)
                    moves.append((self._write(len(moves), data), chunk_path(self.path / name, *place)))
        failpoint("after_write")
        folders = {final.parent for _, final in moves}
        with syncing([temporary for temporary, _ in moves]):  # the disk works meanwhile
            digests = [tile_digest(values) for _, _, values in tiles]
            self._make_folders(folders)
        failpoint("after_sync")
        # Only now: whoever takes the store over clears the temporary files after it has the lease and before it computes, so
        # from here on the files either get their names before that or are gone.
        self._check_lease()
        for temporary, final in moves:
            temporary.replace(final)
            failpoint("after_chunk")
        with syncing(folders):
            pass
        failpoint("after_folders")
        self._append(
            "".join(
                journal.line(row, column, values.shape, digest)
                for (row, column, values), digest in zip(tiles, digests, strict=True)
            )
        )
        return digests

    def _write(self, number: int, data: np.ndarray) -> Path:
        path = temporary_folder(self.path) / f"{self._token}-{number}"
        descriptor = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o644)
        try:
            write_all(descriptor, data, halfway="half_chunk")
            if hasattr(os, "posix_fadvise"):
                # The disk begins to write at once, so that the later fsync of the whole commit has little left to wait for.
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
        return path

    def _make_folders(self, folders: set[Path]) -> None:
        fresh = folders - self._folders
        if fresh:
            for folder in fresh:
                folder.mkdir(parents=True, exist_ok=True)
            for parent in {folder.parent for folder in fresh}:
                sync(parent)
            self._folders |= fresh

    def _append(self, lines: str) -> None:
        fresh = self._journal is None
        if self._journal is None:
            self._journal = self.path / journal.FOLDER / f"{self.name}-{self._token}.jsonl"
            lines = journal.header(self.name) + lines
        # Opened for each commit: a worker may drop its writer at any time, and holds no file of a store that is complete.
        descriptor = os.open(self._journal, os.O_APPEND | os.O_WRONLY | (os.O_CREAT | os.O_EXCL if fresh else 0), 0o644)
        try:
            if fresh:
                sync(self._journal.parent)
            write_all(descriptor, lines.encode(), halfway="half_line")
            failpoint("after_line")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        failpoint("after_journal")

    def _abandon(self) -> None:
        """After a failure: the journal may end in a torn line, so the next commit begins another one."""
        for path in temporary_folder(self.path).glob(f"{self._token}-*"):
            with contextlib.suppress(OSError):
                path.unlink()
        self.close()

    def close(self) -> None:
        """Ends the journal; a later commit begins another one."""
        self._journal, self._token = None, uuid.uuid4().hex[:12]

    def __enter__(self) -> TileWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
