"""Small jobs of tiles, as messages and arrays for workers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from dqk._wire import pack
from dqk.circuit import simplify_for_fidelity
from dqk.kernels.feature_maps import bsp_feature_map, qklstm_feature_map


def job_arrays(
    n: int, side: int, symmetric: bool, log: bool, dtype: Any = np.float64, backend: str = "statevector"
) -> dict[str, np.ndarray]:
    """What is shipped to workers for a kernel matrix of n samples, in tiles of some side.

    Args:
        n: number of rows; a matrix that is not symmetric has 9 columns fewer.
        side: of a tile.
        symmetric: K(X) instead of K(X, Y).
        log: log K instead of K.
        dtype: float32 or float64.
        backend: "mps" for 4 qubits without entanglement, which are almost no work; another one for 3 entangled qubits.
    """
    feature_map = qklstm_feature_map(4) if backend == "mps" else bsp_feature_map(3)
    circuit = simplify_for_fidelity(feature_map.circuit).circuit
    spec = {
        "backend": backend,
        "circuit": circuit.to_dict(),
        "log": log,
        "seed": 0,
        "shots": None,
        "side": side,
        "symmetric": symmetric,
    }
    random = np.random.default_rng(5)
    arrays = {
        "spec": np.frombuffer(json.dumps(spec).encode(), np.uint8),
        "ax": random.normal(size=(n, circuit.n_data)).astype(dtype),
        "shared": np.zeros(circuit.n_shared, dtype),
    }
    return arrays if symmetric else {**arrays, "ay": random.normal(size=(n - 9, circuit.n_data)).astype(dtype)}


def tiles_task(digest: str, tiles: Sequence[tuple[int, int, int]]) -> bytes:
    """The message that asks for tiles of a job, given as triples of item, row and column."""
    return pack({"kind": "tiles", "job": digest, "tiles": list(tiles)})
