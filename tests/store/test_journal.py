"""What a journal says after it was torn, damaged, or written by several."""

import json
from pathlib import Path

import numpy as np
import pytest

from dqk.store import GramStore, StoredGram, TileWriter, tile_digest
from dqk.store import journal as journals
from tests.store.problems import angles, compute, fill, fingerprint, matrix, part


def the_journal(path: Path) -> Path:
    (found,) = (path / "journal").iterdir()
    return found


def test_lines_are_what_the_documentation_says(tmp_path: Path) -> None:
    compute(tmp_path / "K.zarr", 13)
    head, *lines = map(json.loads, the_journal(tmp_path / "K.zarr").read_text().splitlines())
    assert {"journal", "writer", "host", "pid", "class", "numeric"} == set(head) and {"blas", "simd"} < set(
        head["numeric"]
    )
    k = matrix(angles(13))
    expected = [((0, 0), k[:8, :8]), ((0, 1), k[:8, 8:]), ((1, 1), k[8:, 8:])]
    assert lines == [
        {"tile": list(tile), "extent": list(values.shape), "digest": tile_digest(values)} for tile, values in expected
    ]


def test_a_journal_that_ends_anywhere(tmp_path: Path) -> None:
    """Cut at every byte: the tiles of complete lines are there, the others are computed again."""
    path, ax = tmp_path / "K.zarr", angles(21)
    digest = compute(path, 21)
    content = the_journal(path).read_bytes()
    starts = [0, *(n + 1 for n, byte in enumerate(content) if byte == ord("\n"))]
    assert len(starts) == 8  # a header, six tiles, the end
    for cut in range(len(content)):
        the_journal(path).write_bytes(content[:cut])
        complete = sum(start <= cut for start in starts) - 1
        handle = StoredGram(path)
        assert handle.done == max(0, complete - 1), cut
        assert handle.state.entries.damaged_lines == 0
    the_journal(path).write_bytes(content[: starts[4] + 20])
    with GramStore.open(path, fingerprint(ax), resume=True) as store:
        assert fill(store, matrix(ax)) == 3 and store.digest() == digest
    assert len(list((path / "journal").iterdir())) == 2  # nothing is written behind a torn line


@pytest.mark.parametrize(
    "damage",
    [
        b"\x00" * 30,
        b"{}",
        b"5",
        b'"tile"',
        b"[1, 2]",
        b'{"tile": [0, 0]}',
        b'{"tile": [0], "extent": [8, 8], "digest": "00"}',
    ],
)
def test_a_damaged_line_costs_its_tile(damage: bytes, tmp_path: Path) -> None:
    path = tmp_path / "K.zarr"
    digest = compute(path, 21)
    lines = the_journal(path).read_bytes().split(b"\n")
    lines[3] = damage
    the_journal(path).write_bytes(b"\n".join(lines))
    handle = StoredGram(path)
    assert (handle.done, handle.state.entries.damaged_lines) == (5, 1)
    assert compute(path, 21) == digest


def test_lines_about_other_tiles_are_ignored(tmp_path: Path) -> None:
    """Tiles outside the matrix, below the diagonal, or with another extent; that is what shrinking files and growth leave."""
    path = tmp_path / "K.zarr"
    with GramStore.open(path, fingerprint(angles(21))) as store:
        fill(store, matrix(angles(21)), [(0, 0)])
    with the_journal(path).open("a") as stream:
        for tile, extent in (((3, 3), (8, 8)), ((1, 0), (8, 8)), ((-1, 0), (8, 8)), ((0, 2), (8, 8))):
            stream.write(journals.line(*tile, extent, "0" * 32))
    assert sorted(StoredGram(path).state.entries.digests) == [(0, 0)]


@pytest.mark.parametrize("broken", ["missing", "short", "long", "empty"])
@pytest.mark.parametrize("place", ["0/1", "1/0"])  # the tile's own chunk, and its mirrored one
def test_a_listed_tile_without_its_chunk_is_computed_again(broken: str, place: str, tmp_path: Path) -> None:
    path = tmp_path / "K.zarr"
    digest = compute(path, 21)
    chunk = path / "c" / place
    content = chunk.read_bytes()
    if broken == "missing":
        chunk.unlink()
    else:
        chunk.write_bytes({"short": content[:-1], "long": content + b"x", "empty": b""}[broken])
    handle = StoredGram(path)
    assert (handle.done, handle.digest, handle.state.lost) == (5, None, ((0, 1),))
    with GramStore.open(path, fingerprint(angles(21)), resume=True) as store:
        assert fill(store, matrix(angles(21))) == 1 and store.digest() == digest
    assert chunk.read_bytes() == content


def test_other_bits_for_a_tile_count_as_they_are_on_disk(tmp_path: Path) -> None:
    """Two machines of different kinds computed one tile; whichever wrote last, digest and content agree."""
    path, ax = tmp_path / "K.zarr", angles(16)
    k = matrix(ax)
    other = k + 1e-16 + np.spacing(k)
    with GramStore.open(path, fingerprint(ax)) as store:
        fill(store, k)
        for name, values in (("z-late", other), ("a-late", k), ("m-last", other)):
            with TileWriter(path, name, store.lease) as writer:
                (digest,) = writer.commit([part(values, store.grid, (0, 1))])
            assert store.reload().done[0, 1] == digest
    handle = StoredGram(path)
    np.testing.assert_array_equal(handle[:8, 8:], other[:8, 8:])
    np.testing.assert_array_equal(handle[8:, :8], other[:8, 8:].T)


def test_an_empty_commit_writes_nothing(tmp_path: Path) -> None:
    with GramStore.open(tmp_path / "K.zarr", fingerprint(angles(21))) as store:
        assert store.commit([]) == []
    assert not list((tmp_path / "K.zarr" / "journal").iterdir())
