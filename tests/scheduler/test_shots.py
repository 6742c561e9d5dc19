"""What a frequency is worth: against SciPy's intervals, and coverage as exact sums over the binomial distribution."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from dqk.errors import InvalidInputError
from dqk.scheduler import standard_error, wilson_interval


def coverage(n: int, p: float, interval) -> float:
    """Probability that an interval of n shots contains p."""
    hits = np.arange(n + 1)
    low, high = interval(hits / n, n)
    return float(stats.binom.pmf(hits, n, p)[(low <= p) & (p <= high)].sum())


def plain(p_hat, n):
    error = 1.959963984540054 * standard_error(p_hat, n)
    return p_hat - error, p_hat + error


def test_the_standard_error_has_its_closed_form():
    assert standard_error(0.5, 100) == pytest.approx(0.05)
    assert standard_error([[0.0, 1.0], [0.1, 0.9]], [[10, 10], [90, 1]]).tolist() == [
        [0.0, 0.0],
        [pytest.approx(np.sqrt(0.001)), pytest.approx(0.3)],
    ]
    assert standard_error(np.float32(0.25), 3).dtype == np.float64


@pytest.mark.parametrize("n", [200, 1000, 20_000])
def test_standard_errors_cover_where_there_are_50_hits_and_misses(n):
    found = [coverage(n, p, plain) for p in np.geomspace(50 / n, 0.5, 60)]
    assert 0.94 < np.mean(found) < 0.96 and min(found) > 0.93


def test_standard_errors_cover_in_a_simulation():
    rng = np.random.default_rng(0)
    p = rng.uniform(0.05, 0.95, 500)
    p_hat = rng.binomial(1000, p, (400, 500)) / 1000
    low, high = plain(p_hat, 1000)
    assert np.mean((low <= p) & (p <= high)) == pytest.approx(0.95, abs=0.01)


@pytest.mark.parametrize("n", [20, 100, 1000, 20_000])
def test_wilson_intervals_cover_everywhere(n):
    """Also where plain standard errors, and plain Wilson intervals (84 %), do not."""
    p = np.concatenate([np.geomspace(1e-3 / n, 0.5, 300), np.linspace(0.04, 6, 150) / n])
    p = np.concatenate([p, 1 - p])
    found = [coverage(n, each, wilson_interval) for each in p]
    assert min(found) >= 0.90
    assert 0.94 < np.mean(found) < 0.98


def test_a_plain_standard_error_does_not_cover_small_probabilities():
    assert coverage(1000, 0.001, plain) == pytest.approx(0.63, abs=0.01)
    assert coverage(1000, 0.001, wilson_interval) > 0.95


@pytest.mark.parametrize("level", [0.68, 0.9, 0.95, 0.99])
def test_intervals_are_those_of_scipy(level):
    n = 1000
    hits = np.array([0, 4, 10, 500, 990, 996, 1000])
    low, high = wilson_interval(hits / n, n, level)
    for k, a, b in zip(hits, low, high, strict=True):
        ci = stats.binomtest(int(k), n).proportion_ci(level, method="wilson")
        assert (a, b) == (pytest.approx(ci.low, abs=1e-12), pytest.approx(ci.high, abs=1e-12))
    for few in (1, 2, 3):
        ci = stats.binomtest(few, n).proportion_ci(level, method="wilson")
        lower = min(stats.chi2.ppf(1 - level, 2 * few) / 2 / n, ci.low)
        assert wilson_interval(few / n, n, level) == (pytest.approx(lower, rel=1e-9), pytest.approx(ci.high, rel=1e-9))
        assert wilson_interval(1 - few / n, n, level)[1] == pytest.approx(1 - lower, rel=1e-9)


def test_intervals_broadcast_and_lie_within_0_and_1():
    low, high = wilson_interval(np.linspace(0, 1, 11)[:, None], np.array([1, 7, 123.5]))
    assert low.shape == high.shape == (11, 3)
    assert (low >= 0).all() and (high <= 1).all() and (low < high).all()
    assert (low[0] == 0).all() and (high[-1] == 1).all()


@pytest.mark.parametrize("function", [standard_error, wilson_interval])
def test_what_is_no_frequency_is_refused(function):
    for bad in (-0.01, 1.01, np.nan, [0.5, np.inf]):
        with pytest.raises(InvalidInputError, match="from 0 to 1"):
            function(bad, 10)
    for bad in (0, -1, np.nan, np.inf, [10, 0]):
        with pytest.raises(InvalidInputError, match="at least 1"):
            function(0.5, bad)
    with pytest.raises(InvalidInputError, match="do not broadcast"):
        function([0.1, 0.2], [1, 2, 3])


@pytest.mark.parametrize("level", [0, 0.5, 1, 95, np.nan, "high"])
def test_another_level_is_refused(level):
    with pytest.raises(InvalidInputError, match="level is"):
        wilson_interval(0.5, 10, level)
