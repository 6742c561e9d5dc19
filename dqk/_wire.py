"""Messages between processes: a JSON document and named arrays in one buffer (the safetensors format; nothing is pickled)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

_DOCUMENT = "json"


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
    """What `pack` packed; the arrays are views of nothing that the caller holds, but may be read-only."""
    from safetensors.numpy import load

    arrays = load(message if isinstance(message, bytes) else bytes(message))
    return json.loads(arrays.pop(_DOCUMENT).tobytes()), arrays
