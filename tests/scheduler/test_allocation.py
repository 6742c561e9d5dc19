"""Shots among entries: closed forms, budgets, and simulations on kernels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dqk import FidelityKernel
from dqk.errors import InvalidInputError
from dqk.kernels.feature_maps import qklstm_feature_map, reuploading_feature_map, zz_feature_map
from dqk.scheduler import pilot_shots, standard_error, uniform, variance_driven, weighted, wilson_interval
from dqk.scheduler.allocation import _spend

weights = arrays(np.float64, st.integers(1, 40), elements=st.floats(0, 1e6).map(lambda x: x if x > 1e-6 else 0.0))
frequencies = arrays(np.float64, st.tuples(st.integers(1, 6), st.integers(1, 6)), elements=st.floats(0, 1))


def entries(feature_map, n_samples, seed):
    """Values off the diagonal of a kernel matrix of random samples."""
    X = np.random.default_rng(seed).uniform(-1, 1, (n_samples, feature_map.n_features))
    return FidelityKernel(feature_map, backend="reference")(X)[np.triu_indices(n_samples, 1)]


def variance(found, p):
    """Of each entry of the result, exactly."""
    s2 = p * (1 - p)
    if not found.pilot_shots:
        return s2 / found.shots
    return s2 * (found.pilot_share**2 / found.pilot_shots + (1 - found.pilot_share) ** 2 / found.shots)


@given(st.integers(1, 1000), st.integers(0, 10**6))
def test_uniform_is_one_number(n, extra):
    found = uniform(n, n + extra)
    assert found.shots.tolist() == [(n + extra) // n] * n
    assert found.pilot_shots == 0 and found.total <= n + extra and not found.pilot_share.any()


@given(weights, st.integers(0, 10**6), st.integers(0, 9), st.integers(1, 10), st.integers(1, 10**5) | st.none())
def test_bounds_hold_and_the_budget_is_not_exceeded(w, extra, least, levels, most):
    budget = max(1, least) * w.size + extra
    most = None if most is None else max(most, least, 1)
    if not w.any():
        with pytest.raises(InvalidInputError, match="every weight is 0"):
            weighted(w, budget, least=least, most=most, levels=levels)
        return
    found = weighted(w, budget, least=least, most=most, levels=levels)
    assert found.shots.dtype == np.int64 and found.shots.shape == w.shape
    assert found.total <= budget and (found.shots >= least).all() and (found.shots[w > 0] >= 1).all()
    assert len(set(found.shots[found.shots > 0])) <= levels
    assert most is None or found.shots.max() <= most
    order = np.lexsort((found.shots, w))
    assert (np.diff(found.shots[order]) >= 0).all()  # what weighs more is never measured less
    assert found.loss >= -1e-6


@given(frequencies, st.integers(1, 500), st.integers(0, 10**6), st.integers(1, 10))
def test_a_pilot_is_part_of_the_budget(p, m, extra, levels):
    budget = (m + 1) * p.size + extra
    found = variance_driven(p, m, budget, levels=levels)
    assert found.total == found.shots.sum() + m * p.size <= budget
    assert found.shots.shape == p.shape and found.shots.min() >= 1 and len(np.unique(found.shots)) <= levels
    assert ((found.pilot_share > 0) & (found.pilot_share < 1)).all()
    mixed, effective = found.combine(p, p)
    assert (mixed >= 0).all() and (mixed <= 1).all()
    assert (effective <= m + found.shots + 1e-6).all() and (effective >= 1 - 1e-9).all()
    standard_error(mixed, effective), wilson_interval(mixed, effective)


def test_shots_are_proportional_to_the_weights():
    assert weighted([1, -2, 3, 4], 1000).shots.tolist() == [100, 200, 300, 400]
    assert weighted([[1, 0], [0, 1]], 1000, least=0).shots.tolist() == [[500, 0], [0, 500]]
    assert weighted([1, 1, 8], 100, least=20).shots.tolist() == [20, 20, 60]
    assert weighted([1, 1, 8], 100, most=50).shots.tolist() == [25, 25, 50]
    assert weighted([1, 1, 8], 1000, most=50).shots.tolist() == [50, 50, 50]
    assert weighted([1, 2, 3], 600, levels=1).shots.tolist() == [200, 200, 200]
    assert weighted([0, 2, 3], 600, levels=1).shots.tolist() == [200, 200, 200]
    assert weighted([1e-300, 1e300], 10).shots.tolist() == [1, 9]


def test_with_many_pilot_shots_allocation_is_neymans():
    p = np.array([0.5, 0.1, 0.02, 0.9])
    sigma = np.sqrt(p * (1 - p))
    found = variance_driven(p, 10**6, 10**9, weights=[1, 1, 5, 2])
    expected = np.array([1, 1, 5, 2]) * sigma
    assert found.shots / found.shots.sum() == pytest.approx(expected / expected.sum(), rel=1e-3)


def test_entries_without_a_hit_are_measured():
    """0 hits of 10 may be p = 0.1; what all entries have in common says how likely that is."""
    p = np.repeat([0.0, 0.1, 0.3], 50)
    found = variance_driven(p, 10, 150 * 1000)
    zeros, some = found.shots[0], found.shots[-1]
    assert found.shots.mean() / 4 < zeros < some


def test_all_or_nothing_was_hit():
    for p in (0.0, 1.0):
        assert set(variance_driven(np.full(10, p), 20, 10_000).shots) == {980}
    assert variance_driven([0.3], 20, 1000).shots.tolist() == [980]
    assert variance_driven(np.array(0.3), 1, 1000).shots == 999


def test_few_levels_cost_little_and_say_how_much():
    w = np.random.default_rng(3).beta(0.5, 2, 5000)
    budget = 5000 * 1000
    best = w.sum() ** 2 / budget  # of sum w**2 / n, with real numbers
    losses = []
    for levels in (1, 2, 4, 8, 16):
        found = weighted(w, budget, levels=levels)
        losses.append(found.loss)
        actual = (w**2 / found.shots).sum()
        ideal = actual / (1 + found.loss)
        assert ideal == pytest.approx(best, rel=5e-3)  # the least of one shot costs the rest
        assert found.total > 0.999 * budget
    assert losses[0] > 0.5 and losses[3] < 0.03 and losses == sorted(losses, reverse=True)


@pytest.mark.parametrize("levels", [2, 3])
def test_groups_are_the_best_ones(levels):
    """Against every way to cut a few scores."""
    from itertools import combinations

    s = np.sort(np.random.default_rng(1).uniform(0.05, 1, 9))
    found = weighted(s, 10**9, levels=levels)
    sums = []
    for cut in combinations(range(1, 9), levels - 1):
        sums.append(sum(np.sqrt(len(part) * (part**2).sum()) for part in np.split(s, cut)))
    assert (s**2 / found.shots).sum() == pytest.approx(min(sums) ** 2 / 1e9, rel=1e-6)


@pytest.mark.parametrize(("left", "expected"), [(0, [10, 10, 10, 30]), (19, [10, 10, 10, 30]), (20, [10, 10, 30, 30])])
def test_what_whole_numbers_leave_goes_to_who_gains_most_while_it_pays(left: int, expected: list[int]) -> None:
    """Two levels, 10 and 30; a raise costs 20 and gains s**2 (1/10 - 1/30). Nobody is raised above the highest level."""
    scores, shots = np.array([1.0, 2.0, 3.0, 9.0]), np.array([10, 10, 10, 30])
    assert _spend(scores, shots, 60 + left).tolist() == expected
    assert shots.tolist() == [10, 10, 10, 30]
    for more, raised in ((40, [10, 30, 30, 30]), (59, [10, 30, 30, 30]), (60, [30] * 4), (1000, [30] * 4)):
        assert _spend(scores, shots, 60 + more).tolist() == raised
    # The gain counts for each shot: from 10 to 20 it is more than from 20 to 30 for a score that is a little larger.
    assert _spend(np.array([1.1, 1.0, 0.5]), np.array([20, 10, 30]), 70).tolist() == [20, 20, 30]


KERNELS = {
    "zz": (zz_feature_map(4, bandwidth=0.5), 1000),
    "zz, concentrated": (zz_feature_map(4), 1000),
    "re-uploading": (reuploading_feature_map(4, layers=3), 1000),
    "the paper's": (qklstm_feature_map(4), 300),
}


@pytest.mark.parametrize("name", KERNELS)
def test_variance_driven_is_within_5_percent_of_its_theoretical_gain(name):
    """Pilot, few levels and whole numbers included; over uniform, (mean sigma)**2 / mean(sigma**2)."""
    feature_map, each = KERNELS[name]
    p = entries(feature_map, 50, seed=5)
    sigma = np.sqrt(p * (1 - p))
    theory = sigma.mean() ** 2 / (sigma**2).mean()
    budget = each * p.size
    m = pilot_shots(p.size, budget)
    rng = np.random.default_rng(6)
    ratios = []
    for _ in range(20):
        found = variance_driven(rng.binomial(m, p) / m, m, budget)
        assert found.total <= budget
        ratios.append(variance(found, p).sum() / variance(uniform(p.size, budget), p).sum())
    assert theory <= np.mean(ratios) * 1.001 and np.mean(ratios) < 1.05 * theory and np.mean(ratios) < 0.99


@pytest.mark.parametrize("p", [[0.3], [0.0, 0.2], [0.05, 0.5], [0.9, 0.2, 1.0]])
@pytest.mark.parametrize(("m", "budget"), [(1, 20), (3, 60), (4, 16)])
@pytest.mark.parametrize("use", [None, [1.0, 3.0, 0.5]])
def test_results_are_unbiased_over_every_outcome_of_the_pilot(p, m, budget, use):
    """What follows a pilot has the mean p whatever the pilot was; all outcomes with their binomial probabilities."""
    from itertools import product

    from scipy.stats import binom

    p, total, mean = np.array(p), 0.0, np.zeros(len(p))
    shares = set()
    for hits in product(range(m + 1), repeat=len(p)):
        pilot = np.array(hits) / m
        found = variance_driven(pilot, m, budget, None if use is None else use[: len(p)])
        probability = binom.pmf(hits, m, p).prod()
        mixed = found.pilot_share * pilot + (1 - found.pilot_share) * p + found.correction
        assert found.combine(pilot, p)[0] == pytest.approx(mixed.clip(0, 1))
        mean, total = mean + probability * mixed, total + probability
        shares.add(round(float(found.pilot_share[0]), 9))
    assert total == pytest.approx(1) and np.abs(mean - p).max() < 1e-12
    assert len(shares) > 1 or len(p) == 1 or m == 1  # they follow the pilot


def test_results_are_unbiased_and_their_errors_right():
    """The frequency of all hits together is not: what happened to hit more is then measured more."""
    p = np.array([0.02, 0.05, 0.1, 0.3, 0.5])
    m, budget, rounds = 40, 5 * 200, 4000
    rng = np.random.default_rng(7)
    mixed, naive, inside = [], [], []
    for _ in range(rounds):
        pilot = rng.binomial(m, p) / m
        found = variance_driven(pilot, m, budget)
        then = rng.binomial(found.shots, p) / found.shots
        value, effective = found.combine(pilot, then)
        low, high = wilson_interval(value, effective)
        mixed.append(value)
        naive.append((m * pilot + found.shots * then) / (m + found.shots))
        inside.append((low <= p) & (p <= high))
    z = (np.mean(mixed, axis=0) - p) / (np.std(mixed, axis=0) / rounds**0.5)
    assert np.abs(z).max() < 4
    z = (np.mean(naive, axis=0) - p) / (np.std(naive, axis=0) / rounds**0.5)
    assert np.abs(z).max() > 5
    assert np.mean(inside, axis=0).min() > 0.9


def test_allocation_by_use_saves_shots_of_a_decision_function():
    """The error of an SVC's decision function of uniform shots with 0.35 times the shots, pilot included."""
    from sklearn.datasets import load_iris
    from sklearn.svm import SVC

    X, y = load_iris(return_X_y=True)
    X, y = (X[50:] - X.mean(axis=0)) / X.std(axis=0), y[50:]
    order = np.random.default_rng(0).permutation(100)
    train, test = order[:60], order[60:]
    kernel = FidelityKernel(zz_feature_map(4, bandwidth=0.2), backend="reference")
    model = SVC(kernel="precomputed", C=10.0).fit(kernel(X[train]), y[train])
    p = np.clip(kernel(X[test], X[train]), 0, 1)
    alpha = np.zeros(60)
    alpha[model.support_] = model.dual_coef_[0]
    assert p @ alpha + model.intercept_[0] == pytest.approx(model.decision_function(p))

    plain_budget = 1000 * p.size
    budget = int(0.35 * plain_budget)
    rng = np.random.default_rng(1)
    exact = p @ alpha
    errors: dict[str, list[float]] = {"uniform": [], "by use": [], "by use and variance": []}
    for _ in range(40):
        errors["uniform"].append(np.mean((rng.binomial(1000, p) / 1000 @ alpha - exact) ** 2))
        found = weighted(np.broadcast_to(alpha, p.shape), budget, least=0)
        k = rng.binomial(found.shots, p) / np.maximum(found.shots, 1)
        errors["by use"].append(np.mean((k @ alpha - exact) ** 2))
        used = p[:, model.support_]
        m = pilot_shots(used.size, budget)
        pilot = rng.binomial(m, used) / m
        found = variance_driven(pilot, m, budget, alpha[model.support_])
        k = found.combine(pilot, rng.binomial(found.shots, used) / found.shots)[0]
        errors["by use and variance"].append(np.mean((k @ alpha[model.support_] - exact) ** 2))
    mean = {name: np.mean(values) for name, values in errors.items()}
    assert mean["by use"] <= mean["uniform"] and mean["by use and variance"] <= mean["uniform"]


