"""Pictures of a run. matplotlib is imported only when one is drawn, and no window is ever opened."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dqk.training.files import write_atomic

# Told apart by anyone, in colour or grey (Okabe and Ito's palette), and by the line style.
_TRAIN = {"color": "#0072B2", "linestyle": "-", "label": "training, during the epoch"}
_EVAL = {"color": "#D55E00", "linestyle": "--"}


def draw_curves(
    path: Path, history: Sequence[Mapping[str, Any]], title: str, evaluated_on: str, best_epoch: int
) -> None:
    """Draws loss and accuracy over the epochs into a PNG file.

    Args:
        path: replaced if it exists.
        history: metrics of the epochs, at least one.
        title: of the picture.
        evaluated_on: what the second curve is measured on.
        best_epoch: marked, counted from 1.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    figure = Figure(figsize=(9, 4), layout="constrained")  # a Figure of its own uses no global state and no display
    epochs = [line["epoch"] for line in history]
    marker = "o" if len(epochs) <= 30 else None
    panels = figure.subplots(1, 2)
    for axes, name, label in zip(panels, ("loss", "accuracy"), ("loss (nats per word)", "words right"), strict=True):
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
    panels[1].yaxis.set_major_formatter(PercentFormatter(xmax=1.0))
    panels[1].legend(loc="lower right")
    figure.suptitle(title)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=150)
    write_atomic(path, picture.getvalue())
