"""How kernel values are computed: one file per backend, found by entry point."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dqk.backends.base import Backend, Capabilities, EncodingBackend
from dqk.backends.resolve import available, resolve, resolve_expectations

if TYPE_CHECKING:
    from dqk.backends._pennylane import PennyLaneBackend
    from dqk.backends._sampler import SamplerBackend

__all__ = [
    "Backend",
    "Capabilities",
    "EncodingBackend",
    "PennyLaneBackend",
    "SamplerBackend",
    "available",
    "resolve",
    "resolve_expectations",
]

_LATER = {"PennyLaneBackend": "dqk.backends._pennylane", "SamplerBackend": "dqk.backends._sampler"}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(_LATER[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
