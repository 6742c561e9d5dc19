"""Intervals for the difference of two models by the bootstrap, over seeds and over test units at once, in pairs.

Both models were trained with the same seeds and tested on the same units (sentences, or seasons of a series); a draw takes seeds
and units with replacement, the same ones for both, so that what makes a seed or a sentence hard for both cancels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_CHUNK = 500  # draws at a time


@dataclass(frozen=True)
class Interval:
    """A difference and how well it is known.

    Attributes:
        difference: of the means over seeds, first minus second, on all units.
        low: lower end.
        high: upper end.
    """

    difference: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the sign of the difference is settled at this level."""
        return self.low > 0 or self.high < 0


def score(totals: np.ndarray, sizes: np.ndarray, root: bool) -> np.ndarray:
    """The metric of each seed: totals over sizes, all units together; the root of that for errors that were squared.

    Args:
        totals: right words, or squared errors, of each seed and unit, shape (S, U).
        sizes: words, or values, of each unit, shape (U,).
        root: whether totals are squared errors.

    Returns:
        Shape (S,).
    """
    return _metric(totals.sum(axis=1), sizes.sum(), root)


def _metric(totals: np.ndarray, sizes: np.ndarray, root: bool) -> np.ndarray:
    ratio = totals / sizes
    return np.sqrt(ratio) if root else ratio


def paired_difference(
    first: np.ndarray,
    second: np.ndarray,
    sizes: np.ndarray,
    root: bool = False,
    draws: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Difference of two models' mean scores with its percentile interval.

    Args:
        first: see `score`, shape (S, U).
        second: the same seeds and units, shape (S, U); (1, U) for what has no seeds.
        sizes: shape (U,).
        root: see `score`.
        draws: bootstrap samples.
        level: of the interval.
        seed: of the draws.
    """
    n_seeds, n_units = first.shape
    second = np.broadcast_to(second, first.shape)
    draw = np.random.default_rng(seed)
    found = []
    for start in range(0, draws, _CHUNK):
        count = min(_CHUNK, draws - start)
        of_seeds = draw.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), count) / n_seeds  # (draws, S)
        of_units = draw.multinomial(n_units, np.full(n_units, 1 / n_units), count).astype(float)  # (draws, U)
        drawn = (of_units @ sizes)[:, None]
        scores = [_metric(of_units @ totals.T, drawn, root) for totals in (first, second)]
        found.append((of_seeds * (scores[0] - scores[1])).sum(axis=1))
    low, high = np.percentile(np.concatenate(found), [50 * (1 - level), 50 * (1 + level)])
    difference = (score(first, sizes, root) - score(second, sizes, root)).mean()
    return Interval(float(difference), float(low), float(high))
