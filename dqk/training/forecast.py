"""Forecasting from options to a result: series, model, loop, one test against baselines that need no training."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from dqk.data._statsmodels import shipped_series
from dqk.data.series import Series, read_series
from dqk.data.windows import Split, Windows, autoregression, persistence, seasonal_naive, split_series
from dqk.errors import CheckpointError
from dqk.training._tensorboard import require_tensorboard
from dqk.training.completion import complete
from dqk.training.config import TrainConfig, continued, resolve
from dqk.training.files import write_atomic
from dqk.training.forecasting import Forecasting, errors
from dqk.training.loop import Trainer
from dqk.training.models import build_forecaster, count_parameters, kernel_of, require_measurable
from dqk.training.plots import draw_curves, draw_forecast
from dqk.training.run_folder import RunFolder
from dqk.training.state import Reporter


def load_series(config: TrainConfig) -> Series:
    """The series of a run.

    Raises:
        DataFileError: if the file cannot be used.
        InvalidInputError: if it has no such column.
        BackendUnavailableError: if statsmodels is missing.
    """
    if config.series is not None:
        series = shipped_series(config.series)
    else:
        assert config.data is not None and config.column is not None
        series = read_series(Path(config.data), config.column, config.date_column, config.missing)
    return series if config.season is None else replace(series, season=config.season)


def load_split(config: TrainConfig) -> Split:
    """The series of a run as windows of three parts.

    Raises:
        DataFileError: if the file cannot be used.
        InvalidInputError: if it has no such column, is too short, or constant where it is trained on.
        BackendUnavailableError: if statsmodels is missing.
    """
    options = config.window, config.horizon, config.held_out, config.test_part, config.target
    return split_series(load_series(config), *options)


def train_forecast(
    given: Mapping[str, Any],
    out: str | os.PathLike[str] | None = None,
    reporter: Reporter | None = None,
    take_over: bool = False,
) -> dict[str, Any]:
    """Trains a forecaster from the start.

    Args:
        given: options by name, see `dqk.training.config.TrainConfig`.
        out: run folder, missing or empty; None for a new one under `runs`.
        reporter: hears how it goes.
        take_over: takes the folder from a process on another machine that may still hold it.

    Returns:
        The result, plain data for JSON.

    Raises:
        InvalidInputError: lists everything that is wrong with the options; or the folder has content; or the series cannot be used.
        DataFileError: if the file cannot be used.
        BackendUnavailableError: if statsmodels is needed and missing.
        LeaseError: if another process trains into the folder.
        CheckpointError: if the folder cannot be written, with the command that goes on afterwards.
        Interrupted: after Ctrl-C, SIGTERM or SIGUSR1, once the state is saved.
    """
    config = resolve(given, "forecast")
    if config.tensorboard:
        require_tensorboard()
    if config.data is not None:  # a run can be resumed from another working folder
        config = replace(config, data=str(Path(config.data).absolute()))
    reporter = reporter or Reporter()
    split = load_split(config)
    reporter.preparing(config)
    model = _model(config, split)  # before there is a folder, so that a mistake leaves none behind
    require_measurable(model)
    with RunFolder.create(out, config, take_over) as folder:
        folder.write_setup(config, {"series": split.series.digest})
        return _complete(Trainer(config, model, Forecasting(config, split), folder, reporter))


def resume_forecast(
    run: str | os.PathLike[str], given: Mapping[str, Any], reporter: Reporter | None = None, take_over: bool = False
) -> dict[str, Any]:
    """Goes on with a run, to the same numbers as if it had never stopped.

    Args:
        run: its folder.
        given: options; they must be those of the run, except that there may be more epochs.
        reporter: hears how it goes.
        take_over: takes the run from a process on another machine that may still hold it.

    Returns:
        The result; of a finished run the one that it has.

    Raises:
        InvalidInputError: lists every option that contradicts the run.
        DataFileError: if the file cannot be used any more.
        LeaseError: if another process trains into the folder.
        CheckpointError: if the folder is not a run of a forecaster, or damaged, or cannot be written, or its data have changed.
        Interrupted: after Ctrl-C, SIGTERM or SIGUSR1, once the state is saved.
    """
    with RunFolder.open_to_write(run, take_over) as folder:
        before, digests = folder.read_options("forecast")
        config = continued(before, given)
        split = load_split(config)
        if digests.get("series") != split.series.digest:
            source = config.data or f"--series {config.series}"
            raise CheckpointError(
                f"cannot go on with {folder.path}: it began with other values than are now in {source}"
            )
        reporter = reporter or Reporter()
        reporter.preparing(config)
        trainer = Trainer(config, _model(config, split), Forecasting(config, split), folder, reporter)
        trainer.restore()
        result = folder.read_result()
        if result is not None and trainer.finished:
            return {**result, "run_dir": str(folder.path)}
        if config != before:
            folder.write_setup(config, digests)
        return _complete(trainer)


def _model(config: TrainConfig, split: Split) -> Any:
    return build_forecaster(config, torch.from_numpy(split.train.inputs).reshape(-1, 1).float())


def _complete(trainer: Trainer) -> dict[str, Any]:
    return complete(trainer, lambda: _draw(trainer), lambda: _result(trainer))


def _title(trainer: Trainer) -> str:
    config, split = trainer.config, cast(Forecasting, trainer.task).split
    return f"{split.series.name}: {config.model}, {count_parameters(trainer.model)} parameters, seed {config.seed}"


def _draw(trainer: Trainer) -> None:
    best = trainer.state.best
    assert best is not None
    loss = "mean squared error, scaled"
    draw_curves(trainer.folder.curves, trainer.state.history, _title(trainer), "validation part", best["epoch"], loss)


def baselines(split: Split, windows: Windows) -> dict[str, np.ndarray]:
    """Forecasts that need no network, in the units of the series, shape (N, horizon) each.

    Returns:
        By name: `persistence`; `seasonal_naive`, if a season is known; `autoregression`, the linear map that fits the training
        windows best.
    """
    season = split.series.season
    naive = None if season is None else seasonal_naive(split.series, windows, season)
    found = {"persistence": persistence(split.series, windows), "autoregression": autoregression(split, windows)}
    return found if naive is None else {**found, "seasonal_naive": naive}


def _result(trainer: Trainer) -> dict[str, Any]:
    config, folder, state = trainer.config, trainer.folder, trainer.state
    task = cast(Forecasting, trainer.task)
    split, best = task.split, state.best
    assert best is not None
    forecasts = task.forecasts(trainer.model, split.test)
    others = baselines(split, split.test)
    _write_csv(folder, split, {config.model: forecasts, **others})
    draw_forecast(folder.path / "forecast.png", split, {config.model: forecasts, **others}, _title(trainer))
    result = {
        "task": "forecast",
        "model": config.model,
        "series": split.series.name,
        "values": len(split.series),
        "note": split.series.note,
        "parameters": count_parameters(trainer.model),
        "window": config.window,
        "horizon": config.horizon,
        "season": split.series.season,
        "windows": {"train": len(split.train), "validation": len(split.validation), "test": len(split.test)},
        **errors(forecasts, split.test),
        "baselines": {name: errors(values, split.test) for name, values in others.items()},
        "loss": best["eval_loss"],
        "validation_rmse": best["eval_rmse"],
        "best_epoch": best["epoch"],
        "epochs": state.epoch,
        "seed": config.seed,
        "seconds": round(sum(line["seconds"] for line in state.history), 3),
        "run_dir": str(folder.path),
    }
    kernel = kernel_of(trainer.model)
    return {**result, "kernel": kernel} if kernel else result


def _write_csv(folder: RunFolder, split: Split, forecasts: Mapping[str, np.ndarray]) -> None:
    """One line for each window of the test part and step ahead."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(["origin", "time", "step", "truth", *forecasts])
    times, windows = split.series.times, split.test
    for k, origin in enumerate(windows.origins.tolist()):
        for step in range(split.horizon):
            numbers = [windows.truth[k, step], *(values[k, step] for values in forecasts.values())]
            lines.writerow(
                [times[origin], times[origin + step + 1], step + 1, *(f"{number:.10g}" for number in numbers)]
            )
    write_atomic(folder.path / "forecast.csv", text.getvalue().encode(), durable=False)
