"""Windows of a series: nothing leaks, baselines are what they say."""

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from dqk.data.series import Series
from dqk.data.windows import autoregression, persistence, seasonal_naive, split_series
from dqk.errors import InvalidInputError


def series(values, filled=None) -> Series:
    values = np.asarray(values, float)
    gaps = np.zeros(len(values), bool) if filled is None else np.asarray(filled)
    return Series("s", values, tuple(map(str, range(len(values)))), gaps)


WALK = np.cumsum(np.random.default_rng(0).normal(size=120))


@pytest.mark.parametrize("target", ["change", "level"])
def test_windows_by_hand(target: str) -> None:
    split = split_series(series(WALK), 5, 3, 0.2, 0.2, target)
    assert split.ends == (72, 96, 120)
    known = 6 if target == "change" else 5
    spans = {"train": (known - 1, 72), "validation": (71, 96), "test": (95, 120)}
    for name, (first, end) in spans.items():
        windows = getattr(split, name)
        assert windows.origins.tolist() == list(range(first, end - 3))
        for k, origin in enumerate(windows.origins):
            past, ahead = WALK[: origin + 1], WALK[origin + 1 : origin + 4]
            assert windows.truth[k].tolist() == ahead.tolist()
            raw = np.diff(past[-6:]) if target == "change" else past[-5:]
            training = np.diff(WALK[:72]) if target == "change" else WALK[:72]
            np.testing.assert_allclose(
                windows.inputs[k], (raw - training.mean()) / training.std(), rtol=1e-9, atol=1e-12
            )
        np.testing.assert_allclose(split.forecast(windows.targets, windows), windows.truth, atol=1e-12)
    assert split.train.targets.mean() == pytest.approx(0, abs=1e-12) and split.train.targets.std() == pytest.approx(1)


@pytest.mark.parametrize("target", ["change", "level"])
def test_nothing_leaks(target: str) -> None:
    """Later values change neither scaling nor any window that ends before them."""
    split = split_series(series(WALK), 5, 3, 0.2, 0.2, target)
    for part, end in (("train", split.ends[0]), ("validation", split.ends[1])):
        changed = WALK.copy()
        changed[end:] = 1e6 * np.random.default_rng(1).normal(size=len(WALK) - end)
        other = split_series(series(changed), 5, 3, 0.2, 0.2, target)
        assert other.scaling == split.scaling
        for name in ("train", "validation")[: 1 + (part == "validation")]:
            ours, theirs = getattr(split, name), getattr(other, name)
            for field in ("origins", "inputs", "targets", "truth"):
                assert np.array_equal(getattr(ours, field), getattr(theirs, field))
    # The inputs of a test window end at its origin.
    for k, origin in enumerate(split.test.origins):
        changed = WALK.copy()
        changed[origin + 1 :] += 100.0
        assert np.array_equal(
            split_series(series(changed), 5, 3, 0.2, 0.2, target).test.inputs[k], split.test.inputs[k]
        )


def test_missing_values_are_never_targets() -> None:
    filled = np.zeros(120, bool)
    filled[[30, 80, 110]] = True
    split = split_series(series(WALK, filled), 5, 3, 0.2, 0.2)
    for windows in (split.train, split.validation, split.test):
        ahead = windows.origins[:, None] + np.arange(1, 4)
        assert not filled[ahead].any()
    assert [len(part) for part in (split.train, split.validation, split.test)] == [64 - 3, 22 - 3, 22 - 3]


def test_baselines() -> None:
    split = split_series(series(WALK), 5, 7, 0.2, 0.2)
    windows = split.test
    naive = seasonal_naive(split.series, windows, 3)
    assert naive is not None
    for k, origin in enumerate(windows.origins):
        assert persistence(split.series, windows)[k].tolist() == [WALK[origin]] * 7
        last = WALK[origin - 2 : origin + 1]
        assert naive[k].tolist() == [last[step % 3] for step in range(7)]
    assert seasonal_naive(split.series, windows, 119) is None
    fitted = LinearRegression().fit(split.train.inputs, split.train.targets)
    expected = split.forecast(fitted.predict(windows.inputs), windows)
    np.testing.assert_allclose(autoregression(split, windows), expected, rtol=1e-9)


def test_a_linear_trend_is_forecast_exactly() -> None:
    split = split_series(series(3.0 + 0.5 * np.arange(60)), 4, 2, 0.2, 0.2)
    assert split.scaling.spread == 1.0  # all steps are equal: not divided by nearly nothing
    np.testing.assert_allclose(autoregression(split, split.test), split.test.truth)


@pytest.mark.parametrize(
    ("values", "options", "says"),
    [
        (np.r_[np.ones(90), WALK[:30]], {}, "s is constant (1) in all 72 values of the training part"),
        (WALK[:20], {"window": 30}, "s has 20 values, 12 to train on, 4 for validation and 4 for the test: too few"),
        (WALK[:40], {"horizon": 9}, "make the window or the horizon smaller"),
    ],
)
def test_what_cannot_be_learned(values, options: dict, says: str) -> None:
    sizes = {"window": 5, "horizon": 3, "held_out": 0.2, "test_part": 0.2, **options}
    with pytest.raises(InvalidInputError) as error:
        split_series(series(values), **sizes)
    assert says in str(error.value)
