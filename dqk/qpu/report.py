"""A report of an emulated experiment: one HTML file with its pictures inside, which opens without a network."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from typing import Any

from dqk.qpu import pictures
from dqk.qpu.experiment import Experiment
from dqk.qpu.fleet import QPU
from dqk.qpu.results import FIGURES, Results, Row
from dqk.scheduler import STRATEGIES

_COLUMNS = (
    "makespan_s",
    "utilisation",
    "queue_share",
    "idle_share",
    "shots",
    "price",
    "energy_kwh",
    "error",
    "weighted_error",
    "accuracy",
    "lstm_loss",
)
_SHARES = {"utilisation", "queue_share", "idle_share", "down_share", "done", "accuracy", "exact_accuracy"}
_MOST_GANTTS = 6
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1, h2 { font-weight: 600; line-height: 1.2; } h2 { margin-top: 2.2rem; }
table { border-collapse: collapse; font-size: 13px; display: block; overflow-x: auto; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } tr.best td { background: #e8f3fa; }
img { max-width: 100%; } figure { margin: 1rem 0; } figcaption, .note { color: #555; font-size: 13px; }
"""


def shown(name: str, row: Row) -> str:
    """A figure of a row as text, with its margin; empty where there is none."""
    if name not in row.mean:
        return ""
    mean, margin = row.mean[name], row.margin[name]
    if name in _SHARES:
        return f"{100 * mean:.1f} %" + (f" ± {100 * margin:.1f}" if margin >= 5e-4 else "")
    if name == "lstm_loss":
        return f"{mean:.4f}" + (f" ± {margin:.4f}" if margin >= 5e-5 else "")
    if name in ("shots", "jobs", "planned_shots", "kept_shots"):
        return f"{mean:,.0f}"
    return pictures.short(mean) + (f" ± {pictures.short(margin, 1)}" if margin > 1e-9 * abs(mean) else "")


def columns(results: Results) -> list[str]:
    """The figures that a table of these results has."""
    rows = results.rows
    return [name for name in _COLUMNS if any(row.mean.get(name, 0.0) for row in rows)]


def label(row: Row) -> str:
    """A row's policy and where in the sweep it is."""
    return ", ".join([row.policy, *(f"{key} = {value}" for key, value in row.point.items())])


def report(experiment: Experiment, results: Results) -> str:
    """The HTML of a report."""
    rows = results.rows
    parts = [f"<h1>{html.escape(results.name)}</h1>", _about(experiment, results)]
    parts += ["<h2>Policies</h2>", _comparison(results, rows)]
    parts += [f'<p class="note">{html.escape(experiment.told)}.</p>'] if experiment.told else []
    parts += _undone(rows)
    parts += [_figure(title, text, picture) for title, text, picture in _pictures(experiment, results, rows)]
    parts += ["<h2>The fleet</h2>", _fleet(experiment), "<h2>What the figures mean</h2>", _meaning(results)]
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(results.name)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n'
    )


def _about(experiment: Experiment, results: Results) -> str:
    settings = experiment.settings
    devices = sum(kind.count for kind in experiment.fleet.kinds)
    if experiment.kernels:
        what = ", ".join(f"{k.samples:,} samples on {k.qubits} qubits" for k in experiment.kernels) + " (times only)"
    else:
        what = (
            f"the kernel matrix of {settings.samples} samples of {settings.data.replace('_', ' ')}, and the rows of "
            f"{settings.test_samples} more, {settings.feature_map} map on {settings.qubits} qubits, {settings.shots:,} shots "
            "an entry"
        )
    exact = next((row.mean["exact_accuracy"] for row in results.rows if "exact_accuracy" in row.mean), None)
    told = (
        ""
        if exact is None
        else f" With exact entries a support-vector machine is right in {exact:.1%} of the test samples."
    )
    lstm = next((row.mean["exact_lstm_loss"] for row in results.rows if "exact_lstm_loss" in row.mean), None)
    told += "" if lstm is None else f" With exact values the QK-LSTM's loss is {lstm:.4f}."
    text = (
        f"Virtual time on {devices:,} devices: {what}; {settings.repeats} repeats with seed {settings.seed}. "
        f"Behind ± is half the 95 % confidence interval of the mean.{told}"
    )
    return f"<p>{html.escape(text)}</p>"


def _comparison(results: Results, rows: Sequence[Row]) -> str:
    names = columns(results)
    whole = [row for row in rows if row.mean["done"] >= 1]
    fastest = min((row.mean["makespan_s"] for row in whole), default=None)
    body = [
        (label(row), *(shown(name, row) for name in names), "best" if row.mean["makespan_s"] == fastest else "")
        for row in rows
    ]
    return _table(["policy", *names], body)


