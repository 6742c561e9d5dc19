"""Opening: create, resume, grow, share, refuse."""

import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dqk.errors import InvalidInputError, StoreError
from dqk.store import Fingerprint, GramStore, StoredGram, TileWriter, leases
from tests.store.problems import CIRCUIT, angles, compute, fill, fingerprint, in_child, matrix, part


def read(path: Path) -> np.ndarray:
    return np.asarray(StoredGram(path))


# --- resume and growth -----------------------------------------------------------------------------------------------


def test_only_missing_tiles_are_left_to_do(tmp_path: Path) -> None:
    ax, path = angles(21), tmp_path / "K.zarr"
    k = matrix(ax)
    with GramStore.open(path, fingerprint(ax)) as store:
        assert (len(store.done), store.total) == (0, 6)
        fill(store, k, [(0, 0), (0, 2), (1, 1)])
    with GramStore.open(path, fingerprint(ax), resume=True) as store:
        assert sorted(store.done) == [(0, 0), (0, 2), (1, 1)]
        assert store.digest() is None
        assert fill(store, k) == 3
        digest = store.digest()
    with GramStore.open(path, fingerprint(ax), resume=True) as store:
        assert fill(store, k) == 0 and store.digest() == digest == compute(tmp_path / "whole.zarr", 21)
    assert read(path).tobytes() == k.tobytes()


@pytest.mark.parametrize(
    ("old", "new", "kept"),
    [
        ((21, None), (30, None), 3),  # blocks 0 and 1 were full
        ((16, None), (17, None), 3),
        ((21, 13), (21, 24), 3),  # the rows stay: even the ragged block of rows, in the full block of columns
        ((21, 13), (30, 13), 4),
        ((21, 13), (30, 24), 2),
    ],
)
def test_growth_keeps_full_tiles(old: tuple, new: tuple, kept: int, tmp_path: Path) -> None:
    path = tmp_path / "K.zarr"
    compute(path, *old)
    ax, ay = angles(new[0]), None if new[1] is None else angles(new[1]) + 1
    k = matrix(ax, ay)
    with GramStore.open(path, fingerprint(ax, ay), resume=True) as store:
        assert len(store.done) == kept
        assert fill(store, k) == store.total - kept
        assert store.digest() == compute(tmp_path / "whole.zarr", *new)
    assert read(path).tobytes() == k.tobytes()


def test_a_store_that_grew_in_one_direction_keeps_its_mirror(tmp_path: Path) -> None:
    """Tiles of an old ragged block are there, with fewer rows, and count as missing."""
    path = tmp_path / "K.zarr"
    compute(path, 21)
    with GramStore.open(path, fingerprint(angles(24)), resume=True) as store:
        assert sorted(store.done) == [(0, 0), (0, 1), (1, 1)]
    before = matrix(angles(24))
    now = read(path)
    assert now.shape == (24, 24) and np.isnan(now[21:]).all() and np.isnan(now[:, 21:]).all()
    assert now[:21, :21].tobytes() == before[:21, :21].tobytes()


# --- refusals --------------------------------------------------------------------------------------------------------

CHANGES: list[tuple[str, Any]] = [
    ("backend is 'closed form' there, 'mps' now", {"backend": "mps"}),
    ("log is False there, True now", {"log": True}),
    ("shots is None there, 100 now", {"shots": 100}),
    ("seed is None there, 3 now", {"seed": 3}),
    ("side is 8 there, 16 now", {"side": 16}),
    ("the shared angles (trained parameters) differ", {"shared": np.ones(1)}),
    ("the circuit has 2 gates there, 1 now", {"circuit": {**CIRCUIT, "gates": CIRCUIT["gates"][:1]}}),
    ("the circuit has 1 qubits there, 2 now", {"circuit": {**CIRCUIT, "n_qubits": 2}}),
    (
        "gate 1 of the circuit is ['RZ', [0], 'd', 1] there, ['RX', [0], 'd', 1] now",
        {"circuit": {**CIRCUIT, "gates": [CIRCUIT["gates"][0], ["RX", [0], "d", 1]]}},
    ),
]


