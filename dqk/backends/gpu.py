"""What GPUs there are and whether they can be used: found out without loading anything but torch."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from dqk.errors import BackendUnavailableError

_DRIVER = Path("/proc/driver/nvidia/version")
_tf32_lock = threading.RLock()
PACKAGES = ("cuquantum-python", "custatevec")
"""Each with the ending -cu12 or -cu13."""


def driver_version() -> str | None:
    """Of NVIDIA's kernel module; None if it is not loaded."""
    try:
        found = re.search(r"Kernel Module\D*([\d.]+)", _DRIVER.read_text())
    except OSError:
        return None
    return found[1] if found else None


def cuda_of_torch() -> str | None:
    """CUDA version that torch was built for, such as 13.0; None for a CPU build."""
    return torch.version.cuda


def packages() -> dict[str, str]:
    """Versions of the installed packages of cuQuantum, by name."""
    found = {}
    for major in ("12", "13"):
        for name in PACKAGES:
            try:
                found[f"{name}-cu{major}"] = metadata.version(f"{name}-cu{major}")
            except metadata.PackageNotFoundError:
                continue
    return found


def missing() -> str | None:
    """Why cuStateVec cannot be used here and what to do about it; None if nothing is missing."""
    cuda = cuda_of_torch()
    if cuda is None:
        line = "pip install 'dqk[cuda13]' with a CUDA build of torch (https://pytorch.org/get-started/locally)"
        return f"torch {torch.__version__} is a build without CUDA; {line}"
    if not torch.cuda.is_available():
        if driver_version() is None:
            return "no NVIDIA driver is loaded on this machine (/proc/driver/nvidia is missing)"
        if "CUDA_VISIBLE_DEVICES" in os.environ:
            return f"torch sees no GPU; CUDA_VISIBLE_DEVICES is {os.environ['CUDA_VISIBLE_DEVICES']!r}"
        return f"torch sees no GPU: the driver {driver_version()} may be too old for CUDA {cuda}"
    major, here = cuda.partition(".")[0], packages()
    others = sorted(name for name in here if not name.endswith(f"-cu{major}"))
    if others:
        names = " ".join(others)
        return (
            f"{', '.join(others)} belong to another CUDA than torch's {cuda}: pip uninstall {names}, then "
            f"pip install --force-reinstall 'dqk[cuda{major}]', for their files overwrite each other"
        )
    lacking = [f"{name}-cu{major}" for name in PACKAGES if f"{name}-cu{major}" not in here]
    if lacking:
        return f"{' and '.join(lacking)} are not installed; pip install 'dqk[cuda{major}]'"
    return None


def require_gpu(name: str) -> None:
    """Raises BackendUnavailableError, with the reason, if the backend of this name cannot be had."""
    why = missing()
    if why is not None:
        raise BackendUnavailableError(
            f"backend {name!r} is not available here: {why}; `dqk doctor` shows what is there"
        )


def device_for(samples: torch.Tensor) -> torch.device:
    """Where samples are worked on: their own GPU, or this process's current one if they are in main memory."""
    if samples.device.type == "cuda":
        return samples.device
    return torch.device("cuda", torch.cuda.current_device())


def free_bytes(device: torch.device) -> int:
    """What torch can still allocate on a GPU: free memory, and what its allocator keeps unused."""
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + kept


def total_bytes() -> int:
    """Memory of this process's current GPU."""
    return int(torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory)


def uuid_of(device: int = 0) -> str:
    """Of a GPU that this process sees, as CUDA_VISIBLE_DEVICES would name it: GPU-8932f937-..."""
    found = str(torch.cuda.get_device_properties(device).uuid)
    return found if found.startswith(("GPU-", "MIG-")) else f"GPU-{found}"


def devices() -> list[dict[str, Any]]:
    """The GPUs that torch sees: name, memory in MiB, UUID."""
    if not torch.cuda.is_available():
        return []
    found = []
    for k in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(k)
        found.append({"name": about.name, "memory_mib": about.total_memory // 2**20, "uuid": uuid_of(k)})
    return found


@contextmanager
def float32_products(tf32: bool) -> Iterator[None]:
    """Inside, products of float32 may round their factors to 10 bits, or may not, whatever the user's networks do."""
    with _tf32_lock:  # work is only queued inside
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)


def current(device: torch.device) -> AbstractContextManager[Any]:
    """Inside, the device is the current GPU."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def on_stream(device: torch.device, stream: Any) -> AbstractContextManager[Any]:
    """Torch's work goes to a stream inside."""
    return torch.cuda.stream(stream) if device.type == "cuda" else nullcontext()
