"""What it costs to compute a kernel matrix on Ray actors and MPI ranks: two workers against one.

    python benchmarks/executors.py

Every side computes the same tiles with single-threaded workers. `bare` are processes without any communication: the ratio
that this machine allows. Start-up is timed apart; the order turns round every time. Then small tiles, 10,011 at most, show what
scheduling costs the driver. About seven minutes on an otherwise idle machine; the last line is one JSON document.

On a virtual machine, memory that is touched for the first time may cost milliseconds per MiB, and what one side gives back may
keep the kernel busy while the next one runs. So the matrix is small for its work, every process is held to 512 MiB of states, and
every side waits until the machine is idle.
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

MEMORY_MIB = "512"
QUBITS, LAYERS, SIDE = 14, 3, 64  # side of a tile
ONE_THREAD = dict.fromkeys(
    ("DQK_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"
) | {"DQK_MEMORY_MIB": MEMORY_MIB}


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


def settle(most_s: float = 8.0) -> float:
    """Waits until the machine has been idle for a second; gives the seconds that it took."""

    def ticks() -> tuple[int, int]:
        user, nice, system, idle, waiting, *others = map(
            int, Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
        )
        return user + nice + system + sum(others), user + nice + system + idle + waiting + sum(others)

    began, before = time.monotonic(), ticks()
    while time.monotonic() < began + most_s:
        time.sleep(1.0)
        now = ticks()
        if now[0] - before[0] < 0.05 * (now[1] - before[1]):
            break
        before = now
    return time.monotonic() - began


def bare(n: int, part: int, parts: int) -> None:
    """A process that computes its share of the tiles, which lie together and cost the same, and talks to nobody.

    It begins when a line comes on standard input and says when it is done: its start and its end are not timed.
    """
    import torch

    from dqk._pooled import Job
    from dqk._task import _Job
    from dqk.backends import resolve

    made = kernel()
    angles, shared = made.feature_map.angles(torch.from_numpy(samples(n)))
    job = Job(resolve("auto", made.circuit), made.circuit, False, None, None)
    tiles = job.plan(angles, None).tiles.tolist()
    work = _Job(job.arrays(angles, None, shared))
    work.tile(0, 0)
    print("ready", flush=True)
    sys.stdin.readline()
    kept = [work.tile(*tile) for tile in tiles[part * len(tiles) // parts : (part + 1) * len(tiles) // parts]]
    print("done", flush=True)
    assert len(kept) >= len(tiles) // parts


def run_bare(n: int, parts: int) -> tuple[float, float, float]:
    """Seconds to start, of the slowest process, and none of a driver."""
    own = [sys.executable, __file__, "--size", str(n), "--bare"]
    began = time.perf_counter()
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
    began += settle()
    go = time.perf_counter()
    for child in children:
        child.stdin.write("go\n")
        child.stdin.flush()
    for child in children:
        assert child.stdout.readline() == "done\n"
    wall = time.perf_counter() - go
    assert all(child.wait() == 0 for child in children)
    return go - began, wall, 0.0


def run_pool(name: str, workers: int, x: np.ndarray) -> tuple[float, float, float]:
    """Seconds to start, to compute, and of the driver's CPU time."""
    from dqk.cluster import open_pool

    began = time.perf_counter()
    with open_pool(name, workers) as pool:
        timed(pool, x[:256])
        start = time.perf_counter() - began
        settle()
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
    total, (waited, wall, cpu) = time.perf_counter() - began, json.loads(done.stdout.splitlines()[-1])
    return total - waited - wall, wall, cpu


def rank(n: int) -> None:
    """What each rank runs."""
    from dqk.cluster._mpi import MPIPool, is_server, serve

    if is_server():
        serve()
        return
    x = samples(n)
    with MPIPool() as pool:
        timed(pool, x[:256])
        waited = settle()
        found = timed(pool, x)
    print(json.dumps([waited, *found]))


def cost_of_scheduling(n: int) -> None:
    """Prints what the driver of two Ray actors spends on a matrix of small tiles: its CPU time, and memory beyond the result."""
    from dqk import FidelityKernel, gram
    from dqk.cluster import open_pool
    from dqk.kernels.feature_maps import reuploading_feature_map

    def memory() -> int:
        """Bytes of this process's own, without the object store that it shares with Ray."""
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

    small, x = FidelityKernel(reuploading_feature_map(2, layers=1)), samples(n)[:, :2].copy()
    with open_pool("ray", 2) as pool:
        gram(small, x[:2560], executor=pool)
        before, cpu, wall = memory(), time.process_time(), time.perf_counter()
        result = gram(small, x, executor=pool)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    print(json.dumps({"cpu": cpu, "wall": wall, "memory": memory() - before - result.nbytes}))


