"""Figure 3 of arXiv 2411.13225, measured again: QK-LSTM, LSTM and QLSTM on the paper's two sentences.

The paper says "SGD or Adam", and neither how many seeds nor whether kernel values are scaled; so both optimisers are run, the
QK-LSTM with and without a scale, over several seeds. Nor does it say how many sentences a step is made of.
"""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dqk.data import PAPER_SENTENCES, Vocabulary
from dqk.training.config import resolve
from dqk.training.files import make_folder, write_atomic
from dqk.training.metrics import most_frequent_tag_accuracy
from dqk.training.models import build_tagger, count_parameters
from dqk.training.plots import write_picture
from dqk.training.tagging import Tagging
from dqk.training.trials import Trial, run_trials, train_once

SOURCE = "arXiv 2411.13225, Figure 3"
SCALE = 10.0
OPTIMISERS = {"adam": "Adam", "sgd": "SGD"}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "qklstm": ("QK-LSTM", {"model": "qklstm"}),
    "qklstm-scaled": (f"QK-LSTM, kernel times {SCALE:g}", {"model": "qklstm", "kernel_scale": SCALE}),
    "lstm": ("LSTM", {"model": "lstm"}),
    "qlstm": ("QLSTM", {"model": "qlstm"}),
}
"""Title and options of every curve; the rest is the preset `table1`."""
_STYLES = (("#D55E00", "-"), ("#CC79A7", "--"), ("#0072B2", "-."), ("#009E73", ":"))
_BAND = (10, 90)  # percentiles


@dataclass(frozen=True)
class Curves:
    """All seeds of one variant with one optimiser.

    Attributes:
        optimiser: key of `OPTIMISERS`.
        variant: key of `VARIANTS`.
        parameters: of the model.
        loss: after each epoch, shape (seeds, epochs).
        accuracy: likewise.
    """

    optimiser: str
    variant: str
    parameters: int
    loss: np.ndarray
    accuracy: np.ndarray

    @property
    def title(self) -> str:
        """Of the variant."""
        return VARIANTS[self.variant][0]

    def summary(self) -> dict[str, Any]:
        """What the run came to, plain data."""
        learned = [int(np.argmax(row == 1.0)) + 1 for row in self.accuracy if row.max() == 1.0]
        return {
            "optimiser": OPTIMISERS[self.optimiser],
            "model": self.title,
            "parameters": self.parameters,
            "seeds": len(self.loss),
            "all_words_right_at_the_end": int((self.accuracy[:, -1] == 1.0).sum()),
            "median_epoch_of_all_words_right": statistics.median(learned) if learned else None,
            "final_accuracy": float(self.accuracy[:, -1].mean()),
            "final_loss": float(self.loss[:, -1].mean()),
            "final_loss_band": [float(value) for value in np.percentile(self.loss[:, -1], _BAND)],
        }


