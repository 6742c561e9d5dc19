"""Death at every step of a commit, and disks that do not take what is written."""

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dqk._failpoint import FAILPOINTS, arm
from dqk.errors import InvalidInputError, StoreError
from dqk.store import GramStore, StoredGram
from dqk.store.check import verify
from tests.requirements import require
from tests.store.problems import angles, compute, fill, fingerprint, in_child, matrix

pytestmark = pytest.mark.faults

N, GROWN = 29, 37
PASSAGES = {
    "store_created": [1],
    "store_described": [1],
    "store_grown": [1],
    "store_leased": [1],
    "after_chunk": [1, 2, 9],
}


@pytest.mark.parametrize(
    ("name", "passage"), [(name, passage) for name in FAILPOINTS for passage in PASSAGES.get(name, [1, 3])]
)
def test_killed_at_every_step(name: str, passage: int, tmp_path: Path) -> None:
    """The store is begun, half computed and grown; one process dies, the next one goes on, the result is as if nothing was."""
    path, ax = tmp_path / "K.zarr", angles(GROWN)
    if name == "store_grown":
        compute(path, N)
    assert in_child(compute, path, GROWN, failpoint=f"{name}:{passage}") == -signal.SIGKILL
    with GramStore.open(path, fingerprint(ax), resume=True) as store:
        before = verify(path)
        assert not before.damaged and before.checked == len(store.done)
        if name == "store_grown":
            assert len(store.done) == 6  # its full tiles
        elif name in ("after_line", "after_journal"):  # a process that dies loses nothing that it wrote
            assert len(store.done) == 3 * passage
        elif name in ("before_chunk", "after_write", "after_sync", "after_folders"):
            assert len(store.done) == 3 * (passage - 1)
        assert not list((path / "tmp").iterdir())
        assert fill(store, matrix(ax)) == store.total - before.checked
        assert store.digest() == compute(tmp_path / "whole.zarr", GROWN)
    assert np.asarray(StoredGram(path)).tobytes() == matrix(ax).tobytes()
    assert not list(path.glob("*lease*")) and not verify(path).damaged


def test_the_environment_arms_a_failpoint(tmp_path: Path) -> None:
    """And an armed name that does not exist is refused, for it would kill nothing and prove nothing."""
    code = "import sys; from tests.store.problems import *; compute(Path(sys.argv[1]), 29)"

    def run(setting: str) -> subprocess.CompletedProcess:
        command, folder = [sys.executable, "-c", code, str(tmp_path / "K.zarr")], Path(__file__).parents[2]
        environment = {**os.environ, "DQK_FAILPOINT": setting, "PYTHONPATH": str(folder)}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200)

    assert run("after_chunk:3").returncode == -signal.SIGKILL
    assert sorted(p.name for p in (tmp_path / "K.zarr" / "c").glob("*/*")) == ["0", "0", "1"]
    typo = run("after_chnk:3")
    assert typo.returncode == 1 and "did you mean 'after_chunk'?" in typo.stderr
    for setting in ("nowhere", "after_chunk:x"):
        with pytest.raises(InvalidInputError):
            arm(setting)
    arm(None)


def compute_without_room(path: Path, n: int, limit: int) -> None:
    """Files may have `limit` bytes, as on a full disk; a chunk of side 8 has 516."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    ax = angles(n)
    with GramStore.open(path, fingerprint(ax), resume=True) as store:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        with pytest.raises(StoreError, match="cannot write tile .*File too large; make room .* --resume"):
            fill(store, matrix(ax), group=2)
        assert not list((path / "tmp").iterdir())
        done = set(store.done)
        # Room again: the same process goes on. Of the tiles that it could not finish some may be listed.
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert done <= set(store.reload().done) < set(store.grid.tiles())
        fill(store, matrix(ax), [(3, 3)])
        assert done | {(3, 3)} <= set(store.reload().done)


# In the first chunk, at its end, in the first lines, in later ones.
@pytest.mark.parametrize("limit", [100, 515, 700, 900])
def test_files_that_cannot_grow(limit: int, tmp_path: Path) -> None:
    assert in_child(compute_without_room, tmp_path / "K.zarr", N, limit) == 0
    assert compute(tmp_path / "K.zarr", N) == compute(tmp_path / "whole.zarr", N)
    assert not verify(tmp_path / "K.zarr").damaged


def test_a_full_disk(tmp_path: Path) -> None:
    """A small tmpfs; the work goes on when there is room."""
    require("tmpfs")
    program = [sys.executable, "-m", "tests.store.full_disk", str(tmp_path)]
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", *program], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_everything_is_durable_before_it_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kill cannot show and a loss of power does: each fsync is there, and before the step that relies on it."""
    path, ax = tmp_path / "K.zarr", angles(13)
    events: list[tuple[str, str]] = []
    fsync, write, rename = os.fsync, os.write, Path.replace

    def named(descriptor: int) -> str:
        return str(Path(os.readlink(f"/proc/self/fd/{descriptor}")).relative_to(path))

    def recorded_fsync(descriptor: int) -> None:
        fsync(descriptor)
        events.append(("sync", named(descriptor)))

    def recorded_write(descriptor: int, data: bytes) -> int:
        events.append(("write", named(descriptor)))
        return write(descriptor, data)

    def recorded_rename(source: Path, target: Path) -> Path:
        events.append(("name", f"{source.relative_to(path)} {target.relative_to(path)}"))
        return rename(source, target)

    with GramStore.open(path, fingerprint(ax)) as store:
        monkeypatch.setattr(os, "fsync", recorded_fsync)
        monkeypatch.setattr(os, "write", recorded_write)
        monkeypatch.setattr(Path, "replace", recorded_rename)
        fill(store, matrix(ax), group=3)
        monkeypatch.undo()
    names = [what.split() for step, what in events if step == "name"]
    assert sorted(target for _, target in names) == ["c/0/0", "c/0/1", "c/1/0", "c/1/1"]
    listed = next(n for n, (step, what) in enumerate(events) if step == "write" and what.startswith("journal/"))
    journal = events[listed][1]
    for source, target in names:
        steps = [("write", source), ("sync", source), ("name", f"{source} {target}")]
        places = [events.index(step) for step in steps]
        durable = max(n for n, event in enumerate(events) if event == ("sync", str(Path(target).parent)))
        assert places == sorted(places) and places[-1] < durable < listed
    assert ("sync", "c") in events[:listed]  # the new folders' own names
    assert ("sync", "journal") in events[:listed]
    assert events[-1] == ("sync", journal)
