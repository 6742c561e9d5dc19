"""`dqk.gram`: where kernels, plan, backend and pool meet.

Values and gradients on this process's own threads take `dqk._tiled`. Other executors, shots and stores take `dqk._pooled`:
the same tiles with the same bits, computed by workers.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dqk._estimate import SampledJob
from dqk._executors import executor_of, gpus_for
from dqk._measure import Device
from dqk._pooled import Bar, Executor, Job, OnPool, pooled_fidelity
from dqk._run import Observer
from dqk._sampled import rehearse_sampled, sampled_fidelity, stored_sampled
from dqk._stored import Destination, stored_backend, stored_fidelity
from dqk._tiled import tiled_fidelity
from dqk.backends import autograd
from dqk.backends.base import Backend, EncodingBackend
from dqk.backends.choice import choose
from dqk.backends.resolve import resolve, resolve_expectations
from dqk.backends.sampled import SampledBackend
from dqk.backends.simulated import SimulatedBackend
from dqk.circuit import Circuit, simplify_for_fidelity
from dqk.cluster import Arrays, WorkerPool
from dqk.errors import InvalidInputError, UnsupportedError
from dqk.kernels.base import Kernel, install_evaluator
from dqk.kernels.inputs import to_samples
from dqk.kernels.shot_plan import ShotPlan

_NO_LOG = "log=True with shots: a relative frequency can be 0; take the logarithm of exact values instead"


class _InlineEngine:
    """Evaluates in this process, on its threads."""

    stores = False

    def __init__(self, progress: bool):
        self.progress = progress

    def fidelity(
        self, backend: str | Backend, circuit: Circuit, ax: Tensor, ay: Tensor | None, shared: Tensor, log: bool
    ) -> Tensor:
        """Tiled, see `dqk._tiled`."""
        inputs = [ax, shared] if ay is None else [ax, shared, ay]
        differentiated = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)
        kept = [len(angles) for angles in (ax, ay) if angles is not None] if differentiated else []
        found = resolve(backend, circuit, ax.device.type, ax.dtype, kept)
        return tiled_fidelity(found, circuit, ax, ay, shared, log, self.progress)

    def expectations(
        self, backend: str | Backend, circuit: Circuit, ax: Tensor, observables: Sequence[str], shared: Tensor
    ) -> Tensor:
        """In blocks, so that memory holds one block of states at a time."""
        resolved = resolve_expectations(backend, circuit, ax.device.type)
        side = resolved.tile_side(circuit, ax.dtype)
        parts = [autograd.expectations(resolved, circuit, part, observables, shared) for part in ax.split(side)]
        return torch.cat(parts)


class _PoolEngine:
    """Has workers evaluate fidelities, into memory or into a store."""

    def __init__(
        self,
        executor: Executor,
        observers: Sequence[Observer],
        shots: int | ShotPlan | None,
        seed: int | None,
        destination: Destination | None,
        about: str,
    ):
        self.executor, self.observers, self.shots, self.seed = executor, observers, shots, seed
        self.destination, self.about = destination, about
        self.std_error: Tensor | None = None
        self.rehearses = False
        self.rehearsed: SampledJob | None = None

    @property
    def stores(self) -> bool:
        """Whether there is a destination."""
        return self.destination is not None

    def fidelity(
        self, backend: str | Backend, circuit: Circuit, ax: Tensor, ay: Tensor | None, shared: Tensor, log: bool
    ) -> Any:
        """By tiles on workers, see `dqk._pooled`; gives a `StoredGram` where there is a destination.

        What a device measures goes there in jobs, see `dqk._sampled`.
        """
        if backend == "auto" and getattr(self.executor, "device", None) is None:
            backend = settled(circuit, ax.dtype, self.executor, self.destination)
        measured = sampled_job_of(backend, circuit, self.shots, self.seed, self.executor)
        if measured is not None:
            return self._measured(measured, ax, ay, shared, log)
        if self.rehearses:
            return None
        assert not isinstance(self.shots, ShotPlan)
        job = job_of(backend, circuit, log, self.shots, self.seed)
        if self.destination is None:
            return pooled_fidelity(job, self.executor, ax, ay, shared, self.observers)
        return stored_fidelity(job, self.executor, ax, ay, shared, self.observers, self.destination, self.about)

    def _measured(self, job: SampledJob, ax: Tensor, ay: Tensor | None, shared: Tensor, log: bool) -> Any:
        if log:
            raise UnsupportedError(_NO_LOG)
        if self.rehearses:
            self.rehearsed = job
            rehearse_sampled(job, self.executor, ax, ay, shared, self.observers, self.destination, self.about)
            return None
        if self.destination is not None:
            place = self.destination, self.about
            return stored_sampled(job, self.executor, ax, ay, shared, self.observers, *place)
        values, self.std_error = sampled_fidelity(job, self.executor, ax, ay, shared, self.observers)
        return values

    def expectations(
        self, backend: str | Backend, circuit: Circuit, ax: Tensor, observables: Sequence[str], shared: Tensor
    ) -> Tensor:
        """Refused: this takes N circuits in all and no tiles."""
        raise UnsupportedError(
            "a kernel of expectation values simulates every sample once, in this process; leave out executor and store"
        )


def settled(circuit: Circuit, dtype: torch.dtype, executor: Executor, destination: Destination | None) -> str:
    """What `auto` stands for, once for all workers and ranks: the backend of a store that was begun, else `choose`'s."""
    simplified = simplify_for_fidelity(circuit).circuit

    def decide(pool: WorkerPool | None = None) -> Arrays:
        name = stored_backend(destination, simplified) or choose(simplified, dtype)
        return {"name": np.frombuffer(name.encode(), np.uint8)}

    # Ranks may differ in memory, and in what they see of a store: rank 0 decides.
    found = executor.everywhere(f"backend of {simplified.digest}", decide) if executor.compares else decide()
    return np.asarray(found["name"]).tobytes().decode()


