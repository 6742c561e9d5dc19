"""Kernels made of kernels: `k1 + k2`, `k1 * k2` and `3.0 * k`, which are kernels again.

Choose a sum for alternatives (similar in one sense or another), a product for conditions that all have to hold. Parts keep their
backends; all their parameters are trained.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from dqk.errors import InvalidInputError, UnsupportedError, real_number
from dqk.kernels.base import Engine, Kernel


class CompositeKernel(Kernel):
    """What the kernels made of kernels share.

    Args:
        parts: the kernels, by the names of their attributes.

    Raises:
        InvalidInputError: if a part is no kernel, or they take samples of different lengths.
    """

    def __init__(self, **parts: Kernel):
        super().__init__()
        for name, part in parts.items():
            if not isinstance(part, Kernel):
                raise InvalidInputError(f"{name} is {part!r}, expected a dqk kernel")
            setattr(self, name, part)
        self._names = tuple(parts)
        lengths = {name: part.n_features for name, part in parts.items()}
        if len(set(lengths.values())) > 1:
            raise InvalidInputError(
                f"parts take samples of different lengths ({lengths}); expected one number of features"
            )

    @property
    def parts(self) -> tuple[Kernel, ...]:
        """The kernels that it is made of."""
        return tuple(getattr(self, name) for name in self._names)

    @property
    def n_features(self) -> int:
        """Length d of a sample."""
        return self.parts[0].n_features

    @property
    def has_logarithm(self) -> bool:
        """Whether all parts have one."""
        return all(part.has_logarithm for part in self.parts)

    @property
    def runs_circuits(self) -> bool:  # type: ignore[override]
        """Whether any part does."""
        return any(part.runs_circuits for part in self.parts)

    @property
    def executor(self) -> Any:
        """Where the parts' tiles run; None for this process.

        Raises:
            InvalidInputError: if parts name different executors.
        """
        named = [e for e in (getattr(part, "executor", None) for part in self.parts) if e is not None]
        if any(other is not named[0] and other != named[0] for other in named[1:]):
            raise InvalidInputError(
                f"parts of a {type(self).__name__} have different executors, {named[0]!r} and {named[1]!r}; give all the same "
                "one, or none of them and executor= to gram"
            )
        return named[0] if named else None

    def _of_parts(self, engine: Engine, x: Tensor, y: Tensor | None, log: bool) -> list[Tensor]:
        """The parts' matrices."""
        for part in self.parts:
            if getattr(part, "shots", None) is not None:
                raise UnsupportedError(
                    f"a part of a {type(self).__name__} is measured with shots={part.shots!r}, and its errors would be lost in "
                    "the whole; call gram for each part and combine the matrices"
                )
        if engine.stores:
            raise UnsupportedError(
                f"a store keeps the tiles of one fidelity kernel, not of a {type(self).__name__}; store its parts, or leave out "
                "store"
            )
        return [part._matrix(engine, x, y, log) for part in self.parts]


class SumKernel(CompositeKernel):
    """`k(x, y) = k1(x, y) + k2(x, y)`; also written `k1 + k2`. Its diagonal is not 1.

    Args:
        k1: a kernel.
        k2: a kernel of samples of the same length.

    Raises:
        InvalidInputError: if one is no kernel, or they take samples of different lengths.
    """

    def __init__(self, k1: Kernel, k2: Kernel):
        super().__init__(k1=k1, k2=k2)

    @property
    def normalised(self) -> bool:
        """No: k(x, x) is a sum."""
        return False

    def _matrix(self, engine: Engine, x: Tensor, y: Tensor | None, log: bool) -> Tensor:
        first, second = self._of_parts(engine, x, y, log)
        return torch.logaddexp(first, second) if log else first + second

    def _diagonal(self, x: Tensor) -> Tensor:
        return self.parts[0]._diagonal(x) + self.parts[1]._diagonal(x)


class ProductKernel(CompositeKernel):
    """`k(x, y) = k1(x, y) k2(x, y)`; also written `k1 * k2`.

    Args:
        k1: a kernel.
        k2: a kernel of samples of the same length.

    Raises:
        InvalidInputError: if one is no kernel, or they take samples of different lengths.
    """

    def __init__(self, k1: Kernel, k2: Kernel):
        super().__init__(k1=k1, k2=k2)

    @property
    def normalised(self) -> bool:
        """Whether both are."""
        return all(part.normalised for part in self.parts)

    def _matrix(self, engine: Engine, x: Tensor, y: Tensor | None, log: bool) -> Tensor:
        first, second = self._of_parts(engine, x, y, log)
        return first + second if log else first * second

    def _diagonal(self, x: Tensor) -> Tensor:
        return self.parts[0]._diagonal(x) * self.parts[1]._diagonal(x)


class ScaledKernel(CompositeKernel):
    """`k(x, y) = factor * kernel(x, y)`; also written `factor * kernel`.

    Args:
        factor: above 0; it is not trained.
        kernel: a kernel.

    Raises:
        InvalidInputError: if the kernel is none, or factor is no finite number above 0.
    """

    def __init__(self, factor: float, kernel: Kernel):
        super().__init__(kernel=kernel)
        self.factor = real_number("factor", factor, above=0)

    @property
    def normalised(self) -> bool:
        """No: k(x, x) is the factor times the kernel's."""
        return False

    def _matrix(self, engine: Engine, x: Tensor, y: Tensor | None, log: bool) -> Tensor:
        (values,) = self._of_parts(engine, x, y, log)
        return values + math.log(self.factor) if log else self.factor * values

    def _diagonal(self, x: Tensor) -> Tensor:
        return self.factor * self.parts[0]._diagonal(x)

    def extra_repr(self) -> str:
        """Shown by `print(kernel)`."""
        return f"factor={self.factor:g}"
