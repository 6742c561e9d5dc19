"""Compiled CPU code of the backends (numba): explicit vectors, state passes, their adjoints."""

VECTOR_BYTES = 64  # what passes work on at a time: 8 or 16 samples, one widest register or several narrower ones