def sampled_job_of(
    backend: str | Backend, circuit: Circuit, shots: int | ShotPlan | None, seed: int | None, executor: Executor
) -> SampledJob | None:
    """What is to be measured by a device; None if the backend computes tiles, of which it can simulate shots itself."""
    fleet = executor.device if isinstance(executor, OnPool) else None
    if fleet is not None:
        if backend != "auto":
            raise InvalidInputError(
                f"backend is {backend!r}, and the pool's workers are QPUs of their own; leave backend out, or the pool"
            )
        device = fleet
    else:
        resolved = None if backend == "auto" else resolve(backend, circuit)  # auto takes what computes tiles
        if not isinstance(resolved, SampledBackend):
            if not isinstance(shots, ShotPlan):
                return None
            resolved, backend = SimulatedBackend(), "simulated"
        device = Device.of(resolved, backend if isinstance(backend, str) else None)
    plan = ShotPlan(shots) if isinstance(shots, int) else shots
    drawn = secrets.randbits(62) if plan is not None and seed is None else seed
    simplified = simplify_for_fidelity(circuit).circuit
    device.check(simplified)
    return SampledJob(device, simplified, plan, drawn)


def job_of(
    backend: str | Backend, circuit: Circuit, log: bool = False, shots: int | None = None, seed: int | None = None
) -> Job:
    """What workers are told about a kernel.

    Raises:
        UnsupportedError: for a backend that cannot travel by name, or logarithms of frequencies.
    """
    if not isinstance(backend, str):
        raise UnsupportedError(
            f"backend is the object {backend!r}; workers open a backend by its name, so give a name ({backend.name!r} if it has "
            "no options), or leave out executor, store and shots"
        )
    if shots is not None and log:
        raise UnsupportedError(_NO_LOG)
    resolved = resolve(backend, circuit)
    if not isinstance(resolved, EncodingBackend):
        raise UnsupportedError(
            f"backend {resolved.name!r} does not compute tiles; use 'statevector', 'mps' or 'reference'"
        )
    return Job(resolved, circuit, log, shots, secrets.randbits(63) if shots is not None and seed is None else seed)


