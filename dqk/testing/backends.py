"""All laws of backends."""

from __future__ import annotations

from dqk.backends.base import Backend
from dqk.circuit import Circuit
from dqk.testing import backend_contract, backend_expectations, backend_gradients, backend_sampled, backend_values
from dqk.testing.law import Law, laws_in

BACKEND_LAWS: tuple[Law, ...] = laws_in(backend_contract, backend_values, backend_gradients, backend_expectations)
"""Laws of values and gradients, in the order in which `check_backend` runs them."""

SAMPLED_LAWS: tuple[Law, ...] = laws_in(backend_sampled)
"""Laws of jobs, for backends that measure each entry; `check_backend` runs them last."""


def check_backend(backend: Backend, circuit: Circuit) -> list[str]:
    """Runs every law that the backend's capabilities promise.

    Args:
        backend: the backend.
        circuit: a circuit that it supports once simplified; 8 qubits at most, since the oracle is dense.

    Returns:
        The names of the laws that were checked.

    Raises:
        AssertionError: names the law, the place and both values.
    """
    laws = [law for law in BACKEND_LAWS + SAMPLED_LAWS if law.applies(backend)]
    for law in laws:
        law(backend, circuit)
    return [law.name for law in laws]
