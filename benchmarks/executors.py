"""What it costs to compute a kernel matrix on Ray actors and MPI ranks: two workers against one.

    python benchmarks/executors.py

Every side computes the same tiles with single-threaded workers. `bare` are processes without any communication: the ratio
that this machine allows. All sides are started first, which is not timed; then they take turns with a matrix of some ten
seconds for one worker, seven times, with other samples every round, the order turned round every time. A ratio is the median
over the rounds of what stood side by side, since the speed of such machines changes by a tenth within minutes. Then small
tiles, 10,011 at most, show what scheduling costs the driver. Seven minutes on an otherwise idle machine; the last line is one
JSON document.

On a virtual machine, memory that is touched for the first time may cost milliseconds per MiB, and what one side gives back may
keep the kernel busy while the next one runs. So the matrix is small for its work, every process is held to 512 MiB of states, and
every turn waits until the machine is idle.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from timing import machine

MEMORY_MIB = "512"
QUBITS, LAYERS, SIDE = 14, 3, 64  # side of a tile
ONE_THREAD = dict.fromkeys(
    ("DQK_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"
) | {"DQK_MEMORY_MIB": MEMORY_MIB}


def samples(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (n, QUBITS))


def kernel():
    from dqk import FidelityKernel
    from dqk.kernels.feature_maps import reuploading_feature_map

    return FidelityKernel(reuploading_feature_map(QUBITS, layers=LAYERS))


def settle(most_s: float = 60.0) -> float:
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


class Side(Protocol):
    """Workers that wait for their turn without using a core."""

    def prepare(self, n: int, seed: int) -> None:
        """Makes the samples; not timed."""

    def compute(self) -> None:
        """The whole matrix; timed."""


class Pool:
    """A pool of this process."""

    def __init__(self, pool: Any):
        self.pool, self.driver_s = pool, 0.0

    def prepare(self, n: int, seed: int) -> None:
        self.x = samples(n, seed)

    def compute(self) -> None:
        from dqk import gram

        began = time.process_time()
        gram(kernel(), self.x, executor=self.pool)
        self.driver_s = time.process_time() - began


class Programs:
    """Processes that read their orders, lines `n seed` and `go`, and answer each with a line and their process number."""

    def __init__(self, commands: list[list[str]], idle: list[int] | None = None):
        environment = os.environ | ONE_THREAD
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.children = [subprocess.Popen(command, env=environment, **pipes) for command in commands]
        self.stopped: list[int] = []

    def prepare(self, n: int, seed: int) -> None:
        for process in self.stopped:
            os.kill(process, signal.SIGCONT)
        self._order(f"{n} {seed}")

    def compute(self) -> None:
        self._order("go")

    def rest(self) -> None:
        """MPI ranks look for messages while they wait, hundreds of times a second, so they are stopped until their turn."""
        for process in self.stopped:
            os.kill(process, signal.SIGSTOP)

    def _order(self, line: str) -> list[list[int]]:
        for child in self.children:
            child.stdin.write(line + "\n")
            child.stdin.flush()
        answers = [child.stdout.readline() for child in self.children]
        if not all(answers):
            raise SystemExit(f"a process of the benchmark ended: {[child.args for child in self.children]}")
        return [json.loads(answer) for answer in answers]

    def close(self) -> None:
        for process in self.stopped:
            os.kill(process, signal.SIGCONT)
        for child in self.children:
            child.stdin.close()
            if child.wait(timeout=60) != 0:
                raise SystemExit(f"{child.args} ended with {child.returncode}")


def orders() -> Iterator[tuple[int, int] | None]:
    """What `Programs` asks for: (n, seed) of samples to make, or None to compute; answered before the next one."""
    for line in sys.stdin:
        yield None if line == "go\n" else tuple(map(int, line.split()))  # type: ignore[misc]


def answer(processes: list[int]) -> None:
    print(json.dumps(processes), flush=True)


def bare(part: int, parts: int) -> None:
    """A process that computes its share of the tiles, which lie together and cost the same, and talks to nobody."""
    import torch

    from dqk._pooled import Job
    from dqk._task import _Job
    from dqk.backends import resolve

    made = kernel()
    job = Job(resolve("auto", made.circuit), made.circuit, False, None, None)
    for order in orders():
        if order is not None:
            angles, shared = made.feature_map.angles(torch.from_numpy(samples(*order)))
            tiles = job.plan(angles, None).tiles.tolist()
            mine = tiles[part * len(tiles) // parts : (part + 1) * len(tiles) // parts]
            work = _Job(job.arrays(angles, None, shared))
        else:
            kept = [work.tile(*tile) for tile in mine]
            assert len(kept) == len(mine)
            del kept
        answer([os.getpid()])


def rank() -> None:
    """What each MPI rank runs: rank 0 reads the orders."""
    from dqk import gram
    from dqk.cluster._mpi import MPIPool, is_server, load_mpi, serve

    processes = load_mpi().COMM_WORLD.gather(os.getpid())
    if is_server():
        return serve()
    with MPIPool() as pool:
        for order in orders():
            if order is not None:
                x = samples(*order)
            else:
                gram(kernel(), x, executor=pool)
            answer(processes)


@contextlib.contextmanager
def sides(names: tuple[str, ...]) -> Iterator[dict[str, Side]]:
    """All sides by name, started and warm; neighbours are what is compared."""
    from dqk.cluster import open_pool
    from dqk.cluster._ray_session import ray_session

    own = [sys.executable, __file__]
    mpi = [str(Path(sys.executable).with_name("mpiexec")), "-n"]
    found: dict[str, Side] = {}
    with contextlib.ExitStack() as stack:
        if "ray" in names:
            stack.enter_context(ray_session("local", 5))
        for workers in (1, 2):
            for name in names:
                if name == "bare":
                    side: Any = Programs([[*own, "--bare", f"{k}/{workers}"] for k in range(workers)])
                elif name == "mpi":
                    side = Programs([[*mpi, str(workers), sys.executable, "-m", "mpi4py", __file__, "--rank"]])
                elif (name, workers) == ("inline", 1):
                    continue
                else:
                    side = Pool(stack.enter_context(open_pool(name, workers)))
                if isinstance(side, Programs):
                    stack.callback(side.close)
                began = time.perf_counter()
                side.prepare(256, 0)
                if name == "mpi":
                    (side.stopped,) = side._order("256 0")
                side.compute()
                if isinstance(side, Programs):
                    side.rest()
                print(f"{name} {workers}: ready after {time.perf_counter() - began:.1f} s", flush=True)
                found[f"{name} {workers}"] = side
        yield found


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
    """Seconds of each side in each round, and the driver's CPU time per tile of pools in this process."""
    seconds: dict[str, list[float]] = {}
    driver_ms: dict[str, float] = {}
    with sides(names) as running:
        for turn in range(rounds):
            for name in list(running) if turn % 2 == 0 else list(running)[::-1]:
                side = running[name]
                seconds.setdefault(name, []).append(take_turn(side, n, turn + 1))
                if isinstance(side, Pool):
                    driver_ms[name] = 1e3 * side.driver_s / tiles_of(n, SIDE)
                print(f"round {turn + 1}: {name:12s} {seconds[name][-1]:7.2f} s", flush=True)
    return seconds, driver_ms


