"""Digests of tiles and of whole matrices, and the class of machines on which digests agree. Needs no zarr."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from types import MappingProxyType
from typing import Any

import numpy as np

DIGEST_BYTES = 16
_SIMD = ("sse2", "avx", "avx2", "fma", "avx512f", "neon", "sve")


def tile_digest(values: np.ndarray) -> str:
    """BLAKE2b-128 of a tile's valid part, hexadecimal; the same on machines of either byte order.

    Args:
        values: real, shape (rows, columns), without padding.
    """
    return hashlib.blake2b(_plain(values), digest_size=DIGEST_BYTES).hexdigest()


def matrix_digest(
    shape: tuple[int, int], dtype: np.dtype[Any] | str, side: int, symmetric: bool, digests: Iterable[str]
) -> str:
    """BLAKE2b-128 of a whole matrix from the digests of its tiles, hexadecimal.

    Args:
        shape: (N, M).
        dtype: of the values.
        side: of a full tile.
        symmetric: whether only tiles on and above the diagonal count.
        digests: of all tiles, in order of (row, column).
    """
    head = [list(shape), np.dtype(dtype).name, side, symmetric]
    total = hashlib.blake2b(json.dumps(head).encode(), digest_size=DIGEST_BYTES)
    for digest in digests:
        total.update(bytes.fromhex(digest))
    return total.hexdigest()


def array_digest(values: np.ndarray) -> str:
    """Digest of an array with its shape and precision, hexadecimal."""
    total = hashlib.blake2b(f"{values.dtype.name} {values.shape}".encode(), digest_size=DIGEST_BYTES)
    total.update(_plain(values))
    return total.hexdigest()


def _plain(values: np.ndarray) -> memoryview:
    return np.ascontiguousarray(values, values.dtype.newbyteorder("<")).data.cast("B")


@lru_cache(maxsize=1)
def numeric_class() -> Mapping[str, str]:
    """What decides the last bits of results here: processes of equal classes compute equal bits.

    Returns:
        BLAS with its core, vector instructions, and versions of the libraries that compute.
    """
    import torch
    from llvmlite.binding import get_host_cpu_features
    from threadpoolctl import threadpool_info

    found = get_host_cpu_features()
    libraries = sorted(
        {
            f"{library['internal_api']} {library['version']} {library.get('architecture', '')}".strip()
            for library in threadpool_info()
            # Other packages bring a BLAS of their own, which tiles do not use.
            if library["user_api"] == "blas"
            and not (".libs" in library["filepath"] and "numpy" not in library["filepath"])
        }
    )
    return MappingProxyType(
        {
            "blas": ", ".join(libraries),
            "simd": " ".join(name for name in _SIMD if found.get(name)),
            "torch": f"{torch.__version__} {torch.backends.cpu.get_cpu_capability()}",
            **{name: _version(name) for name in ("numpy", "numba", "llvmlite", "dqk")},
        }
    )


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


def class_id(numeric: Mapping[str, str]) -> str:
    """A short name of a numeric class."""
    return hashlib.blake2b(json.dumps(dict(numeric), sort_keys=True).encode(), digest_size=4).hexdigest()
