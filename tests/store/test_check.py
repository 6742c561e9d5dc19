"""verify, export and compare: what is on disk against what was computed."""

import dataclasses
import os
import resource
from pathlib import Path

import numpy as np
import pytest

from dqk.errors import InvalidInputError, StoreError
from dqk.store import GramStore, StoredGram
from dqk.store.check import Damage, compare, verify
from tests.store.problems import angles, compute, fill, fingerprint, in_child, matrix

N = 21


@pytest.fixture
def store(tmp_path: Path) -> Path:
    compute(tmp_path / "K.zarr", N)
    return tmp_path / "K.zarr"


def flip(path: Path, byte: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[byte] ^= 1 << bit
    path.write_bytes(content)


# --- verify ----------------------------------------------------------------------------------------------------------


def test_a_store_that_is_as_it_was_computed(store: Path) -> None:
    found = verify(store)
    assert (found.checked, found.total, found.damaged, found.dropped) == (6, 6, (), False)
    assert found.digest == StoredGram(store).digest is not None


def test_an_incomplete_store(store: Path) -> None:
    with GramStore.open(store, fingerprint(angles(30)), resume=True):
        found = verify(store)
    assert (found.checked, found.total, found.damaged, found.digest) == (3, 10, (), None)


@pytest.mark.parametrize("byte", [0, 7, 300, 511, 512, 515])  # in values, in the padding, in the checksum
@pytest.mark.parametrize("place", ["0/2", "2/0", "1/1"])
def test_any_flipped_bit_is_found(byte: int, place: str, store: Path) -> None:
    flip(store / "c" / place, byte, bit=byte % 8)
    found = verify(store)
    (damage,) = found.damaged
    assert found.digest is None and "checksum" in damage.problem and f"c/{place}" in damage.problem
    if place == "1/1":
        assert (damage.tile, damage.rows, damage.columns) == ((1, 1), (8, 15), (8, 15))
    else:
        assert (damage.tile, damage.rows, damage.columns) == ((0, 2), (0, 7), (16, 20))


def test_wrong_values_with_a_right_checksum_are_found(store: Path) -> None:
    """A chunk from elsewhere: only the digest in the journal tells."""
    (store / "c" / "0" / "1").write_bytes((store / "c" / "1" / "1").read_bytes())
    (damage,) = verify(store).damaged
    assert damage.tile == (0, 1) and "not what the journal lists" in damage.problem
    (store / "c" / "0" / "1").write_bytes((store / "c" / "1" / "0").read_bytes())
    assert len(verify(store).damaged) == 1


def test_a_wrong_mirrored_chunk_is_found(store: Path) -> None:
    (store / "c" / "1" / "0").write_bytes((store / "c" / "1" / "1").read_bytes())
    (damage,) = verify(store).damaged
    assert damage.tile == (0, 1) and "not the transpose" in damage.problem


def test_missing_and_truncated_chunks_are_found_and_dropped(store: Path) -> None:
    digest = StoredGram(store).digest
    (store / "c" / "0" / "0").unlink()
    flip(store / "c" / "0" / "2", 9)
    (store / "c" / "2" / "1").write_bytes(b"")
    problems = [(damage.tile, damage.problem.partition(" ")[2]) for damage in verify(store).damaged]
    assert problems[0] == ((0, 0), "is missing")
    assert problems[1][0] == (0, 2) and "checksum" in problems[1][1]
    assert problems[2] == ((1, 2), "has 0 bytes, expected 516")
    assert len(verify(store).damaged) == 3  # looking changes nothing
    found = verify(store, drop_damaged=True)
    assert found.dropped and len(found.damaged) == 3
    assert StoredGram(store).done == 3
    with GramStore.open(store, fingerprint(angles(N)), resume=True) as opened:
        assert fill(opened, matrix(angles(N))) == 3 and opened.digest() == digest
    assert not verify(store, drop_damaged=True).dropped


def test_damage_is_not_dropped_from_a_store_in_use(store: Path) -> None:
    flip(store / "c" / "0" / "0", 0)
    with GramStore.open(store, fingerprint(angles(N)), resume=True):
        with pytest.raises(StoreError, match="in use by process"):
            verify(store, drop_damaged=True)
        assert (store / "c" / "0" / "0").exists()


def test_a_journal_with_a_flipped_bit_is_found(store: Path) -> None:
    (journal,) = (store / "journal").iterdir()
    text = journal.read_text()
    at = text.rindex('"digest": "') + len('"digest": "')
    journal.write_text(text[:at] + ("0" if text[at] != "0" else "1") + text[at + 1 :])
    (damage,) = verify(store).damaged
    assert damage.tile == (2, 2) and isinstance(damage, Damage)


# --- export ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("m", [None, 13])
def test_export(m: int | None, tmp_path: Path) -> None:
    compute(tmp_path / "K.zarr", N, m)
    StoredGram(tmp_path / "K.zarr").export(tmp_path / "K.npy")
    expected = matrix(angles(N), None if m is None else angles(m) + 1)
    mapped = np.load(tmp_path / "K.npy", mmap_mode="r")
    assert mapped.dtype == expected.dtype and mapped.tobytes() == expected.tobytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["K.npy", "K.zarr"]


def test_exports_that_are_refused(store: Path, tmp_path: Path) -> None:
    handle = StoredGram(store)
    (tmp_path / "there.npy").write_text("precious")
    with pytest.raises(StoreError, match="there.npy exists"):
        handle.export(tmp_path / "there.npy")
    assert (tmp_path / "there.npy").read_text() == "precious"
    with pytest.raises(StoreError, match="cannot write .*K.npy: No such file or directory"):
        handle.export(tmp_path / "missing" / "K.npy")
    flip(store / "c" / "2" / "0", 0)
    with pytest.raises(StoreError, match=r"tile \(2, 0\): rows 16-20, columns 0-7 .* dqk store verify"):
        handle.export(tmp_path / "K.npy")
    (store / "c" / "2" / "0").unlink()
    with pytest.raises(StoreError, match="5 of 6 tiles; compute the others with --resume"):
        StoredGram(store).export(tmp_path / "K.npy")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["K.zarr", "there.npy"]


def peak_of_export(path: Path) -> None:
    """Exports 128 MiB with room for 64 MiB more than this process has."""
    with open("/proc/self/statm") as stream:
        size = int(stream.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (size + 64 * 2**20, resource.RLIM_INFINITY))
    handle = StoredGram(path)
    with pytest.raises(MemoryError):
        np.ones(handle.shape)
    handle.export(path.with_suffix(".npy"))
    assert verify(path).digest is not None
    assert compare(path, path).max_difference == 0.0


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_a_matrix_larger_than_memory_streams(tmp_path: Path) -> None:
    n, side = 4096, 512
    path, ax = tmp_path / "K.zarr", np.arange(n, dtype=float)[:, None]
    with GramStore.open(path, fingerprint(ax, side=side)) as store:
        for row, column in store.grid.tiles():
            x, y = ax[row * side : (row + 1) * side], ax[column * side : (column + 1) * side]
            store.commit([(row, column, x * y.T)])
    assert in_child(peak_of_export, path) == 0
    exported = np.load(tmp_path / "K.npy", mmap_mode="r")
    assert exported.shape == (n, n)
    np.testing.assert_array_equal(exported[1000], 1000 * ax[:, 0])


# --- compare ---------------------------------------------------------------------------------------------------------


def stored(path: Path, k: np.ndarray, side: int = 8, n: int = N, m: int = 13) -> Path:
    with GramStore.open(path, fingerprint(angles(n), angles(m), side)) as store:
        fill(store, k)
    return path


def test_compare_finds_the_largest_difference(tmp_path: Path) -> None:
    k = matrix(angles(N), angles(13))
    a = stored(tmp_path / "a.zarr", k)
    equal = compare(a, stored(tmp_path / "b.zarr", k, side=5))  # other tiles, same values
    assert (equal.max_difference, equal.row, equal.column, equal.values, equal.differing) == (0.0, None, None, None, 0)
    other = k.copy()
    other[3, 4] += 0.25
    other[17, 12] -= 0.5
    found = compare(a, stored(tmp_path / "c.zarr", other))
    assert (found.max_difference, found.row, found.column, found.differing) == (0.5, 17, 12, 2)
    assert found.values == (k[17, 12], other[17, 12])


def test_compare_with_values_that_are_not_finite(tmp_path: Path) -> None:
    k = matrix(angles(N), angles(13))
    k[2, 2] = -np.inf
    a = stored(tmp_path / "a.zarr", k)
    assert compare(a, a).max_difference == 0.0
    for name, value in (("nan", np.nan), ("number", 0.0), ("inf", np.inf)):
        other = k.copy()
        other[2, 2] = value
        found = compare(a, stored(tmp_path / f"{name}.zarr", other))
        assert (found.max_difference, found.row, found.column, found.differing) == (np.inf, 2, 2, 1)


def test_comparisons_that_make_no_sense(tmp_path: Path) -> None:
    a = stored(tmp_path / "a.zarr", matrix(angles(N), angles(13)))
    b = stored(tmp_path / "b.zarr", matrix(angles(N), angles(14)), m=14)
    with pytest.raises(InvalidInputError, match=r"shape \(21, 13\) and .* \(21, 14\)"):
        compare(a, b)
    (b / "c" / "0" / "0").unlink()
    with pytest.raises(StoreError, match="5 of 6 tiles"):
        compare(a, b)
    with pytest.raises(StoreError, match="there is no store"):
        compare(a, tmp_path / "c.zarr")


def test_results_are_plain_data(store: Path) -> None:
    assert dataclasses.asdict(verify(store))["checked"] == 6
