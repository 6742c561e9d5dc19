"""`GramStore`: a store that this process computes into. Opening it creates, resumes or grows it, and takes its lease."""

from __future__ import annotations

import contextlib
import os
import shutil
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np

from dqk._failpoint import failpoint
from dqk._lease import Lease
from dqk.errors import InvalidInputError, StoreError
from dqk.store import journal, leases
from dqk.store.digests import class_id, numeric_class
from dqk.store.files import DESCRIPTION, describe, explained, read_description, sync, temporary_folder
from dqk.store.fingerprint import Fingerprint
from dqk.store.journal import Tile
from dqk.store.state import State, load
from dqk.store.writer import TileWriter

_STARTED = "started"


class GramStore:
    """A stored matrix and the right to compute it. Made by `open`; use it as a context manager.

    Attributes:
        path: the folder.
        fingerprint: what it is a matrix of.
        grid: its tiles.
        shard: (i, k) if this process computes the i-th of k parts, i from 1; None for all.
    """

    def __init__(self, path: Path, fingerprint: Fingerprint, shard: tuple[int, int] | None, lease: Lease):
        self.path, self.fingerprint, self.shard = path, fingerprint, shard
        self.grid = fingerprint.grid
        self._lease = lease
        self._writer: TileWriter | None = None
        self._state = load(path, self.grid)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        fingerprint: Fingerprint,
        *,
        resume: bool = False,
        take_over: bool = False,
        shard: tuple[int, int] | None = None,
    ) -> GramStore:
        """Creates a store, or goes on with one.

        Args:
            path: a folder such as `K.zarr` in a folder that exists.
            fingerprint: of the problem. The store's own must be equal, or be of fewer samples: then the store grows, and keeps
                the full tiles that it has.
            resume: allows to go on with an existing store. Without it only a store is joined that other shards began.
            take_over: takes the lease from a process that may still run.
            shard: (i, k): this process is the i-th of k that compute parts of one matrix at the same time.

        Raises:
            StoreError: if the path has something else, another problem's store, a damaged one, or one in use.
        """
        path = Path(path)
        if shard is not None and not 1 <= shard[0] <= shard[1]:
            raise InvalidInputError(f"shard {shard[0]}/{shard[1]}, expected i/k with i from 1 to k")
        _require_place(path)
        advice = "check the permissions and the room of that folder, or choose another path"
        with explained(f"write {path}", advice):
            path.mkdir(exist_ok=True)
        with explained(f"write {path}", advice), leases.alone(path, take_over):
            created = not (path / DESCRIPTION).exists()
            if created:
                _create(path, fingerprint)
            own = leases.lease_name(shard)
            known = read_description(path)
            _require_same(path, known, fingerprint)
            _make_folders(path)  # copies may lack those that are empty
            grows = known.grown_to(fingerprint)
            fingerprint = fingerprint.after(known)
            mark = path / _STARTED / ("whole" if shard is None else f"{shard[0]}-of-{shard[1]}")
            if not created and not resume:
                _require_joinable(path, mark, shard)
                _require_same_size(path, known, fingerprint)
            leases.require_free(leases.others(path, own, None if grows else shard), take_over)
            lease = leases.acquire(path / own, take_over)
            try:
                if grows:
                    describe(path, fingerprint)
                    failpoint("store_grown")
                if not leases.others(path, own, None):
                    _clear(temporary_folder(path))
                mark.touch()
                failpoint("store_leased")
                store = cls(path, fingerprint, shard, lease)
            except BaseException:
                lease.release()
                raise
        store._warn_of_classes()
        return store

    @staticmethod
    def inspect(path: str | os.PathLike[str], fingerprint: Fingerprint, *, resume: bool = False) -> Mapping[Tile, str]:
        """What `open` would find done, without writing anything; arguments as there.

        Raises:
            StoreError: where `open` raises one, unless it is that the store is in use.
        """
        path = Path(path)
        _require_place(path)
        if not (path / DESCRIPTION).exists():
            return {}
        _require_same(path, read_description(path), fingerprint)
        if not resume:
            _require_joinable(path, path / _STARTED / "whole", None)
        return MappingProxyType(load(path, fingerprint.grid).done)

    @property
    def done(self) -> Mapping[Tile, str]:
        """Digest of every tile (row, column) that is committed, as far as this process knows."""
        return MappingProxyType(self._state.done)

    @property
    def total(self) -> int:
        """Number of tiles of the matrix."""
        return self.grid.total

    @property
    def lease(self) -> str:
        """For the `TileWriter`s of workers: what they check before they write."""
        return f"{self._lease.path.name}:{self._lease.holder.token}"

    def writer(self, name: str) -> TileWriter:
        """A writer with a journal of its own, under this store's lease."""
        return TileWriter(self.path, name, self.lease)

    def commit(
        self, tiles: Sequence[tuple[int, int, np.ndarray]], beside: Sequence[Mapping[str, np.ndarray]] = ()
    ) -> list[str]:
        """Commits tiles from this process, see `TileWriter.commit`; they are then `done`."""
        if self._writer is None:
            self._writer = self.writer("driver" if self.shard is None else "driver-{}-of-{}".format(*self.shard))
        digests = self._writer.commit(tiles, beside)
        self.record((row, column, digest) for (row, column, _), digest in zip(tiles, digests, strict=True))
        return digests

    def record(self, tiles: Iterable[tuple[int, int, str]]) -> None:
        """Notes that workers committed tiles: (row, column, digest)."""
        self._state.done.update({(row, column): digest for row, column, digest in tiles})

    def refresh(self) -> None:
        """Says that this process is alive; a driver calls it every minute or so.

        Raises:
            StoreError: if another process took over: nothing more may be written.
        """
        with leases.as_store_error():
            self._lease.refresh()

    def reload(self) -> State:
        """Reads from disk what is done, also by other shards."""
        self._state = load(self.path, self.grid)
        return self._state

    def digest(self) -> str | None:
        """Digest of the matrix as it is on disk, None while tiles are missing. Warns if it is of mixed numeric classes."""
        state = self.reload()
        self._warn_of_classes()
        return state.digest

    def close(self) -> None:
        """Gives the lease back; what is committed stays."""
        if self._writer is not None:
            self._writer.close()
        self._lease.release()

    def __enter__(self) -> GramStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _warn_of_classes(self) -> None:
        here = class_id(numeric_class())
        classes = {**self._state.entries.classes, here: numeric_class()}
        others = [name for name in self._state.classes if name != here]
        if others:
            warnings.warn(
                f"{self.path}: {sum(self._state.classes[name] for name in others)} tiles come from machines or libraries whose "
                f"last bits may differ from those here ({_difference(classes.get(others[0], {}), classes[here])}); digests "
                "agree only within one class, `dqk store compare A B --atol 1e-12` compares values",
                stacklevel=3,
            )


