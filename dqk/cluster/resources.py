"""What each of several workers on one node may use: its share of the CPUs, its GPU, and the environment that says so."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path

from dqk._resources import cpu_threads
from dqk.errors import ClusterError, InvalidInputError

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


def take_gpu(rank: int, workers: int) -> None:
    """Narrows CUDA_VISIBLE_DEVICES of this process to one GPU, in turn, if several workers of a node see several.

    Args:
        rank: of this worker on its node, from 0.
        workers: on this node.

    Raises:
        ClusterError: if CUDA is in use already, and with it a GPU that may be another worker's.
    """
    gpus = visible_gpus()
    if workers < 2 or len(gpus) < 2:
        return
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        raise ClusterError(
            f"{workers} workers on this node see {len(gpus)} GPUs each, and CUDA is in use before they could share them out; start "
            "them with one GPU each (srun --gpus-per-task=1, or CUDA_VISIBLE_DEVICES by local rank), or use CUDA later"
        )
    os.environ["CUDA_VISIBLE_DEVICES"] = gpus[rank % len(gpus)]


def own_gpu() -> str | None:
    """UUID of the GPU that this process computes on; None if it has none.

    Raises:
        ClusterError: if CUDA_VISIBLE_DEVICES names another one.
    """
    from dqk.backends import gpu

    if not visible_gpus() or not (found := gpu.devices()):
        return None
    uuid, name = str(found[0]["uuid"]), visible_gpus()[0]
    if name.startswith(("GPU-", "MIG-")) and not uuid.startswith(name):  # CUDA takes the beginning of a UUID, too
        raise ClusterError(
            f"CUDA_VISIBLE_DEVICES names {name}, and CUDA gives {uuid}: was CUDA in use before it was set?"
        )
    return uuid


def same_gpu(uuid: str | None, others: Iterable[tuple[str, str | None]]) -> str | None:
    """The first of some workers of one node, given by name and UUID, that has this GPU as well; None if there is none."""
    return next((name for name, other in others if uuid is not None and other == uuid), None)
