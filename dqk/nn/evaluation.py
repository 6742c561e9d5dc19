"""Kernel values of new samples against references that are encoded once per forward pass.

A backend that encodes samples does so once for the references and then once per time step; any other computes pairs.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from dqk.backends import Backend, EncodingBackend, autograd, resolve
from dqk.circuit import Circuit, simplify_for_fidelity

_DENSE_QUBITS = 20

KernelValues = Callable[[Tensor], Tensor]
"""From data angles (b, A_d) of new samples to their kernel values (b, M) against M references, differentiable."""


def cell_backend(backend: str | Backend, circuit: Circuit) -> Backend:
    """The backend of a cell: `auto` is the one that has a compiled cell, or else what it is for matrices.

    Args:
        backend: what the user asked for.
        circuit: the circuit.
    """
    dense = not simplify_for_fidelity(circuit).circuit.is_product and circuit.n_qubits <= _DENSE_QUBITS
    return resolve("statevector" if backend == "auto" and dense else backend, circuit)


def against_references(backend: Backend, circuit: Circuit, references: Tensor, shared: Tensor) -> KernelValues:
    """Encodes references and gives the function that evaluates new samples against them.

    Args:
        backend: any backend that runs the circuit.
        circuit: the circuit, simplified already.
        references: data angles of the references, shape (M, A_d).
        shared: shared angles of both sides, shape (A_s,).

    Returns:
        The function; its values are differentiable in the new angles, the references and the shared angles.
    """
    if not isinstance(backend, EncodingBackend):
        return lambda angles: autograd.fidelity(backend, circuit, angles, references, shared)
    encoded = autograd.encode(backend, circuit, references, shared)
    return lambda angles: autograd.overlap(backend, autograd.encode(backend, circuit, angles, shared), encoded)
