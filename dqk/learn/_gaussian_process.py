"""dqk kernels for scikit-learn's Gaussian processes, which refuse a callable and want derivatives by hyperparameters.

Choose it to have bandwidth and trainable parameters fitted by marginal likelihood. Its sums and products with scikit-learn's own
kernels (`ConstantKernel`, `WhiteKernel`) are those of scikit-learn.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sklearn.gaussian_process.kernels import Hyperparameter
from sklearn.gaussian_process.kernels import Kernel as SklearnKernel
from torch import Tensor, nn

from dqk._gram import gram
from dqk.backends import Backend
from dqk.errors import InvalidInputError, UnsupportedError, real_number
from dqk.kernels import Kernel
from dqk.learn.tangents import matrix_and_tangents

_TURN = 4 * math.pi  # after which every rotation is itself, a controlled one too
_BOUNDS = {"scale": (1e-2, 1e2), "rotations": (_TURN / 4, 7 * _TURN / 4)}


class GPKernel(SklearnKernel):
    """`k(b x, b y)` with a dqk kernel k: hyperparameters are b and, if k has any, its trainable parameters.

    theta is their logarithm, as for all kernels of scikit-learn. Scales are positive as they are. An angle is given
    as the one between 2 pi and 6 pi that does the same. Gradients are exact: torch's dual numbers and shift rules; they cost two or
    four kernel matrices for each angle of the circuit that a hyperparameter moves.

    Args:
        kernel: any exact dqk kernel.
        bandwidth: b, a factor on samples beside the kernel's own bandwidth.
        weights: values of the trainable parameters, all parts' in one array; None for those that the kernel has.
        bandwidth_bounds: of b, or `fixed`.
        weights_bounds: of the parameters, or `fixed`; None for 0.01 to 100 for scales, and more than a period for angles.

    Raises:
        InvalidInputError: if the kernel is none.
        UnsupportedError: for a kernel that is measured, or trainable parameters that are neither scales nor rotations.

    Example:
        >>> import numpy as np
        >>> from sklearn.gaussian_process import GaussianProcessRegressor
        >>> from dqk import FidelityKernel
        >>> from dqk.kernels.feature_maps import zz_feature_map
        >>> from dqk.learn import GPKernel
        >>> X = np.random.default_rng(0).uniform(-1, 1, (20, 2))
        >>> model = GaussianProcessRegressor(GPKernel(FidelityKernel(zz_feature_map(2))), alpha=1e-3).fit(X, X.sum(1))
        >>> model.kernel_.theta.shape
        (1,)
    """

    def __init__(
        self,
        kernel: Kernel,
        bandwidth: float = 1.0,
        weights: Any = None,
        bandwidth_bounds: Any = (1e-2, 1e2),
        weights_bounds: Any = None,
    ):
        self.kernel = kernel
        self.bandwidth = bandwidth
        self.weights = weights
        self.bandwidth_bounds = bandwidth_bounds
        self.weights_bounds = weights_bounds
        if not isinstance(kernel, Kernel):
            raise InvalidInputError(f"kernel is {kernel!r}, expected a dqk kernel")
        real_number("bandwidth", bandwidth, above=0)
        kinds = {part.params_kind for part in _trained(kernel)}
        if not kinds <= _BOUNDS.keys() or sum(p.numel() for p in kernel.parameters()) != len(self._values()):
            raise UnsupportedError(
                "the kernel has trainable parameters that are neither scales nor rotations, and may have any sign: theta would be "
                "their logarithm; train them in torch, or fix them in the map"
            )
        if any(getattr(part, "shots", None) is not None for part in kernel.modules()):
            raise UnsupportedError("a part of the kernel is measured; a Gaussian process takes exact kernels")

    def _values(self) -> np.ndarray:
        """Values of all trainable parameters, above 0."""
        if self.weights is not None:
            return np.atleast_1d(np.asarray(self.weights, dtype=np.float64))
        parts = []
        for part in _trained(self.kernel):
            values = part.params.detach().cpu().double().numpy()
            if part.params_kind == "rotations":
                values = (values - _TURN / 2) % _TURN + _TURN / 2
            elif (values <= 0).any():
                raise InvalidInputError(
                    f"a trainable scale is {values.min():.3g}, expected all above 0: theta is their logarithm; give weights="
                )
            parts.append(values)
        return np.concatenate(parts) if parts else np.empty(0)

    @property
    def hyperparameters(self) -> list[Hyperparameter]:
        """The bandwidth, and the trainable parameters if there are any."""
        found = [Hyperparameter("bandwidth", "numeric", self.bandwidth_bounds)]
        bounds = self.weights_bounds
        if bounds is None:
            bounds = [_BOUNDS[part.params_kind] for part in _trained(self.kernel) for _ in range(part.params.numel())]
        count = len(self._values())
        return [*found, Hyperparameter("weights", "numeric", bounds, count)] if count else found

    @property
    def theta(self) -> np.ndarray:
        """Logarithms of the hyperparameters that are not fixed."""
        values = {"bandwidth": np.array([self.bandwidth]), "weights": self._values()}
        free = [values[h.name] for h in self.hyperparameters if not h.fixed]
        return np.log(np.concatenate(free)) if free else np.empty(0)

    @theta.setter
    def theta(self, theta: np.ndarray) -> None:
        free = [h for h in self.hyperparameters if not h.fixed]
        if len(theta) != sum(h.n_elements for h in free):
            raise InvalidInputError(f"theta has {len(theta)} entries, expected {sum(h.n_elements for h in free)}")
        at, theta = 0, np.asarray(theta, dtype=np.float64)
        for h in free:
            part = np.exp(theta[at : at + h.n_elements])
            at += h.n_elements
            if h.name == "bandwidth":
                self.bandwidth = float(part[0])
            else:
                self.weights = part

    def __call__(self, X: Any, Y: Any = None, eval_gradient: bool = False) -> Any:
        """The kernel matrix.

        Args:
            X: samples, shape (N, d).
            Y: samples, shape (M, d); None for X.
            eval_gradient: also gives derivatives by theta, shape (N, N, dimensions of theta); without Y only.
        """
        if eval_gradient and Y is not None:
            raise InvalidInputError("eval_gradient=True with Y: derivatives are those of K(X); leave Y out")
        x = self.bandwidth * np.asarray(X, dtype=np.float64)
        values = list(torch.from_numpy(self._values()).split(_sizes(self.kernel)))
        if not eval_gradient:
            y = None if Y is None else self.bandwidth * np.asarray(Y, dtype=np.float64)
            return gram(self._at(values), x, y)
        samples, still = torch.from_numpy(x), [None] * len(values)
        directions: list[tuple[Tensor | None, list[Any]]] = []
        for h in self.hyperparameters:
            if h.fixed:
                continue
            if h.name == "bandwidth":
                directions.append((samples, still))  # d(b x) / d log b
            else:
                rows = torch.diag(torch.cat(values)).split(_sizes(self.kernel), dim=1)
                directions += [(None, [block[k] for block in rows]) for k in range(h.n_elements)]
        k, tangents = matrix_and_tangents(self._at, samples, values, directions)
        return k.numpy(), tangents.numpy()

    def _at(self, values: Sequence[Tensor]) -> Kernel:
        """A copy of the kernel with given trainable parameters."""
        twin = copy.deepcopy(self.kernel)
        for part, value in zip(_trained(twin), values, strict=True):
            del part.params
            part.params = value  # a tensor, which keeps float64 and tangents
        return twin

    def diag(self, X: Any) -> np.ndarray:
        """`k(x, x)` of samples (N, d), shape (N,)."""
        values = list(torch.from_numpy(self._values()).split(_sizes(self.kernel)))
        return np.array(self._at(values).diagonal(self.bandwidth * np.asarray(X, dtype=np.float64)))

    def __eq__(self, b: object) -> bool:
        """Whether both are the same function with the same bounds: a kernel equals its clone, as all kernels of scikit-learn do."""
        if not isinstance(b, GPKernel) or type(self) is not type(b) or not _alike(self.kernel, b.kernel):
            return False
        bounds = ("bandwidth_bounds", "weights_bounds")
        same = self.bandwidth == b.bandwidth and np.array_equal(self._values(), b._values())
        return same and all(np.array_equal(getattr(self, name), getattr(b, name)) for name in bounds)

    def is_stationary(self) -> bool:
        """No: feature maps do not depend on differences of samples alone."""
        return False

    def __repr__(self) -> str:
        free = ", ".join(f"{value:.3g}" for value in np.exp(self.theta))
        return f"{type(self).__name__}({type(self.kernel).__name__}, {free})"


def _alike(one: Any, other: Any) -> bool:
    """Whether kernels are the same but for trained values; or what they are made of is the same."""
    if isinstance(one, Kernel) and type(one) is type(other):
        others = other.get_params(deep=False)
        return all(_alike(value, others[name]) for name, value in one.get_params(deep=False).items())
    if isinstance(one, Backend):
        return type(one) is type(other) and one.name == other.name  # copies are made of objects, too
    return bool(one == other)


def _trained(kernel: Kernel) -> list[Any]:
    """The kernels that have trainable parameters, each once."""
    return [
        part
        for part in kernel.modules()
        if isinstance(part, Kernel) and isinstance(getattr(part, "params", None), nn.Parameter)
    ]


def _sizes(kernel: Kernel) -> list[int]:
    return [part.params.numel() for part in _trained(kernel)]
