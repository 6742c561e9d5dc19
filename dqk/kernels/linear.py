"""The linear kernel: what a model does with no kernel at all.

Choose it as a baseline: a QK-LSTM with it is a network with a linear bottleneck.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dqk.backends.base import mirror
from dqk.errors import UnsupportedError
from dqk.kernels.base import Engine
from dqk.kernels.classical import ClassicalKernel


class LinearKernel(ClassicalKernel):
    """`k(x, y) = <b w x, b w y> / d` with bandwidth b and, if they are trainable, one weight w_j for each feature.

    Divided by the number d of features, so that standardised samples have `k(x, x)` around b^2. It is not centred, since a kernel
    knows no data: centre the samples (`StandardScaler`) or the matrix (`KernelCenterer`). Its diagonal is not 1, its values may
    be negative, and so it has no logarithm.

    Args:
        n_features: length d of a sample.
        bandwidth: b.
        trainable: `scale` for trainable weights, 1 at the start; None for none.

    Raises:
        InvalidInputError: for arguments that cannot be used.

    Example:
        >>> import numpy as np
        >>> from dqk.kernels import LinearKernel
        >>> print(LinearKernel(2)(np.array([[1.0, 3.0]])))
        [[5.]]
    """

    @property
    def normalised(self) -> bool:
        """No: k(x, x) = |b w x|^2 / d."""
        return False

    @property
    def has_logarithm(self) -> bool:
        """No: values may be negative."""
        return False

    def _matrix(self, engine: Engine, x: Tensor, y: Tensor | None, log: bool) -> Tensor:
        if log:
            raise UnsupportedError("log=True: values of the linear kernel may be negative; leave out log")
        rows = self._scaled(x)
        if y is not None:
            return rows @ self._scaled(y).T / self._n_features
        return mirror(rows @ rows.T / self._n_features, 0.0) + torch.diag_embed(self._diagonal(x))

    def _diagonal(self, x: Tensor) -> Tensor:
        return self._scaled(x).square().sum(1) / self._n_features
