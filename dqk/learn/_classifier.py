"""A support-vector classifier with a kernel of its own.

Choose it over `SVC(kernel=kernel)` for a kernel whose settings a grid search finds whatever scikit-learn makes of callables, and to
compute only the columns of support vectors when it predicts.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.svm import SVC
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, validate_data

from dqk.errors import InvalidInputError
from dqk.kernels import Kernel
from dqk.learn._kernel_argument import FLOATS, KernelEstimator


class KernelClassifier(ClassifierMixin, KernelEstimator):
    """`SVC` on matrices that dqk computes, exactly those of `SVC(kernel=kernel)`.

    Args:
        kernel: any dqk kernel; None for the QK-LSTM paper's, of as many qubits as there are features.
        C: inverse of the regularisation.
        class_weight: as for `SVC`.
        tol: when to stop.

    Attributes:
        kernel_: the copy of the kernel that was used.
        svc_: the fitted `SVC(kernel="precomputed")`.
        support_vectors_: samples that predictions compare with, shape (S, d).
        classes_: the labels.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> from sklearn.model_selection import GridSearchCV
        >>> from dqk import FidelityKernel
        >>> from dqk.kernels.feature_maps import reuploading_feature_map
        >>> from dqk.learn import KernelClassifier
        >>> model = KernelClassifier(FidelityKernel(reuploading_feature_map(4, layers=2)))
        >>> search = GridSearchCV(model, {"kernel__bandwidth": [0.1, 0.3, 1.0]}).fit(*load_iris(return_X_y=True))
        >>> bool(search.best_score_ > 0.95)
        True
    """

    def __init__(self, kernel: Kernel | None = None, *, C: float = 1.0, class_weight: Any = None, tol: float = 1e-3):
        self.kernel = kernel
        self.C = C
        self.class_weight = class_weight
        self.tol = tol

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fits.

        Args:
            X: samples, shape (N, d).
            y: labels, shape (N,), of two classes or more.
            sample_weight: factors on C, shape (N,); samples with none above 0 are left out.
        """
        X, y = validate_data(self, X, y, dtype=FLOATS)
        check_classification_targets(y)
        self._fit_kernel(X)
        if sample_weight is not None:
            # With weights of zero scikit-learn 1.9.1 gives `support_` as numbers among the other samples, and predictions from
            # precomputed matrices, those of callables too, are wrong.
            sample_weight = _check_sample_weight(sample_weight, X)
            kept = sample_weight > 0
            X, y, sample_weight = X[kept], y[kept], sample_weight[kept]
            if not kept.any():
                raise InvalidInputError("all samples have zero or negative weights: expected some above 0")
        self.svc_ = SVC(C=self.C, kernel="precomputed", class_weight=self.class_weight, tol=self.tol)
        self.svc_.fit(self._matrix(X), y, sample_weight)
        self.classes_, self.support_vectors_ = self.svc_.classes_, X[self.svc_.support_]
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Labels of samples (N, d), shape (N,)."""
        columns = self._columns(X)
        return np.asarray(self.svc_.predict(columns))

    def decision_function(self, X: Any) -> np.ndarray:
        """Scores of samples (N, d), as `SVC` has them: shape (N,) for two classes, else (N, classes)."""
        columns = self._columns(X)  # first: it says so if nothing was fitted
        return np.asarray(self.svc_.decision_function(columns))

    def _columns(self, X: Any) -> np.ndarray:
        """K(X, training samples), of which only the support vectors' columns are looked at."""
        X = self._samples(X)
        support = self.svc_.support_
        columns = np.zeros((len(X), self.svc_.n_features_in_), X.dtype)
        columns[:, support] = self._matrix(X, self.support_vectors_.astype(X.dtype, copy=False))
        return columns