def _difference(there: Mapping[str, str], here: Mapping[str, str]) -> str:
    parts = [f"{key} {there.get(key)} there, {here[key]} here" for key in here if there.get(key) != here[key]]
    return "; ".join(parts) or "unknown"


def _folders(path: Path) -> list[Path]:
    return [path / "c", path / journal.FOLDER, path / _STARTED, temporary_folder(path)]


def _make_folders(path: Path) -> None:
    for folder in _folders(path):
        folder.mkdir(exist_ok=True)


def _require_place(path: Path) -> None:
    """A folder that is a store or may become one."""
    if path.exists() and not path.is_dir():
        read_description(path)  # says what is wrong
    if not path.parent.is_dir():
        raise StoreError(
            f"there is no folder {path.parent} to put {path.name} into; make it with: mkdir -p {path.parent}"
        )
    ours = [folder.name for folder in _folders(path)]
    with explained(f"read {path}", "check its permissions"):
        if path.is_dir() and not (path / DESCRIPTION).exists():
            begun = (".", leases.WHOLE, leases.OPENING)
            foreign = [name for name in os.listdir(path) if name not in ours and not name.startswith(begun)]
            if foreign:
                raise StoreError(
                    f"{path} is a folder with other files ({foreign[0]}), not a store of dqk; choose another path"
                )


def _create(path: Path, fingerprint: Fingerprint) -> None:
    if any(any(folder.iterdir()) for folder in (path / "c", path / journal.FOLDER) if folder.is_dir()):
        raise StoreError(
            f"{path} has tiles of a matrix, but no {DESCRIPTION} that says of which; restore that file from a copy, or remove "
            f"{path} and compute it again"
        )
    failpoint("store_created")
    _make_folders(path)
    describe(path, fingerprint)
    sync(path.parent)
    failpoint("store_described")


def _require_same(path: Path, known: Fingerprint, new: Fingerprint) -> None:
    conflicts = known.conflicts(new)
    if conflicts:
        was = f" ({known.about})" if known.about else ""
        raise StoreError(
            f"{path} is of another problem{was}: {'; '.join(conflicts)}. Choose another path, or use what it was made with"
        )


def _require_joinable(path: Path, mark: Path, shard: tuple[int, int] | None) -> None:
    """Without `resume`: only the first start of a shard beside other shards of the same division."""
    with contextlib.suppress(FileNotFoundError):
        begun = os.listdir(mark.parent)
        if shard is not None and mark.name not in begun and all(name.endswith(f"-of-{shard[1]}") for name in begun):
            return
    raise StoreError(
        f"{path} exists; --resume (resume=True) computes what it lacks, or choose another path, or remove it"
    )


def _require_same_size(path: Path, known: Fingerprint, new: Fingerprint) -> None:
    """A shard that may not resume must not grow what other shards compute."""
    if known.grown_to(new):
        raise StoreError(
            f"{path} is of {known.n_rows} x {known.n_columns} samples, this shard's are {new.n_rows} x {new.n_columns}; "
            "--resume (resume=True) lets a store grow, for all shards"
        )


def _clear(folder: Path) -> None:
    """Removes what killed processes left."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(exist_ok=True)
