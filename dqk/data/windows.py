"""What a forecaster is trained on: windows of a series, split in the order of time, scaled by what is known first.

Nothing here is computed from a value that comes later than the training part, but for the windows themselves: a window whose
targets lie in the test part may read values of the parts before, which are known by then, and none after its origin.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dqk.data.series import Series
from dqk.errors import InvalidInputError


@dataclass(frozen=True)
class Windows:
    """Windows of one part of a series, in the order of time.

    Attributes:
        origins: index of the last value that each window knows, shape (N,).
        inputs: scaled, oldest first, shape (N, window).
        targets: scaled, shape (N, horizon).
        truth: the values to forecast, shape (N, horizon).
    """

    origins: np.ndarray
    inputs: np.ndarray
    targets: np.ndarray
    truth: np.ndarray

    def __len__(self) -> int:
        return len(self.origins)


@dataclass(frozen=True)
class Scaling:
    """An affine map of inputs and one of targets, fitted on the training part.

    Attributes:
        mean: of the inputs.
        spread: of the inputs, their standard deviation.
        target_mean: of the targets.
        target_spread: of the targets.
    """

    mean: float
    spread: float
    target_mean: float
    target_spread: float


@dataclass(frozen=True)
class Split:
    """A series as windows of three parts.

    Attributes:
        series: the whole of it.
        ends: index after the last value of the training part, of the validation part and of the test part.
        window: values that a forecast is made from.
        horizon: values to forecast.
        target: `change` or `level`, see `split_series`.
        scaling: of inputs and targets.
        train: windows to train on.
        validation: windows to choose by.
        test: windows for the one test.
    """

    series: Series
    ends: tuple[int, int, int]
    window: int
    horizon: int
    target: str
    scaling: Scaling
    train: Windows
    validation: Windows
    test: Windows

    def forecast(self, outputs: np.ndarray, windows: Windows) -> np.ndarray:
        """Scaled outputs (N, horizon) in the units of the series."""
        values = self.scaling.target_mean + self.scaling.target_spread * outputs
        return values if self.target == "level" else values + self.series.values[windows.origins, None]


def split_series(
    series: Series, window: int, horizon: int, held_out: float, test_part: float, target: str = "change"
) -> Split:
    """Cuts a series into training, validation and test part, and each part into windows.

    Args:
        series: the values.
        window: values that a forecast is made from.
        horizon: values to forecast, the ones after the window.
        held_out: part of the values for validation, before the test part.
        test_part: last part of the values.
        target: `level`, inputs and targets are values; `change`, inputs are the steps between them, and targets the changes
            since the last one, which a trend does not carry out of the range that was seen in training.

    Raises:
        InvalidInputError: if a part is shorter than a window, or the training part is constant.
    """
    n = len(series)
    n_test, n_validation = round(test_part * n), round(held_out * n)
    ends = n - n_test - n_validation, n - n_test, n
    known = window + (target == "change")  # a step needs the value before it
    if ends[0] < known + horizon or min(n_test, n_validation) < horizon:
        raise InvalidInputError(
            f"{series.name} has {n} values, {ends[0]} to train on, {n_validation} for validation and {n_test} for the test: too "
            f"few; a window of {window} and a horizon of {horizon} need {known + horizon}, {horizon} and {horizon} at least; make "
            "the window or the horizon smaller"
        )
    training = series.values[: ends[0]]
    if np.ptp(training) == 0:
        raise InvalidInputError(
            f"{series.name} is constant ({training[0]:g}) in all {ends[0]} values of the training part; there is nothing to learn"
        )
    raw = [_windows(series, start, end, known, horizon, target) for start, end in zip((0, *ends), ends, strict=False)]
    for (origins, *_), part in zip(raw, ("training", "validation", "test"), strict=True):
        if not len(origins):
            raise InvalidInputError(
                f"every window of the {part} part of {series.name} has a target that was missing; make the horizon smaller"
            )
    scaling = _fit(training, raw[0][2], target)
    parts = [
        Windows(
            origins,
            (inputs - scaling.mean) / scaling.spread,
            (targets - scaling.target_mean) / scaling.target_spread,
            truth,
        )
        for origins, inputs, targets, truth in raw
    ]
    return Split(series, ends, window, horizon, target, scaling, *parts)


def _windows(
    series: Series, start: int, end: int, known: int, horizon: int, target: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Origins, inputs, targets and truth of the windows whose targets lie in [start, end) and were all measured."""
    origins = np.arange(max(start, known) - 1, end - horizon)
    ahead = origins[:, None] + np.arange(1, horizon + 1)
    keep = ~series.filled[ahead].any(axis=1)
    origins, ahead = origins[keep], ahead[keep]
    inputs = series.values[origins[:, None] + np.arange(1 - known, 1)]
    truth = series.values[ahead]
    if target == "level":
        return origins, inputs, truth, truth
    return origins, np.diff(inputs, axis=1), truth - inputs[:, -1:], truth


def _fit(training: np.ndarray, targets: np.ndarray, target: str) -> Scaling:
    """From the values of the training part and the targets of its windows."""
    inputs = training if target == "level" else np.diff(training)
    return Scaling(*(number for part in (inputs, targets) for number in (float(part.mean()), float(part.std()) or 1.0)))


def persistence(series: Series, windows: Windows) -> np.ndarray:
    """The forecast that nothing changes, shape (N, horizon)."""
    return np.repeat(series.values[windows.origins, None], windows.truth.shape[1], axis=1)


def seasonal_naive(series: Series, windows: Windows, season: int) -> np.ndarray | None:
    """The forecast of the last known value at the same place of a season, shape (N, horizon); None if it is not known."""
    steps = np.arange(1, windows.truth.shape[1] + 1)
    back = season * -(-steps // season)
    sources = windows.origins[:, None] + steps - back
    return None if sources.min() < 0 else series.values[sources]


def autoregression(split: Split, windows: Windows) -> np.ndarray:
    """Forecasts of the linear map from inputs to targets that fits the training windows best, shape (N, horizon)."""
    design = np.column_stack([split.train.inputs, np.ones(len(split.train))])
    weights = np.linalg.lstsq(design, split.train.targets, rcond=None)[0]
    return split.forecast(np.column_stack([windows.inputs, np.ones(len(windows))]) @ weights, windows)
