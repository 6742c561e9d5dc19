"""Features whose inner products approximate a kernel, from its values against some landmarks.

Choose them where the whole matrix is too much: N samples cost N x m kernel values, not N x N, and a linear model does the rest.
scikit-learn's `Nystroem` gives the same features, but calls a kernel once for each pair of samples.
"""

from __future__ import annotations

import warnings
from typing import Any, Literal, Self

import numpy as np
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.cluster import kmeans_plusplus
from sklearn.utils import check_random_state
from sklearn.utils.validation import validate_data

from dqk.errors import InvalidInputError, unknown_name, whole_number
from dqk.kernels import Kernel
from dqk.learn._kernel_argument import FLOATS, KernelEstimator


class NystroemFeatures(ClassNamePrefixFeaturesOutMixin, TransformerMixin, KernelEstimator):
    """`Z = K(X, L) K(L, L)^(-1/2)` with m landmarks L, so that `Z Z^T` approximates K(X, X) and equals it on the landmarks.

    Directions of K(L, L) whose eigenvalue is below m times the rounding error of the largest one are left out instead of blown up:
    landmarks that the kernel takes for one do no harm.

    Args:
        kernel: any dqk kernel; None for the QK-LSTM paper's, of as many qubits as there are features.
        n_components: number m of landmarks and of features; with fewer samples all of them are taken, with a warning.
        landmarks: `random`, uniformly without replacement; or `k-means++`, which spreads them over the samples by Euclidean
            distance (for N samples it takes N x m distances).
        random_state: of that choice.

    Attributes:
        kernel_: the copy of the kernel that was used.
        component_indices_: which samples are landmarks, shape (m,).
        components_: the landmarks, shape (m, d).
        normalization_: K(L, L)^(-1/2), shape (m, m).

    Example:
        >>> import numpy as np
        >>> from dqk.kernels import RBFKernel
        >>> from dqk.learn import NystroemFeatures
        >>> X = np.random.default_rng(0).uniform(-1, 1, (300, 2))
        >>> Z = NystroemFeatures(RBFKernel(2), n_components=40, random_state=0).fit_transform(X)
        >>> bool(abs(Z @ Z.T - RBFKernel(2)(X)).max() < 1e-3)
        True

    References:
        Williams and Seeger, "Using the Nyström method to speed up kernel machines", NIPS 2000.
    """

    def __init__(
        self,
        kernel: Kernel | None = None,
        n_components: int = 100,
        *,
        landmarks: Literal["random", "k-means++"] = "random",
        random_state: Any = None,
    ):
        self.kernel = kernel
        self.n_components = n_components
        self.landmarks = landmarks
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> Self:
        """Chooses landmarks among samples (N, d); y is not used."""
        X = validate_data(self, X, dtype=FLOATS)
        self._fit_kernel(X)
        wanted = whole_number("n_components", self.n_components, 1)
        if wanted > len(X):
            warnings.warn(
                f"n_components is {wanted}, but there are {len(X)} samples: all of them are landmarks", stacklevel=2
            )
        self.component_indices_ = self._choose(X, min(wanted, len(X)))
        self.components_ = X[self.component_indices_]
        self.normalization_ = _inverse_root(self._matrix(self.components_))
        self._n_features_out = len(self.components_)
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Features of samples (N, d), shape (N, m), in the samples' precision."""
        X = self._samples(X)
        values = self._matrix(X, self.components_.astype(X.dtype, copy=False))
        return np.asarray(values @ self.normalization_.astype(X.dtype, copy=False))

    def _choose(self, X: np.ndarray, count: int) -> np.ndarray:
        rng = check_random_state(self.random_state)
        if self.landmarks == "random":
            return np.asarray(rng.permutation(len(X))[:count])
        if self.landmarks == "k-means++":
            return np.asarray(kmeans_plusplus(X, count, random_state=rng)[1])
        raise unknown_name("landmarks", self.landmarks, ["random", "k-means++"])

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def _inverse_root(square: np.ndarray) -> np.ndarray:
    """The pseudo-inverse of a positive semi-definite matrix's square root."""
    values, vectors = np.linalg.eigh(square.astype(np.float64))
    smallest = len(values) * np.finfo(square.dtype).eps * values[-1]
    if not values[-1] > 0:
        raise InvalidInputError("the kernel is 0 on all landmarks; choose another kernel or more landmarks")
    kept = values > smallest
    roots = np.where(kept, 1 / np.sqrt(np.where(kept, values, 1.0)), 0.0)
    return np.asarray((vectors * roots) @ vectors.T)
