"""The kernel contract: a positive semi-definite function of two samples, with or without trainable parameters."""

from __future__ import annotations

import abc
import importlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from dqk.backends.base import Backend
from dqk.circuit import Circuit
from dqk.kernels.inputs import to_samples


class Engine(Protocol):
    """What a kernel may ask for while it is evaluated; `dqk.gram` provides it."""

    def fidelity(
        self, backend: str | Backend, circuit: Circuit, ax: Tensor, ay: Tensor | None, shared: Tensor, log: bool
    ) -> Tensor:
        """`|<psi(ay_j)|psi(ax_i)>|^2` or its logarithm, shape (N, M), differentiable."""
        ...

    def expectations(
        self, backend: str | Backend, circuit: Circuit, ax: Tensor, observables: Sequence[str], shared: Tensor
    ) -> Tensor:
        """Expectation values of Pauli strings, shape (N, O), differentiable."""
        ...


if TYPE_CHECKING:
    from dqk.kernels.diagnosis import Diagnosis

_evaluator: Callable[..., Any] | None = None


def install_evaluator(evaluate: Callable[..., Any]) -> None:
    """Makes `kernel(X, Y)` call `evaluate(kernel, X, Y)`; `dqk._gram` does this when it is imported."""
    global _evaluator
    _evaluator = evaluate


def evaluated(kernel: Kernel, X: Any, Y: Any = None, log: bool = False) -> Any:
    """The kernel matrix, or its natural logarithm, as `dqk.gram` computes it."""
    if _evaluator is None:
        # By name: kernels know no engine, and whoever only builds kernels does not load one.
        importlib.import_module("dqk._gram")
    assert _evaluator is not None
    return _evaluator(kernel, X, Y, log=log)


class Kernel(nn.Module, abc.ABC):
    """A kernel k(x, y). Calling it gives a kernel matrix.

    Example:
        >>> import numpy as np
        >>> from dqk import FidelityKernel
        >>> from dqk.kernels.feature_maps import zz_feature_map
        >>> kernel = FidelityKernel(zz_feature_map(2))
        >>> kernel(np.array([[0.1, 0.2], [0.3, 0.4]])).shape
        (2, 2)
    """

    @property
    @abc.abstractmethod
    def n_features(self) -> int:
        """Length d of a sample."""

    @abc.abstractmethod
    def _matrix(self, engine: Engine, x: Tensor, y: Tensor | None, log: bool) -> Tensor:
        """`K[i, j] = k(x_i, y_j)`, or its natural logarithm, shape (N, M); y = None means x itself."""

    def forward(self, X: Any, Y: Any = None) -> Any:
        """The kernel matrix `K[i, j] = k(X_i, Y_j)`.

        Args:
            X: samples, shape (N, d): NumPy, torch or what NumPy can read.
            Y: samples, shape (M, d); None (or X itself) for the symmetric matrix with a unit diagonal.

        Returns:
            K, shape (N, M): a tensor that autograd can differentiate if X or Y is one, else a NumPy array. Two single samples
            (1-D) give a float, or a tensor without dimensions.

        Raises:
            InvalidInputError: for samples that cannot be used.
        """
        if _is_vector(X) and Y is not None and _is_vector(Y):
            pair = [to_samples(name, _as_row(v), self.n_features) for name, v in (("X", X), ("Y", Y))]
            value = evaluated(self, pair[0], pair[1])[0, 0]
            return value if isinstance(X, Tensor) or isinstance(Y, Tensor) else float(value.detach())
        return evaluated(self, X, Y)

    def diagnose(self, X: Any = None, y: Any = None) -> Diagnosis:
        """What the kernel really does, by its circuit and on samples; see `dqk.kernels.diagnosis`.

        Args:
            X: samples, shape (N, d); None for the circuit alone.
            y: labels, shape (N,); None for none.
        """
        from dqk.kernels.diagnosis import diagnose

        return diagnose(self, X, y)

    def evaluate(self, x_vec: Any, y_vec: Any = None) -> Any:
        """The same as calling the kernel; the name that qiskit-machine-learning uses."""
        return self(x_vec, y_vec)


def _is_vector(values: Any) -> bool:
    return getattr(values, "ndim", None) == 1


def _as_row(values: Any) -> Any:
    return values[None, :] if isinstance(values, torch.Tensor) else values.reshape(1, -1)
