"""What each of several workers on one node may use: its share of the CPUs, its GPU, and the environment that says so."""

from __future__ import annotations

import os
from pathlib import Path

from dqk._resources import cpu_threads
from dqk.errors import InvalidInputError

_LIBRARY_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


def threads_per_worker(workers: int) -> int:
    """Threads for each of so many workers on this node: what this process may keep busy, divided, and at least 1.

    Raises:
        InvalidInputError: if there is no worker to divide among.
    """
    if workers < 1:
        raise InvalidInputError(f"the CPUs of a node among {workers} workers, expected at least 1 worker")
    return max(1, cpu_threads() // workers)


def cpu_share(rank: int, workers: int) -> tuple[int, ...]:
    """The CPUs of one of several workers: a run of neighbours in this process's affinity mask.

    Shares are disjoint and together the whole mask; where workers outnumber the CPUs, everybody has all of them.

    Args:
        rank: of the worker on this node, from 0.
        workers: on this node.
    """
    cpus = sorted(os.sched_getaffinity(0))
    if workers > len(cpus):
        return tuple(cpus)
    return tuple(cpus[rank * len(cpus) // workers : (rank + 1) * len(cpus) // workers])


def visible_gpus() -> tuple[str, ...]:
    """Names of the GPUs that this process sees, as CUDA_VISIBLE_DEVICES has them: numbers or UUIDs."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is None:
        return tuple(str(k) for k in range(len(list(Path("/proc/driver/nvidia/gpus").glob("*")))))
    names = [name.strip() for name in given.split(",")]
    ends = (k for k, name in enumerate(names) if name in ("", "-1", "NoDevFiles"))  # CUDA reads no further
    return tuple(names[: next(ends, len(names))])


def worker_environment(rank: int, workers: int, threads: int) -> dict[str, str]:
    """Environment variables of a worker; they have to be there before it imports NumPy or torch.

    A worker with several threads runs so many tasks at once, each of which has one thread in every library.

    Args:
        rank: of the worker on this node, from 0. Workers get one GPU each, in turn if there are fewer GPUs.
        workers: on this node; they share its memory.
        threads: of this worker.
    """
    environment = {
        **dict.fromkeys(_LIBRARY_THREADS, "1"),
        "DQK_NODE_WORKERS": str(workers),
        "DQK_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",  # pools that spin on few cores cost more than they compute
    }
    gpus = visible_gpus()
    return {**environment, "CUDA_VISIBLE_DEVICES": gpus[rank % len(gpus)]} if gpus else environment
