"""The kernel contract: a positive semi-definite function of two samples, with or without trainable parameters."""

from __future__ import annotations

import abc
import copy
import importlib
import inspect
import numbers
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, Self

import torch
from torch import Tensor, nn

from dqk.backends.base import Backend
from dqk.circuit import Circuit
from dqk.errors import unknown_name
from dqk.kernels.inputs import to_samples


class Engine(Protocol):
    """What a kernel may ask for while it is evaluated; `dqk.gram` provides it."""

    @property
    def stores(self) -> bool:
        """Whether `fidelity` puts its matrix into a store and gives a handle, which is the result as it is."""
        ...

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

    runs_circuits: bool = True
    """Whether it needs a backend; a kernel that does not is computed in this process, and takes neither executor nor store."""

    _settings: tuple[str, ...] = ()
    """What `set_params` can set beside the arguments of the constructor."""

    @property
    @abc.abstractmethod
    def n_features(self) -> int:
        """Length d of a sample."""

    @property
    def normalised(self) -> bool:
        """Whether k(x, x) = 1, so that K(X) gets a diagonal of exactly 1 and all values are at most 1."""
        return True

    @property
    def has_logarithm(self) -> bool:
        """Whether values are never negative."""
        return True

    @abc.abstractmethod
    def _matrix(self, engine: Engine, x: Tensor, y: Tensor | None, log: bool) -> Tensor:
        """`K[i, j] = k(x_i, y_j)`, or its natural logarithm, shape (N, M); y = None means x itself."""

    def _diagonal(self, x: Tensor) -> Tensor:
        """`k(x_i, x_i)`, shape (N,); of a kernel that is not normalised."""
        return x.new_ones(len(x))

    def forward(self, X: Any, Y: Any = None) -> Any:
        """The kernel matrix `K[i, j] = k(X_i, Y_j)`.

        Args:
            X: samples, shape (N, d): NumPy, torch or what NumPy can read.
            Y: samples, shape (M, d); None (or X itself) for the symmetric matrix.

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

    def diagonal(self, X: Any) -> Any:
        """`k(X_i, X_i)`, without the rest of the matrix.

        Args:
            X: samples, shape (N, d).

        Returns:
            Shape (N,): a tensor if X is one, else a NumPy array.
        """
        values = self._diagonal(to_samples("X", X, self.n_features))
        return values if isinstance(X, Tensor) else values.detach().numpy()

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """What `set_params` can set, by name: scikit-learn's contract, so that a grid search finds `kernel__bandwidth`.

        Args:
            deep: with those of parts, as `k1__bandwidth`.
        """
        found = {
            name: getattr(self, name) for name in (*_arguments(type(self)), *self._settings) if hasattr(self, name)
        }
        parts = {name: value for name, value in found.items() if deep and isinstance(value, Kernel)}
        return found | {f"{name}__{inner}": v for name, part in parts.items() for inner, v in part.get_params().items()}

    def set_params(self, **params: Any) -> Self:
        """Changes what the constructor was given, and more (see `get_params`).

        Trained parameters stay, unless a new feature map or number of features brings its own.

        Raises:
            InvalidInputError: for a name that is not known, or a value that the constructor refuses.
        """
        known = self.get_params()
        for name in params:
            if name not in known:
                raise unknown_name(f"parameter of {type(self).__name__}", name, known)
        arguments = {name: known[name] for name in _arguments(type(self)) if name in known}
        changed = {name for name, value in arguments.items() if name in params and params[name] is not value}
        if changed:
            fresh = type(self)(**{name: params.get(name, value) for name, value in arguments.items()})
            fresh._keep_training(self, changed)
            self.__dict__.update(fresh.__dict__)
        for name in self._settings:
            if name in params:
                setattr(self, name, params[name])
        for name, value in params.items():
            part, nested, inner = name.partition("__")
            if nested:
                getattr(self, part).set_params(**{inner: value})
        return self

    def _keep_training(self, before: Kernel, changed: set[str]) -> None:
        """Takes over the trained parameters of a kernel from which this one differs in some arguments."""

    def __sklearn_clone__(self) -> Self:
        return copy.deepcopy(
            self
        )  # trained parameters stay: a kernel is an argument of an estimator, not a result of its fit

    def __add__(self, other: Any) -> Kernel:
        from dqk.kernels.composite import SumKernel

        return SumKernel(self, other) if isinstance(other, Kernel) else NotImplemented

    def __mul__(self, other: Any) -> Kernel:
        from dqk.kernels.composite import ProductKernel, ScaledKernel

        if isinstance(other, Kernel):
            return ProductKernel(self, other)
        return ScaledKernel(float(other), self) if isinstance(other, numbers.Real) else NotImplemented

    __rmul__ = __mul__

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


def _arguments(kind: type) -> list[str]:
    """Names of a constructor's arguments."""
    return [name for name in inspect.signature(kind).parameters]


def _is_vector(values: Any) -> bool:
    return getattr(values, "ndim", None) == 1


def _as_row(values: Any) -> Any:
    return values[None, :] if isinstance(values, torch.Tensor) else values.reshape(1, -1)
