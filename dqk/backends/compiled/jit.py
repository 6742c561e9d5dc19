"""`jit`: numba's compiler with a cache per user and node, and a message while the first use compiles.

The cache lies in a folder of its own because an installed package may be read-only, a home folder may be shared by nodes with
different processors, and a launch of many processes must not compile the same code many times.
"""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numba
from numba.core import config


def cache_folder() -> Path:
    """Where compiled code is kept: `DQK_CACHE_DIR`, else a folder per node in the user's cache folder."""
    given = os.environ.get("DQK_CACHE_DIR")
    if given:
        return Path(given).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "dqk" / f"numba-{numba.__version__}" / (platform.node() or "node")


@contextlib.contextmanager
def _numba_cache(folder: Path) -> Iterator[None]:
    # numba chooses the folder when caching is enabled for a function, so its setting is changed for that moment only.
    before = config.CACHE_DIR
    config.CACHE_DIR = str(folder)
    try:
        yield
    finally:
        config.CACHE_DIR = before


class _Announced:
    """A compiled entry point that says so when a call has to compile."""

    told = False

    def __init__(self, dispatcher: Any):
        self._dispatcher = dispatcher

    def __call__(self, *arguments: Any) -> Any:
        dispatcher = self._dispatcher
        if not _Announced.told and not dispatcher.overloads and not _is_cached(dispatcher):
            _Announced.told = True
            print(f"dqk: compiling for this processor, once (kept in {cache_folder()}) ...", file=sys.stderr, flush=True)
        return dispatcher(*arguments)


def _is_cached(dispatcher: Any) -> bool:
    index = getattr(dispatcher._cache, "_cache_file", None)
    return index is not None and os.path.exists(index._index_path)


def jit(function: Callable[..., Any]) -> Any:
    """Compiles an entry point: cached on disk, releases the GIL, announces a compilation."""
    dispatcher = numba.njit(nogil=True, error_model="numpy")(function)
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _numba_cache(folder):
            dispatcher.enable_caching()
    except (OSError, RuntimeError) as error:
        print(f"dqk: compiled code cannot be kept in {folder} ({error}); set DQK_CACHE_DIR to a writable folder", file=sys.stderr)
    return _Announced(dispatcher)


inner = numba.njit(nogil=True, error_model="numpy")
"""Compiles a part of an entry point; it is cached with its callers."""
