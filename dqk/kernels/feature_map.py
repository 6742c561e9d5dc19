"""A feature map: a static circuit and the angles that a sample puts into it.

Choose declared angles (`Angle`) when each data angle is a product of affine functions of features, possibly times a trainable
weight: compiled code and workers can then expand `x` themselves. Any other differentiable torch function serves as
`angle_function`; it runs on the driver.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from dqk.circuit import Circuit
from dqk.errors import InvalidInputError, real_number, whole_number

AngleFunction = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True)
class Angle:
    """A declared data angle: `coefficient * prod_f (offset_f + slope_f * x[feature_f]) * params[weight]`.

    Attributes:
        coefficient: constant factor.
        factors: up to two triples (feature, offset, slope).
        weight: index of a trainable weight that multiplies the angle; -1 for none.
    """

    coefficient: float
    factors: tuple[tuple[int, float, float], ...]
    weight: int = -1


@dataclass(frozen=True)
class FeatureMap:
    """A circuit with the angles that samples give to it.

    Args:
        name: shown in messages and stored with results.
        circuit: the static circuit.
        n_features: length of a sample.
        declared: one `Angle` per data column, or None if `angle_function` computes them.
        n_params: number of trainable parameters.
        params_kind: what parameters are: `scale` (weights of angles, 1 at the start), `rotations` (the shared columns of the
            circuit, uniform in (-pi, pi) at the start) or `custom` (input of `angle_function`, standard normal at the start).
        bandwidth: multiplies x before anything else (arXiv 2206.06686).
        angle_function: `(x (N, d), params) -> (data (N, A_d), shared (A_s,))`, differentiable torch.

    Raises:
        InvalidInputError: if columns, angles and parameters do not fit together, or the bandwidth is not positive.
    """

    name: str
    circuit: Circuit
    n_features: int
    declared: tuple[Angle, ...] | None
    n_params: int = 0
    params_kind: Literal["scale", "rotations", "custom"] = "scale"
    bandwidth: float = 1.0
    angle_function: AngleFunction | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "n_features", whole_number("n_features", self.n_features, 1))
        object.__setattr__(self, "n_params", whole_number("n_params", self.n_params, 0))
        object.__setattr__(self, "bandwidth", real_number("bandwidth", self.bandwidth, above=0))
        if (self.declared is None) == (self.angle_function is None):
            raise InvalidInputError("a feature map takes either declared angles or an angle_function")
        if self.declared is not None and len(self.declared) != self.circuit.n_data:
            raise InvalidInputError(
                f"{len(self.declared)} declared angles for {self.circuit.n_data} data columns; expected one for each"
            )
        for angle in self.declared or ():
            if any(not 0 <= feature < self.n_features for feature, _, _ in angle.factors) or len(angle.factors) > 2:
                raise InvalidInputError(f"{angle} needs at most two features from 0 to {self.n_features - 1}")
            if angle.weight >= self.n_params:
                raise InvalidInputError(f"{angle} needs parameter {angle.weight}, but there are {self.n_params}")

    @property
    def n_qubits(self) -> int:
        """Number of qubits of the circuit."""
        return self.circuit.n_qubits

    def with_bandwidth(self, bandwidth: float) -> FeatureMap:
        """The same map with another bandwidth."""
        return replace(self, bandwidth=bandwidth)

    def initial_params(self, dtype: torch.dtype | None = None, generator: torch.Generator | None = None) -> Tensor:
        """Start values of the trainable parameters, shape (n_params,)."""
        if self.params_kind == "scale":
            return torch.ones(self.n_params, dtype=dtype)
        if self.params_kind == "custom":
            return torch.randn(self.n_params, dtype=dtype, generator=generator)
        return math.pi * (2 * torch.rand(self.n_params, dtype=dtype, generator=generator) - 1)

    def angles(self, x: Tensor, params: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The angles of some samples, differentiable in both arguments.

        Args:
            x: samples, shape (N, n_features).
            params: trainable parameters, shape (n_params,); may be left out if there are none.

        Returns:
            Data angles (N, A_d) and shared angles (A_s,), in radians.

        Raises:
            InvalidInputError: if a shape does not fit.
        """
        if x.dim() != 2 or x.shape[1] != self.n_features:
            raise InvalidInputError(
                f"samples of shape {tuple(x.shape)}, expected (N, {self.n_features}): {self.name} on {self.n_qubits} qubits "
                f"takes {self.n_features} features"
            )
        if params is None:
            params = x.new_empty(0)
        if params.shape != (self.n_params,):
            raise InvalidInputError(f"parameters of shape {tuple(params.shape)}, expected ({self.n_params},)")
        if self.bandwidth != 1.0:
            x = self.bandwidth * x
        if self.angle_function is not None:
            found = self.angle_function(x, params)
            expected = (len(x), self.circuit.n_data), (self.circuit.n_shared,)
            if (found[0].shape, found[1].shape) != expected:
                raise InvalidInputError(
                    f"the angle_function of {self.name} gives angles of shapes {tuple(found[0].shape)} and "
                    f"{tuple(found[1].shape)}, expected {expected[0]} and {expected[1]}"
                )
            return found
        shared = params if self.params_kind == "rotations" else x.new_empty(0)
        key = (x.dtype, x.device)
        if key not in self._tables:
            self._tables[key] = _Table.of(self, x.dtype, x.device)
        return _expand(self._tables[key], x, params), shared

    def finite_angles(self, x: Tensor, params: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """`angles`, or InvalidInputError where finite samples give angles that are not."""
        data, shared = self.angles(x, params)
        for what, values in (("data angle", data), ("shared angle", shared)):
            finite = torch.isfinite(values)
            if not finite.all():
                place = tuple(torch.nonzero(~finite)[0].tolist())
                raise InvalidInputError(
                    f"{what} {place} of {self.name} is {values[place].item()}; samples, parameters, bandwidth ({self.bandwidth}) "
                    "and constants of the map have to give finite angles: scale the data down or check the parameters"
                )
        return data, shared

    @cached_property
    def _tables(self) -> dict[tuple[torch.dtype, torch.device], _Table]:
        return {}

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name != "_tables"}


