"""A comparison as Markdown, CSV and a picture. Every number and every verdict is taken from its document."""

from __future__ import annotations

import csv
import io
import shlex
from pathlib import Path
from typing import Any

import numpy as np

from dqk.training.contestants import CONTESTANTS, RADIAL, REFERENCE, USUAL
from dqk.training.files import write_atomic
from dqk.training.options import flag
from dqk.training.plots import write_picture

_FAR = 8.0  # times the median distance from the median
_FEW = 20  # units, below which percentile intervals are known to be too narrow
_NOT_SHOWN = ("data", "test", "series", "column", "date_column")


def write(out: Path, document: dict[str, Any]) -> None:
    """Writes `compare.md`, `compare.csv` and `compare.png` into a folder."""
    write_atomic(out / "compare.md", page(document).encode(), durable=False)
    write_atomic(out / "compare.csv", _table(document).encode(), durable=False)
    draw(out / "compare.png", document)


def difference(document: dict[str, Any], first: str, second: str) -> dict[str, Any] | None:
    """The difference of two models with its interval; None if it was not computed."""
    found = (d for d in document["differences"] if (d["first"], d["second"]) == (first, second))
    return next(found, None)


def verdict(document: dict[str, Any], first: str, second: str) -> str:
    """`better`, `worse` or `not told apart`, by the interval."""
    found = difference(document, first, second)
    assert found is not None
    if found["low"] <= 0 <= found["high"]:
        return "not told apart"
    return "better" if (found["low"] > 0) == document["higher_is_better"] else "worse"


def findings(document: dict[str, Any]) -> list[str]:
    """Sentences about a comparison."""
    known = {row["name"] for row in document["rows"]}
    texts = []
    kernels = [name for name in ("qklstm", "reuploading") if name in known]
    if REFERENCE in known:
        for name in kernels:
            words = {
                "better": "is better than the linear twin here",
                "worse": "is worse than the linear twin here: no benefit of its quantum kernel",
                "not told apart": "is not told apart from the linear twin: no benefit of its quantum kernel was seen",
            }[verdict(document, name, REFERENCE)]
            text = f"{CONTESTANTS[name].title} {words} ({_shown(document, name, REFERENCE)})"
            if (
                RADIAL in known
            ):  # what is better than a linear map may be so because it is none, and not because it is quantum
                text += f"; against the RBF twin: {verdict(document, name, RADIAL)} ({_shown(document, name, RADIAL)})"
            texts.append(f"{text}.")
    elif kernels:
        texts.append("The linear twin is not among the models, so nothing is said about a benefit of a quantum kernel.")
    if USUAL in known:
        by_verdict: dict[str, list[str]] = {}
        for row in document["rows"]:
            if row["name"] != USUAL and difference(document, row["name"], USUAL):
                by_verdict.setdefault(verdict(document, row["name"], USUAL), []).append(row["title"])
        for word in ("better", "not told apart", "worse"):
            if word in by_verdict:
                than = {"better": "Better than", "not told apart": "Not told apart from", "worse": "Worse than"}[word]
                texts.append(f"{than} nn.LSTM: {'; '.join(by_verdict[word])}.")
    if {"qklstm", "no-recurrence"} <= known:
        runs = {row["name"]: row["test"] for row in document["rows"]}
        texts.append(
            f"What recurrence gives the QK-LSTM: {document['metric']} {runs['qklstm']:.4g} with it, {runs['no-recurrence']:.4g} "
            "without."
        )
    return texts


def _shown(document: dict[str, Any], first: str, second: str) -> str:
    found = difference(document, first, second)
    if found is None:
        return "-"
    return f"{found['difference']:+.4f} [{found['low']:+.4f}, {found['high']:+.4f}]"


def page(document: dict[str, Any]) -> str:
    """The comparison as Markdown."""
    protocol, metric = document["protocol"], document["metric"]
    head = ["model", "parameters", "learning rate", "validation", f"test {metric}", "std over seeds", "s a run"]
    references = [name for name in (REFERENCE, USUAL) if any(d["second"] == name for d in document["differences"])]
    head += [f"minus {CONTESTANTS[name].title}" for name in references]
    lines = [
        f"# {len(protocol['models'])} models on one task: {document['task']}",
        "",
        f"{document['data']}.",
        "",
        _protocol(document),
        "",
        f"    {command_line(protocol)}",
        "",
        "![Test scores and differences](compare.png)",
        "",
        f"| {' | '.join(head)} |",
        f"|---|{'---:|' * (len(head) - 1)}",
    ]
    for row in document["rows"]:
        lines.append(f"| {' | '.join(_cells(document, row, references))} |")
    lines += ["", "## What it says", "", *(f"- {text}" for text in findings(document)), ""]
    return "\n".join(lines)


def command_line(protocol: dict[str, Any]) -> str:
    """What to type for a comparison by the same protocol; files without their folders."""
    words = ["dqk", "compare", protocol["task"]]
    for name, value in protocol["options"].items():
        if isinstance(value, bool):
            words += [flag(name)] if value else []
        elif value is not None:
            words += [flag(name), Path(value).name if name in ("data", "test") else str(value)]
    models = protocol["models"]
    words += ["--models", ",".join(models)] if tuple(models) != tuple(CONTESTANTS) else []
    words += ["--learning-rates", ",".join(f"{rate:g}" for rate in protocol["learning_rates"])]
    return shlex.join(
        [*words, "--seeds", str(protocol["seeds"]), "--tuning-seeds", str(protocol["tuning_seeds"]), "--out", "DIR"]
    )


