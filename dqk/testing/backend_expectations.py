"""Laws of exact backends that give Pauli expectation values."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from dqk.backends.base import Backend
from dqk.circuit import Circuit, simplify_for_fidelity
from dqk.testing.comparison import assert_close, derivative, tolerance
from dqk.testing.subjects import DTYPES, REFERENCE, backend_law, samples, shared_angles, supports, weights


def _words(circuit: Circuit) -> list[str]:
    """Every one-qubit Pauli operator, two products over all qubits, and the identity."""
    n = circuit.n_qubits
    single = ["I" * q + letter + "I" * (n - q - 1) for q in range(n) for letter in "XYZ"]
    return [*single, ("XYZ" * n)[:n], ("YXXZ" * n)[:n], "I" * n]


def _supported(backend: Backend, circuit: Circuit) -> Circuit:
    """The circuit, or what remains of it where only that is supported."""
    return circuit if supports(backend, circuit) else simplify_for_fidelity(circuit).circuit


@backend_law("exact", "expectations")
def expectations_agree_with_reference(backend: Backend, circuit: Circuit) -> None:
    """Pauli expectation values in float64 and float32, also for zero samples."""
    circuit = _supported(backend, circuit)
    words = _words(circuit)
    for dtype, n in product(DTYPES, (9, 0)):
        ax, shared = samples(circuit, 1, n, dtype), shared_angles(circuit, dtype)
        expected = REFERENCE.expectations(circuit, ax.to(torch.float64), words, shared.to(torch.float64))
        found = backend.expectations(circuit, ax, words, shared)
        assert_close(found, expected, f"expectation values, {dtype}", *tolerance(dtype, circuit))


@backend_law("exact", "expectations", "differentiable")
def gradient_of_expectations_is_the_finite_difference(backend: Backend, circuit: Circuit) -> None:
    """Cotangents of data and shared columns of Pauli expectation values."""
    circuit = _supported(backend, circuit)
    words, ax, shared = _words(circuit), samples(circuit, 1, 3), shared_angles(circuit)
    cotangent = weights(len(ax), len(words))
    dax, dshared = backend.expectations_vjp(circuit, ax, words, shared, cotangent)

    directions = torch.eye(circuit.n_data, dtype=ax.dtype)[:, None, :]

    def data_moved(t: float) -> Tensor:  # every column of every sample in one call
        values = backend.expectations(circuit, (ax + t * directions).flatten(0, 1), words, shared)
        return (values.reshape(circuit.n_data, *cotangent.shape) * cotangent).sum(2).T

    expected = derivative(data_moved) if circuit.n_data else torch.zeros_like(ax)
    expected_shared = torch.zeros_like(shared)
    for column, e in enumerate(torch.eye(circuit.n_shared, dtype=ax.dtype)):

        def shared_moved(t: float, e: Tensor = e) -> Tensor:
            return (backend.expectations(circuit, ax, words, shared + t * e) * cotangent).sum()

        expected_shared[column] = derivative(shared_moved)
    assert_close(dax, expected, "d<P>/dX", 1e-9, 1e-9)
    assert_close(dshared, expected_shared, "d<P>/dshared", 1e-9, 1e-9)


@backend_law("exact", "expectations")
def fidelity_is_the_probability_of_zero(backend: Backend, circuit: Circuit) -> None:
    """k(x, y) is the probability of |0...0> after U(x) and the inverse of U(y): the mean of all words over I and Z."""
    circuit = simplify_for_fidelity(circuit).circuit
    ax, ay, shared = samples(circuit, 1, 4), samples(circuit, 2, 4), shared_angles(circuit)
    words = ["".join(letters) for letters in product("IZ", repeat=circuit.n_qubits)]
    there_and_back = torch.cat([ax, ay], dim=1), words, torch.cat([shared, shared])
    found = backend.expectations(circuit.compute_uncompute(), *there_and_back).mean(1)
    k = backend.fidelity(circuit, ax, ay, shared)
    assert_close(found, k.diagonal(), "probability of |0...0>", *tolerance(ax.dtype))
