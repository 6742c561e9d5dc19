"""From what a user names to a backend object."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import lru_cache
from importlib.metadata import entry_points
from typing import Any
from urllib.parse import parse_qsl

import torch

from dqk.backends.base import Backend
from dqk.backends.choice import choose
from dqk.circuit import Circuit, simplify_for_fidelity
from dqk.errors import InvalidInputError, UnsupportedError, unknown_name

_GROUP = "dqk.backends"
_FAMILIES = "dqk.backend_families"
_GPU = {"cuda", "cuquantum", "gpu"}


@lru_cache(maxsize=1)
def available() -> dict[str, str]:
    """Names of the installed backends with the places where they live."""
    return {point.name: point.value for point in entry_points(group=_GROUP)}


@lru_cache(maxsize=1)
def families() -> dict[str, str]:
    """Prefixes of names that stand for many devices, as in `pennylane:lightning.qubit`, with the functions that open them."""
    return {point.name: point.value for point in entry_points(group=_FAMILIES)}


def split_options(text: str) -> tuple[str, dict[str, bool | int | float | str]]:
    """What stands before the question mark, and the options behind it.

    >>> split_options("lightning.qubit?shots=1000&batch_obs=true&kernel_name=AVX2")
    ('lightning.qubit', {'shots': 1000, 'batch_obs': True, 'kernel_name': 'AVX2'})

    Raises:
        InvalidInputError: for an option without a value, or one that says a secret: names are stored and shown.
    """
    name, _, query = text.partition("?")
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError as error:
        raise InvalidInputError(f"options {query!r} of {name!r}, expected key=value&key=value") from error
    for key, _ in pairs:
        if is_secret(key):
            raise InvalidInputError(
                f"option {key!r} of {name!r}: names of backends are stored and shown, so give secrets by the provider's "
                "environment variables, or make the device yourself and pass the object"
            )
    return name, {key: _value(value) for key, value in pairs}


def is_secret(option: str) -> bool:
    """Whether an option of this name holds something that must not be shown."""
    return any(word in option.lower() for word in ("token", "key", "secret", "password"))


def _value(text: str) -> bool | int | float | str:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


@lru_cache(maxsize=32)
def _load(name: str) -> Backend:
    for point in entry_points(group=_GROUP, name=name):
        loaded: Backend = point.load()()
        return loaded
    family, colon, rest = name.partition(":")
    if colon:
        for point in entry_points(group=_FAMILIES, name=family):
            opened: Backend = point.load()(rest)
            return opened
    if name in _GPU:
        raise InvalidInputError(f"unknown backend {name!r}; did you mean 'custatevec', the one that runs on GPUs?")
    raise unknown_name("backend", name, [*available(), "auto", *(f"{family}:..." for family in families())])


def resolve(
    backend: str | Backend | Any,
    circuit: Circuit,
    device: str = "cpu",
    dtype: torch.dtype = torch.float64,
    gradients: Sequence[int] = (),
) -> Backend:
    """The backend that computes this circuit's fidelities.

    Args:
        backend: a backend object; a PennyLane device; the name of an installed backend (entry-point group `dqk.backends`);
            a family and what it is to open, such as `pennylane:lightning.qubit` or `mps:max_bond=16` (group
            `dqk.backend_families`); or `auto`, which takes `mps` or `statevector`, see `dqk.backends.choice`, or `custatevec`
            for samples on a GPU.
        circuit: the circuit.
        device: type of the samples' device, for `auto`.
        dtype: of the samples, for `auto`.
        gradients: numbers of samples whose states a gradient keeps, for `auto`.

    Returns:
        A backend that supports the simplified circuit.

    Raises:
        InvalidInputError: for an unknown name or another type.
        UnsupportedError: if the backend cannot run the circuit.
        MemoryBoundError: if none that `auto` chooses from has the memory to.
        BackendUnavailableError: if the backend needs a device or a package that is not there.
    """
    simplified = simplify_for_fidelity(circuit).circuit
    if backend == "auto":
        backend = "custatevec" if device == "cuda" else choose(simplified, dtype, gradients)
    found = _find(backend).on(device)
    found.check_supported(simplified)
    return found


def resolve_expectations(backend: str | Backend | Any, circuit: Circuit, device: str = "cpu") -> Backend:
    """The backend that computes this circuit's expectation values; `auto` is `statevector` or `custatevec`. See `resolve`."""
    found = _find(("custatevec" if device == "cuda" else "statevector") if backend == "auto" else backend).on(device)
    if not found.capabilities.expectations:
        raise UnsupportedError(f"backend {found.name!r} gives no expectation values; use 'statevector'")
    found.check_supported(circuit)  # whole: nothing cancels in an expectation value
    return found


def _find(backend: str | Backend | Any) -> Backend:
    if isinstance(backend, str):
        return _load(backend)
    if isinstance(backend, Backend):
        return backend
    # Who has a device has loaded PennyLane; for all others it need not be there.
    if "pennylane" in sys.modules:
        from dqk.backends._pennylane import PennyLaneBackend, is_device

        if is_device(backend):
            return PennyLaneBackend(backend)
    raise InvalidInputError(
        f"backend is {backend!r}, expected a name ({', '.join(sorted(available()))} or auto), a Backend object or a "
        "PennyLane device"
    )
