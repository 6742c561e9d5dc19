"""Forecasts of a series as a task of the training loop, and how good they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dqk.data.windows import Split, Windows
from dqk.training.config import TrainConfig
from dqk.training.group import Group
from dqk.training.models import DTYPES
from dqk.training.state import State
from dqk.training.task import Task

_TOGETHER = 256  # windows in a batch of an evaluation


class Forecasting(Task):
    """Windows of a series, each with the values that follow it.

    Args:
        config: precision.
        split: the series' parts.
    """

    def __init__(self, config: TrainConfig, split: Split):
        self.split = split
        self.lengths = [split.horizon] * len(split.train)
        self._dtype = DTYPES[config.dtype]
        self._inputs = self._tensor(split.train.inputs).unsqueeze(2)
        self._targets = self._tensor(split.train.targets)

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self._dtype)

    def describe(self) -> str:
        """Windows of each part."""
        split = self.split
        return (
            f"{split.series.name}, {len(split.series)} values; {len(split.train)} windows of {split.window} to train on, "
            f"{len(split.validation)} for validation, {len(split.test)} for the test; the next {split.horizon} are forecast"
        )

    def inputs(
        self, state: State, batch: list[int], lengths: list[int], rows: list[int]
    ) -> tuple[tuple[Tensor], Tensor]:
        """Windows (B, T, 1) and targets (B, horizon)."""
        chosen = [batch[row] for row in rows]
        return (self._inputs[chosen],), self._targets[chosen]

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Squared errors in units of the targets' standard deviation."""
        return (outputs - targets).square().sum()

    def evaluate(self, model: nn.Module, group: Group) -> dict[str, float]:
        """Mean squared error, and the root of that in the units of the series, on the validation part."""
        windows = self.split.validation
        outputs = self.outputs(model, windows)
        return {
            "eval_loss": float(np.square(outputs - windows.targets).mean()),
            "eval_rmse": errors(self.split.forecast(outputs, windows), windows)["rmse"],
        }

    @torch.no_grad()
    def outputs(self, model: nn.Module, windows: Windows) -> np.ndarray:
        """What a model says of some windows, scaled, shape (N, horizon), float64."""
        was_training = model.training
        model.eval()
        parts = self._tensor(windows.inputs).unsqueeze(2).split(_TOGETHER)
        outputs = torch.cat([model(part) for part in parts])
        model.train(was_training)
        return outputs.double().numpy()

    def forecasts(self, model: nn.Module, windows: Windows) -> np.ndarray:
        """Forecasts of a model in the units of the series, shape (N, horizon)."""
        return self.split.forecast(self.outputs(model, windows), windows)


def errors(forecasts: np.ndarray, windows: Windows) -> dict[str, Any]:
    """Errors of forecasts (N, horizon) in the units of the series.

    Returns:
        `rmse`, root of the mean squared error; `mae`, mean absolute error; both over all windows and steps; and
        `rmse_by_step`, one number for each step ahead.
    """
    wrong = forecasts - windows.truth
    squared = np.square(wrong)
    return {
        "rmse": float(np.sqrt(squared.mean())),
        "mae": float(np.abs(wrong).mean()),
        "rmse_by_step": [float(value) for value in np.sqrt(squared.mean(axis=0))],
    }
