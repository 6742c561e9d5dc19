"""A store is a plain zarr array, for any program that reads zarr."""

from pathlib import Path

import numpy as np
import pytest
import zarr

from dqk.errors import InvalidInputError, StoreError
from dqk.store import GramStore, StoredGram, matrix_digest, tile_digest
from tests.store.problems import angles, fill, fingerprint, matrix, part

CASES = [(21, None), (24, None), (21, 13), (3, 30)]
cases = pytest.mark.parametrize(("n", "m"), CASES)


def sides(n: int, m: int | None, dtype: str = "float64") -> tuple[np.ndarray, np.ndarray | None]:
    return angles(n, dtype), None if m is None else angles(m, dtype) + np.asarray(1, dtype)


@cases
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_zarr_reads_the_whole_matrix(n: int, m: int | None, dtype: str, tmp_path: Path) -> None:
    ax, ay = sides(n, m, dtype)
    k = matrix(ax, ay)
    with GramStore.open(tmp_path / "K.zarr", fingerprint(ax, ay)) as store:
        fill(store, k)
    read = zarr.open(tmp_path / "K.zarr", mode="r")
    assert isinstance(read, zarr.Array) and read.shape == k.shape and read.dtype == k.dtype == np.dtype(dtype)
    assert read[:].tobytes() == k.tobytes()
    assert read.attrs["dqk"]["fingerprint"]["about"] == "cosines"