def run_scheduling(n: int) -> dict[str, float]:
    """In a process of its own, as the peak of memory never sinks."""
    own = [sys.executable, __file__, "--size", str(n), "--scheduling"]
    one_thread = {name: value for name, value in ONE_THREAD.items() if name != "DQK_MEMORY_MIB"}
    done = subprocess.run(own, env=os.environ | one_thread, capture_output=True, text=True, check=True)
    found, tiles = json.loads(done.stdout.splitlines()[-1]), tiles_of(n, 128)
    return {
        "tiles": tiles,
        "driver_ms_per_tile": 1e3 * found["cpu"] / tiles,
        "wall_ms_per_tile": 1e3 * found["wall"] / tiles,
        "memory_beyond_result_mib": found["memory"] / 2**20,
    }


def tiles_of(n: int, side: int) -> int:
    """Tiles in the triangle of a matrix."""
    blocks = -(-n // side)
    return blocks * (blocks + 1) // 2


def measure(n: int, names: tuple[str, ...], rounds: int) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Seconds of each side in each round, the order turned round every time; and what else was seen."""
    x, seconds, notes = samples(n), {}, {}
    sides = [(name, workers) for workers in (1, 2) for name in names if (name, workers) != ("inline", 1)]
    for turn in range(rounds):
        for name, workers in sides if turn % 2 == 0 else sides[::-1]:
            match name:
                case "bare":
                    start, wall, cpu = run_bare(n, workers)
                case "mpi":
                    start, wall, cpu = run_mpi(n, workers)
                case _:
                    start, wall, cpu = run_pool(name, workers, x)
            seconds.setdefault(f"{name} {workers}", []).append(wall)
            notes[f"{name} {workers}: start-up, s"] = start
            if name in ("ray", "processes"):
                notes[f"{name} {workers}: driver CPU per tile, ms"] = 1e3 * cpu / tiles_of(n, SIDE)
            print(f"{name:10s} {workers} workers  {wall:7.2f} s", flush=True)
    return seconds, notes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=4_224, help="samples (default: 2,211 tiles, 30 s for one worker)")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--processes", action="store_true", help="also measure the process pool")
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    parser.add_argument("--bare", help=argparse.SUPPRESS)
    parser.add_argument("--rank", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--scheduling", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.bare:
        return bare(given.size, *map(int, given.bare.split("/")))
    if given.rank:
        return rank(given.size)
    if given.scheduling:
        return cost_of_scheduling(given.size)
    os.environ["DQK_MEMORY_MIB"] = MEMORY_MIB
    pools = ("ray", "mpi", "processes") if given.processes else ("ray", "mpi")
    seconds, notes = measure(given.size, ("bare", *pools, "inline"), given.rounds)

    def ratio(over: str, under: str) -> float:
        """Median over the rounds, each of which has both sides."""
        return statistics.median(a / b for a, b in zip(seconds[over], seconds[under], strict=True))

    print(f"\n{given.size} samples, {QUBITS} qubits, {LAYERS} layers, {tiles_of(given.size, SIDE)} tiles; {machine()}")
    ratios = {name: round(ratio(f"{name} 1", f"{name} 2"), 4) for name in (*pools, "bare")}
    document = {
        **ratios,
        "of_bare": {name: round(ratios[name] / ratios["bare"], 4) for name in pools},
        "inline_over": {name: round(ratio("inline 2", f"{name} 2"), 4) for name in pools},
    }
    for name in pools:
        print(
            f"{name:10s} one worker / two: {ratios[name]:.3f} ({document['of_bare'][name]:.3f} of bare, goal 0.95); "
            f"speed against inline with 2 threads: {document['inline_over'][name]:.3f} (goal 0.95)"
        )
    for note, value in notes.items():
        print(f"{note}: {value:.2f}")
    del os.environ["DQK_MEMORY_MIB"]
    scheduling = [run_scheduling(n) for n in (8_960, 18_048)]
    for found in scheduling:
        print(", ".join(f"{name} {value:.3g}" for name, value in found.items()) + " (Ray, tiles of 2 qubits)")
    if given.json:
        kept = {"machine": machine(), "seconds": seconds, "notes": notes, "scheduling": scheduling, **document}
        given.json.write_text(json.dumps(kept, indent=1) + "\n")
    print(json.dumps(document))


if __name__ == "__main__":
    main()
