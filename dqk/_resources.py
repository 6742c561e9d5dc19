"""What this process may use: CPU threads from the affinity mask and cgroup, memory from a bound."""

from __future__ import annotations

import contextlib
import os
import platform
import threading
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from dqk.errors import InvalidInputError, MemoryBoundError

_MIB = 2**20
_CGROUPS = Path("/sys/fs/cgroup")


@lru_cache(maxsize=1)
def cpu_threads() -> int:
    """Threads that this process may keep busy: affinity mask and cgroup quota, never the machine's core count.

    `DQK_THREADS` sets it by hand.
    """
    given = os.environ.get("DQK_THREADS")
    if given is not None:
        if not given.isdecimal() or int(given) < 1:
            raise InvalidInputError(f"DQK_THREADS is {given!r}, expected a whole number of at least 1")
        return int(given)
    affinity = getattr(os, "sched_getaffinity", None)
    threads = len(affinity(0)) if affinity else os.cpu_count() or 1
    quota = _cgroup_cpus()
    return max(1, min(threads, quota)) if quota else threads


def _cgroup_cpus() -> int | None:
    limits = []
    for text in _cgroup_files("cpu.max"):
        quota, _, period = text.partition(" ")
        if quota.isdigit() and period.isdigit():
            limits.append(max(1, int(quota) // int(period)))
    return min(limits, default=None)


def _cgroup_files(name: str) -> list[str]:
    """Contents of a control file of this process's cgroup and of all that contain it: a batch job's limit is one of them."""
    texts = []
    try:
        (path,) = (line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
    except (OSError, ValueError):
        path = "/"
    folder = _CGROUPS / path.strip("/")
    for place in (folder, *folder.parents):
        if place == _CGROUPS.parent:
            break
        with contextlib.suppress(OSError):
            texts.append((place / name).read_text().strip())
    return texts


def memory_bound() -> int:
    """Bytes that states and tiles in flight may take: `DQK_MEMORY_MIB`, else half of the available memory.

    The available memory is divided among the workers of a node, whose number `DQK_NODE_WORKERS` tells each of them.
    """
    given = os.environ.get("DQK_MEMORY_MIB")
    if given is not None:
        if not given.isdecimal() or int(given) < 1:
            raise InvalidInputError(f"DQK_MEMORY_MIB is {given!r}, expected a whole number of MiB above 0")
        return int(given) * _MIB
    return available_memory() // (2 * _node_workers())


def _node_workers() -> int:
    given = os.environ.get("DQK_NODE_WORKERS", "1")
    if not given.isdecimal() or int(given) < 1:
        raise InvalidInputError(f"DQK_NODE_WORKERS is {given!r}, expected a whole number of at least 1")
    return int(given)


def require_memory(needed: int, what: str) -> None:
    """Raises MemoryBoundError if so many bytes do not fit into the memory bound; small requests are not looked at."""
    if needed < 64 * 2**20:
        return
    bound = memory_bound()
    if needed > bound:
        raise MemoryBoundError(
            f"{what} need {needed // _MIB:,} MiB, the bound is {bound // _MIB:,} MiB (DQK_MEMORY_MIB, or half of the free "
            "memory); use fewer qubits, fewer samples at a time or float32, or raise the bound"
        )


def available_memory() -> int:
    """Bytes that can be allocated without swapping: the smallest of the machine's and the cgroups'."""
    limits = []
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                limits.append(int(line.split()[1]) * 1024)
    for limit, used in zip(_cgroup_files("memory.max"), _cgroup_files("memory.current"), strict=False):
        if limit.isdigit() and used.isdigit():
            limits.append(int(limit) - int(used))
    return max(min(limits), 0) if limits else 4 * 2**30


def cache_folder() -> Path:
    """Where what can be made again is kept: `DQK_CACHE_DIR`, else a folder for this node in the user's cache folder."""
    given = os.environ.get("DQK_CACHE_DIR")
    if given:
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "dqk" / (platform.node() or "node")


_blas_lock = threading.Lock()
_blas_users = 0
_blas_limit: Any = None


def _forget_threads() -> None:
    """In a forked child the parent's threads are gone, and with them whoever held the lock."""
    global _blas_lock, _blas_users
    _blas_lock, _blas_users = threading.Lock(), 0


os.register_at_fork(after_in_child=_forget_threads)


@contextlib.contextmanager
def one_blas_thread() -> Iterator[None]:
    """NumPy's BLAS on the calling thread alone while anybody is inside.

    Tiles are the parallel unit; and a BLAS pool that spins beside torch's pool costs a small product a hundred times its time.
    """
    global _blas_users, _blas_limit
    with _blas_lock:
        if _blas_users == 0:
            _blas_limit = _blas_controller().limit(limits=1)
        _blas_users += 1
    try:
        yield
    finally:
        with _blas_lock:
            _blas_users -= 1
            if _blas_users == 0:
                _blas_limit.restore_original_limits()


@lru_cache(maxsize=1)
def _blas_controller() -> Any:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")
