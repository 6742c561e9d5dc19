"""The cost model in force on this machine: measured by `dqk doctor --calibrate`, else the defaults.

It is kept in the user's cache folder, one for each node. It sizes messages and recognises hung workers; no result depends on it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from dqk._resources import cache_folder, one_blas_thread
from dqk.backends.base import EncodingBackend
from dqk.backends.resolve import available, resolve
from dqk.circuit import Circuit, simplify_for_fidelity
from dqk.errors import BackendUnavailableError, UnsupportedError
from dqk.kernels.feature_maps import qklstm_feature_map, reuploading_feature_map
from dqk.scheduler import CostModel, Measurement

_VERSION = 1
_ENTANGLED, _PRODUCT = (4, 7, 10), (4, 32, 128)  # qubits
_VISIT_S = 0.1


def model_file() -> Path:
    """Where a measured model is kept."""
    return cache_folder() / "cost-model.json"


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
    model = CostModel()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad(), one_blas_thread():
            for name in sorted(available()):
                for dtype in (torch.float64, torch.float32):
                    told(f"{name}, {str(dtype).removeprefix('torch.')}")
                    model = _with_backend(model, name, dtype)
    finally:
        torch.set_num_threads(threads)
    return model


def _with_backend(model: CostModel, name: str, dtype: torch.dtype) -> CostModel:
    entangled = [simplify_for_fidelity(reuploading_feature_map(n).circuit).circuit for n in _ENTANGLED]
    product = [simplify_for_fidelity(qklstm_feature_map(n).circuit).circuit for n in _PRODUCT]
    known = model.rates.get(f"{name}/{str(dtype).removeprefix('torch.')}")
    for circuits in (product,) if known is not None and known.product else (entangled, product):
        try:
            backend = resolve(name, circuits[-1])
        except (BackendUnavailableError, UnsupportedError):
            continue
        if not isinstance(backend, EncodingBackend) or backend.capabilities.device != "cpu":
            return model
        measured = [_measure(backend, circuit, dtype) for circuit in circuits]
        return model.with_measured(name, str(dtype).removeprefix("torch."), circuits is product, measured)
    return model


def _measure(backend: EncodingBackend, circuit: Circuit, dtype: torch.dtype) -> Measurement:
    side = backend.tile_side(circuit, dtype)
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.rand(side, circuit.n_data, generator=generator).to(dtype) for _ in range(2))
    shared = torch.rand(circuit.n_shared, generator=generator).to(dtype)
    a, b = (backend.forward_block(circuit, angles, shared) for angles in (first, second))
    encode_s = _seconds(lambda: backend.recycle(backend.forward_block(circuit, first, shared)))
    tile_s = _seconds(lambda: backend.forward_tile(a, b, False))
    return Measurement(circuit, side, encode_s, tile_s)


def _seconds(run: Callable[[], Any]) -> float:
    """The shortest of several runs: what is longer was disturbed."""
    run()
    taken: list[float] = []
    end = time.perf_counter() + _VISIT_S
    while not taken or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return min(taken)
