"""From what a user names to a backend object."""

from __future__ import annotations

from functools import lru_cache
from importlib.metadata import entry_points

from dqk.backends.base import Backend
from dqk.circuit import Circuit, simplify_for_fidelity
from dqk.errors import InvalidInputError, unknown_name

_GROUP = "dqk.backends"


@lru_cache(maxsize=1)
def available() -> dict[str, str]:
    """Names of the installed backends with the places where they live."""
    return {point.name: point.value for point in entry_points(group=_GROUP)}


@lru_cache(maxsize=32)
def _load(name: str) -> Backend:
    for point in entry_points(group=_GROUP, name=name):
        loaded: Backend = point.load()()
        return loaded
    raise unknown_name("backend", name, [*available(), "auto"])


def resolve(backend: str | Backend, circuit: Circuit) -> Backend:
    """The backend that computes this circuit's fidelities.

    Args:
        backend: a backend object; the name of an installed one (entry-point group `dqk.backends`); or `auto`, which takes
            `mps` where the simplified circuit is a product of one-qubit circuits and `statevector` for the rest.
        circuit: the circuit.

    Returns:
        A backend that supports the simplified circuit.

    Raises:
        InvalidInputError: for an unknown name or another type.
        UnsupportedError: if the backend cannot run the circuit.
    """
    simplified = simplify_for_fidelity(circuit).circuit
    if isinstance(backend, str):
        name = ("mps" if simplified.is_product else "statevector") if backend == "auto" else backend
        backend = _load(name)
    elif not isinstance(backend, Backend):
        raise InvalidInputError(
            f"backend is {backend!r}, expected a name ({', '.join(sorted(available()))} or auto) or a Backend object"
        )
    backend.check_supported(simplified)
    return backend
