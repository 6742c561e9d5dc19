"""Pictures of a run. matplotlib is imported only when one is drawn, and no window is ever opened."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dqk.data.windows import Split
from dqk.training.files import write_atomic

# Told apart by anyone, in colour or grey (Okabe and Ito's palette), and by the line style.
_TRAIN = {"color": "#0072B2", "linestyle": "-", "label": "training, during the epoch"}
_EVAL = {"color": "#D55E00", "linestyle": "--"}
_KINDS: tuple[dict[str, Any], ...] = (
    {"color": "#D55E00", "linestyle": "--", "marker": "o"},
    {"color": "#0072B2", "linestyle": "-", "marker": "s"},
    {"color": "#009E73", "linestyle": "-.", "marker": "^"},
    {"color": "#CC79A7", "linestyle": ":", "marker": "D"},
)


def draw_curves(
    path: Path,
    history: Sequence[Mapping[str, Any]],
    title: str,
    evaluated_on: str,
    best_epoch: int,
    loss: str = "loss (nats per word)",
) -> None:
    """Draws loss and, where there is one, accuracy over the epochs into a PNG file.

    Args:
        path: replaced if it exists.
        history: metrics of the epochs, at least one.
        title: of the picture.
        evaluated_on: what the second curve is measured on.
        best_epoch: marked, counted from 1.
        loss: what the loss is.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    figure = Figure(figsize=(9, 4), layout="constrained")  # a Figure of its own uses no global state and no display
    epochs = [line["epoch"] for line in history]
    marker = "o" if len(epochs) <= 30 else None
    shown = [("loss", loss), ("accuracy", "words right")]
    shown = [(name, label) for name, label in shown if f"eval_{name}" in history[0]]
    panels = figure.subplots(1, len(shown), squeeze=False)[0]
    for axes, (name, label) in zip(panels, shown, strict=True):
        axes.plot(epochs, [line[f"train_{name}"] for line in history], marker=marker, markersize=4, **_TRAIN)
        values = [line[f"eval_{name}"] for line in history]
        axes.plot(epochs, values, marker=marker, markersize=4, label=f"{evaluated_on}, after the epoch", **_EVAL)
        best = best_epoch - epochs[0]
        axes.plot(
            best_epoch,
            values[best],
            "*",
            color="black",
            markersize=11,
            label=f"kept: epoch {best_epoch}",
            clip_on=False,
        )
        axes.set_xlabel("epoch")
        axes.set_ylabel(label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    panels[0].set_ylim(bottom=0)
    if len(shown) > 1:
        panels[1].yaxis.set_major_formatter(PercentFormatter(xmax=1.0))
    panels[-1].legend(loc="lower right" if len(shown) > 1 else "upper right")
    figure.suptitle(title)
    write_picture(path, figure)


def write_picture(path: Path, figure: Any) -> None:
    """Writes a matplotlib figure as a PNG file, atomically."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=150)
    write_atomic(path, picture.getvalue())


def draw_forecast(path: Path, split: Split, forecasts: Mapping[str, np.ndarray], title: str) -> None:
    """Draws truth and forecasts of the test part, and the errors by steps ahead, into a PNG file.

    Args:
        path: replaced if it exists.
        split: the series.
        forecasts: of the test windows by name, shape (N, horizon) each; the first is the model's.
        title: of the picture.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(11, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(2.4, 1))
    windows, values, times = split.test, split.series.values, split.series.times
    name, made = next(iter(forecasts.items()))
    first = max(0, split.ends[1] - 2 * split.window)
    place = np.arange(first, len(values))
    left.plot(place, np.where(split.series.filled, np.nan, values)[first:], color="black", linewidth=1, label="truth")
    left.axvline(split.ends[1] - 0.5, color="grey", linestyle=":", linewidth=1, label="test part begins")
    left.plot(
        windows.origins + split.horizon,
        made[:, -1],
        color="#D55E00",
        linestyle="--",
        linewidth=1.2,
        label=f"{name}, {split.horizon} ahead",
    )
    shown = np.linspace(first, len(values) - 1, 6).round().astype(int)
    left.set_xticks(shown, [times[k] for k in shown])
    left.set_ylabel(split.series.label)
    left.legend(loc="best", fontsize="small")
    left.grid(alpha=0.3)
    steps = np.arange(1, split.horizon + 1)
    for (kind, guess), style in zip(forecasts.items(), _KINDS, strict=False):
        by_step = np.sqrt(np.square(guess - windows.truth).mean(axis=0))
        right.plot(steps, by_step, label=kind.replace("_", " "), markersize=4, **style)
    right.set_xlabel("steps ahead")
    unit = f" ({split.series.unit})" if split.series.unit else ""
    right.set_ylabel(f"RMSE on the test part{unit}")
    right.set_ylim(bottom=0)
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    right.legend(fontsize="small")
    right.grid(alpha=0.3)
    figure.suptitle(title)
    write_picture(path, figure)
