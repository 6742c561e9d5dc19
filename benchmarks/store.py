"""Durable tiles against plain zarr, and how long it takes to resume.

    python benchmarks/store.py [--tiles 256] [--repeats 7] [--resume-tiles 100000] [--folder DIR]

Both sides write the same tiles as the same chunk files (float64, side 128, crc32c, no compression) into a new array on the
same disk. Plain zarr makes nothing durable and is given each tile alone, or 16 tiles in one assignment; the store writes,
fsyncs, renames, fsyncs folders, computes digests and keeps its journal, in commits of 16 tiles. They alternate; medians; the
ratio is that to the faster zarr. Its spread is large, because a disk's fsync is. The last line is one JSON document.
"""

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import zarr
from timing import machine

from dqk.store import Fingerprint, GramStore
from dqk.store.files import chunk_path
from dqk.store.journal import FOLDER, header, line

SIDE = 128
GROUP = 16


def fingerprint(n_rows: int, n_columns: int) -> Fingerprint:
    """Of a matrix of nothing in particular."""
    ax, ay = np.zeros((n_rows, 1)), np.ones((n_columns, 1))
    return Fingerprint.of({"gates": []}, "none", SIDE, ax, ay, np.zeros(0))


def plain(folder: Path, tiles: list[np.ndarray], rows: int, grouped: bool = False) -> Callable[[], None]:
    columns = len(tiles) // rows
    array = zarr.create_array(
        folder / "plain.zarr",
        shape=(rows * SIDE, columns * SIDE),
        chunks=(SIDE, SIDE),
        dtype="float64",
        fill_value=np.nan,
        compressors=[zarr.codecs.Crc32cCodec()],
        config={"write_empty_chunks": True},
    )

    def run() -> None:
        if grouped:
            for row in range(rows):
                array[row * SIDE : (row + 1) * SIDE] = np.hstack(tiles[row * columns : (row + 1) * columns])
            return
        for k, values in enumerate(tiles):
            row, column = divmod(k, columns)
            array[row * SIDE : (row + 1) * SIDE, column * SIDE : (column + 1) * SIDE] = values

    return run


def durable(folder: Path, tiles: list[np.ndarray], rows: int) -> Callable[[], None]:
    columns = len(tiles) // rows
    store = GramStore.open(folder / "durable.zarr", fingerprint(rows * SIDE, columns * SIDE))

    def run() -> None:
        for start in range(0, len(tiles), GROUP):
            store.commit([(*divmod(k, columns), tiles[k]) for k in range(start, start + GROUP)])
        store.close()

    return run


def writing(base: Path, count: int, repeats: int) -> dict[str, list[float]]:
    """Seconds per tile in each round."""
    rng = np.random.default_rng(0)
    tiles = [rng.random((SIDE, SIDE)) for _ in range(count)]
    sides = {"zarr": plain, "zarr, 16 at once": partial(plain, grouped=True), "store": durable}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(repeats + 1):
        for name in list(sides)[:: 1 if repeat % 2 == 0 else -1]:
            folder = Path(tempfile.mkdtemp(dir=base))
            run = sides[name](folder, tiles, rows=count // GROUP)
            began = time.perf_counter()
            run()
            if repeat:  # the first round only warms up
                seconds[name].append((time.perf_counter() - began) / count)
            shutil.rmtree(folder)
    return seconds


def resuming(base: Path, count: int) -> float:
    """Seconds until a complete store of so many tiles is open; its chunks have the right size and no content."""
    rows = max(1, round(count**0.5))
    columns = -(-count // rows)
    path = base / "resumed.zarr"
    asked = fingerprint(rows * SIDE, columns * SIDE)
    with GramStore.open(path, asked) as store:
        lines = [header("w0")]
        for row, column in store.grid.tiles():
            chunk = chunk_path(path, row, column)
            if column == 0:
                chunk.parent.mkdir()
            with chunk.open("wb") as stream:
                stream.truncate(store.grid.chunk_bytes)
            lines.append(line(row, column, (SIDE, SIDE), f"{row * columns + column:032x}"))
        (path / FOLDER / "w0.jsonl").write_text("".join(lines))
    began = time.perf_counter()
    with GramStore.open(path, asked, resume=True) as store:
        seconds = time.perf_counter() - began
        assert len(store.done) == store.total >= count
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiles", type=int, default=256, help=f"a multiple of {GROUP}")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--resume-tiles", type=int, default=100_000)
    parser.add_argument(
        "--folder", type=Path, help="on the disk to be measured (default: the system's temporary folder)"
    )
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        rounds = writing(Path(folder), given.tiles, given.repeats)
        seconds = resuming(Path(folder), given.resume_tiles)
    per_tile = {name: statistics.median(values) for name, values in rounds.items()}
    mib = SIDE * SIDE * 8 / 2**20
    for name, value in per_tile.items():
        low, high = 1e3 * min(rounds[name]), 1e3 * max(rounds[name])
        print(f"{name:16} {value * 1e3:7.3f} ms per tile ({low:.3f} to {high:.3f}), {mib / value:7.0f} MiB/s")
    ratio = min(value for name, value in per_tile.items() if name != "store") / per_tile["store"]
    print(
        f"the store writes durably at {ratio:.2f} times the speed of plain zarr {zarr.__version__}, which is not durable"
    )
    print(f"resume of {given.resume_tiles:,} tiles: {seconds:.2f} s")
    milliseconds = {name: [round(1e3 * value, 4) for value in values] for name, values in rounds.items()}
    result = {"write_ratio": ratio, "ms_per_tile": milliseconds, "resume_s": seconds}
    print(
        json.dumps(
            {**result, "tiles": given.tiles, "resume_tiles": given.resume_tiles, "zarr": zarr.__version__, **machine()}
        )
    )


if __name__ == "__main__":
    main()