@dataclass(frozen=True, eq=False)
class _Table:
    """Declared angles as arrays: `(offset0 + slope0 * x[f0]) * (offset1 + slope1 * x[f1])`, weighted."""

    features: tuple[Tensor, ...]
    offsets: tuple[Tensor, ...]
    slopes: tuple[Tensor, ...]
    weights: Tensor | None

    @staticmethod
    def of(feature_map: FeatureMap, dtype: torch.dtype, device: torch.device) -> _Table:
        angles = feature_map.declared or ()
        order = max((len(angle.factors) for angle in angles), default=1) or 1
        rows = [[*angle.factors, *[(0, 1.0, 0.0)] * (order - len(angle.factors))] for angle in angles]
        # The coefficient goes into the first factor.
        rows = [
            [(f, a.coefficient * o, a.coefficient * s), *rest]
            for a, ((f, o, s), *rest) in zip(angles, rows, strict=True)
        ]
        features = tuple(
            torch.tensor([row[k][0] for row in rows], device=device, dtype=torch.long) for k in range(order)
        )
        offsets = tuple(torch.tensor([row[k][1] for row in rows], device=device, dtype=dtype) for k in range(order))
        slopes = tuple(torch.tensor([row[k][2] for row in rows], device=device, dtype=dtype) for k in range(order))
        weights = [angle.weight for angle in angles]
        return _Table(
            features, offsets, slopes, torch.tensor(weights, device=device) if max(weights, default=-1) >= 0 else None
        )


def _expand(table: _Table, x: Tensor, params: Tensor) -> Tensor:
    result = None
    for feature, offset, slope in zip(table.features, table.offsets, table.slopes, strict=True):
        factor = torch.addcmul(offset, x.index_select(1, feature), slope)
        result = factor if result is None else result * factor
    assert result is not None
    if table.weights is None:
        return result
    padded = torch.cat([params, params.new_ones(1)])  # index -1: the angle has no weight
    return result * padded[table.weights]
