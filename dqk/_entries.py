"""Entries that a device measures, as a worker sees them: jobs of circuits go to the device, frequencies come back.

A backend is opened once for each name and process. An object travels nowhere: its number means something in this process only.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
import weakref
from collections.abc import Mapping
from contextlib import nullcontext
from functools import lru_cache, partial
from typing import Any

import numpy as np

from dqk._wire import pack
from dqk.backends.resolve import resolve
from dqk.backends.sampled import SampledBackend
from dqk.circuit import Circuit
from dqk.errors import InvalidInputError, UnsupportedError, cause
from dqk.store.files import write_all

_OBJECT = "object:"
_objects: weakref.WeakValueDictionary[str, SampledBackend] = weakref.WeakValueDictionary()


def named(backend: SampledBackend) -> str:
    """A name under which tasks of this process find a backend object."""
    name = f"{_OBJECT}{os.getpid()}-{id(backend)}"
    _objects[name] = backend
    return name


def opened(name: str, circuit: Circuit) -> SampledBackend:
    """The backend of a name.

    Raises:
        UnsupportedError: if it measures no circuits, or is an object of another process.
    """
    if name.startswith(_OBJECT):
        found = _objects.get(name)
        if found is None:
            raise UnsupportedError(
                "the kernel's backend is an object, which stays in the process that made it; give it by name, or leave out executor"
            )
        return found
    backend = resolve(name, circuit)
    if not isinstance(backend, SampledBackend):
        raise UnsupportedError(f"backend {name!r} measures no circuits")
    return backend


_locks: weakref.WeakKeyDictionary[SampledBackend, threading.Lock] = weakref.WeakKeyDictionary()


def _alone(backend: SampledBackend) -> threading.Lock:
    """Held by the one thread that uses a backend which is not made for more."""
    return _locks.setdefault(backend, threading.Lock())


@lru_cache(maxsize=64)
def _circuit(text: str) -> Circuit:
    return Circuit.from_dict(json.loads(text))


def run_entries(header: dict[str, Any], extra: Mapping[str, np.ndarray], arrays: Mapping[str, Any]) -> bytes:
    """Jobs for a device: `entries` holds (item, shots, seed, tag), the arrays `<item>.left` and `<item>.right` its angles.

    Gives the frequencies of each item; what failed is listed with its cause, as uncharged if it costs nothing, and what the device
    says that it cannot do. With a
    `log` the device's own name of a job is added there before its result is waited for, so that it can be found again after
    a crash.
    """
    shipped = arrays[header["job"]]
    spec = json.loads(shipped["spec"].tobytes())
    circuit = _circuit(json.dumps(spec["circuit"]))
    backend = opened(header["backend"] or spec["backend"], circuit)
    values: dict[str, np.ndarray] = {}
    failed: list[tuple[int, str]] = []
    uncharged: list[int] = []
    unsupported: str | None = None
    spans: list[tuple[str, int, float, float]] = []
    for item, shots, seed, tag in header["entries"]:
        began = time.time()
        told = partial(_note, header["log"], tag) if header.get("log") else None
        left, right = extra[f"{item}.left"], extra[f"{item}.right"]
        try:
            with nullcontext() if backend.parallel else _alone(backend):
                values[str(item)] = backend.run(
                    circuit, left, right, shipped["shared"], shots, seed=seed, tag=tag, told=told
                )
        except Exception as error:
            failed.append((item, cause(error)))
            if isinstance(error, InvalidInputError | UnsupportedError) or getattr(error, "charged", True) is False:
                uncharged.append(item)
            if isinstance(error, UnsupportedError):
                unsupported = str(error)
        spans.append(("measure", item, began, time.time()))
    return pack({"failed": failed, "uncharged": uncharged, "unsupported": unsupported, "spans": spans}, values)


def _note(log: str, tag: str, job: str) -> None:
    line = json.dumps({"submitted": tag, "job": job}) + "\n"
    with contextlib.suppress(
        OSError
    ):  # a worker that does not see the driver's disk: the job is found by its tag, or not at all
        descriptor = os.open(log, os.O_APPEND | os.O_WRONLY)
        try:
            write_all(descriptor, line.encode(), halfway="half_note")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