def _undone(rows: Sequence[Row]) -> list[str]:
    """What could not be done, and why."""
    found = []
    for row in rows:
        for why, count in row.runs[0].not_done.items():
            found.append(f"<li>{html.escape(label(row))}: {count:,} job{'s' * (count != 1)}, {html.escape(why)}</li>")
    return ["<h2>Not done</h2><p>In the first repeat of each:</p><ul>", *found, "</ul>"] if found else []


def _pictures(experiment: Experiment, results: Results, rows: Sequence[Row]) -> list[tuple[str, str, bytes]]:
    found: list[tuple[str, str, bytes]] = []
    keys = list(experiment.sweep)
    if not keys:
        found.append(
            ("Time", "Left: makespan. Right: what the devices' time went into.", pictures.draw_makespans(rows))
        )
    if len(keys) == 1 and keys[0].endswith("count"):
        text = "The dashed line is what twice as many devices in half the time would be."
        found.append(("Scaling", text, pictures.draw_scaling(results, keys[0])))
    elif len(keys) == 1:
        names = ["makespan_s", "utilisation", "error", "price", "accuracy", "energy_kwh"]
        names = [name for name in names if any(row.mean.get(name, 0.0) for row in rows)]
        found.append((f"Against {keys[0]}", "", pictures.draw_sweep(results, keys[0], names)))
    if sum("error" in row.mean for row in rows) > 1:
        text = "Joined is what no other policy beats in both. Where marks cover each other, policies did the same."
        costs = ["makespan_s", *(["price"] if any(row.mean["price"] for row in rows) else [])]
        found += [
            (f"Error against {cost.removesuffix('_s')}", text, pictures.draw_pareto(results, cost)) for cost in costs
        ]
    outages = [device.outage for device in experiment.fleet.devices()]
    for row in rows[:_MOST_GANTTS] if not keys else ():
        if row.runs[0].stages:
            text = "The first repeat; the dotted line is where the second matrix, or what follows a pilot, begins."
            if len(rows) > _MOST_GANTTS:
                text += f" Only the first {_MOST_GANTTS} policies are drawn; jobs.parquet has all."
            found.append((f"Who did what: {row.policy}", text, pictures.draw_gantt(row.runs[0], outages)))
    return found


def _figure(title: str, text: str, picture: bytes) -> str:
    data = base64.b64encode(picture).decode()
    return (
        f'<h2>{html.escape(title)}</h2><figure><img alt="{html.escape(title)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{html.escape(text)}</figcaption></figure>"
    )


def _fleet(experiment: Experiment) -> str:
    heads = [
        "name",
        "count",
        "qubits",
        "coupling",
        "shots/s",
        "s/job",
        "others' queue (s)",
        "2q error",
        "readout",
        "price",
        "down",
    ]
    body = []
    for kind in experiment.fleet.kinds:
        price = " + ".join(
            f"{value:g}/{unit}"
            for value, unit in ((kind.price.per_job, "job"), (kind.price.per_s, "s"), (kind.price.per_shot, "shot"))
            if value
        )
        row: list[Any] = [kind.name, kind.count, kind.qubits]
        if isinstance(kind, QPU):
            readout = (kind.noise.readout_0 + kind.noise.readout_1) / 2
            row += [kind.coupling, f"{kind.shot_rate_hz:g}", f"{kind.job_s:g}", f"{kind.queue.expected_s:g}"]
            row += [f"{kind.noise.depolarising_2q:g}", f"{readout:g}"]
        else:
            row += [kind.kind, "exact", f"{kind.job_s:g}", "", "0", "0"]
        body.append((*map(str, row), price, "yes" if kind.outage else "", ""))
    return _table(heads, body)


def _meaning(results: Results) -> str:
    names = [*columns(results), "done"]
    lines = [f"<li><b>{name}</b>: {html.escape(FIGURES[name])}</li>" for name in names]
    used = dict.fromkeys(row.policy.split("+")[0] for row in results.rows)
    lines += [f"<li><b>{name}</b>: {html.escape(STRATEGIES[name].about)}</li>" for name in used]
    return f'<ul class="note">{"".join(lines)}</ul>'


def _table(heads: Sequence[str], body: Sequence[tuple[str, ...]]) -> str:
    """The last value of each row of the body is its class."""
    head = "".join(f"<th>{html.escape(text)}</th>" for text in heads)
    rows = "".join(
        f'<tr class="{row[-1]}">' + "".join(f"<td>{html.escape(text)}</td>" for text in row[:-1]) + "</tr>"
        for row in body
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
