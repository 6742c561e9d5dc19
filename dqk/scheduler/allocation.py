"""How a number of shots is shared among entries: alike, by variance, or by use.

Choose `uniform` where nothing is known, `weighted` where it is known what the entries are for (coefficients of support
vectors, readout weights of references), and `variance_driven` where the budget allows a pilot of a few dozen shots for each
entry: it knows the variances, and takes weights, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dqk.errors import InvalidInputError, whole_number
from dqk.scheduler.shots import bisect, standard_error

_BINS = 256  # of scores, before they are grouped
_RANGE = 1e-6  # scores below this part of the largest count as equal
_MOST = 2**53  # shots are exact in float64


@dataclass(frozen=True, eq=False)
class Allocation:
    """Shots of each entry.

    Attributes:
        shots: to be measured now, shape of the entries, int64; at most `levels` distinct values.
        pilot_shots: that each entry had before; 0 without a pilot.
        pilot_share: weight of the pilot's frequency in the result, shape of the entries.
        correction: that is added to the result: the weight of each shot of the pilot depends on the others alone, so that the
            result is unbiased. The frequency of all hits together is not, because entries that happened to hit more often
            are then measured more often.
        loss: by how much the variance predicted for these shots is above that of the best real numbers of shots, relative:
            what few levels, whole numbers and unspent shots cost.
    """

    shots: np.ndarray
    pilot_shots: int
    pilot_share: np.ndarray
    correction: np.ndarray
    loss: float

    @property
    def total(self) -> int:
        """All shots, those of the pilot included."""
        return int(self.shots.sum()) + self.pilot_shots * self.shots.size

    def combine(self, pilot_p: Any, p: Any) -> tuple[np.ndarray, np.ndarray]:
        """The pilot and what was measured after it, as one result.

        Args:
            pilot_p: relative frequencies of the pilot, shape of the entries.
            p: relative frequencies of `shots` measurements, shape of the entries.

        Returns:
            Unbiased frequencies, and their effective numbers of shots: with both, `standard_error` and `wilson_interval` give
            the error.
        """
        first, then = np.asarray(pilot_p, dtype=np.float64), np.asarray(p, dtype=np.float64)
        if not self.pilot_shots:
            raise InvalidInputError("this allocation had no pilot; the frequencies that were measured are the result")
        if first.shape != self.shots.shape or then.shape != self.shots.shape:
            raise InvalidInputError(
                f"frequencies have shapes {first.shape} and {then.shape}, expected {self.shots.shape}"
            )
        share = self.pilot_share
        mixed = np.clip(share * first + (1 - share) * then + self.correction, 0.0, 1.0)
        return mixed, 1 / (share**2 / self.pilot_shots + (1 - share) ** 2 / self.shots)


def pilot_shots(n_entries: int, budget: int) -> int:
    """A good number of shots for the pilot of each entry: 5 sqrt(shots per entry), at most a quarter of them.

    Args:
        n_entries: number of entries.
        budget: shots of all entries together, pilot included.
    """
    each = _whole("budget", budget, 2 * _whole("n_entries", n_entries, 1)) / n_entries
    return max(1, int(min(5 * each**0.5, each / 4)))


def uniform(n_entries: int, budget: int, *, most: int | None = None) -> Allocation:
    """The same number of shots for each entry.

    Args:
        n_entries: number of entries.
        budget: shots of all entries together.
        most: shots of one entry at most, as devices have a limit.

    Raises:
        InvalidInputError: if there is less than one shot for each entry.
    """
    return _allocate(np.ones(_whole("n_entries", n_entries, 1)), budget, 1, most, 1)


def weighted(weights: Any, budget: int, *, least: int = 1, most: int | None = None, levels: int = 8) -> Allocation:
    """Shots by use: proportional to |w|, the best for a sum of w K where the variances of the entries are not known.

    Args:
        weights: of the entries in what they are used for, any shape: alpha_j y_j for a decision function
            `sum_j alpha_j y_j k(x, x_j)`, alpha_i alpha_j for a quadratic form.
        budget: shots of all entries together.
        least: shots of each entry; with 0 what is not used is not measured.
        most: shots of one entry at most.
        levels: distinct numbers of shots at most: a job has one.

    Raises:
        InvalidInputError: for weights that are not finite, or a budget that is too small.
    """
    return _allocate(np.abs(_entries("weights", weights)), budget, least, most, levels)


def variance_driven(
    pilot_p: Any,
    pilot_shots: int,
    budget: int,
    weights: Any = None,
    *,
    least: int = 1,
    most: int | None = None,
    levels: int = 8,
) -> Allocation:
    """Shots proportional to |w| sigma, with sigma from a pilot: the least sum of w**2 times the variance (Neyman).

    The pilot's frequencies are shrunk towards what all entries have in common (the beta distribution with their mean and
    spread), so that an entry without a hit has shots, too.

    Args:
        pilot_p: relative frequencies of the pilot, any shape.
        pilot_shots: of each entry.
        budget: shots of all entries together, those of the pilot included.
        weights: of the entries, of a shape that broadcasts; None for equal ones. They must not come from this pilot.
        least: shots of each entry beside the pilot, at least 1.
        most: of one entry beside the pilot at most.
        levels: distinct numbers of shots at most: a job has one.

    Raises:
        InvalidInputError: for frequencies outside [0, 1], weights that are not finite, or a budget that is too small.

    References:
        Neyman, J. R. Statist. Soc. 97 (1934) 558. Shots for quantum kernels: arXiv 2407.15776.
    """
    p = _entries("pilot_p", pilot_p)
    m = _whole("pilot_shots", pilot_shots, 1)
    least = _whole("least", least, 1)
    standard_error(p, m)  # refuses what is no frequency
    try:
        w = np.broadcast_to(1.0 if weights is None else np.abs(_entries("weights", weights)), p.shape)
    except ValueError as error:
        raise InvalidInputError(f"weights have shape {np.shape(weights)}, expected one that fits {p.shape}") from error
    follow_up = _whole("budget", budget, m * p.size) - m * p.size
    hits = np.rint(m * p)
    sigma = _sigma(hits, m, *_common_prior(p, m))
    found = _allocate(w * sigma, follow_up, least, most, levels)
    return Allocation(found.shots, m, *_shares(hits, m, w, follow_up, least), found.loss)


def _sigma(hits: np.ndarray, m: int, a: Any, b: Any) -> np.ndarray:
    """Root of the mean of p (1 - p), given the hits of m shots and the prior Beta(a, b)."""
    n = m + a + b
    return np.asarray(np.sqrt((hits + a) * (m - hits + b) / (n * (n + 1))))


def _common_prior(p: np.ndarray, m: int) -> tuple[np.ndarray, np.ndarray]:
    """The beta distribution of all entries' probabilities, by moments; Jeffreys' where the pilot says nothing."""
    return _beta(p.mean(), p.var(), m)


def _beta(mean: Any, spread: Any, m: int) -> tuple[np.ndarray, np.ndarray]:
    """The beta distributions with which frequencies of m shots have these means and variances."""
    known = (mean > 0) & (mean < 1) & (m > 1)
    middle = np.where(known, mean, 0.5)
    correlation = (spread * m / (middle * (1 - middle)) - 1) / max(m - 1, 1)
    strength = 1 / np.clip(np.where(known, correlation, 0.5), 1e-6, 0.5) - 1
    return middle * strength, (1 - middle) * strength


def _shares(hits: np.ndarray, m: int, w: np.ndarray, follow_up: int, least: int) -> tuple[np.ndarray, np.ndarray]:
    """Weight of each entry's pilot in the result, and the correction that goes with it.

    With n shots after the pilot, each shot has the weight 1 / (m + n) in the best result. What n depends on, the shot itself
    left out, is known from the other m - 1 shots, of which j hit, and from the other entries: n(j) = c |w| sigma(j). With
    v(j) = 1 / (m + n(j)) the k hits of a pilot weigh v(k - 1) each and its misses v(k), which leaves the mean of the result as
    it is.
    """
    if hits.size == 1:
        return np.full(hits.shape, m / (m + follow_up)), np.zeros(hits.shape)
    others = hits.size - 1
    mean = (hits.sum() - hits) / (others * m)  # of whole numbers: exactly 0 or 1 where it is
    spread = ((hits**2).sum() - hits**2) / (others * m**2) - mean**2
    prior = _beta(mean, np.maximum(spread, 0.0), m)
    sigma = w * _sigma(hits, m, 0.5, 0.5)  # of the others; the common prior would know this entry
    scale = follow_up * w * others / hits.size / np.maximum(sigma.sum() - sigma, 1e-300)

    def weight(j: np.ndarray) -> np.ndarray:
        return np.asarray(1 / (m + np.clip(scale * _sigma(np.clip(j, 0, m - 1), m - 1, *prior), least, follow_up)))

    hit, miss = weight(hits - 1), weight(hits)
    share = hits * hit + (m - hits) * miss
    return share, hits * (1 - hits / m) * (hit - miss)


def _allocate(scores: np.ndarray, budget: int, least: int, most: int | None, levels: int) -> Allocation:
    """Whole numbers of shots proportional to scores, within bounds; what has no score gets `least`."""
    budget, least, levels = _whole("budget", budget, 0), _whole("least", least, 0), whole_number("levels", levels, 1)
    most = budget if most is None else _whole("most", most, max(1, least))
    flat = scores.ravel()
    if not flat.any():
        raise InvalidInputError(
            "every weight is 0, expected at least one entry that is used; `uniform` takes no weights"
        )
    used = flat > 0
    bounds = np.where(used, max(1, least), least)
    if bounds.sum() > budget:
        raise InvalidInputError(
            f"{budget} shots are left for {flat.size} entries, expected at least {bounds.sum()}: raise the budget"
        )
    if least and not used.all() and levels == 1:
        return _allocate(np.ones_like(scores), budget, least, most, levels)
    s = np.maximum(flat[used] / flat.max(), _RANGE)
    left, least_used = budget - int(bounds[~used].sum()), max(1, least)
    group, rms, count = _groups(s, levels - bool(least and not used.all()))
    value = np.floor(_filled(rms, count, left, least_used, most, whole=True)).astype(np.int64)
    shots = bounds.astype(np.int64)
    shots[used] = _spend(s, value[group], left)
    ideal = _filled(s, np.ones_like(s), left, least_used, most, whole=False)
    loss = float((s**2 / shots[used]).sum() / (s**2 / ideal).sum() - 1)
    nothing = np.zeros(scores.shape)
    return Allocation(shots.reshape(scores.shape), 0, nothing, nothing, loss)


def _filled(s: np.ndarray, count: np.ndarray, budget: int, least: int, most: int, whole: bool) -> np.ndarray:
    """`c s` within bounds for the largest c that `count` of each can be paid with."""

    def at(c: float) -> np.ndarray:
        values = np.clip(c * s, least, most)
        return np.floor(values) if whole else values

    def paid(c: float) -> bool:
        return bool((count * at(c)).sum() <= budget)

    high = 1.0
    while paid(high):
        if (at(high) == most).all():
            return at(high)
        high *= 2
    return at(bisect(paid, 0.0, high))


def _groups(s: np.ndarray, levels: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores in neighbouring groups such that one number of shots for each group costs least variance.

    With the root mean square r_g of its c_g scores as a group's score, the variance is (sum_g c_g r_g)**2 / budget: cuts that make
    the sum least, by dynamic programming over bins of equal width in log s.

    Returns:
        The group of each score, and each group's root mean square and count.
    """
    place = np.log(s / s.min()) / max(np.log(s.max() / s.min()), 1e-12)
    bins = np.minimum((_BINS * place).astype(np.int64), _BINS - 1)
    _, bins = np.unique(bins, return_inverse=True)  # no empty ones
    n = int(bins.max()) + 1
    counts = np.concatenate([[0.0], np.cumsum(np.bincount(bins))])
    squares = np.concatenate([[0.0], np.cumsum(np.bincount(bins, weights=s**2))])
    i, j = np.meshgrid(np.arange(n + 1), np.arange(n + 1), indexing="ij")
    cost = np.where(i < j, np.sqrt(np.maximum((counts[j] - counts[i]) * (squares[j] - squares[i]), 0)), np.inf)
    best, cuts = cost[0], []
    for _ in range(min(levels, n) - 1):
        sums = best[:, None] + cost
        cuts.append(sums.argmin(axis=0))
        best = sums.min(axis=0)
    edges = [n]
    for cut in reversed(cuts):
        edges.append(int(cut[edges[-1]]))
    edges = [0, *reversed(edges)]
    group = np.searchsorted(edges, bins, side="right") - 1
    count = np.diff(counts[edges])
    return group, np.sqrt(np.diff(squares[edges]) / count), count


def _spend(s: np.ndarray, shots: np.ndarray, budget: int) -> np.ndarray:
    """Raises entries to the next value, those first that gain most for a shot, until what is left does not pay for one."""
    values = np.unique(shots)
    following = np.append(values[1:], values[-1])[np.searchsorted(values, shots)]
    order = np.argsort(-(s**2) / (shots * following), kind="stable")
    order = order[following[order] > shots[order]]
    raised = order[np.cumsum((following - shots)[order]) <= budget - shots.sum()]
    shots = shots.copy()
    shots[raised] = following[raised]
    return shots


def _entries(name: str, values: Any) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if not array.size or not np.isfinite(array).all():
        raise InvalidInputError(f"{name} has shape {array.shape}, expected finite numbers and at least one")
    return array


def _whole(name: str, given: Any, least: int) -> int:
    number = whole_number(name, given, least)
    if number >= _MOST:
        raise InvalidInputError(f"{name} is {number}, expected less than 2**53")
    return number
