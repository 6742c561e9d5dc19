"""Whether the planner's predictions hold: measured and predicted seconds of mps and statevector, and what its choice costs.

    python benchmarks/planner.py [--threads 1] [--budget 1.5] [--repeats 3] [--small] [--defaults] [--json FILE] [--plot FILE]

Symmetric Gram matrices of random features, by the Ising and re-uploading maps of 1 to 6 layers and the BSP map, on 6 to 20
qubits. The number of samples is the largest of 256, 128, 64 and 32 for which both backends are predicted to take at most the budget
(in seconds), else 32. Seconds are medians of processor time over the number of threads, for machines on which other programs run;
compilation is not counted. Predictions use the measured model of this machine, which is made if there is none (`--defaults`:
default speeds, by which `auto` chooses). `--small`: up to 12 qubits. The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from timing import machine

import dqk
from dqk._cost import CostModel
from dqk._planner import Size, predict
from dqk.backends.choice import candidates, choose
from dqk.circuit import simplify_for_fidelity
from dqk.kernels.feature_maps import bsp_feature_map, ising_feature_map, reuploading_feature_map

console = Console(width=120)
QUBITS, LAYERS, SAMPLES = (6, 8, 10, 12, 14, 16, 18, 20), range(1, 7), (256, 128, 64, 32)
COLOURS = {"mps": "#0b6e99", "statevector": "#d9730d"}


def maps(most: int) -> list[tuple[str, int, int, Any]]:
    found: list[tuple[str, int, int, Any]] = []
    for n in (n for n in QUBITS if n <= most):
        found += [("ising", n, layers, ising_feature_map(n, reps=layers)) for layers in LAYERS]
        found += [("reuploading", n, layers, reuploading_feature_map(n, layers)) for layers in LAYERS]
        found.append(("bsp", n, 1, bsp_feature_map(n)))
    return found


def measured(kernel: Any, x: np.ndarray, threads: int, repeats: int) -> float:
    kernel(x[:9])  # compiles
    taken: list[float] = []
    for _ in range(repeats):
        start = time.process_time()
        kernel(x)
        taken.append((time.process_time() - start) / threads)
        if sum(taken) > 2:
            break
    return statistics.median(taken)


def compare(name: str, n: int, layers: int, feature_map: Any, options: Any, model: CostModel) -> dict[str, Any] | None:
    circuit = simplify_for_fidelity(feature_map.circuit).circuit
    backends = {one.name: one.backend for one in candidates(circuit, torch.float64) if one.backend is not None}
    if len(backends) < 2:  # a product, or bonds that are too large: nothing to choose from
        return None

    def predictions(count: int, speeds: CostModel) -> dict[str, float]:
        size = Size(count, None, torch.float64)
        return {key: predict(backend, circuit, size, speeds)["seconds"] for key, backend in backends.items()}

    count = next((c for c in SAMPLES if max(predictions(c, model).values()) <= options.budget), SAMPLES[-1])
    x = np.random.default_rng(0).uniform(-1, 1, (count, feature_map.n_features))
    seconds = {
        key: measured(dqk.FidelityKernel(feature_map, key), x, options.threads, options.repeats) for key in backends
    }
    chosen = choose(circuit, torch.float64)
    return {
        "map": name,
        "qubits": n,
        "layers": layers,
        "samples": count,
        "measured_s": seconds,
        "predicted_s": predictions(count, model),
        "default_s": predictions(count, CostModel()),
        "chosen": chosen,
        "choice_costs": seconds[chosen] / min(seconds.values()),
    }


def show(rows: list[dict[str, Any]]) -> None:
    table = Table(title="Symmetric Gram matrices, seconds", title_justify="left")
    for name in (
        "map",
        "qubits",
        "layers",
        "samples",
        "mps",
        "predicted",
        "statevector",
        "predicted",
        "chosen",
        "costs",
    ):
        table.add_column(name, justify="right")
    for row in rows:
        figures = []
        for key in COLOURS:
            ratio = row["predicted_s"][key] / row["measured_s"][key]
            mark = "" if 0.5 <= ratio <= 2 else "[red]"
            figures += [f"{row['measured_s'][key]:.3g}", f"{mark}{row['predicted_s'][key]:.3g} ({ratio:.2f})"]
        numbers = [str(row[key]) for key in ("qubits", "layers", "samples")]
        table.add_row(row["map"], *numbers, *figures, row["chosen"], f"{row['choice_costs']:.2f}")
    console.print(table)


def crossover(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each map and number of layers the fewest qubits from which on mps is faster, measured, and taken by `auto`."""
    found = []
    for key in dict.fromkeys((row["map"], row["layers"]) for row in rows):
        own = [row for row in rows if (row["map"], row["layers"]) == key]
        first = {"measured": None, "chosen": None}
        for row in reversed(own):
            if (
                first["measured"] in (None, row["qubits"] + 2)
                and row["measured_s"]["mps"] < row["measured_s"]["statevector"]
            ):
                first["measured"] = row["qubits"]
            if first["chosen"] in (None, row["qubits"] + 2) and row["chosen"] == "mps":
                first["chosen"] = row["qubits"]
        found.append({"map": key[0], "layers": key[1], **first})
    return found


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for key, colour in COLOURS.items():
        pairs = np.array([[row["measured_s"][key], row["predicted_s"][key]] for row in rows])
        left.loglog(*pairs.T, "o", color=colour, alpha=0.7, markersize=5, label=key)
    ends = np.array([min(left.get_xlim()[0], left.get_ylim()[0]), max(left.get_xlim()[1], left.get_ylim()[1])])
    left.fill_between(ends, ends / 2, ends * 2, color="0.9", zorder=0, label="within a factor of 2")
    left.plot(ends, ends, color="0.6", linewidth=1, zorder=0)
    left.set(xlim=ends, ylim=ends, xlabel="measured seconds", ylabel="predicted seconds", title="Predictions")
    left.legend(frameon=False)
    for layers in LAYERS:
        own = [row for row in rows if row["map"] == "ising" and row["layers"] == layers]
        colour, qubits = f"C{layers - 1}", [row["qubits"] for row in own]
        for kind, style in (("measured_s", "-"), ("predicted_s", ":")):
            ratio = [row[kind]["mps"] / row[kind]["statevector"] for row in own]
            label = f"{layers} layer{'s' * (layers > 1)}" if kind == "measured_s" else None
            right.semilogy(qubits, ratio, style, color=colour, label=label)
        for row in own:
            ratio = row["measured_s"]["mps"] / row["measured_s"]["statevector"]
            filled = colour if row["chosen"] == "mps" else "white"
            right.semilogy(row["qubits"], ratio, "o", color=colour, markerfacecolor=filled, markersize=6)
    right.axhline(1, color="0.6", linewidth=1)
    right.fill_between([QUBITS[0], max(row["qubits"] for row in rows)], 0.5, 2, color="0.9", zorder=0)
    right.set(xlabel="qubits", ylabel="time of mps / time of statevector")
    right.set_title("Ising map: measured (lines), predicted (dotted); filled: auto takes mps", fontsize=10)
    right.legend(frameon=False)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--budget", type=float, default=1.5, help="predicted seconds of one matrix")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="up to 12 qubits")
    parser.add_argument("--defaults", action="store_true", help="predict by default speeds")
    parser.add_argument("--json", metavar="FILE", help="write the figures to a file")
    parser.add_argument("--plot", metavar="FILE", help="draw them into a PNG file")
    options = parser.parse_args()
    os.environ["DQK_THREADS"] = str(options.threads)
    torch.set_num_threads(options.threads)
    from dqk._calibration import quick_model

    load = os.getloadavg()[0]
    model = CostModel() if options.defaults else quick_model(console.print)
    rows = []
    for case in maps(12 if options.small else QUBITS[-1]):
        row = compare(*case, options, model)
        if row is not None:
            rows.append(row)
    show(rows)
    summary: dict[str, Any] = {"crossover": crossover(rows), "worst_choice": max(row["choice_costs"] for row in rows)}
    for kind in ("predicted_s", "default_s"):
        ratios = [row[kind][key] / row["measured_s"][key] for row in rows for key in COLOURS]
        summary[f"{kind.removesuffix('_s')}_within_2x"] = sum(0.5 <= ratio <= 2 for ratio in ratios) / len(ratios)
    for line in summary["crossover"]:
        shown = {key: line[key] or "never" for key in ("measured", "chosen")}
        console.print(
            f"{line['map']}, {line['layers']} layers: mps faster from {shown['measured']} qubits, taken from {shown['chosen']}"
        )
    shares = f"{summary['predicted_within_2x']:.0%} (by default speeds {summary['default_within_2x']:.0%})"
    console.print(
        f"within a factor of 2: {shares}; the choice takes at most {summary['worst_choice']:.2f} times the better one"
    )
    if options.plot:
        draw(rows, Path(options.plot))
    figures = {"machine": machine(), "load_before": load, **summary, "rows": rows}
    if options.json:
        Path(options.json).write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
