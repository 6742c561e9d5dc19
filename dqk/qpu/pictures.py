"""Pictures of emulated runs, as PNG. matplotlib is imported only when one is drawn, and no window is ever opened."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from dqk.qpu.profile import Outage
from dqk.qpu.results import Results, Row, Run

# Okabe and Ito's palette: told apart by anyone, with markers and line styles for grey.
_COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#000000"]
_MARKERS = ["o", "s", "^", "D", "v", "P", "X", "*"]
_OURS, _OTHERS, _WASTE, _DOWN = "#0072B2", "#E69F00", "#D55E00", "#999999"
_MOST_LANES = 40
_MOST_BARS = 4000
_MOST_EDGES = 120
_MOST_TICKS = 12
_COSTS = {"makespan_s", "price", "energy_kwh", "shots"}


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _png(figure: Any) -> bytes:
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    return picture.getvalue()


def _style(number: int) -> dict[str, Any]:
    """Colour and marker of a policy; no two of 64 have both in common."""
    return {"color": _COLOURS[number % 8], "marker": _MARKERS[(number + number // 8) % 8]}


def short(value: float, digits: int = 3) -> str:
    """A number for people: so many digits that matter, thousands in groups, no powers of ten where it can be helped."""
    if not 1000 <= abs(value) < 1e9:
        return f"{value:.{digits}g}"
    return f"{float(f'{value:.{digits}g}'):,.0f}"


def draw_makespans(rows: Sequence[Row]) -> bytes:
    """Bars: how long each policy takes, with its confidence interval, and the devices' time in shares."""
    from matplotlib.ticker import PercentFormatter

    figure = _figure(11, 1.4 + 0.33 * len(rows))
    left, right = figure.subplots(1, 2, sharey=True)
    names, places = [row.policy for row in rows], np.arange(len(rows))
    means = [row.mean["makespan_s"] for row in rows]
    left.barh(places, means, xerr=[row.margin["makespan_s"] for row in rows], color=_OURS, capsize=3)
    for place, row in enumerate(rows):
        text = f"{short(row.mean['makespan_s'])} s" + (
            "" if row.mean["done"] >= 1 else f", {row.mean['done']:.0%} done"
        )
        left.annotate(
            text,
            (means[place] + row.margin["makespan_s"], place),
            (6, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    left.set(yticks=places, xlabel="makespan (virtual seconds)", xlim=(0, 1.25 * max(means)))
    left.set_yticklabels(names)
    left.invert_yaxis()
    begin = np.zeros(len(rows))
    for name, label, colour in (
        ("utilisation", "our jobs", _OURS),
        ("queue_share", "others' jobs", _OTHERS),
        ("down_share", "down", _DOWN),
        ("idle_share", "idle", "#DDDDDD"),
    ):
        share = np.array([row.mean[name] for row in rows])
        right.barh(places, share, left=begin, color=colour, label=label)
        begin += share
    right.set(xlabel="share of the devices' time", xlim=(0, 1))
    right.xaxis.set_major_formatter(PercentFormatter(1.0))
    figure.legend(*right.get_legend_handles_labels(), ncols=4, loc="outside upper right", frameon=False)
    return _png(figure)


def draw_gantt(run: Run, outages: Sequence[Sequence[Outage]] = ()) -> bytes:
    """What each device did when, of many devices the first ones, and when they were down (of each device)."""
    from matplotlib.patches import Patch

    lanes = min(len(run.devices), _MOST_LANES)
    figure = _figure(11, 1.3 + 0.3 * lanes)
    axes = figure.subplots()
    bars: dict[tuple[int, str], list[tuple[float, float]]] = {}
    drawn = 0
    for outcome, _, _ in run.stages:
        log = outcome.log
        for job, device in enumerate(log.device):
            if device >= lanes or drawn >= _MOST_BARS * lanes:
                continue
            drawn += 1
            start, end = log.started[job], min(log.ended[job], run.figures["makespan_s"])
            if start > log.taken[job]:
                bars.setdefault((device, _OTHERS), []).append((log.taken[job], start - log.taken[job]))
            if end > start:
                bars.setdefault((device, _OURS if log.accepted[job] else _WASTE), []).append((start, end - start))
    for (device, colour), spans in bars.items():
        line = 0.4 if len(spans) < _MOST_EDGES else 0.0  # many short jobs would be all edge
        axes.broken_barh(spans, (device - 0.38, 0.76), facecolors=colour, edgecolor="white", linewidth=line)
    end, down = run.figures["makespan_s"], False
    for device, own in enumerate(outages[:lanes]):
        spans = [span for outage in own for span in outage.spans(end)][:_MOST_BARS]
        if spans:
            down = True
            axes.broken_barh(spans, (device - 0.48, 0.96), facecolors="none", edgecolor=_DOWN, hatch="////", zorder=0)
    for outcome, _, _ in run.stages[1:]:
        axes.axvline(outcome.start, color="black", linewidth=0.8, linestyle=":")
    axes.set(xlabel="virtual seconds", yticks=range(lanes), ylim=(lanes - 0.5, -0.5), xlim=(0, end))
    axes.set_yticklabels(run.devices[:lanes])
    more = f", the first {lanes} of {len(run.devices)} devices" if lanes < len(run.devices) else ""
    axes.set_title(f"{run.policy}{more}", loc="left", fontsize=10)
    handles = [Patch(color=_OURS, label="our jobs"), Patch(color=_OTHERS, label="others' jobs before ours")]
    handles += [Patch(color=_WASTE, label="failed, late or not used")]
    if down:
        handles.append(Patch(facecolor="none", edgecolor=_DOWN, hatch="////", label="down"))
    axes.legend(handles=handles, ncols=4, loc="lower right", bbox_to_anchor=(1, 1), frameon=False, fontsize=8)
    return _png(figure)


def draw_scaling(results: Results, key: str) -> bytes:
    """Makespan against the number of devices on double logarithmic axes, with the ideal line, and the speed-up's efficiency."""
    figure = _figure(11, 4.2)
    left, right = figure.subplots(1, 2)
    counts: set[int] = set()
    for number, (policy, rows) in enumerate(_by_policy(results).items()):
        x = np.array([len(row.runs[0].devices) for row in rows], float)
        counts |= {int(count) for count in x}
        y = np.array([row.mean["makespan_s"] for row in rows])
        style = {**_style(number), "label": policy, "markersize": 5}
        left.errorbar(x, y, yerr=[row.margin["makespan_s"] for row in rows], capsize=3, **style)
        right.plot(x, y[0] * x[0] / (y * x), **style)
        if not number:
            left.plot(x, y[0] * x[0] / x, color="black", linestyle="--", linewidth=1, label="ideal")
    left.set(xscale="log", yscale="log", xlabel=f"devices ({key})", ylabel="makespan (virtual seconds)")
    right.set(xscale="log", xlabel=f"devices ({key})", ylabel="efficiency: speed-up over devices")
    right.set_ylim(0, max(1.1, right.get_ylim()[1]))  # above 1 where better devices are added
    right.axhline(1.0, color="black", linestyle="--", linewidth=1)
    figure.legend(*left.get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=8)
    for axes in (left, right):
        axes.grid(alpha=0.3, which="both", linewidth=0.5)
        if len(counts) <= _MOST_TICKS:  # powers of ten would leave most of them without a number
            axes.set_xticks(sorted(counts), labels=[str(count) for count in sorted(counts)])
            axes.set_xticks([], minor=True)
    return _png(figure)


def draw_sweep(results: Results, key: str, figures: Sequence[str]) -> bytes:
    """Figures against the values of a swept key."""
    shown = [name for name in figures if all(name in row.mean for row in results.rows)]
    columns = min(3, len(shown))
    figure = _figure(4.2 * columns, 3.6 * math.ceil(len(shown) / columns) + 0.4)
    panels = np.atleast_1d(figure.subplots(math.ceil(len(shown) / columns), columns)).ravel()
    for axes, name in zip(panels, shown, strict=False):
        for number, (policy, rows) in enumerate(_by_policy(results).items()):
            values = [row.point[key] for row in rows]
            numeric = all(isinstance(value, int | float) for value in values)
            x = values if numeric else range(len(values))
            style = {**_style(number), "markersize": 4, "capsize": 3}
            axes.errorbar(
                x, [row.mean[name] for row in rows], yerr=[row.margin[name] for row in rows], label=policy, **style
            )
            if not numeric:
                axes.set_xticks(range(len(values)), [str(value) for value in values])
            elif min(values) > 0 and max(values) >= 20 * min(values):
                axes.set_xscale("log")
        axes.set(xlabel=key, ylabel=f"{name} ({results.currency})" if name == "price" else name)
        means = [row.mean[name] for row in results.rows]
        if name in _COSTS and min(means) > 0 and max(means) >= 20 * min(means):
            axes.set_yscale("log")
        elif name != "accuracy":
            axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    for axes in panels[len(shown) :]:
        axes.set_visible(False)
    figure.legend(
        *panels[0].get_legend_handles_labels(), ncols=4, loc="outside upper center", frameon=False, fontsize=8
    )
    return _png(figure)


def draw_pareto(results: Results, cost: str) -> bytes:
    """Error against cost, each policy and point a mark; what nothing else beats in both is joined by a line."""
    rows = [row for row in results.rows if "error" in row.mean]
    figure = _figure(9, 5.4)
    axes = figure.subplots()
    x, y = (np.array([row.mean[name] for row in rows]) for name in (cost, "error"))
    names = list(dict.fromkeys(row.policy for row in rows))
    for number, name in enumerate(names):
        own = [k for k, row in enumerate(rows) if row.policy == name]
        style = {**_style(number), "linestyle": "none", "label": name, "capsize": 2}
        bars = [[rows[k].margin[figure_] for k in own] for figure_ in (cost, "error")]
        axes.errorbar(x[own], y[own], xerr=bars[0], yerr=bars[1], markersize=6, **style)
    front = pareto(x, y)
    axes.step(x[front], y[front], where="post", color="black", linewidth=1, linestyle="--", label="front", zorder=0)
    unit = results.currency if cost == "price" else "virtual seconds"
    axes.set(xlabel=f"{cost.removesuffix('_s')} ({unit})", ylabel="relative error of the kernel matrix")
    if x.min() > 0 and x.max() > 10 * x.min():
        axes.set_xscale("log")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return _png(figure)


def pareto(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Numbers of the points that no other one beats in both, ascending in x."""
    kept: list[int] = []
    for k in np.lexsort((y, x)).tolist():
        if not kept or y[k] < y[kept[-1]]:
            kept.append(k)
    return np.array(kept, int)


def _by_policy(results: Results) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in results.rows:
        found.setdefault(row.policy, []).append(row)
    return found
