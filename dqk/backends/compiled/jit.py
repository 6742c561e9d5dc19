"""`jit`: numba's compiler with a cache per user and node, and a message while the first use compiles.

The cache lies in a folder of its own because an installed package may be read-only, a home folder may be shared by nodes with
different processors, and a launch of many processes must not compile the same code many times.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import pickle
import sys
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numba
import numpy as np
from numba.core import config

from dqk import _resources


@lru_cache(maxsize=1)
def cache_folder() -> Path:
    """Where compiled code is kept, below dqk's cache folder.

    Its name has a digest of these sources: numba compares only the file of an entry point with its cache, not the files of the
    functions that the entry point calls.
    """
    sources = hashlib.sha256(numba.__version__.encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        sources.update(path.read_bytes())
    return _resources.cache_folder() / sources.hexdigest()[:16]


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

    told: ClassVar[set[Any]] = set()

    def __init__(self, dispatcher: Any):
        self._dispatcher = dispatcher
        self._seen: set[Any] = set()
        self._last_array = -1

    def __call__(self, *arguments: Any) -> Any:
        if not self._seen:
            self._last_array = max(i for i, value in enumerate(arguments) if isinstance(value, np.ndarray))
        precision = arguments[self._last_array].dtype
        if precision not in self._seen:
            self._seen.add(precision)
            if not _is_cached(self._dispatcher, arguments):
                with _one_at_a_time():
                    return self._first_call(precision, arguments)
        return self._call(arguments)

    def _first_call(self, precision: Any, arguments: tuple[Any, ...]) -> Any:
        if precision not in self.told and not _is_cached(self._dispatcher, arguments):
            self.told.add(precision)
            text = f"dqk: compiling for this processor and {precision}, once (kept in {cache_folder()}) ..."
            print(text, file=sys.stderr, flush=True)
        return self._call(arguments)

    def _call(self, arguments: tuple[Any, ...]) -> Any:
        try:
            return self._dispatcher(*arguments)
        except (pickle.UnpicklingError, EOFError) as error:
            print(
                f"dqk: damaged compiled code in {cache_folder()} ({error}); compiling anew ...",
                file=sys.stderr,
                flush=True,
            )
            self._dispatcher._cache.flush()
            return self._dispatcher(*arguments)


@contextlib.contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Of the processes of this node one compiles; those that wait find its code in the cache."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # a folder without locks: everybody compiles
            fcntl.flock(stack.enter_context((cache_folder() / "lock").open("w")), fcntl.LOCK_EX)
        yield


def _is_cached(dispatcher: Any, arguments: tuple[Any, ...]) -> bool:
    try:
        signature = tuple(numba.typeof(argument) for argument in arguments)
        cache = dispatcher._cache
        return cache._index_key(signature, dispatcher.targetctx.codegen()) in cache._cache_file._load_index()
    except Exception:  # numba's private parts: a change there costs the message, never the call
        return True


def jit(function: Callable[..., Any]) -> Any:
    """Compiles an entry point: cached on disk, releases the GIL, announces a compilation."""
    dispatcher = numba.njit(nogil=True, error_model="numpy")(function)
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _numba_cache(folder):
            dispatcher.enable_caching()
    except (OSError, RuntimeError) as error:
        print(
            f"dqk: compiled code cannot be kept in {folder} ({error}); set DQK_CACHE_DIR to a writable folder",
            file=sys.stderr,
        )
    return _Announced(dispatcher)


inner = numba.njit(nogil=True, error_model="numpy")
"""Compiles a part of an entry point; it is cached with its callers."""
