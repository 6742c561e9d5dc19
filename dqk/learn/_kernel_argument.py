"""The `kernel` argument of estimators, and the samples that go with it."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.utils.validation import check_is_fitted, validate_data

from dqk.errors import InvalidInputError
from dqk.kernels import FidelityKernel, Kernel
from dqk.kernels.feature_maps import qklstm_feature_map

FLOATS = [np.float64, np.float32]


class KernelEstimator(BaseEstimator):
    """What estimators with a kernel share."""

    kernel: Kernel | None

    def _fit_kernel(self, X: np.ndarray) -> None:
        """Sets `kernel_`: a copy, which a later change of the argument does not reach."""
        if self.kernel is not None and not isinstance(self.kernel, Kernel):
            raise InvalidInputError(f"kernel is {self.kernel!r}, expected a dqk kernel, or None for the paper's")
        width = X.shape[1]
        if self.kernel is not None and self.kernel.n_features != width:
            raise InvalidInputError(
                f"X has {width} features, but the kernel takes {self.kernel.n_features}; give it another n_qubits or reduce the "
                "features"
            )
        self.kernel_ = FidelityKernel(qklstm_feature_map(width)) if self.kernel is None else clone(self.kernel)

    def _matrix(self, X: np.ndarray, Y: np.ndarray | None = None) -> np.ndarray:
        return np.asarray(self.kernel_(X, Y))

    def _samples(self, X: Any) -> np.ndarray:
        """New samples, as those of the fit."""
        check_is_fitted(self)
        return np.asarray(validate_data(self, X, reset=False, dtype=FLOATS))
