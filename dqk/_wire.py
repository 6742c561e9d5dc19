"""Messages between processes: a JSON document and named arrays in one buffer (the safetensors format; nothing is pickled)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

_DOCUMENT = "json"
_DTYPES = {
    "BOOL": np.bool_,
    "U8": np.uint8,
    "I8": np.int8,
    "U16": np.uint16,
    "I16": np.int16,
    "U32": np.uint32,
    "I32": np.int32,
    "U64": np.uint64,
    "I64": np.int64,
    "F16": np.float16,
    "F32": np.float32,
    "F64": np.float64,
    "C64": np.complex64,
}


def pack(document: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None = None) -> bytes:
    """One message.

    Args:
        document: JSON-able; NaN is allowed.
        arrays: real, complex64 or integer arrays under any names but `json`.
    """
    from safetensors.numpy import save

    text = np.frombuffer(json.dumps(document).encode(), np.uint8)
    return bytes(
        save({_DOCUMENT: text, **{name: np.ascontiguousarray(array) for name, array in (arrays or {}).items()}})
    )


def unpack(message: bytes | bytearray | memoryview | np.ndarray) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What `pack` packed; the arrays are views of the message, and read-only if it is."""
    whole = np.frombuffer(message, np.uint8)
    start = 8 + int.from_bytes(whole[:8].tobytes(), "little")
    arrays = {
        name: whole[start + entry["data_offsets"][0] : start + entry["data_offsets"][1]]
        .view(_DTYPES[entry["dtype"]])
        .reshape(entry["shape"])
        for name, entry in json.loads(whole[8:start].tobytes()).items()
    }
    return json.loads(arrays.pop(_DOCUMENT).tobytes()), arrays
