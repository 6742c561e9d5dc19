"""Laws of every backend: shapes, dtypes, memory layouts, repetition and refusals."""

from __future__ import annotations

from collections.abc import Callable

import torch

from dqk.backends.base import Backend
from dqk.circuit import Circuit
from dqk.errors import InvalidInputError, UnsupportedError
from dqk.testing.comparison import assert_close, assert_same_bits, tolerance
from dqk.testing.subjects import DTYPES, backend_law, samples, shared_angles, supports, weights


@backend_law()
def no_samples_give_no_entries(backend: Backend, circuit: Circuit) -> None:
    """Zero samples give matrices and cotangents of the right shapes."""
    none, some, shared = samples(circuit, 1, 0), samples(circuit, 2, 3), shared_angles(circuit)
    for ax, ay in ((none, some), (some, none), (none, None)):
        k = backend.fidelity(circuit, ax, ay, shared)
        shape = (len(ax), len(ax if ay is None else ay))
        assert k.shape == shape, f"K of {shape[0]} and {shape[1]} samples has shape {tuple(k.shape)}"
        if backend.capabilities.differentiable:
            dax, day, dshared = backend.fidelity_vjp(circuit, ax, ay, shared, k)
            assert dax.shape == ax.shape, f"cotangent of shape {tuple(dax.shape)} for angles {tuple(ax.shape)}"
            assert (None if day is None else day.shape) == (None if ay is None else ay.shape), "cotangent of ay"
            assert not dshared.any(), f"without samples the shared angles have the cotangent {dshared}"


@backend_law()
def dtype_is_kept(backend: Backend, circuit: Circuit) -> None:
    """Float32 angles give float32 values and cotangents, float64 ones float64."""
    for dtype in DTYPES:
        ax, ay, shared = samples(circuit, 1, 3, dtype), samples(circuit, 2, 2, dtype), shared_angles(circuit, dtype)
        results = {"K": backend.fidelity(circuit, ax, ay, shared)}
        if backend.capabilities.differentiable:
            cotangents = backend.fidelity_vjp(circuit, ax, ay, shared, results["K"])
            results |= {n: t for n, t in zip(("dX", "dY", "dw"), cotangents, strict=True) if t is not None}
        if backend.capabilities.expectations and supports(backend, circuit):
            results["expectations"] = backend.expectations(circuit, ax, ["Z" * circuit.n_qubits], shared)
        wrong = {name: tensor.dtype for name, tensor in results.items() if tensor.dtype != dtype}
        assert not wrong, f"{dtype} angles give {wrong}"


@backend_law("exact")
def repeatable(backend: Backend, circuit: Circuit) -> None:
    """The same call gives the same bits and leaves its arguments and earlier results alone."""
    arguments = (samples(circuit, 1, 9), samples(circuit, 2, 7), shared_angles(circuit))
    before = [tensor.clone() for tensor in arguments]
    first = backend.fidelity(circuit, *arguments)
    kept = first.clone()
    assert_same_bits(backend.fidelity(circuit, *arguments), kept, "second call")
    assert_same_bits(first, kept, "first result after the second call")
    if backend.capabilities.differentiable:
        cotangent = weights(9, 7)
        once, again = (backend.fidelity_vjp(circuit, *arguments, cotangent) for _ in range(2))
        for a, b in zip(once, again, strict=True):
            if a is not None and b is not None:
                assert_same_bits(b, a, "second call of the gradient")
        assert_same_bits(cotangent, weights(9, 7), "cotangent after the call")
    for now, then in zip(arguments, before, strict=True):
        assert_same_bits(now, then, "argument after the call")


@backend_law("exact")
def strides_do_not_matter(backend: Backend, circuit: Circuit) -> None:
    """Angles and cotangents with gaps, with swapped axes or repeated by stride 0 are read rightly."""
    ax, ay, shared = samples(circuit, 1, 6), samples(circuit, 2, 5), shared_angles(circuit)
    k = backend.fidelity(circuit, ax, ay, shared)
    gaps, swapped = torch.stack([ax, -ax], dim=-1)[..., 0], ay.T.contiguous().T
    shared_gaps = torch.stack([shared, -shared], dim=-1)[..., 0]
    bound = tolerance(ax.dtype)
    assert_close(backend.fidelity(circuit, gaps, swapped, shared_gaps), k, "strided angles", *bound)
    repeated = backend.fidelity(circuit, ax[:1].expand(6, -1), ay, shared)
    assert_close(repeated, k[:1].expand(6, -1), "expanded angles", *bound)
    if backend.capabilities.differentiable:
        cotangent = weights(5, 6).T
        plain = backend.fidelity_vjp(circuit, ax, ay, shared, cotangent.contiguous())
        strided = backend.fidelity_vjp(circuit, gaps, swapped, shared_gaps, cotangent)
        for a, b in zip(strided, plain, strict=True):
            if a is not None and b is not None:
                assert_close(a, b, "gradient from strided arguments", 1e-11, 1e-11)


@backend_law()
def wrong_shapes_are_refused(backend: Backend, circuit: Circuit) -> None:
    """Angles, shared angles and cotangents of another shape raise InvalidInputError."""
    ax, shared = samples(circuit, 1, 3), shared_angles(circuit)
    wide = ax.new_zeros(3, circuit.n_data + 1)
    calls: dict[str, Callable[[], object]] = {
        "a data column too many": lambda: backend.fidelity(circuit, wide, None, shared),
        "a data column too many in ay": lambda: backend.fidelity(circuit, ax, wide, shared),
        "one-dimensional angles": lambda: backend.fidelity(circuit, ax.reshape(-1), None, shared),
        "a shared column too many": lambda: backend.fidelity(circuit, ax, None, ax.new_zeros(circuit.n_shared + 1)),
        "a cotangent of another shape": lambda: backend.fidelity_vjp(circuit, ax, None, shared, ax.new_zeros(3, 4)),
    }
    for what, call in calls.items():
        try:
            call()
        except InvalidInputError:
            continue
        raise AssertionError(f"{what}: accepted, expected InvalidInputError")


@backend_law()
def too_many_qubits_are_refused(backend: Backend, circuit: Circuit) -> None:
    """A circuit one qubit wider than `max_qubits` raises UnsupportedError that names the limit."""
    limit = backend.capabilities.max_qubits
    if limit is None:
        return
    try:
        backend.check_supported(Circuit(limit + 1, ()))
    except UnsupportedError as error:
        assert str(limit) in str(error), f"the message {str(error)!r} does not name the limit {limit}"
    else:
        raise AssertionError(f"{limit + 1} qubits: accepted, expected UnsupportedError")