@pytest.mark.parametrize(("words", "changes"), CHANGES)
def test_another_problem_is_refused_by_name(words: str, changes: dict, tmp_path: Path) -> None:
    ax = angles(21)
    GramStore.open(tmp_path / "K.zarr", fingerprint(ax)).close()
    with pytest.raises(StoreError) as error:
        GramStore.open(tmp_path / "K.zarr", fingerprint(ax, **changes), resume=True)
    assert words in str(error.value) and "(cosines)" in str(error.value) and "another path" in str(error.value)
    GramStore.open(tmp_path / "K.zarr", fingerprint(ax), resume=True).close()  # the refusal left no lease


def test_other_data_are_refused_with_their_rows(tmp_path: Path) -> None:
    ax, ay = angles(45), angles(21) + 1
    GramStore.open(tmp_path / "K.zarr", fingerprint(ax, ay)).close()

    def refusal(x: np.ndarray, y: np.ndarray | None) -> str:
        with pytest.raises(StoreError) as error:
            GramStore.open(tmp_path / "K.zarr", fingerprint(x, y), resume=True)
        return str(error.value)

    other = ax.copy()
    other[[9, 44]] += 1e-15
    assert "data of rows 8-15, 40-44 differ" in refusal(other, ay)
    assert "columns" not in refusal(other, ay)
    assert "data of columns 0-7, 8-15, 16-20 differ" in refusal(ax, ay + 1)
    assert "data of rows 0-7, 8-15, 16-23 and 3 more blocks differ" in refusal(ax + 1, ay)
    assert "45 rows are there, 44 now; a store grows but does not shrink" in refusal(ax[:44], ay)
    assert "differ" not in refusal(ax[:44], ay)
    assert "symmetric is False there, True now" in refusal(ax, None)
    assert "dtype is 'float64' there, 'float32' now" in refusal(ax.astype("float32"), ay.astype("float32"))
    grown = np.concatenate([other, ax])
    assert "data of rows 8-15, 40-44 differ" in refusal(grown, ay)  # the ragged block is compared sample by sample


def test_an_existing_store_needs_resume(tmp_path: Path) -> None:
    compute(tmp_path / "K.zarr", 21)
    for shard in (None, (1, 2)):
        with pytest.raises(StoreError, match=r"exists; --resume \(resume=True\)"):
            GramStore.open(tmp_path / "K.zarr", fingerprint(angles(21)), shard=shard)


def test_resume_of_a_missing_store_starts_it(tmp_path: Path) -> None:
    with GramStore.open(tmp_path / "K.zarr", fingerprint(angles(21)), resume=True) as store:
        assert not store.done
    (tmp_path / "empty").mkdir()
    with GramStore.open(tmp_path / "empty", fingerprint(angles(21))) as store:
        assert not store.done


