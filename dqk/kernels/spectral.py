"""Matrix functions behind the repairs, with gradients that stay finite where eigenvalues coincide.

Derivatives of `V f(w) V^T` divide differences of f by differences of eigenvalues (Daleckii and Krein). For the functions here
the quotients have a form without a difference in the denominator, so that K = I is no special case.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dqk.errors import DQKError

TOLERANCE = 1e-10
"""Largest deviation of a diagonal entry from 1 at which the nearest matrix is found; the last step scales it away."""

_NEWTON_STEPS = 100
_HALVINGS = 40
_DEGENERATE = 1e-9  # eigenvalues that are nearer than this part of the largest one count as one


class Clip(torch.autograd.Function):
    """Negative eigenvalues become 0, or their absolute value; a matrix without any stays as it is.

    The divided differences of max(w, 0) are (max(w_i, 0) + max(w_j, 0)) / (|w_i| + |w_j|), those of |w| are
    (w_i + w_j) / (|w_i| + |w_j|); 0 / 0 counts as 1, as where nothing is clipped.
    """

    @staticmethod
    def forward(ctx: Any, K: Tensor, absolute: bool) -> Tensor:
        """K symmetric, shape (N, N), float64."""
        w, v = torch.linalg.eigh(K)
        ctx.absolute = absolute
        ctx.save_for_backward(w, v)
        if w[0] >= 0:
            return K.clone()
        return _symmetric((v * (w.abs() if absolute else w.clamp(min=0))) @ v.T)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """The cotangent of K, symmetric."""
        w, v = ctx.saved_tensors
        return _derivative(v, _quotients(w, w if ctx.absolute else w.clamp(min=0)), _symmetric(grad)), None


class Displace(torch.autograd.Function):
    """`K - min(w_1, 0) I`. Where the smallest eigenvalue w_1 is degenerate, its gradient is the mean of its eigenvectors'."""

    @staticmethod
    def forward(ctx: Any, K: Tensor) -> Tensor:
        """K symmetric, shape (N, N), float64."""
        w, v = torch.linalg.eigh(K)
        lowest = v[:, w - w[0] <= _DEGENERATE * w.abs().max()]
        ctx.negative = bool(w[0] < 0)
        ctx.save_for_backward(lowest)
        return K - torch.diag_embed(w[:1].clamp(max=0).expand(len(K)))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """The cotangent of K, symmetric."""
        (lowest,) = ctx.saved_tensors
        grad = _symmetric(grad)
        return grad - grad.trace() * (lowest @ lowest.T) / lowest.shape[1] if ctx.negative else grad


class NearestCorrelation(torch.autograd.Function):
    """The positive semi-definite matrix with unit diagonal that is nearest to K in Frobenius norm.

    It is `X = (K + Diag(y))_+` with the y for which diag(X) = 1 (Higham 2002, theorem 2.4): the minimum of a convex function,
    found by Newton's method. With D the derivative of `(.)_+` and H z = diag(D[Diag(z)]), the cotangent of K is
    `D[G - Diag(z)]` where `H z = diag(D[G])`.

    References:
        Higham, IMA J. Numer. Anal. 22 (2002) 329; Qi and Sun, SIAM J. Matrix Anal. Appl. 28 (2006) 360, algorithm 5.1.
    """

    @staticmethod
    def forward(ctx: Any, K: Tensor) -> Tensor:
        """K symmetric, shape (N, N), float64."""
        w, v = nearest_dual(K)
        ctx.save_for_backward(w, v)
        X = (v * w.clamp(min=0)) @ v.T
        scale = X.diagonal().rsqrt()
        X = _symmetric(X * scale[:, None] * scale)
        return X.fill_diagonal_(1.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """The cotangent of K, symmetric."""
        w, v = ctx.saved_tensors
        phi = _quotients(w, w.clamp(min=0))
        grad = _symmetric(grad)
        z = _solve(v, phi, _derivative(v, phi, grad).diagonal(), 1e-12, 0.0)
        return _derivative(v, phi, grad - torch.diag(z))


def nearest_dual(K: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues and eigenvectors of `K + Diag(y)` at the y for which its positive part has unit diagonal.

    Args:
        K: symmetric, shape (N, N), float64.

    Raises:
        DQKError: if Newton's method stops short of the tolerance.
    """
    y = 1 - K.diagonal()
    value, excess, w, v = _dual(K, y)
    for _ in range(_NEWTON_STEPS):
        if excess.abs().max() <= TOLERANCE:
            return w, v
        norm = float(excess.norm())
        phi = _quotients(w, w.clamp(min=0))
        step = _solve(v, phi, -excess, min(0.1, norm), min(1e-3, 0.1 * norm))
        slope, length = float(step @ excess), 1.0
        for _ in range(_HALVINGS):
            found = _dual(K, y + length * step)
            # Near the minimum the function no longer tells two points apart, its gradient does.
            if found[0] <= value + 1e-4 * length * slope or float(found[1].norm()) < 0.5 * norm:
                break
            length /= 2
        else:
            break
        y = y + length * step
        value, excess, w, v = found
    raise DQKError(
        f"the nearest matrix with unit diagonal was not found: a diagonal entry is off by {float(excess.abs().max()):.1e}, "
        f"expected {TOLERANCE:.0e}; scale K so that its entries are about 1, or take threshold_matrix"
    )


def _dual(K: Tensor, y: Tensor) -> tuple[float, Tensor, Tensor, Tensor]:
    """The function that y minimises, its gradient, and the eigenvalues and eigenvectors at y."""
    w, v = torch.linalg.eigh(K + torch.diag(y))
    positive = w.clamp(min=0)
    return float(positive.square().sum() / 2 - y.sum()), (v.square() @ positive) - 1, w, v


def _solve(v: Tensor, phi: Tensor, right: Tensor, tolerance: float, shift: float) -> Tensor:
    """Solves `(H + shift) z = right` by conjugate gradients, preconditioned with the diagonal of H."""
    squares = v.square()
    inverse = 1 / (((squares @ phi) * squares).sum(dim=1) + shift).clamp(min=1e-14)
    z, residual = torch.zeros_like(right), right.clone()
    scaled = inverse * residual
    direction, product = scaled, float(residual @ scaled)
    for _ in range(10 * len(right)):
        if float(residual.norm()) <= tolerance * float(right.norm()):
            break
        image = ((v @ (phi * (v.T @ (direction[:, None] * v)))) * v).sum(dim=1) + shift * direction
        curvature = float(direction @ image)
        if curvature <= 0:  # to rounding
            break
        z = z + product / curvature * direction
        residual = residual - product / curvature * image
        scaled = inverse * residual
        previous, product = product, float(residual @ scaled)
        direction = scaled + product / previous * direction
    return z


def _quotients(w: Tensor, numerator: Tensor) -> Tensor:
    size = w.abs()[:, None] + w.abs()
    return torch.where(size > 0, (numerator[:, None] + numerator) / size, 1.0)


def _derivative(v: Tensor, phi: Tensor, direction: Tensor) -> Tensor:
    return v @ (phi * (v.T @ direction @ v)) @ v.T


def _symmetric(K: Tensor) -> Tensor:
    return (K + K.T) / 2
