"""Machine code from LLVM's assembly language, for code that is generated per circuit.

numba would take seconds for each new function; LLVM alone takes a fraction of one. Object code is kept beside numba's cache, under
a digest of its source and of the processor.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import threading
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import llvmlite.binding as llvm

from dqk.backends.compiled.jit import cache_folder

_engines: list[Any] = []  # what owns the code
_lock = threading.Lock()


@lru_cache(maxsize=1)
def _target() -> Any:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    features = llvm.get_host_cpu_features().flatten()
    triple = llvm.Target.from_triple(llvm.get_process_triple())
    return triple.create_target_machine(cpu=llvm.get_host_cpu_name(), features=features, opt=3, jit=True)


def compiled(text: str, name: str, n_pointers: int, n_numbers: int) -> Callable[..., None]:
    """A function of a module, callable with so many addresses and then so many whole numbers. It releases the GIL.

    Args:
        text: the module in LLVM's assembly language.
        name: of the function.
        n_pointers: number of its leading arguments that are addresses.
        n_numbers: number of 64-bit integers that follow.
    """
    with _lock:
        engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _target())
        engine.add_object_file(llvm.ObjectFileRef.from_data(_object_code(text)))
        engine.finalize_object()
        _engines.append(engine)
        address = engine.get_function_address(name)
    types = [ctypes.c_void_p] * n_pointers + [ctypes.c_int64] * n_numbers
    return ctypes.CFUNCTYPE(None, *types)(address)


def _object_code(text: str) -> bytes:
    source = "\n".join([text, llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()])
    digest = hashlib.sha256(source.encode()).hexdigest()
    path = cache_folder() / f"{digest}.o"
    with contextlib.suppress(OSError):
        stored = path.read_bytes()
        code, end = stored[:-32], stored[-32:]
        if hashlib.sha256(code).digest() == end:  # else torn or damaged: made anew
            return code
    module = llvm.parse_assembly(text)
    module.verify()
    made: bytes = _target().emit_object(module)
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".{os.getpid()}-{threading.get_native_id()}")
        unfinished.write_bytes(made + hashlib.sha256(made).digest())
        unfinished.replace(path)
    return made
