"""What a relative frequency is worth: its standard error, and an interval where that says too little."""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import numpy as np

from dqk.errors import InvalidInputError, real_number

_FEW_HITS = 3
"""Up to so many hits the lower end of Wilson's interval is too high."""


def standard_error(p_hat: Any, shots: Any) -> np.ndarray:
    """`sqrt(p (1 - p) / n)`: right where n min(p, 1 - p) is at least 50, and 0 where nothing or everything was hit.

    Args:
        p_hat: relative frequencies, any shape.
        shots: measurements of each, of a shape that broadcasts; an effective number need not be whole.

    Returns:
        Standard errors, float64, of the common shape.

    Raises:
        InvalidInputError: for frequencies outside [0, 1] or fewer than one shot.
    """
    p, n = _checked(p_hat, shots)
    return np.sqrt(p * (1 - p) / n)


def wilson_interval(p_hat: Any, shots: Any, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's interval for a probability, which keeps its level also where few shots hit.

    With 1 to 3 hits its lower end (and with 1 to 3 misses its upper end) is that of the Poisson distribution: plain Wilson
    intervals cover 84 % instead of 95 % at n p = 0.18, these at least 90 % everywhere.

    Args:
        p_hat: relative frequencies, any shape.
        shots: measurements of each, of a shape that broadcasts.
        level: that the interval should cover the probability with, above 0.5 and below 1.

    Returns:
        Lower and upper ends in [0, 1], float64, of the common shape.

    Raises:
        InvalidInputError: for frequencies outside [0, 1], fewer than one shot, or another level.

    References:
        Brown, Cai and DasGupta, "Interval estimation for a binomial proportion", Statistical Science 16 (2001), equation (4)
        and section 4.1.1.
    """
    p, n = _checked(p_hat, shots)
    level = real_number("level", level, above=0.5)
    if level >= 1:
        raise InvalidInputError(f"level is {level!r}, expected a number above 0.5 and below 1, such as 0.95")
    z2 = NormalDist().inv_cdf((1 + level) / 2) ** 2
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = np.sqrt(z2 * (p * (1 - p) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    low, high = np.where(p <= 0, 0.0, centre - half), np.where(p >= 1, 1.0, centre + half)
    for hits in range(1, _FEW_HITS + 1):
        rate = _poisson_rate(hits, level)
        # Where two samplings were combined, hits need not be whole.
        low = np.where(np.ceil(p * n - 1e-6) == hits, np.minimum(low, rate / n), low)
        high = np.where(np.ceil((1 - p) * n - 1e-6) == hits, np.maximum(high, 1 - rate / n), high)
    return np.clip(low, 0.0, 1.0), np.clip(high, 0.0, 1.0)


def _poisson_rate(hits: int, level: float) -> float:
    """The rate at which fewer than so many hits have the probability `level`."""

    def fewer(rate: float) -> float:
        term = total = 1.0
        for k in range(1, hits):
            term *= rate / k
            total += term
        return float(np.exp(-rate)) * total

    return bisect(lambda rate: fewer(rate) > level, 0.0, float(hits))


def bisect(holds: Callable[[float], bool], low: float, high: float) -> float:
    """The largest number, to rounding, for which something holds that holds at `low`, not at `high`, and changes once."""
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _checked(p_hat: Any, shots: Any) -> tuple[np.ndarray, np.ndarray]:
    p, n = np.asarray(p_hat, dtype=np.float64), np.asarray(shots, dtype=np.float64)
    try:
        p, n = np.broadcast_arrays(p, n)
    except ValueError as error:
        raise InvalidInputError(f"{p.shape} frequencies and {n.shape} shots do not broadcast") from error
    if not np.all((p >= 0) & (p <= 1)):
        raise InvalidInputError(f"relative frequencies are {_span(p)}, expected numbers from 0 to 1")
    if not np.all((n >= 1) & (n < np.inf)):
        raise InvalidInputError(f"shots are {_span(n)}, expected at least 1 for every entry")
    return p, n


def _span(values: np.ndarray) -> str:
    return f"{values.min():g} to {values.max():g}" if values.size else "none"
