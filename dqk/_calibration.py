"""The cost model in force on this machine: measured by `dqk doctor --calibrate` or the first `dqk plan`, else the defaults.

It is kept in the user's cache folder, one for each node and numeric class. It sizes messages, recognises hung workers and predicts
times for `dqk plan`; no result depends on it, for `backend="auto"` goes by the defaults alone.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from dqk._resources import cache_folder, one_blas_thread
from dqk.backends.base import EncodingBackend
from dqk.backends.resolve import available, resolve
from dqk.circuit import Circuit, simplify_for_fidelity
from dqk.errors import BackendUnavailableError, UnsupportedError
from dqk.kernels.feature_map import FeatureMap
from dqk.kernels.feature_maps import ising_feature_map, qklstm_feature_map, reuploading_feature_map
from dqk.scheduler import CostModel, Measurement
from dqk.store.digests import class_id, numeric_class

_VERSION = 2
_ENTANGLED, _PRODUCT = (4, 7, 10), (4, 32, 128)  # qubits
_CHAINS = ((24, 1), (12, 2), (8, 3))  # qubits and layers: more layers have more products for each step
_VISIT_S, _QUICK_VISIT_S = 0.1, 0.004


def model_file() -> Path:
    """Where a measured model is kept: one for each numeric class of this node."""
    return cache_folder() / f"cost-model-{class_id(numeric_class())}.json"


@lru_cache(maxsize=1)
def cost_model() -> CostModel:
    """The model of this machine. A file that cannot be read is reported on standard error, and the defaults hold."""
    path = model_file()
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["version"] != _VERSION:
            return CostModel()
        return CostModel.from_dict(document["rates"])
    except FileNotFoundError:
        return CostModel()
    except (OSError, ValueError, TypeError, LookupError) as error:
        print(
            f"dqk: the cost model in {path} cannot be used ({error}); `dqk doctor --calibrate` replaces it",
            file=sys.stderr,
            flush=True,
        )
        return CostModel()


def save(model: CostModel) -> Path:
    """Writes a model, whole or not at all; from now on it is in force."""
    path = model_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    unfinished.write_text(json.dumps({"version": _VERSION, "rates": model.to_dict()}, indent=1), encoding="utf-8")
    unfinished.replace(path)
    cost_model.cache_clear()
    return path


def calibrate(told: Callable[[str], None] = lambda text: None) -> CostModel:
    """Measures every installed backend that computes tiles on the CPU; takes some seconds.

    Args:
        told: is told what is being measured.

    Returns:
        The defaults with everything replaced that could be measured.
    """
    return _measured(sorted(available()), (torch.float64, torch.float32), _VISIT_S, told)


def quick_model(told: Callable[[str], None] = lambda text: None) -> CostModel:
    """The model of this machine; if there is none yet, the backends that `auto` chooses from are measured, once and briefly.

    Args:
        told: is told if something is being measured, and if it could not be kept.
    """
    if model_file().exists():
        return cost_model()
    told("measuring this machine once, under a second when its code is compiled")
    model = _measured(("mps", "statevector"), (torch.float64, torch.float32), _QUICK_VISIT_S, lambda text: None)
    try:
        save(model)
    except OSError as error:
        told(f"the cost model cannot be kept ({error})")
    return model


def _measured(
    names: Iterable[str], dtypes: Iterable[torch.dtype], visit_s: float, told: Callable[[str], None]
) -> CostModel:
    model, dtypes = CostModel(), tuple(dtypes)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad(), one_blas_thread():
            for name in names:
                for dtype in dtypes:
                    told(f"{name}, {str(dtype).removeprefix('torch.')}")
                    model = _with_backend(model, name, dtype, visit_s)
    finally:
        torch.set_num_threads(threads)
    return model


def _with_backend(model: CostModel, name: str, dtype: torch.dtype, visit_s: float) -> CostModel:
    """Each kind of the backend's code on circuits of several sizes."""
    entangled: Sequence[FeatureMap] = [reuploading_feature_map(n) for n in _ENTANGLED]
    if name == "mps":
        entangled = [ising_feature_map(n, reps=reps) for n, reps in _CHAINS]
    product = [qklstm_feature_map(n) for n in _PRODUCT] if name == "mps" else []
    for maps in filter(None, (entangled, product)):
        circuits = [simplify_for_fidelity(feature_map.circuit).circuit for feature_map in maps]
        try:
            backend = resolve(name, circuits[-1])
        except (BackendUnavailableError, UnsupportedError):
            continue
        if not isinstance(backend, EncodingBackend) or backend.capabilities.device != "cpu":
            return model
        measured = [_measure(backend, circuit, dtype, visit_s) for circuit in circuits]
        model = model.with_measured(str(dtype).removeprefix("torch."), measured)
    return model


def _measure(backend: EncodingBackend, circuit: Circuit, dtype: torch.dtype, visit_s: float) -> Measurement:
    side = backend.tile_side(circuit, dtype)
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.rand(side, circuit.n_data, generator=generator).to(dtype) for _ in range(2))
    shared = torch.rand(circuit.n_shared, generator=generator).to(dtype)
    a, b = (backend.forward_block(circuit, angles, shared) for angles in (first, second))
    encode_s = _seconds(lambda: backend.recycle(backend.forward_block(circuit, first, shared)), visit_s)
    tile_s = _seconds(lambda: backend.forward_tile(a, b, False), visit_s)
    return Measurement(backend.effort(circuit, dtype), side, encode_s, tile_s)


def _seconds(run: Callable[[], Any], visit_s: float) -> float:
    """The shortest of several runs: what is longer was disturbed."""
    run()
    taken: list[float] = []
    end = time.perf_counter() + visit_s
    while not taken or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return min(taken)