def take_turn(side: Any, n: int, seed: int) -> float:
    """Seconds for a matrix; again, at most twice, if the machine is not idle soon after it: others were using it."""
    for _ in range(3):
        side.prepare(n, seed)
        settle()
        began = time.perf_counter()
        side.compute()
        wall = time.perf_counter() - began
        if isinstance(side, Programs):
            side.rest()
        if settle() < 4.0:
            break
        print(f"({wall:.2f} s while other programs were running: once more)", flush=True)
    return wall


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=2_880, help="samples (default: 1,035 tiles)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--processes", action="store_true", help="also measure the process pool")
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    parser.add_argument("--bare", help=argparse.SUPPRESS)
    parser.add_argument("--rank", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--scheduling", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.bare:
        return bare(*map(int, given.bare.split("/")))
    if given.rank:
        return rank()
    if given.scheduling:
        return cost_of_scheduling(given.size)
    os.environ["DQK_MEMORY_MIB"] = MEMORY_MIB
    pools = ("ray", "mpi", "processes") if given.processes else ("ray", "mpi")
    seconds, driver_ms = measure(given.size, ("bare", *pools, "inline"), given.rounds)
    del os.environ["DQK_MEMORY_MIB"]

    def median(over: str, under: str, of: str = "", to: str = "") -> float:
        """Of over / under, or of (over / under) / (of / to), over the rounds."""
        found = [a / b for a, b in zip(seconds[over], seconds[under], strict=True)]
        if of:
            found = [r * b / a for r, a, b in zip(found, seconds[of], seconds[to], strict=True)]
        return round(statistics.median(found), 4)

    print(f"\n{given.size} samples, {QUBITS} qubits, {LAYERS} layers, {tiles_of(given.size, SIDE)} tiles; {machine()}")
    document = {
        **{name: median(f"{name} 1", f"{name} 2") for name in (*pools, "bare")},
        "of_bare": {name: median(f"{name} 1", f"{name} 2", "bare 1", "bare 2") for name in pools},
        "inline_over": {name: median("inline 2", f"{name} 2") for name in pools},
    }
    print(f"bare       one worker / two: {document['bare']:.3f}")
    for name in pools:
        print(
            f"{name:10s} one worker / two: {document[name]:.3f} ({document['of_bare'][name]:.3f} of bare, goal 0.95); "
            f"speed against inline with 2 threads: {document['inline_over'][name]:.3f} (goal 0.95)"
        )
    for name, value in driver_ms.items():
        print(f"{name}: {value:.2f} ms of this process per tile")
    scheduling = [run_scheduling(n) for n in (8_960, 18_048)]
    for found in scheduling:
        print(", ".join(f"{name} {value:.3g}" for name, value in found.items()) + " (Ray, tiles of 2 qubits)")
    if given.json:
        kept = {"machine": machine(), "seconds": seconds, "driver_ms": driver_ms, "scheduling": scheduling, **document}
        given.json.write_text(json.dumps(kept, indent=1) + "\n")
    print(json.dumps(document))


if __name__ == "__main__":
    main()
