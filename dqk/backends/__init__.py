"""How kernel values are computed: one file per backend, found by entry point."""

from dqk.backends.base import Backend, Capabilities, EncodingBackend
from dqk.backends.resolve import available, resolve, resolve_expectations

__all__ = ["Backend", "Capabilities", "EncodingBackend", "available", "resolve", "resolve_expectations"]