def test_a_pilot_has_a_small_part_of_the_budget():
    assert [pilot_shots(10, 10 * each) for each in (2, 4, 100, 10_000)] == [1, 1, 25, 500]


def test_bad_requests_are_refused():
    with pytest.raises(InvalidInputError, match="5 shots are left for 6 entries, expected at least 6"):
        uniform(6, 5)
    with pytest.raises(InvalidInputError, match="5 shots are left for 2 entries, expected at least 6"):
        weighted([1, 2], 5, least=3)
    with pytest.raises(InvalidInputError, match="budget is 19, expected a whole number of at least 20"):
        variance_driven([0.5, 0.5], 10, 19)
    with pytest.raises(InvalidInputError, match="1 shots are left"):
        variance_driven([0.5, 0.5], 10, 21)
    with pytest.raises(InvalidInputError, match="budget is 1.5"):
        uniform(1, 1.5)
    with pytest.raises(InvalidInputError, match="less than 2"):
        uniform(1, 2**53)
    with pytest.raises(InvalidInputError, match="finite numbers"):
        weighted([1, np.nan], 100)
    with pytest.raises(InvalidInputError, match="at least one"):
        weighted([], 100)
    with pytest.raises(InvalidInputError, match="from 0 to 1"):
        variance_driven([0.5, 1.5], 10, 100)
    with pytest.raises(InvalidInputError, match="expected one that fits"):
        variance_driven([0.5, 0.5], 10, 100, weights=[1, 2, 3])
    with pytest.raises(InvalidInputError, match="least is 0"):
        variance_driven([0.5, 0.5], 10, 100, least=0)
    with pytest.raises(InvalidInputError, match="levels is 0"):
        weighted([1, 2], 100, levels=0)
    with pytest.raises(InvalidInputError, match="had no pilot"):
        uniform(2, 10).combine([0.5, 0.5], [0.5, 0.5])
    with pytest.raises(InvalidInputError, match="expected \\(2,\\)"):
        variance_driven([0.5, 0.5], 10, 100).combine([0.5], [0.5])
