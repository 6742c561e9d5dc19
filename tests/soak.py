"""Random kills, many of them: `make soak`, or `python -m tests.soak --kills 200 --program 10 --seed 0`.

Drivers of stores are ended by SIGKILL at random moments and started again until their matrix is complete. They run alone,
with workers that outlive them for a while, or as shards of one store; some matrices grow on the way. Then `dqk gram` itself is
killed, with its worker processes. After every kill the store must verify, and in the end hold the bits of a run that
nobody disturbed. Prints the seed; with the same seed it draws the same moments, but no machine is as punctual.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from dqk.errors import StoreError
from dqk.store import GramStore, StoredGram, TileWriter
from dqk.store.check import verify
from dqk.store.journal import Tile
from tests.store.problems import angles, fill, fingerprint, matrix, part

SIZES = (29, 45, 61, 90, 122)
fork = multiprocessing.get_context("fork")


def alone(path: Path, n: int) -> None:
    ax = angles(n)
    with GramStore.open(path, fingerprint(ax), resume=True) as store:
        fill(store, matrix(ax), group=random.randint(1, 6))


def shard(path: Path, n: int, i: int, k: int) -> None:
    ax = angles(n)
    with GramStore.open(path, fingerprint(ax), resume=True, shard=(i, k)) as store:
        fill(store, matrix(ax), [tile for m, tile in enumerate(store.grid.tiles()) if m % k == i - 1], group=2)


def with_workers(path: Path, n: int, orphans: multiprocessing.SimpleQueue) -> None:
    """A driver whose workers commit; when it is killed they go on until they find that the lease is not theirs."""
    ax = angles(n)
    with GramStore.open(path, fingerprint(ax), resume=True) as store:
        todo = [tile for tile in store.grid.tiles() if tile not in store.done]
        workers = [fork.Process(target=work, args=(path, n, store.lease, todo[m::2])) for m in range(2)]
        for worker in workers:
            worker.start()
            orphans.put(worker.pid)
        for worker in workers:
            worker.join()


def work(path: Path, n: int, lease: str, tiles: list[Tile]) -> None:
    k = matrix(angles(n))
    with TileWriter(path, f"worker-{os.getpid()}", lease) as writer:
        for tile in tiles:
            try:
                writer.commit([part(k, writer.grid, tile)])
            except StoreError:
                return


def wait_for(orphans: multiprocessing.SimpleQueue) -> None:
    while not orphans.empty():
        pid = orphans.get()
        while True:
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                break
            if fields[0] in "ZX":
                break
            time.sleep(0.005)


def check(path: Path) -> None:
    if (path / "zarr.json").exists():
        found = verify(path)
        assert not found.damaged, f"{path}: {found.damaged}"


def endure(drivers: list, patience_s: float) -> int:
    """Starts drivers and kills them when a random time has passed; how many were still running."""
    kills = 0
    for driver in drivers:
        driver.start()
    for driver in drivers:
        driver.join(random.uniform(0, patience_s))
        if driver.is_alive():
            driver.kill()
            kills += 1
        driver.join()
        assert driver.exitcode in (0, -signal.SIGKILL), f"{driver}: exit code {driver.exitcode}"
    return kills


def one_matrix(folder: Path, number: int) -> int:
    """Computes a matrix through kills; their number."""
    path, kills = folder / f"{number}.zarr", 0
    orphans = fork.SimpleQueue()
    sizes = sorted(random.sample(SIZES, random.choice([1, 2])))
    # The longest a start may live; it grows, so that every matrix is completed.
    patience_s = 0.05
    for n in sizes:
        complete = False
        while not complete:
            mode = random.choice(["alone", "workers", "shards"])
            jobs = {
                "alone": [(alone, (path, n))],
                "workers": [(with_workers, (path, n, orphans))],
                "shards": [(shard, (path, n, i, 3)) for i in (1, 2, 3)],
            }[mode]
            drivers = [fork.Process(target=job, args=arguments) for job, arguments in jobs]
            try:
                kills += endure(drivers, patience_s)
            finally:
                for driver in drivers:
                    driver.kill()
                    driver.join()
            if random.random() < 0.5:  # else the next driver meets workers that are still busy
                wait_for(orphans)
                check(path)
            complete = (
                (path / "zarr.json").exists()
                and StoredGram(path).shape == (n, n)
                and StoredGram(path).digest is not None
            )
            patience_s *= 1.15
    wait_for(orphans)
    check(path)
    expected = matrix(angles(sizes[-1]))
    assert np.asarray(StoredGram(path)).tobytes() == expected.tobytes()
    return kills


def program(folder: Path, kills: int) -> None:
    """Kills `dqk gram` so often; matrices that are completed on the way are begun anew."""
    np.save(folder / "X.npy", np.random.default_rng(0).uniform(-1, 1, (6000, 30)))
    command = [
        sys.executable,
        "-m",
        "dqk",
        "gram",
        "X.npy",
        "--executor",
        "processes",
        "--workers",
        "2",
        "--json",
        "-o",
    ]

    def run(out: str, *more: str) -> dict:
        done = subprocess.run([*command, out, *more], cwd=folder, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    began = time.monotonic()
    whole = run("whole.zarr")
    usual_s, died, completed = time.monotonic() - began, 0, 0
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    path = folder / "K.zarr"
    while died < kills:
        driver = subprocess.Popen([*command, path.name, "--resume"], cwd=folder, **quiet)
        try:
            assert driver.wait(random.uniform(0.2, 1.0) * usual_s) == 0
        except subprocess.TimeoutExpired:
            driver.kill()
            driver.wait()
            died += 1
        check(path)
        if (path / "zarr.json").exists() and StoredGram(path).digest is not None:
            assert verify(path).digest == whole["digest"]
            path = folder / f"K{died}.zarr"
            completed += 1
    assert run(path.name, "--resume")["digest"] == verify(path).digest == whole["digest"]
    print(f"dqk gram: {died} kills, {completed + 1} matrices, every one as if undisturbed", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="of drivers of small stores")
    parser.add_argument("--program", type=int, default=10, help="further kills of `dqk gram`")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    random.seed(given.seed)
    with tempfile.TemporaryDirectory() as name:
        folder, kills, matrices = Path(name), 0, 0
        while kills < given.kills:
            kills += one_matrix(folder, matrices)
            matrices += 1
        print(f"stores: {kills} kills, {matrices} matrices, every one as if undisturbed", flush=True)
        if given.program:
            program(folder, given.program)


if __name__ == "__main__":
    main()
