"""`dqk.gram`: where kernels, tiles and backends meet.

`gram` hands a kernel to an `_InlineEngine`, which cuts fidelities into tiles, runs them on the threads of this process and
differentiates them exactly: per backward pass every tile is visited once more and every state is swept once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dqk._tiled import tiled_fidelity
from dqk.backends import autograd
from dqk.backends.base import Backend
from dqk.backends.resolve import resolve, resolve_expectations
from dqk.circuit import Circuit
from dqk.errors import InvalidInputError, UnsupportedError
from dqk.kernels.base import Kernel, install_evaluator
from dqk.kernels.inputs import to_samples

_PLANNED_EXECUTORS = {"processes", "ray", "mpi"}


class _InlineEngine:
    """Evaluates in this process, on its threads."""

    def __init__(self, progress: bool):
        self.progress = progress

    def fidelity(
        self, backend: str | Backend, circuit: Circuit, ax: Tensor, ay: Tensor | None, shared: Tensor, log: bool
    ) -> Tensor:
        """Tiled, see `dqk._tiled`."""
        return tiled_fidelity(resolve(backend, circuit), circuit, ax, ay, shared, log, self.progress)

    def expectations(
        self, backend: str | Backend, circuit: Circuit, ax: Tensor, observables: Sequence[str], shared: Tensor
    ) -> Tensor:
        """In blocks, so that memory holds one block of states at a time."""
        resolved = resolve_expectations(backend, circuit)
        side = resolved.tile_side(circuit, ax.dtype)
        parts = [autograd.expectations(resolved, circuit, part, observables, shared) for part in ax.split(side)]
        return torch.cat(parts)


def gram(
    kernel: Kernel,
    X: Any,
    Y: Any = None,
    executor: Any = None,
    store: Any = None,
    progress: bool = False,
    seed: int | None = None,
    log: bool = False,
    return_std_error: bool = False,
) -> Any:
    """The kernel matrix `K[i, j] = k(X_i, Y_j)`.

    Args:
        kernel: any kernel; `kernel(X, Y)` is `gram(kernel, X, Y)`.
        X: samples, shape (N, d).
        Y: samples, shape (M, d); None (or X itself) for the symmetric matrix, computed once and with a unit diagonal.
        executor: where tiles run: None or `inline`, the threads of this process.
        store: not available yet.
        progress: shows a progress bar on standard error.
        seed: of sampled entries; no backend samples yet.
        log: gives the natural logarithm of K, which does not underflow on hundreds of qubits.
        return_std_error: for sampled entries; no backend samples yet.

    Returns:
        K, shape (N, M), float32 if the samples are float32, else float64. A tensor on the samples' device that autograd can
        differentiate if X or Y is a tensor, else a NumPy array.

    Raises:
        InvalidInputError: for samples or arguments that cannot be used.
        UnsupportedError: if the backend cannot run the circuit.
        MemoryBoundError: if one tile does not fit into memory.
    """
    if not isinstance(kernel, Kernel):
        raise InvalidInputError(
            f"kernel is {kernel!r}, expected a dqk kernel such as FidelityKernel(zz_feature_map(4))"
        )
    _refuse_unavailable(kernel, executor, store, seed, return_std_error)
    as_tensor = isinstance(X, Tensor) or isinstance(Y, Tensor)
    x = to_samples("X", X, kernel.n_features)
    y = None if Y is None or Y is X else to_samples("Y", Y, kernel.n_features)
    if y is not None and y.device != x.device:
        raise InvalidInputError(f"X is on {x.device} and Y on {y.device}; expected one device")
    if y is not None and y.dtype != x.dtype:
        wider = torch.promote_types(x.dtype, y.dtype)
        x, y = x.to(wider), y.to(wider)
    if as_tensor:
        return kernel._matrix(_InlineEngine(progress), x, y, log)
    with torch.no_grad():
        return np.asarray(kernel._matrix(_InlineEngine(progress), x, y, log).numpy())


def _refuse_unavailable(kernel: Kernel, executor: Any, store: Any, seed: Any, return_std_error: bool) -> None:
    executor = executor if executor is not None else getattr(kernel, "executor", None)
    if executor not in (None, "inline"):
        if isinstance(executor, str) and executor not in _PLANNED_EXECUTORS:
            raise InvalidInputError(f"unknown executor {executor!r}; expected None or 'inline'")
        raise UnsupportedError(f"executor {executor!r} is not part of this version; expected None or 'inline'")
    if store is not None:
        raise UnsupportedError("this version keeps no store; leave out store= and save the result with numpy.save")
    shots = getattr(kernel, "shots", None)
    if shots is not None or return_std_error or seed is not None:
        raise UnsupportedError(
            f"shots={shots}, seed={seed}, return_std_error={return_std_error}: every backend of this version is exact and "
            "samples nothing; leave these arguments out"
        )


install_evaluator(gram)
