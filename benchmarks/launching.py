"""How long a job of Slurm takes to its first tile, and to save its state after a warning.

`python benchmarks/launching.py`, as root with Slurm installed (`make slurm`), raises a Slurm of two virtual nodes on this machine,
launches a kernel matrix by MPI and by Ray, and prints seconds: from submission to the first tile in the store, from the warning
to the end of the program, and how many tiles the job that was queued again had to compute once more. The last line is a JSON
document.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.timing import machine
from dqk.cluster import launch
from dqk.cluster.launchers import SlurmOptions
from tests.slurm.cluster import missing, slurm

GOALS = {"ray": 60, "mpi": 10, "save": 5}


def until(true: Callable[[], Any]) -> float:
    """The moment at which something is first so."""
    deadline = time.monotonic() + 180
    while not true():
        if time.monotonic() > deadline:
            raise SystemExit("nothing happens for three minutes")
        time.sleep(0.02)
    return time.monotonic()


def measure(engine: str) -> dict[str, float]:
    """One job, warned after its first tiles."""
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        np.save("X.npy", np.random.default_rng(0).uniform(-1, 1, (4000, 10)))
        words = f"gram X.npy -o K.zarr --feature-map reuploading --executor {engine} --json"
        began = time.monotonic()
        job = launch(words, SlurmOptions(nodes=2), run="run")
        first = until(lambda: any(Path("K.zarr").glob("c/*/*")))
        os.system(f"scancel --signal=USR1 --batch {job.job}")
        warned = time.monotonic()
        saved = until(lambda: "stopped: by signal" in job.logs())
        found = job.result()
        assert found is not None
        (line,) = (line for line in job.logs().splitlines() if "tiles are there" in line)
        os.chdir("/")
    again = found["computed"] + int(line.split()[0]) - found["tiles"]
    return {"first_tile_s": first - began, "save_s": saved - warned, "tiles_computed_again": again}


def main() -> None:
    """Prints medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    if lacks := missing():
        raise SystemExit(f"no Slurm can be raised here: {lacks}")
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])
    figures: dict[str, Any] = {}
    with slurm(n_nodes=2, cpus=2, gpus=2) as cluster:
        os.environ["SLURM_CONF"] = cluster.environment()["SLURM_CONF"]
        for engine in ("mpi", "ray"):
            measure(engine)  # compiles
            runs = [measure(engine) for _ in range(repeats)]
            figures[engine] = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
            print(
                f"{engine}: first tile {figures[engine]['first_tile_s']:.1f} s after submission (goal {GOALS[engine]}), state "
                f"saved {figures[engine]['save_s']:.1f} s after the warning (goal {GOALS['save']}), "
                f"{figures[engine]['tiles_computed_again']:g} tiles computed again"
            )
    print(json.dumps({**figures, "goals": GOALS, "repeats": repeats, **machine()}))


if __name__ == "__main__":
    main()