def gram(
    kernel: Kernel,
    X: Any,
    Y: Any = None,
    executor: Any = None,
    store: Any = None,
    progress: bool | Observer | Sequence[Observer] = False,
    seed: int | None = None,
    log: bool = False,
    return_std_error: bool = False,
) -> Any:
    """The kernel matrix `K[i, j] = k(X_i, Y_j)`.

    Args:
        kernel: any kernel; `kernel(X, Y)` is `gram(kernel, X, Y)`.
        X: samples, shape (N, d).
        Y: samples, shape (M, d); None (or X itself) for the symmetric matrix, computed once; its diagonal is that of the kernel.
        executor: where tiles run. None or `inline`: the threads of this process. `processes`, `ray`: workers that are started
            when they are first used and end with this process. `mpi`: all ranks, each of which calls this function with the
            same arguments. An open `WorkerPool`, or any `concurrent.futures.Executor`.
        store: path of a zarr store (`K.zarr`) that receives the tiles as they are computed, or a `Destination`. What an existing
            store of the same problem holds is not computed again, also if it has fewer of the samples. What a device measured
            before a store grew stays, so that K is not that of one measurement of all: `fingerprint.grown_from` says so.
        progress: shows a progress bar on standard error; or an `Observer`, or several.
        seed: of measured entries (a kernel with `shots`), a whole number from 0; None draws one.
        log: gives the natural logarithm of K, which does not underflow on hundreds of qubits.
        return_std_error: gives K and its standard errors, for a kernel with `shots`; a store has them beside K.

    Returns:
        K, shape (N, M), float32 if the samples are float32, else float64. A tensor on the samples' device that autograd can
        differentiate if X or Y is a tensor, else a NumPy array. With `store` a `StoredGram`, which reads entries when they are
        asked for. The same bits on every executor.

    Raises:
        InvalidInputError: for samples or arguments that cannot be used.
        UnsupportedError: if the backend cannot run the circuit.
        MemoryBoundError: if one tile does not fit into memory.
        ClusterError: if workers cannot be had, or all are lost.
        StoreError: if the store is of another problem, damaged, in use, or cannot be written.
        TileError: if a tile fails on every try.
    """
    _check_kernel(kernel, executor, store)
    _check_sampling(kernel, seed, return_std_error, store)
    as_tensor = isinstance(X, Tensor) or isinstance(Y, Tensor)
    x, y = _samples(kernel, X, Y)
    if store is not None and any(samples is not None and samples.requires_grad for samples in (x, y)):
        raise UnsupportedError("a stored matrix is not differentiable; detach the samples, or leave out store")
    engine = _engine(kernel, executor, store, progress, None if seed is None else int(seed))
    if as_tensor and store is None:
        return _with_errors(kernel._matrix(engine, x, y, log), engine, return_std_error, lambda errors: errors)
    with torch.no_grad():
        found = kernel._matrix(engine, x, y, log)
    if store is not None:
        return found
    return _with_errors(np.asarray(found.numpy()), engine, return_std_error, np.asarray)


def rehearsed(
    kernel: Kernel,
    X: Any,
    Y: Any,
    executor: Any,
    store: Any,
    observers: Sequence[Observer],
    seed: int | None,
    log: bool,
) -> SampledJob | None:
    """Tells observers what `gram` would submit, or raises what it would raise; measures and writes nothing.

    Args:
        kernel: see `gram`.
        X: see `gram`.
        Y: see `gram`.
        executor: an open pool.
        store: see `gram`.
        observers: their `submitted` is called for each job.
        seed: see `gram`.
        log: see `gram`.

    Returns:
        The problem; None if no device measures it.
    """
    _check_kernel(kernel, executor, store)
    _check_sampling(kernel, seed, False, store)
    x, y = _samples(kernel, X, Y)
    engine: _PoolEngine = _engine(kernel, executor, store, observers, seed)
    engine.rehearses = True
    with torch.no_grad():
        kernel._matrix(engine, x, y, log)
    return engine.rehearsed


def _check_kernel(kernel: Any, executor: Any, store: Any) -> None:
    if not isinstance(kernel, Kernel):
        raise InvalidInputError(
            f"kernel is {kernel!r}, expected a dqk kernel such as FidelityKernel(zz_feature_map(4))"
        )
    if not kernel.runs_circuits and (executor not in (None, "inline") or store is not None):
        raise UnsupportedError(
            f"a {type(kernel).__name__} runs no circuits: it is a matrix product in this process; leave out executor and store"
        )


