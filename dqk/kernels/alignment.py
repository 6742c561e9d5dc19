"""Kernel-target alignment: how well a kernel matrix agrees with labels, as one differentiable number.

Choose it to train a kernel before any model is fitted: it costs one matrix and its gradient a step. `kernel.parameters()` are what
an optimiser takes; `examples/alignment.py` has the loop.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from dqk.errors import InvalidInputError


def target_alignment(K: Any, y: Any, centred: bool = True) -> Any:
    """`<K, T> / (|K| |T|)` with Frobenius products and a target T of the labels, -1 to 1.

    T is 1 for equal labels and `-1/(C - 1)` for different ones of C classes: `y y^T` for two classes. Centred, as
    it is by default, both matrices lose the means of their rows and columns first: then an alignment of 0 is that of a kernel that
    tells nothing, however the classes are balanced, and a constant added to K changes nothing.

    Args:
        K: symmetric kernel matrix, shape (N, N): NumPy or torch.
        y: labels of any kind that can be compared (-1 and 1, numbers of classes, texts), shape (N,); two classes or more.
        centred: whether to centre.

    Returns:
        A tensor without dimensions that autograd can differentiate if K is a tensor, else a float. A matrix of equal entries has 0
        if centred, as no direction is better than another.

    Raises:
        InvalidInputError: for another shape, entries that are not finite, labels of one class, or labels that are all different.

    References:
        Cristianini et al., "On kernel-target alignment", NIPS 2001, definition 1; Cortes, Mohri and Rostamizadeh, "Algorithms for
        learning kernels based on centered alignment", JMLR 13 (2012), definition 4.

    Example:
        >>> import numpy as np
        >>> from dqk.kernels import target_alignment
        >>> y = np.array([1, -1, 1])
        >>> print(round(target_alignment(np.outer(y, y), y), 12))
        1.0
    """
    matrix = K if isinstance(K, Tensor) else torch.as_tensor(np.asarray(K, dtype=np.float64))
    if matrix.dim() != 2 or matrix.shape[0] != matrix.shape[1]:
        raise InvalidInputError(f"K has shape {tuple(matrix.shape)}, expected a square matrix: kernel(X)")
    if not torch.isfinite(matrix.detach()).all():
        raise InvalidInputError("K has entries that are not finite")
    value = _cosine(matrix, target_of(y, len(matrix)).to(matrix), centred)
    return value if isinstance(K, Tensor) else float(value)


def centred_alignment(matrix: np.ndarray, labels: np.ndarray) -> float:
    """The same, centred, for labels that have been checked; 0 if a choice of samples has left one class."""
    alike = torch.from_numpy(labels[:, None] == labels[None, :]).double()
    return float(_cosine(torch.as_tensor(matrix), alike, centred=True))


def _cosine(matrix: Tensor, target: Tensor, centred: bool) -> Tensor:
    if centred:
        matrix, target = _centred(matrix), _centred(target)
    product = (matrix * target).sum()
    # Rounding leaves something of a constant matrix, and a norm of zero has no derivative.
    if min(matrix.detach().norm(), target.norm()) <= 1e-12 * len(matrix):
        return 0.0 * product
    return product / (matrix.norm() * target.norm())


def classes_of(y: Any, count: int) -> np.ndarray:
    """Labels, checked: one for each sample, of two classes or more.

    Raises:
        InvalidInputError: for another shape, labels that are NaN, or labels of one class.
    """
    labels = np.asarray(y.detach().cpu() if isinstance(y, Tensor) else y)
    if labels.ndim != 1 or len(labels) != count:
        raise InvalidInputError(f"labels of shape {labels.shape}, expected ({count},): one for each sample")
    missing = np.flatnonzero(labels != labels)  # NaN, also among objects
    if len(missing):
        raise InvalidInputError(
            f"label {missing[0]} is nan, expected a class for each sample; drop or fill such samples"
        )
    if len(np.unique(labels)) < 2:
        raise InvalidInputError(f"labels of one class ({labels[0]}), expected two or more to compare the kernel with")
    return labels


def target_of(y: Any, count: int) -> Tensor:
    """The target T of `target_alignment`, shape (N, N), float64."""
    names, numbers = np.unique(classes_of(y, count), return_inverse=True)
    n_classes = len(names)
    if n_classes == count > 2:
        raise InvalidInputError(
            f"all {count} labels are different, so that no pair of samples belongs together; expected classes, not numbers to "
            "regress on"
        )
    alike = torch.from_numpy(numbers[:, None] == numbers[None, :]).double()
    return (n_classes * alike - 1) / (n_classes - 1)


def _centred(matrix: Tensor) -> Tensor:
    return matrix - matrix.mean(0) - matrix.mean(1)[:, None] + matrix.mean()
