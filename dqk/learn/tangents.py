"""Derivatives of a whole kernel matrix by a few numbers, in forward mode: what a Gaussian process asks of its kernel.

Autograd's backward passes give the derivatives of one number by many; here each of N x N entries is wanted by each of a few
hyperparameters. Torch's dual numbers carry those through whatever a kernel does in torch, and shift rules, which are exact, through
its circuits: shifting one angle of all samples at once costs one kernel matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from dqk._gram import engine_of
from dqk.backends.base import Backend
from dqk.backends.shifts import shared_as_data
from dqk.circuit import Circuit, shift_rule
from dqk.errors import UnsupportedError
from dqk.kernels import Kernel


def matrix_and_tangents(
    kernel_at: Callable[[Sequence[Tensor]], Kernel], x: Tensor, values: Sequence[Tensor], directions: Sequence[Any]
) -> tuple[Tensor, Tensor]:
    """K(X) and its derivatives along directions.

    Args:
        kernel_at: a kernel whose trainable parameters are the given tensors.
        x: samples, shape (N, d).
        values: the parameters.
        directions: for each derivative what changes, and how: a pair of tangents, of x (None for zero) and of the values.

    Returns:
        K, shape (N, N), and the derivatives, shape (N, N, directions).

    Raises:
        UnsupportedError: for a kernel that is measured, or a gate without a shift rule.
    """
    engine = _TangentEngine(engine_of(kernel_at(values)))
    with torch.no_grad():
        engine.begin()
        k = kernel_at(values)._matrix(engine, x, None, False)
        tangents = k.new_zeros(*k.shape, len(directions))
        for number, (of_x, of_values) in enumerate(directions):
            engine.begin()
            with forward_ad.dual_level():
                moved = [_dual(value, tangent) for value, tangent in zip(values, of_values, strict=True)]
                result = kernel_at(moved)._matrix(engine, _dual(x, of_x), None, False)
                tangent = forward_ad.unpack_dual(result).tangent
                if tangent is not None:
                    tangents[:, :, number] = tangent
    return k, tangents


def _dual(value: Tensor, tangent: Tensor | None) -> Tensor:
    return value if tangent is None else forward_ad.make_dual(value, tangent)


class _TangentEngine:
    """Evaluates circuits with another engine, and adds tangents to its results.

    Every direction meets the same circuits at the same angles in the same order, so matrices are kept by the number of the call.
    """

    stores = False

    def __init__(self, engine: Any):
        self.engine = engine
        self._known: dict[tuple[int, int], Tensor] = {}
        self._call = 0

    def begin(self) -> None:
        """Before each evaluation of the kernel."""
        self._call = 0

    def fidelity(
        self, backend: str | Backend, circuit: Circuit, ax: Tensor, ay: Tensor | None, shared: Tensor, log: bool
    ) -> Tensor:
        """K(X) with its tangent: that of the rows' angles and its transpose, that of the columns'."""
        assert ay is None and not log
        none = shared.new_empty(0)

        def at(wide: Circuit, rows: Tensor, shifted: Tensor | None) -> Tensor:
            columns = None if shifted is None else rows
            found: Tensor = self.engine.fidelity(
                backend, wide, rows if shifted is None else shifted, columns, none, False
            )
            return found

        k, tangent = self._with_tangent(circuit, ax, shared, at)
        return k if tangent is None else forward_ad.make_dual(k, (tangent + tangent.T).fill_diagonal_(0.0))

    def expectations(
        self, backend: str | Backend, circuit: Circuit, ax: Tensor, observables: Sequence[str], shared: Tensor
    ) -> Tensor:
        """Expectation values with their tangent."""
        none = shared.new_empty(0)

        def at(wide: Circuit, rows: Tensor, shifted: Tensor | None) -> Tensor:
            angles = rows if shifted is None else shifted
            found: Tensor = self.engine.expectations(backend, wide, angles, observables, none)
            return found

        values, tangent = self._with_tangent(circuit, ax, shared, at)
        return values if tangent is None else forward_ad.make_dual(values, tangent)

    def _with_tangent(
        self, circuit: Circuit, ax: Tensor, shared: Tensor, at: Callable[[Circuit, Tensor, Tensor | None], Tensor]
    ) -> tuple[Tensor, Tensor | None]:
        """A result with a row for each sample, and its tangent by the samples' own angles."""
        call, self._call = self._call, self._call + 1
        parts = [forward_ad.unpack_dual(angles) for angles in (ax, shared.expand(len(ax), -1))]
        wide, rows = shared_as_data(circuit), torch.cat([part.primal for part in parts], dim=1)
        if (call, -1) not in self._known:
            self._known[call, -1] = at(wide, rows, None)
        value, tangent = self._known[call, -1], None
        speeds = torch.cat([torch.zeros_like(p.primal) if p.tangent is None else p.tangent for p in parts], dim=1)
        for gate in wide.gates:
            if not gate.is_data:
                continue
            column = gate.operand.column  # type: ignore[union-attr]
            speed = speeds[:, column : column + 1]
            if not speed.any():
                continue
            if (call, column) not in self._known:
                self._known[call, column] = _shifted(gate.frequencies, column, wide, rows, at)
            part = speed * self._known[call, column]
            tangent = part if tangent is None else tangent + part
        return value, tangent


def _shifted(
    frequencies: tuple[float, ...],
    column: int,
    wide: Circuit,
    rows: Tensor,
    at: Callable[[Circuit, Tensor, Tensor | None], Tensor],
) -> Tensor:
    """The derivative of all rows' results by each one's angle in a column."""
    if not frequencies:
        raise UnsupportedError(f"angle {column} has no shift rule, and so no derivative in forward mode")
    total = None
    for coefficient, shift in shift_rule(frequencies):
        moved = rows.clone()
        moved[:, column] += shift
        part = coefficient * at(wide, rows, moved)
        total = part if total is None else total + part
    assert total is not None
    return total