def _with_errors(values: Any, engine: Any, wanted: bool, convert: Callable[[Tensor], Any]) -> Any:
    """K, or K and its standard errors; those of simulated shots follow from K."""
    if not wanted:
        return values
    errors = engine.std_error
    if errors is None:
        k = torch.as_tensor(values)
        errors = (k * (1 - k) / engine.shots).sqrt()
    return values, convert(errors)


def _samples(kernel: Kernel, X: Any, Y: Any) -> tuple[Tensor, Tensor | None]:
    """Of one device and precision."""
    x = to_samples("X", X, kernel.n_features)
    if Y is None or Y is X:
        return x, None
    y = to_samples("Y", Y, kernel.n_features)
    if y.device != x.device:
        raise InvalidInputError(f"X is on {x.device} and Y on {y.device}; expected one device")
    wider = torch.promote_types(x.dtype, y.dtype)
    return x.to(wider), y.to(wider)


def _engine(kernel: Kernel, executor: Any, store: Any, progress: Any, seed: int | None) -> Any:
    if executor is None:
        executor = getattr(kernel, "executor", None)
    shots = getattr(kernel, "shots", None)
    if store is None and shots is None and executor in (None, "inline") and isinstance(progress, bool):
        return _InlineEngine(progress)
    if executor == "mpi" and shots is not None and seed is None:
        raise InvalidInputError("sampled entries on all ranks need a seed=, the same on each of them")
    if isinstance(store, str | os.PathLike) and str(store):
        store = Destination(store)
    if store is not None and not isinstance(store, Destination):
        raise InvalidInputError(f"store is {store!r}, expected a path such as 'K.zarr' or a Destination")
    return _PoolEngine(
        executor_of(executor, gpus_for(getattr(kernel, "backend", ""))),
        _observers(progress),
        shots,
        seed,
        store,
        described(kernel, executor),
    )


def described(kernel: Kernel, executor: Any) -> str:
    """The kernel, and who measures it if its workers are quantum processors."""
    names = getattr(getattr(executor, "pool", executor), "names", None)
    if not names:
        return str(kernel)
    return str(kernel).replace("backend='auto'", f"backend={names[0] if len(names) == 1 else list(names)!r}")


def engine_of(kernel: Kernel) -> Any:
    """What evaluates a kernel by itself, for code that calls `kernel._matrix` many times."""
    return _engine(kernel, None, None, False, None)


def _observers(progress: bool | Observer | Sequence[Observer]) -> Sequence[Observer]:
    if isinstance(progress, bool):
        return [Bar()] if progress else []
    found = [progress] if isinstance(progress, Observer) else progress
    if not isinstance(found, Sequence) or not all(isinstance(observer, Observer) for observer in found):
        raise InvalidInputError(f"progress is {progress!r}, expected True, False, a dqk Observer or a list of them")
    return found


def _check_sampling(kernel: Kernel, seed: Any, return_std_error: bool, store: Any) -> None:
    exact = getattr(kernel, "shots", None) is None
    if return_std_error and exact:
        raise InvalidInputError("return_std_error=True, but this kernel is exact: shots=1000 measures, say")
    if return_std_error and store is not None:
        raise InvalidInputError(
            "return_std_error=True with a store: standard errors are kept beside K, read them with found.std_error"
        )
    if seed is not None and exact:
        raise InvalidInputError(
            f"seed={seed!r}, but this kernel is exact: a seed belongs to FidelityKernel(..., shots=1000)"
        )
    if seed is None and not exact and store is not None:
        raise InvalidInputError("a stored matrix of sampled entries needs a seed=, so that it can be resumed")
    whole = isinstance(seed, int | np.integer) and not isinstance(seed, bool)
    if seed is not None and not (whole and 0 <= seed < 2**63):
        raise InvalidInputError(f"seed is {seed!r}, expected a whole number from 0 to 2**63 - 1")


install_evaluator(gram)