def test_places_that_cannot_be_a_store(tmp_path: Path) -> None:
    def refusal(path: Path, **options: Any) -> str:
        with pytest.raises(StoreError) as error:
            GramStore.open(path, fingerprint(angles(8)), **options)
        return str(error.value)

    (tmp_path / "file").write_text("x")
    assert "is a file, expected a folder such as K.zarr" in refusal(tmp_path / "file", resume=True)
    assert "is a file" in refusal(tmp_path / "file" / "K.zarr") or "no folder" in refusal(tmp_path / "file" / "K.zarr")
    missing = tmp_path / "missing" / "K.zarr"
    assert f"there is no folder {missing.parent}" in refusal(missing) and "mkdir -p" in refusal(missing)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("x")
    assert "a folder with other files (thesis.tex)" in refusal(tmp_path / "other", resume=True)
    assert [p.name for p in (tmp_path / "other").iterdir()] == ["thesis.tex"]
    import zarr

    zarr.create_array(tmp_path / "theirs.zarr", shape=(8, 8), chunks=(8, 8), dtype="float64")
    assert "dqk did not write it" in refusal(tmp_path / "theirs.zarr", resume=True)
    for path in ("file", "missing", "other", "theirs.zarr"):
        with pytest.raises(StoreError):
            StoredGram(tmp_path / path)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"float64"', '"float6', "is damaged"),
        ('"n_rows": 21', '"n_rows": 22', "the fingerprint says"),
        ('"side": 8', '"side": 0', "is damaged"),
        ('"backend"', '"backende"', "is damaged"),
        ('"format": 1', '"format": 2', "use a newer dqk"),
        ('"dqk"', '"dkq"', "did not write it"),
    ],
)
def test_damaged_descriptions_are_refused(old: str, new: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "K.zarr"
    compute(path, 21)
    text = (path / "zarr.json").read_text()
    assert old in text
    (path / "zarr.json").write_text(text.replace(old, new))
    for attempt in (lambda: compute(path, 21), lambda: StoredGram(path), lambda: TileWriter(path, "w")):
        with pytest.raises(StoreError, match=words):
            attempt()


def test_a_folder_that_cannot_be_written() -> None:
    """As a user who may only read it; root may write anywhere."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "K.zarr"
        compute(path, 8)
        folders = [Path(folder), path, *(p for p in path.rglob("*") if p.is_dir())]

        def attempt() -> None:
            if os.getuid() == 0:
                os.setgid(65534)
                os.setuid(65534)
            for target in (path, Path(folder) / "new.zarr"):
                with pytest.raises(StoreError, match="Permission denied"):
                    compute(target, 8)
            assert StoredGram(path).done == 1

        for name in folders:
            name.chmod(0o555)
        try:
            assert in_child(attempt) == 0
        finally:
            for name in folders:
                name.chmod(0o755)


@pytest.mark.parametrize("shard", [(0, 2), (3, 2), (-1, 0)])
def test_shards_that_make_no_sense(shard: tuple, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="i/k"):
        GramStore.open(tmp_path / "K.zarr", fingerprint(angles(8)), shard=shard)
    assert not list(tmp_path.iterdir())


# --- leases and shards -----------------------------------------------------------------------------------------------


def hold(path: Path, ready: Any, options: dict) -> None:
    with GramStore.open(path, fingerprint(angles(21)), resume=True, **options):
        ready.set()
        time.sleep(300)


class Driver:
    """Another process that has a store open until it is killed."""

    def __init__(self, path: Path, **options: Any):
        context = multiprocessing.get_context("fork")
        ready = context.Event()
        self.process = context.Process(target=hold, args=(path, ready, options))
        self.process.start()
        assert ready.wait(120)

    def __enter__(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.join()


def test_a_second_driver_is_refused_until_the_first_is_dead(tmp_path: Path) -> None:
    path, asked = tmp_path / "K.zarr", fingerprint(angles(21))
    with Driver(path) as pid:
        for shard in (None, (1, 2)):
            with pytest.raises(StoreError, match=rf"{path} is in use by process {pid} .*wait for it, or stop it"):
                GramStore.open(path, asked, resume=True, shard=shard)
        assert StoredGram(path).done == 0  # reading is free
        assert [holder.pid for holder in leases.holders(path)] == [pid]
    assert (path / "lease").exists() and leases.holders(path) == []
    GramStore.open(path, asked, resume=True).close()  # its holder is dead: no question asked
    assert not list(path.glob("*lease*"))


def test_shards_work_side_by_side_and_exclude_others(tmp_path: Path) -> None:
    path, asked = tmp_path / "K.zarr", fingerprint(angles(21))
    with Driver(path, shard=(1, 2)) as pid:
        for shard in (None, (1, 2), (2, 3)):
            with pytest.raises(StoreError, match=f"in use by process {pid}"):
                GramStore.open(path, asked, resume=True, shard=shard)
        with pytest.raises(StoreError, match=f"in use by process {pid}"):  # the matrix may not grow under it
            GramStore.open(path, fingerprint(angles(22)), resume=True, shard=(2, 2))
        with GramStore.open(path, asked, shard=(2, 2)):
            pass
        with pytest.raises(StoreError, match="exists; --resume"):
            GramStore.open(path, asked, shard=(2, 2))


def test_take_over(tmp_path: Path) -> None:
    path, asked = tmp_path / "K.zarr", fingerprint(angles(21))
    first = GramStore.open(path, asked)
    worker = TileWriter(path, "worker", first.lease)
    with GramStore.open(path, asked, resume=True, take_over=True) as second:
        with pytest.raises(StoreError, match="taken over"):
            first.refresh()
        tile = part(matrix(angles(21)), first.grid, (0, 0))
        for commit in (worker.commit, first.commit):
            with pytest.raises(StoreError, match="lost its lease .* now held by process"):
                commit([tile])
        assert not second.reload().done
        second.refresh()
        first.close()  # takes nothing from the second
        assert second.commit([tile])
    with pytest.raises(StoreError, match="nobody holds"):
        worker.commit([tile])


def one_shard(path: Path, i: int, k: int, start: Any) -> None:
    ax = angles(37)
    start.wait(120)
    with GramStore.open(path, fingerprint(ax), shard=(i, k)) as store:
        fill(store, matrix(ax), [tile for n, tile in enumerate(store.grid.tiles()) if n % k == i - 1], group=1)


def test_tasks_of_a_job_array_that_start_together(tmp_path: Path) -> None:
    context, k, path = multiprocessing.get_context("fork"), 6, tmp_path / "K.zarr"
    start = context.Barrier(k)
    tasks = [context.Process(target=one_shard, args=(path, i + 1, k, start)) for i in range(k)]
    for task in tasks:
        task.start()
    for task in tasks:
        task.join(120)
    assert [task.exitcode for task in tasks] == [0] * k
    handle = StoredGram(path)
    assert handle.digest == compute(tmp_path / "whole.zarr", 37)
    assert np.asarray(handle).tobytes() == matrix(angles(37)).tobytes()
    assert len(list((path / "journal").iterdir())) == k
    assert not list((path / "tmp").iterdir()) and not list(path.glob("*lease*"))


def test_workers_commit_and_the_driver_notes(tmp_path: Path) -> None:
    ax, path = angles(21), tmp_path / "K.zarr"
    k = matrix(ax)
    with GramStore.open(path, fingerprint(ax)) as store:
        tiles = list(store.grid.tiles())
        writers = [TileWriter(path, f"host/{n}:0", store.lease) for n in range(2)]
        for n, writer in enumerate(writers):
            with writer:
                mine = tiles[n::2]
                digests = writer.commit([part(k, store.grid, tile) for tile in mine])
                store.record((*tile, digest) for tile, digest in zip(mine, digests, strict=True))
        assert len(store.done) == store.total
        noted = dict(store.done)
        assert store.digest() == compute(tmp_path / "whole.zarr", 21) and store.done == noted
    assert {p.name.rpartition("-")[0] for p in (path / "journal").iterdir()} == {"host_0_0", "host_1_0"}


# --- numeric classes -------------------------------------------------------------------------------------------------


def test_tiles_of_another_numeric_class_warn(tmp_path: Path) -> None:
    path, ax = tmp_path / "K.zarr", angles(21)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compute(path, 21)
        compute(path, 21)
    (journal,) = (path / "journal").iterdir()
    from dqk.store import numeric_class

    core = numeric_class()["blas"]
    journal.write_text(journal.read_text().replace(core, "openblas 0.1 Haswell").replace('"class": "', '"class": "0'))
    with pytest.warns(UserWarning, match=f"6 tiles come from .*blas openblas 0.1 Haswell there, {core} here"):
        GramStore.open(path, fingerprint(ax), resume=True).close()


def test_the_class_names_what_computes() -> None:
    code = "from dqk.store import numeric_class; print(dict(numeric_class())['blas'])"
    cores = {
        core: subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "OPENBLAS_CORETYPE": core}, capture_output=True, text=True
        ).stdout.strip()
        for core in ("Haswell", "Nehalem")
    }
    if not all("openblas" in text for text in cores.values()):
        pytest.skip(f"NumPy's BLAS is not OpenBLAS on x86: {cores}")
    assert all(text.endswith(core) for core, text in cores.items())


def test_fingerprint_survives_json() -> None:
    import json

    for made in (fingerprint(angles(21)), fingerprint(angles(21), angles(3), shots=5, seed=0, shared=np.ones(2))):
        assert Fingerprint.from_dict(json.loads(json.dumps(made.to_dict()))) == made
        assert not made.conflicts(made)
