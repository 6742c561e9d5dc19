"""From a sampled or noisy kernel matrix to one that a kernel method may use: symmetric, positive semi-definite, less noisy.

`symmetrise_matrix` takes the mean of both triangles, which the others do first. To remove negative eigenvalues choose
`threshold_matrix` (moves K least), `closest_psd_matrix` (the same with unit diagonal), `displace_matrix` (keeps what lies off
the diagonal, as regularisation does) or `flip_matrix` (keeps the size of the spectrum). `mitigate_depolarizing_noise` comes
before them and needs a measured diagonal. Names as in PennyLane. All are differentiable in torch, also where eigenvalues
coincide, and give NumPy for NumPy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dqk.errors import InvalidInputError, unknown_name, whole_number
from dqk.kernels.inputs import to_samples
from dqk.kernels.spectral import Clip, Displace, NearestCorrelation

_MITIGATION = ("single", "average", "split", "split_channel")


@dataclass(frozen=True)
class RepairReport:
    """What a repair did.

    Attributes:
        steps: in the order of their application.
        smallest_eigenvalue_before: of the symmetric part of K.
        smallest_eigenvalue_after: of the result.
        distance: Frobenius norm of the result minus K.
    """

    steps: tuple[str, ...]
    smallest_eigenvalue_before: float
    smallest_eigenvalue_after: float
    distance: float

    def __str__(self) -> str:
        return (
            f"{', '.join(self.steps)}: smallest eigenvalue {self.smallest_eigenvalue_before:.3g} -> "
            f"{self.smallest_eigenvalue_after:.3g}, moved by {self.distance:.3g} (Frobenius)"
        )


def symmetrise_matrix(K: Any) -> Any:
    """`(K + K^T) / 2`.

    Args:
        K: shape (N, N), NumPy or torch.

    Returns:
        The nearest symmetric matrix, of K's kind, dtype and device.

    Raises:
        InvalidInputError: if K is not square or not finite.
    """
    return _apply(_symmetric, K)


def threshold_matrix(K: Any) -> Any:
    """Negative eigenvalues become 0: the nearest positive semi-definite matrix.

    Args:
        K: shape (N, N), NumPy or torch; its symmetric part is taken.

    Returns:
        A positive semi-definite matrix, of K's kind, dtype and device; without negative eigenvalues the symmetric part itself.

    Raises:
        InvalidInputError: if K is not square or not finite.
    """
    return _apply(lambda k: Clip.apply(_symmetric(k), False), K)


def displace_matrix(K: Any) -> Any:
    """`K - w I` with the smallest eigenvalue w if that is negative: what lies off the diagonal stays.

    Args:
        K: shape (N, N), NumPy or torch; its symmetric part is taken.

    Returns:
        A positive semi-definite matrix, of K's kind, dtype and device. Its diagonal is no longer 1.

    Raises:
        InvalidInputError: if K is not square or not finite.
    """
    return _apply(lambda k: Displace.apply(_symmetric(k)), K)


def flip_matrix(K: Any) -> Any:
    """Eigenvalues become their absolute values.

    Args:
        K: shape (N, N), NumPy or torch; its symmetric part is taken.

    Returns:
        A positive semi-definite matrix, of K's kind, dtype and device.

    Raises:
        InvalidInputError: if K is not square or not finite.

    References:
        Wang, Du, Luo and Tao, arXiv 2103.16774.
    """
    return _apply(lambda k: Clip.apply(_symmetric(k), True), K)


def closest_psd_matrix(K: Any, fix_diagonal: bool = True) -> Any:
    """The nearest positive semi-definite matrix in Frobenius norm, with unit diagonal.

    Args:
        K: shape (N, N), NumPy or torch; its symmetric part is taken.
        fix_diagonal: whether the diagonal is to be 1. False gives `threshold_matrix`, and is PennyLane's default.

    Returns:
        A matrix of K's kind, dtype and device. In float64 its distance from K is the least one to about 1e-10.

    Raises:
        InvalidInputError: if K is not square or not finite.
        DQKError: if the iteration does not converge, as with entries of 1e5.

    References:
        Hubregtsen et al., arXiv 2105.02276, section V. See `dqk.kernels.spectral.NearestCorrelation`.
    """
    return _apply(lambda k: NearestCorrelation.apply(_symmetric(k)), K) if fix_diagonal else threshold_matrix(K)


def mitigate_depolarizing_noise(
    K: Any, n_qubits: int, method: str = "average", use_entries: Sequence[int] | None = None
) -> Any:
    """Takes back global depolarising noise, at the rate that the *measured* diagonal shows.

    Noise that keeps a state with probability s, and else makes it I / d (d = 2**n_qubits), turns k_ij into
    `s_i s_j k_ij + (1 - s_i s_j) / d`, where each encoding has its s. So the diagonal, 1 without noise, shows s_i**2.

    Args:
        K: shape (N, N), NumPy or torch, with frequencies on the diagonal that were measured.
        n_qubits: of the circuit.
        method: `single`: one rate, from one diagonal entry (a shot budget of one entry more); `average`: one rate, from the
            mean of the diagonal; `split` (PennyLane's `split_channel`): a rate for each sample, from its own entry.
        use_entries: which diagonal entries were measured, for `single` (one, default 0) and `average` (default all).

    Returns:
        The mitigated matrix, of K's kind, dtype and device. Mitigation multiplies the errors of sampling, too, and may leave
        negative eigenvalues.

    Raises:
        InvalidInputError: if K is not square or not finite, for an unknown method, or a diagonal that shows no noise because it
            was not measured, or nothing but noise (1 / d or less).

    References:
        Hubregtsen et al., arXiv 2105.02276, section V.
    """
    if method not in _MITIGATION:
        raise unknown_name("method", method, _MITIGATION)
    dim = 2.0 ** whole_number("n_qubits", n_qubits, 1)
    split = method.startswith("split")
    if split and use_entries is not None:
        raise InvalidInputError(
            f"use_entries is {use_entries!r}, but {method!r} needs every diagonal entry; leave it out"
        )
    return _apply(lambda k: _mitigated(k, dim, split, _measured(k, method, use_entries)), K)


def repair_matrix(K: Any, *steps: str, n_qubits: int | None = None) -> tuple[Any, RepairReport]:
    """One or more repairs, and what they did.

    Args:
        K: shape (N, N), NumPy or torch.
        steps: in their order, of `symmetrise`, `threshold`, `displace`, `flip`, `closest_psd` (unit diagonal),
            `mitigate_single`, `mitigate_average`, `mitigate_split`.
        n_qubits: of the circuit, where there is a mitigation.

    Returns:
        The repaired matrix, of K's kind, dtype and device, and a report.

    Raises:
        InvalidInputError: for an unknown step, none, or what a step refuses.

    Example:
        >>> import numpy as np
        >>> repaired, report = repair_matrix(np.array([[1.0, 1.2], [1.2, 1.0]]), "threshold")
        >>> print(repaired.round(6))
        [[1.1 1.1]
         [1.1 1.1]]
        >>> print(round(report.smallest_eigenvalue_before, 6), round(report.distance, 6))
        -0.2 0.2
    """
    known = {**_SPECTRAL, **{f"mitigate_{method}": None for method in _MITIGATION[:3]}}
    if not steps:
        raise InvalidInputError(f"no step is given, expected one or more of {', '.join(map(repr, known))}")
    for step in steps:
        if step not in known:
            raise unknown_name("repair", step, known)
        if step not in _SPECTRAL and n_qubits is None:
            raise InvalidInputError(f"{step!r} needs n_qubits=, the number of qubits of the circuit")
    found = K
    for step in steps:
        do = _SPECTRAL.get(step)
        found = do(found) if do else mitigate_depolarizing_noise(found, n_qubits or 0, step.removeprefix("mitigate_"))
    before, after = (_matrix(k).detach().double() for k in (K, found))
    smallest = [float(torch.linalg.eigvalsh(_symmetric(k))[0]) for k in (before, after)]
    return found, RepairReport(tuple(steps), smallest[0], smallest[1], float(torch.linalg.norm(after - before)))


_SPECTRAL: dict[str, Callable[[Any], Any]] = {
    "symmetrise": symmetrise_matrix,
    "threshold": threshold_matrix,
    "displace": displace_matrix,
    "flip": flip_matrix,
    "closest_psd": closest_psd_matrix,
}


def _mitigated(K: Tensor, dim: float, split: bool, measured: Tensor) -> Tensor:
    """K (N, N) with the rates of the measured diagonal entries (M,), or with their mean."""
    lowest = float(measured.detach().min() if split else measured.detach().mean())
    if lowest <= 1 / dim:
        raise InvalidInputError(
            f"{'a diagonal entry' if split else 'the mean of the measured diagonal'} is {lowest:.4g}, expected above 1/d = "
            f"{1 / dim:.4g}: nothing but noise is left, so nothing can be taken back; use 'average', more shots or a better device"
        )
    if bool((measured.detach() == 1).all()):
        raise InvalidInputError(
            "every diagonal entry that is used is exactly 1, so there is no noise to take back: if the diagonal was set and not "
            "measured, measure it (evaluate_duplicates='all'); if it was measured, leave the mitigation out"
        )
    if split:
        kept = ((dim * measured - 1) / (dim - 1)).clamp(max=1.0).sqrt()
        kept = kept[:, None] * kept
    else:
        kept = (dim * measured.mean() - 1) / (dim - 1)
    return (K - (1 - kept) / dim) / kept


def _measured(K: Tensor, method: str, use_entries: Sequence[int] | None) -> Tensor:
    if use_entries is None:
        return K.diagonal()[:1] if method == "single" else K.diagonal()
    entries = np.asarray(use_entries)
    if (
        entries.ndim != 1
        or entries.dtype.kind not in "iu"
        or not entries.size
        or (method == "single" and entries.size > 1)
    ):
        expected = "one index" if method == "single" else "indices"
        raise InvalidInputError(f"use_entries is {use_entries!r}, expected a list of {expected} of diagonal entries")
    if entries.min() < 0 or entries.max() >= len(K):
        raise InvalidInputError(f"use_entries is {use_entries!r}, expected indices from 0 to {len(K) - 1}")
    return K.diagonal()[torch.as_tensor(entries.astype(np.int64), device=K.device)]


def _apply(function: Callable[[Tensor], Tensor], K: Any) -> Any:
    """In float64, since eigenvalues of float32 are off by 1e-7 each; then back to what K is."""
    matrix = _matrix(K)
    result = function(matrix.double()).to(matrix.dtype)
    return result if isinstance(K, Tensor) else result.numpy()


def _matrix(K: Any) -> Tensor:
    try:
        shape = tuple(np.shape(K))
    except (RuntimeError, ValueError):  # ragged, or tensors within a list: `to_samples` says what is wrong
        shape = (0, 0)
    if len(shape) != 2 or shape[0] != shape[1]:
        raise InvalidInputError(
            f"K has shape {shape}, expected a square matrix (N, N) of kernel values among the same samples"
        )
    return to_samples("K", K)


def _symmetric(K: Tensor) -> Tensor:
    return (K + K.T) / 2
