"""Tolerances, comparisons, finite differences and the number of threads, as the laws use them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from dqk import _resources, _tiled
from dqk.circuit import Circuit


def tolerance(dtype: torch.dtype, circuit: Circuit | None = None) -> tuple[float, float]:
    """Absolute and relative tolerance of kernel values; the larger of the two counts.

    Float64 is 1e-12 and 1e-11. Float32 is 2e-5 for up to 100 gates and grows with their number.
    """
    if dtype == torch.float64:
        return 1e-12, 1e-11
    return 2e-5 * max(1.0, len(circuit.gates) / 100 if circuit else 1.0), 0.0


def assert_close(found: Tensor, expected: Tensor, what: str, absolute: float, relative: float = 0.0) -> None:
    """Raises AssertionError with the worst entry unless `|found - expected| <= max(absolute, relative |expected|)`."""
    assert found.shape == expected.shape, f"{what}: shape {tuple(found.shape)}, expected {tuple(expected.shape)}"
    if not found.numel():
        return
    a, b = found.detach().to(torch.float64), expected.detach().to(torch.float64)
    excess = (a - b).abs() - torch.clamp(relative * b.abs(), min=absolute)
    excess = torch.where(torch.isnan(excess), torch.inf, excess)
    if excess.max() > 0:
        place = tuple(int(i) for i in torch.unravel_index(excess.argmax(), excess.shape))
        raise AssertionError(
            f"{what}: {a[place].item()!r} at {list(place)}, expected {b[place].item()!r} "
            f"(tolerance {absolute:.1g}, relative {relative:.1g}; {int((excess > 0).sum())} of {found.numel()} differ)"
        )


def assert_same_bits(found: Tensor, expected: Tensor, what: str) -> None:
    """Raises AssertionError with the first entry that differs in any bit (NaN differs from everything)."""
    assert found.shape == expected.shape, f"{what}: shape {tuple(found.shape)}, expected {tuple(expected.shape)}"
    differ = torch.nonzero(~(found == expected))
    if len(differ):
        place = tuple(differ[0].tolist())
        raise AssertionError(
            f"{what}: {found[place].item()!r} at {list(place)}, expected exactly {expected[place].item()!r} "
            f"({len(differ)} of {found.numel()} differ)"
        )


def derivative(function: Callable[[float], Tensor], step: float = 2e-3) -> Tensor:
    """`function'(0)` by central differences of fourth order.

    In float64, for functions with frequencies up to about 1, the error is below 1e-11.
    """
    near, far = function(step) - function(-step), function(2 * step) - function(-2 * step)
    return (8 * near - far) / (12 * step)


@contextlib.contextmanager
def use_threads(count: int) -> Iterator[None]:
    """Within the block tiles run on `count` threads."""
    before = os.environ.get("DQK_THREADS")
    os.environ["DQK_THREADS"] = str(count)
    _forget_threads()
    try:
        yield
    finally:
        if before is None:
            del os.environ["DQK_THREADS"]
        else:
            os.environ["DQK_THREADS"] = before
        _forget_threads()


def _forget_threads() -> None:
    _resources.cpu_threads.cache_clear()
    _tiled._pool.cache_clear()
