"""Differentiable forms of a backend's operations, for code that composes them itself (the QK-LSTM, projected kernels).

First derivatives only: a second one is refused.
"""

# torch.autograd.Function's methods have no useful static types.
# mypy: disable-error-code="no-untyped-def,no-untyped-call,override"

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from dqk.backends.base import Backend, EncodingBackend
from dqk.circuit import Circuit
from dqk.errors import UnsupportedError


class _Refused(torch.autograd.Function):
    @staticmethod
    def forward(ctx, gradient: Tensor, *anchors: Tensor) -> Tensor:
        return gradient.clone()

    @staticmethod
    def backward(ctx, *cotangents: Tensor):
        raise UnsupportedError(
            "second derivatives of quantum kernels are not available: the gradient that was made with create_graph=True "
            "cannot be differentiated; detach it"
        )


def first_derivative_only(backward):
    """Makes a backward pass one that raises if somebody differentiates its result.

    Torch's `once_differentiable` does so only where a cotangent needs a gradient. Where only the angles do, as in a
    gradient penalty, it would give a constant without a word.
    """

    @functools.wraps(backward)
    def wrapper(ctx, *cotangents: Tensor):
        with torch.no_grad():
            gradients = backward(ctx, *cotangents)
        if not torch.is_grad_enabled():
            return gradients
        # The refusal hangs on what the gradient depends on: torch visits only nodes that lead to what it was asked for.
        anchors = [t for t in (*cotangents, *ctx.saved_tensors) if t is not None and t.requires_grad]
        if not anchors:
            return gradients
        return tuple(g if g is None else _Refused.apply(g.detach(), *anchors) for g in gradients)

    return wrapper


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(ctx, backend: EncodingBackend, circuit: Circuit, angles: Tensor, shared: Tensor) -> Tensor:
        encoded = backend.encode(circuit, angles, shared)
        ctx.backend, ctx.circuit = backend, circuit
        ctx.save_for_backward(angles, shared, encoded)
        return encoded

    @staticmethod
    @first_derivative_only
    def backward(ctx, cotangent: Tensor):
        return None, None, *ctx.backend.encode_vjp(ctx.circuit, *ctx.saved_tensors, cotangent)


class _Overlap(torch.autograd.Function):
    @staticmethod
    def forward(ctx, backend: EncodingBackend, a: Tensor, b: Tensor) -> Tensor:
        ctx.backend = backend
        ctx.save_for_backward(a, b)
        return backend.overlap(backend.prepare(a), backend.prepare(b))

    @staticmethod
    @first_derivative_only
    def backward(ctx, cotangent: Tensor):
        a, b = ctx.saved_tensors
        backend = ctx.backend
        return None, *backend.overlap_vjp(backend.prepare(a), backend.prepare(b), cotangent)


class _Fidelity(torch.autograd.Function):
    @staticmethod
    def forward(ctx, backend: Backend, circuit: Circuit, ax: Tensor, ay: Tensor, shared: Tensor) -> Tensor:
        ctx.backend, ctx.circuit = backend, circuit
        ctx.save_for_backward(ax, ay, shared)
        return backend.fidelity(circuit, ax, ay, shared)

    @staticmethod
    @first_derivative_only
    def backward(ctx, cotangent: Tensor):
        return None, None, *ctx.backend.fidelity_vjp(ctx.circuit, *ctx.saved_tensors, cotangent)


class _Expectations(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, backend: Backend, circuit: Circuit, observables: Sequence[str], ax: Tensor, shared: Tensor
    ) -> Tensor:
        ctx.backend, ctx.circuit, ctx.observables = backend, circuit, observables
        ctx.save_for_backward(ax, shared)
        return backend.expectations(circuit, ax, observables, shared)

    @staticmethod
    @first_derivative_only
    def backward(ctx, cotangent: Tensor):
        ax, shared = ctx.saved_tensors
        dax, dshared = ctx.backend.expectations_vjp(ctx.circuit, ax, ctx.observables, shared, cotangent)
        return None, None, None, dax, dshared


def encode(backend: EncodingBackend, circuit: Circuit, angles: Tensor, shared: Tensor) -> Tensor:
    """`backend.encode`, differentiable in both kinds of angles. Shape (..., N)."""
    return _Encode.apply(backend, circuit, angles, shared)


def overlap(backend: EncodingBackend, a: Tensor, b: Tensor) -> Tensor:
    """Kernel values (N, M) of encodings (..., N) and (..., M), differentiable in both."""
    return _Overlap.apply(backend, a, b)


def fidelity(backend: Backend, circuit: Circuit, ax: Tensor, ay: Tensor, shared: Tensor) -> Tensor:
    """`backend.fidelity` of two different sets of samples, differentiable in all angles. Shape (N, M)."""
    return _Fidelity.apply(backend, circuit, ax, ay, shared)


def expectations(backend: Backend, circuit: Circuit, ax: Tensor, observables: Sequence[str], shared: Tensor) -> Tensor:
    """`backend.expectations`, differentiable in both kinds of angles. Shape (N, O)."""
    return _Expectations.apply(backend, circuit, observables, ax, shared)
