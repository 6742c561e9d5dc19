"""From what a user names to a backend object."""

from __future__ import annotations

from functools import lru_cache
from importlib.metadata import entry_points

from dqk.backends.base import Backend
from dqk.circuit import Circuit, simplify_for_fidelity
from dqk.errors import InvalidInputError, UnsupportedError, unknown_name

_GROUP = "dqk.backends"
_PLANNED = {"qpu"}
_GPU = {"cuda", "cuquantum", "gpu"}


@lru_cache(maxsize=1)
def available() -> dict[str, str]:
    """Names of the installed backends with the places where they live."""
    return {point.name: point.value for point in entry_points(group=_GROUP)}


@lru_cache(maxsize=32)
def _load(name: str) -> Backend:
    for point in entry_points(group=_GROUP, name=name):
        loaded: Backend = point.load()()
        return loaded
    if name in _GPU:
        raise InvalidInputError(f"unknown backend {name!r}; did you mean 'custatevec', the one that runs on GPUs?")
    if name in _PLANNED or name.startswith(("pennylane:", "qpu:")):
        raise UnsupportedError(
            f"backend {name!r} is not part of this version; it has {', '.join(sorted(available()))} and auto"
        )
    raise unknown_name("backend", name, [*available(), "auto"])


def resolve(backend: str | Backend, circuit: Circuit, device: str = "cpu") -> Backend:
    """The backend that computes this circuit's fidelities.

    Args:
        backend: a backend object; the name of an installed one (entry-point group `dqk.backends`); or `auto`, which takes
            `mps` where the simplified circuit is a product of one-qubit circuits and `statevector` for the rest, or
            `custatevec` for samples on a GPU.
        circuit: the circuit.
        device: type of the samples' device, for `auto`.

    Returns:
        A backend that supports the simplified circuit.

    Raises:
        InvalidInputError: for an unknown name or another type.
        UnsupportedError: if the backend cannot run the circuit.
        BackendUnavailableError: if the backend needs a device or a package that is not there.
    """
    simplified = simplify_for_fidelity(circuit).circuit
    if backend == "auto":
        backend = "mps" if simplified.is_product else "statevector"
        backend = "custatevec" if device == "cuda" else backend
    found = _find(backend)
    found.check_supported(simplified)
    return found


def resolve_expectations(backend: str | Backend, circuit: Circuit, device: str = "cpu") -> Backend:
    """The backend that computes this circuit's expectation values; `auto` is `statevector` or `custatevec`. See `resolve`."""
    found = _find(("custatevec" if device == "cuda" else "statevector") if backend == "auto" else backend)
    if not found.capabilities.expectations:
        raise UnsupportedError(f"backend {found.name!r} gives no expectation values; use 'statevector'")
    found.check_supported(circuit)  # whole: nothing cancels in an expectation value
    return found


def _find(backend: str | Backend) -> Backend:
    if isinstance(backend, str):
        return _load(backend)
    if not isinstance(backend, Backend):
        raise InvalidInputError(
            f"backend is {backend!r}, expected a name ({', '.join(sorted(available()))} or auto) or a Backend object"
        )
    return backend