def reproduce_fig3(
    out: Path,
    seeds: int = 10,
    epochs: int = 100,
    jobs: int = 1,
    batch_size: int = 1,
    heard: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Trains every model, and writes `fig3.png`, `fig3.csv`, `fig3_runs.csv` and `fig3.md`.

    Args:
        out: a folder, made if it is missing.
        seeds: how many, from 0.
        epochs: of every run; the paper has 100.
        jobs: processes.
        batch_size: sentences before each step; the paper does not say, and 1 is what tutorials with its sentences do.
        heard: is told how many runs are done, of how many.

    Returns:
        What was found, plain data for JSON.
    """
    trials: list[Trial] = [
        {"optimiser": optimiser, "variant": variant, "seed": seed, "epochs": epochs, "batch_size": batch_size}
        for optimiser in OPTIMISERS
        for variant in VARIANTS
        for seed in range(seeds)
    ]
    make_folder(out)
    found: dict[tuple[str, str, int], dict[str, Any]] = {}

    def keep(trial: Trial, result: dict[str, Any]) -> None:
        found[trial["optimiser"], trial["variant"], trial["seed"]] = result
        heard(len(found), len(trials))

    run_trials(run_trial, trials, jobs, keep, "nothing is kept of a figure that is not finished; start it again")
    curves = [
        Curves(
            optimiser,
            variant,
            runs[0]["parameters"],
            *(np.array([run[m] for run in runs]) for m in ("loss", "accuracy")),
        )
        for optimiser in OPTIMISERS
        for variant in VARIANTS
        for runs in [[found[optimiser, variant, seed] for seed in range(seeds)]]
    ]
    return write(out, curves, batch_size)


def write(out: Path, curves: Sequence[Curves], batch_size: int) -> dict[str, Any]:
    """Writes what `reproduce_fig3` writes, and gives what was found."""
    seeds, epochs = curves[0].loss.shape
    document = {
        "source": SOURCE,
        "seeds": seeds,
        "epochs": epochs,
        "learning_rate": 0.1,
        "batch_size": batch_size,
        "most_frequent_tag_accuracy": most_frequent_tag_accuracy(PAPER_SENTENCES, PAPER_SENTENCES),
        "rows": [curve.summary() for curve in curves],
    }
    _draw(out / "fig3.png", curves)
    _write_csv(out, curves)
    write_atomic(out / "fig3.md", page(document).encode(), durable=False)
    return document


def run_trial(trial: Trial) -> dict[str, Any]:
    """One model, optimiser and seed: loss and accuracy on the two sentences after each epoch."""
    options = {"optimizer": trial["optimiser"], **{name: trial[name] for name in ("seed", "epochs", "batch_size")}}
    config = resolve({**VARIANTS[trial["variant"]][1], **options, "learning_rate": 0.1})
    vocabulary = Vocabulary.of(PAPER_SENTENCES, open=False)
    model = build_tagger(config, vocabulary)
    state = train_once(config, model, Tagging(config, vocabulary, PAPER_SENTENCES, PAPER_SENTENCES))
    return {
        "parameters": count_parameters(model),
        "loss": [line["eval_loss"] for line in state.history],
        "accuracy": [line["eval_accuracy"] for line in state.history],
    }


def _draw(path: Path, curves: Sequence[Curves]) -> None:
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    figure = Figure(figsize=(10, 6.4), layout="constrained")
    panels = figure.subplots(2, len(OPTIMISERS), sharex=True, sharey="row")
    for column, (optimiser, name) in enumerate(OPTIMISERS.items()):
        chosen = [curve for curve in curves if curve.optimiser == optimiser]
        for curve, (colour, line) in zip(chosen, _STYLES, strict=True):
            for axes, values in zip(panels[:, column], (curve.accuracy, curve.loss), strict=True):
                epochs = np.arange(1, values.shape[1] + 1)
                low, high = np.percentile(values, _BAND, axis=0)
                axes.fill_between(epochs, low, high, color=colour, alpha=0.13, linewidth=0)
                axes.plot(epochs, values.mean(axis=0), color=colour, linestyle=line, linewidth=1.8, label=curve.title)
        panels[0, column].set_title(f"{name}, learning rate 0.1")
        panels[1, column].set_xlabel("epoch")
        panels[1, column].xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[0, 0].set_ylabel("words right, of 9")
    panels[1, 0].set_ylabel("loss (nats per word)")
    panels[0, 0].yaxis.set_major_formatter(PercentFormatter(xmax=1.0))
    panels[1, 0].set_ylim(bottom=0)
    for axes in panels.flat:
        axes.grid(alpha=0.3)
    panels[0, 0].legend(loc="lower right", fontsize="small")
    figure.suptitle(f"Two sentences, {len(curves[0].loss)} seeds: mean, and 10th to 90th percentile")
    write_picture(path, figure)


def _write_csv(out: Path, curves: Sequence[Curves]) -> None:
    names = [f"{metric}_{what}" for metric in ("accuracy", "loss") for what in ("mean", "p10", "p90")]
    summary, runs = (
        [["optimiser", "model", "epoch", *names]],
        [["optimiser", "model", "seed", "epoch", "accuracy", "loss"]],
    )
    for curve in curves:
        key = [curve.optimiser, curve.variant]
        for epoch in range(curve.loss.shape[1]):
            numbers = []
            for values in (curve.accuracy[:, epoch], curve.loss[:, epoch]):
                numbers += [values.mean(), *np.percentile(values, _BAND)]
            summary.append([*key, str(epoch + 1), *(f"{number:.6g}" for number in numbers)])
        for (seed, epoch), loss in np.ndenumerate(curve.loss):
            runs.append([*key, str(seed), str(epoch + 1), f"{curve.accuracy[seed, epoch]:.6g}", f"{loss:.6g}"])
    for name, rows in (("fig3.csv", summary), ("fig3_runs.csv", runs)):
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        write_atomic(out / name, text.getvalue().encode(), durable=False)


def page(document: dict[str, Any]) -> str:
    """What was found, as Markdown; every number is from the run."""
    rows, seeds, epochs = document["rows"], document["seeds"], document["epochs"]
    head = ("optimiser", "model", "parameters", "runs with all words right in the end", "median epoch of that, first")
    steps = math.ceil(len(PAPER_SENTENCES) / document["batch_size"])
    lines = [
        f"# {SOURCE}, measured again",
        "",
        f"Part-of-speech tags of the paper's two sentences (9 words, all of them trained on), {epochs} epochs of {steps} "
        f"step{'s' * (steps > 1)}, learning rate {document['learning_rate']}, {seeds} seeds, embedding 8, hidden 6, 4 qubits. "
        "Curves: `fig3.png`, `fig3.csv`; every run: `fig3_runs.csv`, which this command writes beside them:",
        "",
        f"    dqk reproduce fig3 --seeds {seeds} --epochs {epochs} --batch-size {document['batch_size']} --out DIR",
        "",
        "![Accuracy and loss over the epochs](fig3.png)",
        "",
        f"| {' | '.join(head)} | accuracy | loss (p10 to p90) |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        first = row["median_epoch_of_all_words_right"]
        low, high = row["final_loss_band"]
        cells = [
            row["optimiser"],
            row["model"],
            str(row["parameters"]),
            f"{row['all_words_right_at_the_end']} of {seeds}",
        ]
        cells += ["-" if first is None else f"{first:g}", f"{row['final_accuracy']:.3f}"]
        lines.append(f"| {' | '.join(cells)} | {row['final_loss']:.3f} ({low:.3f} to {high:.3f}) |")
    return "\n".join([*lines, "", "## What was found", "", *(f"- {text}" for text in findings(document)), ""])


def findings(document: dict[str, Any]) -> list[str]:
    """Sentences about a run, their numbers and their words taken from it."""
    seeds = document["seeds"]
    right = {(row["optimiser"], row["model"]): row["all_words_right_at_the_end"] for row in document["rows"]}
    plain, scaled, lstm, qlstm = (VARIANTS[name][0] for name in VARIANTS)
    names = (plain, scaled, lstm, qlstm)
    texts = [
        f"{optimiser}, runs of {seeds} in which all words are right in the end: "
        + "; ".join(f"{name}: {right[optimiser, name]}" for name in names)
        + "."
        for optimiser in OPTIMISERS.values()
    ]
    adam, before = right["Adam", plain], right["SGD", plain]
    adam_scaled, after = right["Adam", scaled], right["SGD", scaled]
    if adam > before:
        texts.append(
            f"The optimiser decides: the plain QK-LSTM learns the sentences in {adam} of {seeds} runs with Adam, in {before} with "
            "SGD."
        )
    if after > before:
        texts.append(
            f"So does the scale: with kernel values times {SCALE:g}, SGD learns them in {after} runs. Values below 1 make "
            "gradients small, which Adam undoes and SGD does not."
        )
    if adam_scaled < adam:
        texts.append(
            f"With Adam the same scale does harm at this learning rate: {adam_scaled} runs have all words right in the end, {adam} "
            "without it."
        )
    rows = [row for row in document["rows"] if row["optimiser"] == "Adam"]
    first = {row["model"]: row["median_epoch_of_all_words_right"] for row in rows}
    told = "; ".join(f"{name}: {'-' if first[name] is None else f'{first[name]:g}'}" for name in names)
    texts.append(f"Median epoch at which all words are right for the first time, with Adam: {told}.")
    texts.append(
        "The task proves little: giving each word its most frequent tag has accuracy "
        f"{document['most_frequent_tag_accuracy']:.3f} without reading a sentence, and what is scored is what was trained on. "
        "`dqk compare` asks the question on data that can answer it."
    )
    return texts
