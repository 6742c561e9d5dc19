"""What two kernels can tell apart before anything is learned: geometric difference and effective dimension.

Choose them to screen a quantum kernel against its classical twins on somebody's inputs: where g is small, no labels exist for
which the quantum kernel predicts much better (Huang et al. 2021).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from torch import Tensor

from dqk.errors import InvalidInputError, real_number


def geometric_difference(K1: Any, K2: Any, regularisation: float = 0.0) -> float:
    """`g(K1 || K2) = sqrt(|| sqrt(K2) sqrt(K1) (K1 + lambda I)^-2 sqrt(K1) sqrt(K2) ||)`, by the spectral norm.

    With K1 classical and K2 quantum, a model with K1 needs at most g^2 times the complexity of one with K2: about 1 says that the
    classical kernel does as well on any labels, above sqrt(N) that some labels might need the quantum one. It is not symmetric.
    Both matrices are scaled to a trace of N first, as the paper has them.

    Args:
        K1: positive semi-definite matrix, shape (N, N): NumPy or torch.
        K2: likewise.
        regularisation: lambda, from 0; with 0 it is `sqrt(|| sqrt(K2) K1^-1 sqrt(K2) ||)`, which needs a K1 of full rank. With
            more, g is smaller, and the price is an error on training samples.

    Raises:
        InvalidInputError: for matrices that are not square, of one size, symmetric and positive; a singular K1 without
            regularisation; or a regularisation below 0.

    References:
        Huang et al., "Power of data in quantum machine learning", arXiv 2011.01938, equation (5); (F9) with regularisation.

    Example:
        >>> import numpy as np
        >>> from dqk.kernels import geometric_difference
        >>> geometric_difference(np.eye(4), np.ones((4, 4)))  # sqrt(N): all of K2 is in one direction
        2.0
    """
    k1, k2 = _checked("K1", K1), _checked("K2", K2)
    if k1.shape != k2.shape:
        raise InvalidInputError(f"K1 has shape {k1.shape} and K2 {k2.shape}, expected matrices of the same samples")
    regularisation = real_number("regularisation", regularisation)
    if regularisation < 0:
        raise InvalidInputError(f"regularisation is {regularisation!r}, expected a number from 0")
    values, vectors = np.linalg.eigh(k1)
    values = values.clip(0)
    if regularisation == 0 and values[0] <= len(values) * np.finfo(np.float64).eps * values[-1]:
        raise InvalidInputError(
            f"K1 is singular (eigenvalues from {values[0]:.1e} to {values[-1]:.1e}), so that its inverse is not known; give "
            "regularisation=0.001, say"
        )
    roots = np.sqrt(values) / (values + regularisation) if regularisation else 1 / np.sqrt(values)
    inverse = (vectors * roots) @ vectors.T
    return math.sqrt(max(0.0, float(np.linalg.eigvalsh(inverse @ k2 @ inverse)[-1])))


def effective_dimension(K: Any) -> float:
    """`d = sum_k 1/(N - k) sum_{l >= k} t_l`, k = 0 .. N - 1, with the descending eigenvalues t of K scaled to a trace of N.

    How many dimensions of the feature space the samples use: 1 if all are alike, N if all are orthogonal, where nothing is
    learned from fewer than all samples.

    Args:
        K: positive semi-definite matrix, shape (N, N): NumPy or torch.

    Raises:
        InvalidInputError: for a matrix that is not square, symmetric and positive.

    References:
        Huang et al., arXiv 2011.01938, the approximate dimension; equation (S111) of the supplement of the journal's version,
        Nature Communications 12, 2631 (2021).

    Example:
        >>> import numpy as np
        >>> from dqk.kernels import effective_dimension
        >>> print(round(effective_dimension(np.eye(5)), 9), round(effective_dimension(np.ones((5, 5))), 9))
        5.0 1.0
    """
    values = np.linalg.eigvalsh(_checked("K", K)).clip(0)  # ascending: the k-th sum is over the first N - k
    return float((np.cumsum(values) / np.arange(1, len(values) + 1)).sum())


def _checked(name: str, given: Any) -> np.ndarray:
    """A symmetric positive semi-definite matrix with a trace of N, float64."""
    matrix = np.asarray(given.detach().cpu() if isinstance(given, Tensor) else given, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not len(matrix):
        raise InvalidInputError(f"{name} has shape {matrix.shape}, expected a square matrix: kernel(X)")
    if not np.isfinite(matrix).all():
        raise InvalidInputError(f"{name} has entries that are not finite")
    trace = float(np.trace(matrix))
    if np.abs(matrix - matrix.T).max() > 1e-6 * np.abs(matrix).max() or trace <= 0:
        raise InvalidInputError(f"{name} is no kernel matrix: expected a symmetric one with a trace above 0")
    matrix = (matrix + matrix.T) * (len(matrix) / (2 * trace))
    smallest = float(np.linalg.eigvalsh(matrix)[0])
    if smallest < -1e-6 * len(matrix):
        raise InvalidInputError(
            f"{name} has the eigenvalue {smallest:.2g}, expected none below 0; repair_matrix mends measured matrices"
        )
    return matrix
