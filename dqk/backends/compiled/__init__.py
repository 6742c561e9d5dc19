"""Compiled CPU code of the backends (numba): explicit vectors, state passes, their adjoints."""