@cases
def test_files_are_those_that_zarr_writes(n: int, m: int | None, tmp_path: Path) -> None:
    """Metadata and every chunk, byte by byte."""
    ax, ay = sides(n, m)
    k = matrix(ax, ay)
    with GramStore.open(tmp_path / "K.zarr", fingerprint(ax, ay)) as store:
        fill(store, k)
    theirs = zarr.create_array(
        tmp_path / "Z.zarr",
        shape=k.shape,
        chunks=(8, 8),
        dtype="float64",
        fill_value=np.nan,
        compressors=[zarr.codecs.Crc32cCodec()],
        config={"write_empty_chunks": True},
    )
    theirs[:] = k
    names = {p.relative_to(tmp_path / "Z.zarr") for p in (tmp_path / "Z.zarr").rglob("*") if p.is_file()}
    chunks = {name for name in names if name.parts[0] == "c"}
    assert len(chunks) == -(-k.shape[0] // 8) * -(-k.shape[1] // 8)
    assert chunks == {p.relative_to(tmp_path / "K.zarr") for p in (tmp_path / "K.zarr" / "c").rglob("*") if p.is_file()}
    for name in chunks:
        ours, other = (tmp_path / store / name for store in ("K.zarr", "Z.zarr"))
        assert ours.read_bytes() == other.read_bytes(), name
    described, reference = zarr.open(tmp_path / "K.zarr", mode="r").metadata.to_dict(), theirs.metadata.to_dict()
    assert described.pop("attributes") and not reference.pop("attributes")
    assert repr(described) == repr(reference)


def test_missing_tiles_are_nan(tmp_path: Path) -> None:
    ax = angles(21)
    k = matrix(ax)
    with GramStore.open(tmp_path / "K.zarr", fingerprint(ax)) as store:
        fill(store, k, [(0, 1), (2, 2)])
    expected = np.full_like(k, np.nan)
    for a, b in [(0, 1), (1, 0), (2, 2)]:
        area = slice(8 * a, 8 * a + 8), slice(8 * b, 8 * b + 8)
        expected[area] = k[area]
    handle = StoredGram(tmp_path / "K.zarr")
    for read in (zarr.open(tmp_path / "K.zarr", mode="r")[:], np.asarray(handle), handle[:]):
        np.testing.assert_array_equal(read, expected)
    assert (handle.done, handle.total, handle.digest) == (2, 6, None)


def test_values_that_are_not_finite_are_kept(tmp_path: Path) -> None:
    """A logarithm of zero, and NaN as a value, which is not a missing tile."""
    ax, ay = angles(8), angles(16)
    k = matrix(ax, ay)
    k[:, :8], k[0, 9] = np.nan, -np.inf
    with GramStore.open(tmp_path / "K.zarr", fingerprint(ax, ay, log=True)) as store:
        fill(store, k)
        assert store.digest() is not None
    np.testing.assert_array_equal(np.asarray(StoredGram(tmp_path / "K.zarr")), k)


def test_handle(tmp_path: Path) -> None:
    ax, ay = angles(21), angles(13)
    k = matrix(ax, ay)
    with GramStore.open(tmp_path / "K.zarr", fingerprint(ax, ay)) as store:
        fill(store, k)
    handle = StoredGram(tmp_path / "K.zarr")
    assert (handle.shape, handle.dtype, handle.ndim, len(handle)) == (k.shape, k.dtype, 2, 21)
    assert (handle.done, handle.total) == (6, 6) and handle.digest is not None
    np.testing.assert_array_equal(handle[3:9, 5], k[3:9, 5])
    assert isinstance(handle[3, -1], np.float64) and handle[3, -1] == k[3, -1]
    with pytest.raises(IndexError):
        handle[21, 0]
    np.testing.assert_array_equal(np.asarray(handle, dtype="float32"), k.astype("float32"))
    assert np.linalg.norm(handle) == np.linalg.norm(k)
    with pytest.raises(ValueError, match="without a copy"):
        np.asarray(handle, copy=False)


def test_digest_of_a_matrix_in_memory_is_that_of_the_store(tmp_path: Path) -> None:
    ax, ay = angles(21), angles(13)
    for other in (None, ay):
        k, path = matrix(ax, other), tmp_path / f"{other is None}.zarr"
        with GramStore.open(path, fingerprint(ax, other)) as store:
            fill(store, k)
            tiles = [tile_digest(part(k, store.grid, tile)[2]) for tile in store.grid.tiles()]
            in_memory = matrix_digest(k.shape, k.dtype, 8, other is None, tiles)
            assert store.digest() == StoredGram(path).digest == in_memory


def test_digests_tell_matrices_apart() -> None:
    digests = [tile_digest(np.full((2, 2), k)) for k in range(4)]
    found = {
        matrix_digest((4, 4), "float64", 2, False, digests),
        matrix_digest((4, 4), "float64", 2, False, digests[::-1]),
        matrix_digest((4, 3), "float64", 2, False, digests),
        matrix_digest((4, 4), "float32", 2, False, digests),
        matrix_digest((4, 4), "float64", 2, True, digests[:3]),
    }
    assert len(found) == 5
    # Layout in memory does not matter, the values' bits do.
    values = np.arange(6.0).reshape(2, 3)
    assert tile_digest(values) == tile_digest(np.asfortranarray(values)) == tile_digest(values.astype(">f8"))
    assert tile_digest(values) != tile_digest(values.T)
    assert tile_digest(np.array([[0.0]])) != tile_digest(np.array([[-0.0]]))


@pytest.mark.parametrize(
    ("tile", "words"),
    [
        ((3, 3, np.zeros((8, 8))), "tile (3, 3)"),
        ((1, 0, np.zeros((8, 8))), "on and above the diagonal"),
        ((0, 0, np.zeros((8, 7))), "expected shape (8, 8)"),
        ((0, 2, np.zeros((8, 8))), "expected shape (8, 5)"),
        ((0, 0, np.zeros((8, 8), "float32")), "expected shape (8, 8) and type float64"),
    ],
)
def test_tiles_of_another_matrix_are_refused(tile: tuple, words: str, tmp_path: Path) -> None:
    with GramStore.open(tmp_path / "K.zarr", fingerprint(angles(21))) as store:
        with pytest.raises(InvalidInputError) as error:
            store.commit([tile])
        assert words in str(error.value)
        assert not store.done and not list((tmp_path / "K.zarr" / "journal").iterdir())


def test_reading_a_damaged_chunk_is_refused(tmp_path: Path) -> None:
    ax = angles(8)
    with GramStore.open(tmp_path / "K.zarr", fingerprint(ax)) as store:
        fill(store, matrix(ax))
    chunk = tmp_path / "K.zarr" / "c" / "0" / "0"
    chunk.write_bytes(bytes([chunk.read_bytes()[0] ^ 1]) + chunk.read_bytes()[1:])
    with pytest.raises(StoreError, match="dqk store verify"):
        StoredGram(tmp_path / "K.zarr")[:]
