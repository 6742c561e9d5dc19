"""A picture of a diagnosis: the kernel matrix, its entries, its spectrum and, where tried, other bandwidths."""

from __future__ import annotations

import os

import numpy as np

from dqk.errors import InvalidInputError
from dqk.kernels.diagnosis import Diagnosis

_BLUE, _ORANGE = "#0072B2", "#D55E00"  # Okabe and Ito: told apart by anyone


def draw(diagnosis: Diagnosis, path: str | os.PathLike[str]) -> None:
    """Draws it into a PNG file, which is replaced if it exists.

    Args:
        diagnosis: with samples.
        path: of the file.

    Raises:
        InvalidInputError: if there is no matrix to draw.
    """
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    logs, facts = diagnosis.logs, diagnosis.data
    if logs is None or facts is None:
        raise InvalidInputError("there is no matrix to draw: the diagnosis is of a circuit alone; give samples")
    matrix = np.exp(logs)
    panels = 4 if diagnosis.trials else 3
    figure = Figure(figsize=(4.3 * panels, 4.2), layout="constrained")
    axes = figure.subplots(1, panels)
    order = _order(matrix, diagnosis.labels)
    shown = axes[0].imshow(
        matrix[np.ix_(order, order)], cmap="viridis", norm=PowerNorm(0.4, 0, 1), interpolation="nearest"
    )
    figure.colorbar(shown, ax=axes[0], label="k", shrink=0.8)
    axes[0].set(
        title="kernel matrix", xlabel="samples, by label" if diagnosis.labels is not None else "samples, alike together"
    )
    _entries(axes[1], logs)
    values = np.linalg.eigvalsh(matrix)[::-1].clip(1e-16 * len(matrix))
    axes[2].semilogy(np.arange(1, len(values) + 1), values / values.sum(), color=_BLUE)
    axes[2].set_ylim(min(values.min(), 0.1 * values.mean()) / values.sum() / 3, 3 * values.max() / values.sum())
    axes[2].axvline(
        facts.effective_rank, color=_ORANGE, linestyle="--", label=f"effective rank {facts.effective_rank:.1f}"
    )
    axes[2].set(title="spectrum", xlabel="eigenvalue", ylabel="part of the trace")
    axes[2].legend()
    if diagnosis.trials:
        _trials(axes[3], diagnosis)
    figure.suptitle(diagnosis.kernel, fontsize=10)
    figure.savefig(path, dpi=120, format="png")


def _order(matrix: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
    """Samples of one label together or, without labels, along the vector that tells them apart most."""
    if labels is not None:
        return np.argsort(labels, kind="stable")
    centred = matrix - matrix.mean(0) - matrix.mean(1)[:, None] + matrix.mean()
    return np.argsort(np.linalg.eigh(centred)[1][:, -1])


def _entries(axes, logs: np.ndarray) -> None:  # type: ignore[no-untyped-def]  # matplotlib has no types here
    off = logs[np.triu_indices(len(logs), 1)]
    if off.max() > np.log(1e-3):
        axes.hist(np.exp(off), bins=60, range=(0, 1), color=_BLUE)
        axes.set(xlabel="k(x, y), x and y different", yscale="log")
    else:
        axes.hist(off[np.isfinite(off)] / np.log(10), bins=60, color=_BLUE)
        axes.set(xlabel="log10 k(x, y), x and y different")
    axes.set(title="entries off the diagonal", ylabel="pairs")


def _trials(axes, diagnosis: Diagnosis) -> None:  # type: ignore[no-untyped-def]
    trials = diagnosis.trials
    widths = [trial.bandwidth for trial in trials]
    axes.semilogx(widths, [trial.mean for trial in trials], color=_BLUE, marker="o", markersize=4, label="mean of k")
    axes.semilogx(
        widths,
        [trial.spread for trial in trials],
        color=_BLUE,
        linestyle=":",
        marker="s",
        markersize=4,
        label="spread of k",
    )
    if trials[0].alignment is not None:
        axes.semilogx(
            widths, [trial.alignment for trial in trials], color="black", marker="^", markersize=4, label="alignment"
        )
    if diagnosis.bandwidth is not None:
        axes.axvline(diagnosis.bandwidth, color=_ORANGE, linestyle="--", label=f"suggested: {diagnosis.bandwidth:g}")
    axes.set(title="other bandwidths", xlabel="bandwidth")
    axes.legend(fontsize=8)
