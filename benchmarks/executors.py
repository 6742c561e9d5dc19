"""What it costs to compute a kernel matrix on Ray actors and MPI ranks: two workers against one.

    python benchmarks/executors.py

Every side computes the same tiles with single-threaded workers. `bare` are processes without any communication: the ratio
that this machine allows. Start-up is timed apart; sides alternate. The last line is one JSON document with the ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from timing import machine

QUBITS, LAYERS = 12, 3
ONE_THREAD = dict.fromkeys(
    ("DQK_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"
)


def samples(n: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (n, QUBITS))


def kernel():
    from dqk import FidelityKernel
    from dqk.kernels.feature_maps import reuploading_feature_map

    return FidelityKernel(reuploading_feature_map(QUBITS, layers=LAYERS))


def timed(pool, x: np.ndarray) -> tuple[float, float]:
    """Seconds of wall time, and of this process's own CPU time."""
    from dqk import gram

    wall, cpu = time.perf_counter(), time.process_time()
    gram(kernel(), x, executor=pool)
    return time.perf_counter() - wall, time.process_time() - cpu


def bare(n: int, part: int, parts: int) -> None:
    """A process that computes every `parts`-th tile and talks to nobody; waits for a line on standard input to begin."""
    from dqk._pooled import Job
    from dqk._task import _Job
    from dqk.backends import resolve

    made = kernel()
    angles, shared = made.feature_map.angles(_tensor(samples(n)))
    job = Job(resolve("auto", made.circuit), made.circuit, False, None, None)
    tiles = job.plan(angles, None).tiles.tolist()
    work = _Job(job.arrays(angles, None, shared))
    work.tile(0, 0)
    result = np.empty((n, n))
    print("ready", flush=True)
    sys.stdin.readline()
    side = job.side(angles.dtype)
    for row, column in tiles[part::parts]:
        value = work.tile(row, column)
        r, c = (slice(k * side, k * side + length) for k, length in zip((row, column), value.shape, strict=True))
        result[r, c] = value
        result[c, r] = value.T


def _tensor(x: np.ndarray):
    import torch

    return torch.from_numpy(x)


def run_bare(n: int, parts: int) -> float:
    own = [sys.executable, __file__, "--size", str(n), "--bare"]
    children = [
        subprocess.Popen(
            [*own, f"{k}/{parts}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | ONE_THREAD,
        )
        for k in range(parts)
    ]
    for child in children:
        assert child.stdout.readline() == "ready\n"
    began = time.perf_counter()
    for child in children:
        child.stdin.write("go\n")
        child.stdin.flush()
    assert all(child.wait() == 0 for child in children)
    return time.perf_counter() - began


def run_pool(name: str, workers: int, x: np.ndarray) -> tuple[float, float, float]:
    """Seconds to start, to compute, and of the driver's CPU time."""
    from dqk.cluster import open_pool

    began = time.perf_counter()
    with open_pool(name, workers) as pool:
        timed(pool, x[:256])
        start = time.perf_counter() - began
        return start, *timed(pool, x)


def run_mpi(n: int, ranks: int) -> tuple[float, float, float]:
    launch = [
        str(Path(sys.executable).with_name("mpiexec")),
        "-n",
        str(ranks),
        sys.executable,
        "-m",
        "mpi4py",
        __file__,
    ]
    began = time.perf_counter()
    done = subprocess.run(
        [*launch, "--size", str(n), "--rank"], env=os.environ | ONE_THREAD, capture_output=True, text=True, check=True
    )
    total, (wall, cpu) = time.perf_counter() - began, json.loads(done.stdout.splitlines()[-1])
    return total - wall, wall, cpu


def rank(n: int) -> None:
    """What each rank runs."""
    from dqk.cluster._mpi import MPIPool, is_server, serve

    if is_server():
        serve()
        return
    x = samples(n)
    with MPIPool() as pool:
        timed(pool, x[:256])
        found = timed(pool, x)
    print(json.dumps(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--size", type=int, default=10_752, help="samples (default: 3,570 tiles, about 30 s for one worker)"
    )
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    parser.add_argument("--bare", help=argparse.SUPPRESS)
    parser.add_argument("--rank", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.bare:
        return bare(given.size, *map(int, given.bare.split("/")))
    if given.rank:
        return rank(given.size)
    x = samples(given.size)
    tiles = (-(-given.size // 128)) * (-(-given.size // 128) + 1) // 2
    seconds: dict[str, list[float]] = {}
    notes: dict[str, float] = {}
    for _ in range(given.rounds):
        for name in ("bare", "ray", "mpi", "processes", "inline"):
            for workers in (2,) if name == "inline" else (1, 2):
                if name == "bare":
                    wall = run_bare(given.size, workers)
                else:
                    start, wall, cpu = run_mpi(given.size, workers) if name == "mpi" else run_pool(name, workers, x)
                    notes[f"{name} start-up, s"] = start
                    if name in ("ray", "processes"):
                        notes[f"{name} driver CPU per tile, ms"] = 1e3 * cpu / tiles
                seconds.setdefault(f"{name} {workers}", []).append(wall)
                print(f"{name:10s} {workers} workers  {wall:7.2f} s", flush=True)
    medians = {side: statistics.median(found) for side, found in seconds.items()}
    ratios = {name: medians[f"{name} 1"] / medians[f"{name} 2"] for name in ("ray", "mpi", "processes", "bare")}
    print(f"\n{given.size} samples, {QUBITS} qubits, {LAYERS} layers, {tiles} tiles; {machine()}")
    for name, ratio in ratios.items():
        share, inline = ratio / ratios["bare"], medians["inline 2"] / medians[f"{name} 2"]
        print(
            f"{name:10s} one worker / two: {ratio:.3f} ({share:.3f} of bare); speed against inline with 2 threads: {inline:.3f}"
        )
    for note, value in notes.items():
        print(f"{note}: {value:.2f}")
    document = {name: round(ratio, 4) for name, ratio in ratios.items()}
    document["inline_over"] = {name: round(medians["inline 2"] / medians[f"{name} 2"], 4) for name in ratios}
    if given.json:
        given.json.write_text(
            json.dumps({"machine": machine(), "seconds": seconds, "notes": notes, **document}, indent=1) + "\n"
        )
    print(json.dumps(document))


if __name__ == "__main__":
    main()
