"""Ridge regression with a kernel of its own.

Choose it over `KernelRidge(kernel=kernel)`, which calls a kernel once for each pair of samples.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.kernel_ridge import KernelRidge
from sklearn.utils.validation import validate_data

from dqk.kernels import Kernel
from dqk.learn._kernel_argument import FLOATS, KernelEstimator


class KernelRegressor(RegressorMixin, KernelEstimator):
    """`KernelRidge` on matrices that dqk computes.

    Args:
        kernel: any dqk kernel; None for the QK-LSTM paper's, of as many qubits as there are features.
        alpha: regularisation.

    Attributes:
        kernel_: the copy of the kernel that was used.
        dual_coef_: weights of the training samples, shape (N,) or (N, targets).
        X_fit_: the training samples.
    """

    def __init__(self, kernel: Kernel | None = None, *, alpha: float = 1.0):
        self.kernel = kernel
        self.alpha = alpha

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fits.

        Args:
            X: samples, shape (N, d).
            y: targets, shape (N,) or (N, targets). They are not centred.
            sample_weight: shape (N,).
        """
        X, y = validate_data(self, X, y, dtype=FLOATS, multi_output=True, y_numeric=True)
        self._fit_kernel(X)
        ridge = KernelRidge(alpha=self.alpha, kernel="precomputed").fit(self._matrix(X), y, sample_weight)
        self.dual_coef_, self.X_fit_ = ridge.dual_coef_, X
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Targets of samples (N, d), shape (N,) or (N, targets)."""
        X = self._samples(X)
        return np.asarray(self._matrix(X, self.X_fit_.astype(X.dtype, copy=False)) @ self.dual_coef_)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
