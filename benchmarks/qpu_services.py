"""Sections of `benchmarks/qpu.py` that run QPU services on the loopback interface: jobs, fleets, and what a client costs.

Each service is a process of its own, started here and ended here. Its time for a job is waited for, as a device would take it.
"""

import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from dqk import FidelityKernel, gram
from dqk._run import Observer
from dqk.circuit import simplify_for_fidelity
from dqk.kernels.feature_maps import zz_feature_map
from dqk.qpu.backend import QPUBackend
from dqk.qpu.pool import QPUPool


@contextmanager
def services(count: int, profile: str) -> Iterator[list[str]]:
    """URLs of services with this profile."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "profile.toml"
        path.write_text(profile)
        command = [sys.executable, "-m", "dqk", "qpu", "serve", "--qubits", "8", "--profile", str(path)]
        running = [
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            for _ in range(count)
        ]
        timer = threading.Timer(120, lambda: [process.kill() for process in running])
        timer.start()
        try:
            urls = [process.stdout.readline().strip() for process in running if process.stdout]
            timer.cancel()
            yield urls
        finally:
            timer.cancel()
            for process in running:
                process.terminate()
            for process in running:
                process.wait()


class Jobs(Observer):
    """Counts what is submitted."""

    def __init__(self) -> None:
        self.jobs = self.circuits = 0

    def submitted(self, circuits: int, shots: int, device_s: float) -> None:
        """One job."""
        self.jobs += 1
        self.circuits += circuits


def report_jobs() -> dict[str, Any]:
    """Jobs of a symmetric matrix of 200 samples."""
    x, found = np.random.default_rng(0).uniform(-1, 1, (200, 2)), {}
    print("jobs of a symmetric 200 x 200 matrix, over ceil(19,900 / circuits in a job)")
    for most in (100, 300, 1000):
        with services(1, f"[limits]\nmax_circuits_per_job = {most}\n") as urls, QPUPool(urls) as pool:
            counted = Jobs()
            gram(FidelityKernel(zz_feature_map(2), shots=100), x, seed=0, executor=pool, progress=counted)
        least = -(-19_900 // most)
        found[str(most)] = {"jobs": counted.jobs, "least": least, "circuits": counted.circuits}
        print(f"  {most:5} circuits a job: {counted.jobs} jobs, ratio {counted.jobs / least:.3f}")
    return found


def report_fleet(rounds: int = 3) -> dict[str, Any]:
    """Time of one matrix on one service and on eight, each of which takes a quarter of a second for a job."""
    x = np.random.default_rng(0).uniform(-1, 1, (180, 2))  # 161 jobs of 100 circuits: 20 for each of eight
    kernel, taken = FidelityKernel(zz_feature_map(2), shots=100), {1: [], 8: []}
    with services(8, "[limits]\nmax_circuits_per_job = 100\n[times]\njob_s = 0.25\n") as urls:
        for _ in range(rounds):
            for count in taken:
                with QPUPool(urls[:count]) as pool:
                    began = time.perf_counter()
                    gram(kernel, x, seed=0, executor=pool)
                    taken[count].append(time.perf_counter() - began)
    one, eight = (statistics.median(taken[count]) for count in (1, 8))
    print(f"eight services over one, 0.25 s a job: {one:.1f} s and {eight:.2f} s, ratio {one / eight:.2f}")
    return {"one_s": one, "eight_s": eight, "ratio": one / eight, "jobs": 162}


def report_client(jobs: int = 60, job_s: float = 0.05) -> dict[str, Any]:
    """What a job costs beside the time of the device: angles to a table, submission, queue, result, on loopback.

    The service simulates while it waits for its own time to pass, so that only what comes before and after it counts.
    """
    circuit = simplify_for_fidelity(zz_feature_map(4).circuit).circuit
    rng, found = np.random.default_rng(0), {}
    print("a job beside the device's own time, median: angles, submission, queue, result")
    for rows in (1, 100, 1000):
        left, right = rng.uniform(-1, 1, (2, rows, circuit.n_data))
        with services(1, f"[times]\njob_s = {job_s}\n") as (url,):
            backend, taken = QPUBackend(url), []
            for _ in range(jobs):
                began = time.perf_counter()
                backend.run(circuit, left, right, np.zeros(0), 1000)
                taken.append(time.perf_counter() - began)
        overhead = statistics.median(taken) - job_s
        found[str(rows)] = {"job_s": statistics.median(taken), "overhead_s": overhead}
        print(f"  {rows:5} rows: {1e3 * overhead:.2f} ms")
    return found
