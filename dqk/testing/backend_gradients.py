"""Laws of exact, differentiable backends: cotangents of kernel values, against finite differences in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from dqk.backends.base import Backend, EncodingBackend
from dqk.circuit import Circuit, simplify_for_fidelity
from dqk.testing.comparison import assert_close, derivative, tolerance
from dqk.testing.subjects import backend_law, samples, shared_angles, weights


@backend_law("exact", "differentiable")
def gradient_is_the_finite_difference(backend: Backend, circuit: Circuit) -> None:
    """Cotangents of data and shared columns of K(X, Y)."""
    ax, ay, shared = samples(circuit, 1, 5), samples(circuit, 2, 4), shared_angles(circuit)
    cotangent = weights(5, 4)
    dax, day, dshared = backend.fidelity_vjp(circuit, ax, ay, shared, cotangent)
    slopes = _data_slopes(backend, circuit, ax, ay, shared)
    assert_close(dax, torch.einsum("cij,ij->ic", slopes, cotangent), "dK(X, Y)/dX", 1e-9, 1e-9)
    assert day is not None, "dK(X, Y)/dY is missing"
    slopes = _data_slopes(backend, circuit, ay, ax, shared)
    assert_close(day, torch.einsum("cji,ij->jc", slopes, cotangent), "dK(X, Y)/dY", 1e-9, 1e-9)
    expected = _shared_slopes(backend, circuit, ax, ay, shared, cotangent)
    assert_close(dshared, expected, "dK(X, Y)/dshared", 1e-9, 1e-9)


@backend_law("exact", "differentiable")
def gradient_of_one_argument_counts_both_roles(backend: Backend, circuit: Circuit) -> None:
    """Cotangents of data and shared columns of K(X), where each sample is a row and a column."""
    ax, shared, cotangent = samples(circuit, 1, 5), shared_angles(circuit), weights(5, 5)
    dax, day, dshared = backend.fidelity_vjp(circuit, ax, None, shared, cotangent)
    assert day is None, "K(X) has one argument and one cotangent"
    folded = (cotangent + cotangent.T).fill_diagonal_(0)
    slopes = _data_slopes(backend, circuit, ax, ax.clone(), shared)
    assert_close(dax, torch.einsum("cij,ij->ic", slopes, folded), "dK(X)/dX", 1e-9, 1e-9)
    expected = _shared_slopes(backend, circuit, ax, None, shared, cotangent)
    assert_close(dshared, expected, "dK(X)/dshared", 1e-9, 1e-9)


def _data_slopes(backend: Backend, circuit: Circuit, ax: Tensor, ay: Tensor, shared: Tensor) -> Tensor:
    """`dK[i, j] / d(ax[i, c])`, shape (A_d, N, M): all columns of all samples are shifted in one call."""
    shape = (circuit.n_data, len(ax), len(ay))
    if not circuit.n_data:
        return ax.new_zeros(shape)
    directions = torch.eye(circuit.n_data, dtype=ax.dtype)[:, None, :]

    def shifted(t: float) -> Tensor:
        return backend.fidelity(circuit, (ax + t * directions).flatten(0, 1), ay, shared).reshape(shape)

    return derivative(shifted)


def _shared_slopes(
    backend: Backend, circuit: Circuit, ax: Tensor, ay: Tensor | None, shared: Tensor, cotangent: Tensor
) -> Tensor:
    """`d(sum cotangent * K) / d(shared)`, shape (A_s,)."""
    result = torch.zeros_like(shared)
    for column, direction in enumerate(torch.eye(len(shared), dtype=shared.dtype)):

        def shifted(t: float, direction: Tensor = direction) -> Tensor:
            return backend.fidelity(circuit, ax, ay, shared + t * direction)

        result[column] = (derivative(shifted) * cotangent).sum()
    return result


@backend_law("exact", "differentiable")
def float32_gradient_agrees_with_float64(backend: Backend, circuit: Circuit) -> None:
    """Cotangents in single precision are those in double precision up to rounding."""
    arguments = (samples(circuit, 1, 5), samples(circuit, 2, 4), shared_angles(circuit), weights(5, 4))
    expected = backend.fidelity_vjp(circuit, *arguments)
    found = backend.fidelity_vjp(circuit, *(tensor.float() for tensor in arguments))
    absolute = float(arguments[3].abs().sum()) * tolerance(torch.float32, circuit)[0]
    for name, a, b in zip(("X", "Y", "shared"), found, expected, strict=True):
        assert a is not None and b is not None, f"dK/d{name} is missing"
        assert_close(a, b, f"dK/d{name} in float32", absolute)


@backend_law("exact", "differentiable")
def what_cannot_matter_has_no_gradient(backend: Backend, circuit: Circuit) -> None:
    """The diagonal of K(X), and columns that simplification removes, have cotangents of exactly zero."""
    ax, ay, shared = samples(circuit, 1, 5), samples(circuit, 2, 4), shared_angles(circuit)
    dax, _, dshared = backend.fidelity_vjp(circuit, ax, None, shared, torch.eye(5, dtype=ax.dtype))
    assert not dax.any() and not dshared.any(), "the diagonal of K(X) has a gradient"
    dax, day, dshared = backend.fidelity_vjp(circuit, ax, ay, shared, weights(5, 4))
    kept = simplify_for_fidelity(circuit).circuit
    dead_data = sorted(set(range(circuit.n_data)) - set(kept.columns("data")))
    dead_shared = sorted(set(range(circuit.n_shared)) - set(kept.columns("shared")))
    assert day is not None and not dax[:, dead_data].any() and not day[:, dead_data].any(), (
        f"data columns {dead_data} cannot matter but have a gradient"
    )
    assert not dshared[dead_shared].any(), f"shared columns {dead_shared} cannot matter but have a gradient"


@backend_law("exact", "differentiable", "encoding")
def gradient_of_log_overlap_is_the_quotient(backend: EncodingBackend, circuit: Circuit) -> None:
    """Cotangents of log K are those of K with the cotangent divided by K."""
    kept = simplify_for_fidelity(circuit).circuit
    ax, shared = samples(circuit, 1, 6), shared_angles(circuit)
    a, b = (backend.encode_block(kept, angles, shared)[1] for angles in (ax, ax + 0.1))
    k = backend.overlap(a, b)
    cotangent = torch.where(k > 1e-3, weights(6, 6), torch.zeros_like(k))
    assert cotangent.any(), f"no entry of K is above 1e-3: {k}"
    expected = backend.overlap_vjp(a, b, cotangent / k)
    for name, left, right in zip("ab", backend.log_overlap_vjp(a, b, cotangent), expected, strict=True):
        assert_close(left, right, f"d(log K)/d{name}", 1e-8, 1e-8)
