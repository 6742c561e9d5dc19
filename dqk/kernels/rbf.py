"""The Gaussian kernel: the classical twin of a fidelity kernel.

Choose it beside every quantum kernel, with the same bandwidth: a result that it matches needs no quantum computer.
"""

from __future__ import annotations

from torch import Tensor

from dqk.backends.base import mirror
from dqk.kernels.base import Engine
from dqk.kernels.classical import ClassicalKernel


class RBFKernel(ClassicalKernel):
    """`k(x, y) = exp(-|b w (x - y)|^2 / 2)` with bandwidth b and, if they are trainable, one weight w_j for each feature.

    Around the origin it is, to second order, the QK-LSTM paper's kernel of the same bandwidth; scikit-learn's `gamma` is b^2 / 2.

    Args:
        n_features: length d of a sample.
        bandwidth: b, the inverse of a length scale.
        trainable: `scale` for trainable weights, 1 at the start; None for none.

    Raises:
        InvalidInputError: for arguments that cannot be used.

    Example:
        >>> import numpy as np
        >>> from dqk.kernels import RBFKernel
        >>> print(RBFKernel(2, bandwidth=2.0)(np.zeros((1, 2)), np.array([[0.5, 0.5]]))[0, 0])  # exp(-1)
        0.36787944117144233
    """

    def _matrix(self, engine: Engine, x: Tensor, y: Tensor | None, log: bool) -> Tensor:
        return gaussian(self._scaled(x), None if y is None else self._scaled(y), 0.5, log)


def gaussian(rows: Tensor, columns: Tensor | None, gamma: float, log: bool) -> Tensor:
    """`exp(-gamma |r_i - c_j|^2)` or its logarithm.

    Args:
        rows: shape (N, D).
        columns: shape (M, D); None for the rows, and a symmetric result with a constant diagonal.
        gamma: factor of the squared distance.
        log: whether to give the exponent.
    """
    others = rows if columns is None else columns
    # The expanded square is a matrix product.
    squared = rows.square().sum(1)[:, None] + others.square().sum(1)[None, :] - 2 * rows @ others.T
    exponent = -gamma * squared.clamp(min=0)
    values = exponent if log else exponent.exp()
    return values if columns is not None else mirror(values, 0.0 if log else 1.0)
