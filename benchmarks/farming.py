"""A QK-LSTM whose kernel values come from eight devices that take 50 ms a job: steps per second against one device.

    python benchmarks/farming.py

A device is a thread that sleeps 50 ms and then computes its job, one job at a time, as a QPU behind a queue would. Jobs hold two
sequences of one time step, whatever the number of devices: the same jobs in all on every side. A step is forward and backward of a
batch of 32 over 6 time steps, so 192 jobs; what else it takes is small beside them. Where a job may
hold the whole batch and takes 50 ms all the same, one device is enough: that is shown, too. The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import torch
from timing import machine

from dqk import QKLSTM
from dqk._task import run_task
from dqk.cluster import Done, InlinePool, Joined, Worker

BATCH, STEPS, JOB_S = 32, 6, 0.05


class Devices(InlinePool):
    """Workers that each do one job after the other, 50 ms longer than the job takes."""

    name = "devices"

    def __init__(self, count: int):
        super().__init__(count)
        self._devices = {f"device-{k + 1}": threading.Lock() for k in range(count)}

    def start(self) -> None:
        self._threads = ThreadPoolExecutor(2 * len(self._devices))
        for worker in self.workers():
            self._events.put(Joined(worker))

    def workers(self) -> tuple[Worker, ...]:
        return tuple(map(Worker, self._devices))

    def submit(self, worker: str, ticket: int, task: bytes) -> None:
        self._threads.submit(self._job, worker, ticket, task)

    def _job(self, worker: str, ticket: int, task: bytes) -> None:
        with self._devices[worker]:
            time.sleep(JOB_S)
            result = run_task(task, self._arrays)
        self._events.put(Done(worker, ticket, result))


def step_seconds(workers: int, micro_batch: int, repeats: int) -> float:
    """Median seconds of a training step."""
    torch.manual_seed(0)
    x = torch.randn(STEPS, BATCH, 8)
    seconds = []
    with Devices(workers) as pool:
        model = QKLSTM(8, 6, n_qubits=4, executor=pool, farm="always", micro_batch=micro_batch)
        for _ in range(repeats):
            began = time.perf_counter()
            model(x)[0].square().mean().backward()
            seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    one, eight = (step_seconds(workers, 2, given.repeats) for workers in (1, 8))
    whole = step_seconds(8, BATCH, given.repeats)
    jobs = 2 * STEPS * BATCH // 2
    print(f"{BATCH} sequences, {STEPS} time steps, {jobs} jobs of {1e3 * JOB_S:g} ms; {machine()}")
    print(f"1 device  {one:6.2f} s a step\n8 devices {eight:6.2f} s a step: {one / eight:.2f}x (goal 6)")
    print(
        f"8 devices, the whole batch as one job {whole:6.2f} s a step (a device for which a job's size does not matter)"
    )
    print(json.dumps({"one": one, "eight": eight, "ratio": round(one / eight, 3), "whole_batch": whole}))


if __name__ == "__main__":
    main()