def _protocol(document: dict[str, Any]) -> str:
    protocol, metric = document["protocol"], document["metric"]
    options = {name: value for name, value in protocol["options"].items() if name not in _NOT_SHOWN}
    told = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in sorted(options.items())) or "the defaults"
    rates, tuning = ", ".join(f"{rate:g}" for rate in protocol["learning_rates"]), protocol["tuning_seeds"]
    better = "higher" if document["higher_is_better"] else "lower"
    narrow = " With so few units intervals tend to be too narrow." if document["units"] < _FEW else ""
    return (
        f"Protocol: options for all models, as far as they apply: {told}. Learning rates {rates} for each model, with {tuning} "
        f"tuning seed{'s' * (tuning > 1)}, one chosen by validation {metric}; then {protocol['seeds']} seeds, the same for all; "
        f"the best epoch by validation; one test. {metric}: {better} is better. Intervals: 95 %, percentiles of "
        f"{protocol['draws']:,} paired bootstrap draws over seeds and over {document['units']} {document['unit']}; there are "
        f"many, and one in twenty may exclude zero by chance.{narrow}"
    )


def _cells(document: dict[str, Any], row: dict[str, Any], references: list[str]) -> list[str]:
    if "parameters" in row:
        deviation = row["test_std"]
        numbers = [
            f"{row['parameters']:,}",
            f"{row['learning_rate']:g}",
            f"{row['validation']:.4f}",
            f"{row['test']:.4f}",
            "-" if deviation is None else f"{deviation:.4f}",
            f"{row['seconds']:.1f}",
        ]
    else:
        numbers = ["-", "-", "-", f"{row['test']:.4f}", "-", "-"]
    return [row["title"], *numbers, *(_shown(document, row["name"], name) for name in references)]


def _table(document: dict[str, Any]) -> str:
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    references = [name for name in (REFERENCE, USUAL) if any(d["second"] == name for d in document["differences"])]
    bounds = [f"minus_{name}{what}" for name in references for what in ("", "_low", "_high")]
    names = ["name", "title", "parameters", "learning_rate", "validation", "test", "test_std", "seconds"]
    lines.writerow([*names, *bounds, "test_by_seed"])
    for row in document["rows"]:
        numbers: list[Any] = [row.get(name, "") for name in names]
        for name in references:
            found = difference(document, row["name"], name)
            numbers += ["", "", ""] if found is None else [found[key] for key in ("difference", "low", "high")]
        seeds = " ".join(f"{value:.6g}" for value in row.get("test_by_seed", []))
        lines.writerow([f"{cell:.6g}" if isinstance(cell, float) else cell for cell in numbers] + [seeds])
    return text.getvalue()


def draw(path: Path, document: dict[str, Any]) -> None:
    """Draws scores of all seeds, baselines, and differences with their intervals into a PNG file.

    What lies far from most others is named at the edge, so that the others can be told apart.
    """
    from matplotlib.figure import Figure

    rows = document["rows"]
    against = next(
        (name for name in (REFERENCE, USUAL) if any(d["second"] == name for d in document["differences"])), None
    )
    figure = Figure(figsize=(11, 1.6 + 0.42 * len(rows)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1.3, 1))
    near = _near([row["test"] for row in rows])
    for place, row in enumerate(rows):
        trained = "parameters" in row
        colour = "#D55E00" if row["quantum"] else "#0072B2" if trained else "grey"
        if not near[place]:
            _name_at_edge(left, place, f"{row['test']:.3g}", colour, row["test"] > np.median([r["test"] for r in rows]))
            continue
        seeds = row.get("test_by_seed", [])
        left.plot(seeds, np.full(len(seeds), place), "o", color=colour, alpha=0.35, markersize=4, markeredgewidth=0)
        style: dict[str, Any] = {"marker": "D", "markersize": 7} if trained else {"marker": "|", "markersize": 13}
        left.plot(row["test"], place, color=colour, markeredgewidth=1 if trained else 2, **style)
        found = None if against is None else difference(document, row["name"], against)
        if found is not None:
            right.plot([found["low"], found["high"]], [place, place], color=colour, linewidth=2)
            right.plot(found["difference"], place, "D", color=colour, markersize=6)
    left.set_yticks(range(len(rows)), [row["title"] for row in rows])
    left.set_ylim(len(rows) - 0.5, -0.5)
    better = "higher" if document["higher_is_better"] else "lower"
    left.set_xlabel(f"test {document['metric']}, {better} is better: seeds and their mean")
    right.axvline(0, color="black", linewidth=1, linestyle=":")
    right.set_xlabel("" if against is None else f"minus {CONTESTANTS[against].title}, 95 % interval")
    for axes in (left, right):
        axes.grid(alpha=0.3, axis="x")
    figure.suptitle(
        "orange: quantum kernel or circuit; blue: classical network; grey: no training by gradients", fontsize="medium"
    )
    write_picture(path, figure)


def _near(scores: list[float]) -> list[bool]:
    """Which scores are not far from most of them."""
    distances = np.abs(np.array(scores) - np.median(scores))
    return [bool(close) for close in distances <= _FAR * max(float(np.median(distances)), 1e-12)]


def _name_at_edge(axes: Any, place: int, text: str, colour: str, right: bool) -> None:
    axes.annotate(
        f"{text} \u2192" if right else f"\u2190 {text}",
        (0.98 if right else 0.02, place),
        xycoords=("axes fraction", "data"),
        color=colour,
        ha="right" if right else "left",
        va="center",
    )
