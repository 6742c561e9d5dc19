"""Bootstrap intervals against SciPy, where SciPy has them, and against what variances add up to."""

import numpy as np
import pytest
from scipy import stats

from dqk.training.bootstrap import paired_difference, score


def data(seeds: int, units: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    sizes = draw.integers(3, 30, units).astype(float)
    first = draw.binomial(sizes.astype(int), 0.8, (seeds, units)).astype(float)
    second = draw.binomial(sizes.astype(int), 0.75, (seeds, units)).astype(float)
    return first, second, sizes


def test_scores() -> None:
    first, _, sizes = data(4, 9)
    np.testing.assert_allclose(score(first, sizes, False), [row.sum() / sizes.sum() for row in first])
    np.testing.assert_allclose(score(first, sizes, True), [np.sqrt(row.sum() / sizes.sum()) for row in first])


@pytest.mark.parametrize("root", [False, True])
def test_over_seeds_alone(root: bool) -> None:
    """With one unit only seeds are drawn."""
    first, second, sizes = data(25, 1)
    found = paired_difference(first, second, sizes, root, draws=20_000)
    pairs = [np.sqrt(x[:, 0] / sizes) if root else x[:, 0] / sizes for x in (first, second)]
    rule = stats.bootstrap(
        pairs, lambda a, b, axis=-1: (a - b).mean(axis), paired=True, method="percentile", n_resamples=20_000, rng=1
    ).confidence_interval
    width = rule.high - rule.low
    assert found.difference == pytest.approx(float((pairs[0] - pairs[1]).mean()))
    assert (found.low, found.high) == pytest.approx((rule.low, rule.high), abs=0.04 * width)


def test_over_sentences_alone() -> None:
    """With one seed only units are drawn; the metric is a ratio of sums."""
    first, second, sizes = data(1, 60)
    found = paired_difference(first, second, sizes, draws=20_000)

    def statistic(a, b, n, axis=-1):
        return (a.sum(axis) - b.sum(axis)) / n.sum(axis)

    rule = stats.bootstrap(
        (first[0], second[0], sizes), statistic, paired=True, method="percentile", n_resamples=20_000, rng=1
    ).confidence_interval
    width = rule.high - rule.low
    assert (found.low, found.high) == pytest.approx((rule.low, rule.high), abs=0.04 * width)
    assert found.excludes_zero == (rule.low > 0 or rule.high < 0)


def test_over_both_the_variances_add_up() -> None:
    """Scores that are a seed's part plus a unit's part: the interval has the width of both together."""
    draw = np.random.default_rng(3)
    seeds, units = draw.normal(size=(40, 1)), 2 * draw.normal(size=(1, 70))
    found = paired_difference(seeds + units, np.zeros((40, 70)), np.ones(70), draws=20_000)
    deviation = np.sqrt(seeds.var() / 40 + units.var() / 70)
    assert found.high - found.low == pytest.approx(2 * stats.norm.ppf(0.975) * deviation, rel=0.05)


def test_pairs_cancel_and_draws_repeat() -> None:
    first, _, sizes = data(5, 20)
    same = paired_difference(first, first, sizes)
    assert (same.difference, same.low, same.high) == (0, 0, 0) and not same.excludes_zero
    shifted = paired_difference(first + 0.1 * sizes, first, sizes)
    assert (shifted.low, shifted.high) == pytest.approx((0.1, 0.1)) and shifted.excludes_zero
    constant = first[:1]
    assert paired_difference(first, constant, sizes) == paired_difference(first, np.repeat(constant, 5, 0), sizes)
