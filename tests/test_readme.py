"""The figures that the README states are those of the committed files that it names."""

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
README = (ROOT / "README.md").read_text()


def rounded_to(shown: str, value: float) -> bool:
    """Whether a number is the value as exactly as it is written: 0.57 to two decimals, 24,300 to three digits."""
    if "." in shown:
        return round(value, len(shown.partition(".")[2])) == float(shown)
    digits = shown.replace(",", "")
    return float(f"{value:.{len(digits.rstrip('0')) or 1}g}") == float(digits)


def cell(row: str) -> list[str]:
    """The numbers in the last cell of the table row that begins so."""
    (line,) = (line for line in README.splitlines() if line.startswith(f"| {row}"))
    return re.findall(r"\d[\d,]*\.?\d*", line.rstrip(" |").rpartition("|")[2])


def of(rows: list[dict[str, Any]], key: str) -> list[float]:
    return [row[key] for row in rows]


@pytest.mark.parametrize(
    ("file", "row", "values"),
    [
        ("gram-zen5-2cores", "Gram, re-uploading map", lambda d: of(d["peers"][:1], "ratio")),
        ("gram-zen5-2cores", "... against sQUlearn", lambda d: of(d["peers"][1:2], "ratio")),
        ("gram-zen5-2cores", "... against PennyLane", lambda d: of(d["peers"][2:], "ratio")),
        ("gram-zen5-2cores", "whole Gram matrix", lambda d: of(d["product"][:1], "ratio")),
        ("gram-zen5-2cores", "... n = 12, N = 200", lambda d: of(d["product"][1:], "ratio")),
        ("gram-zen5-2cores", "backward (dK to dX)", lambda d: of(d["gradients"][:3], "ratio")),
        ("gram-zen5-2cores", "first kernel matrix", lambda d: [d["first-use"][0][k] for k in ("first_s", "later_s")]),
        ("qklstm_step-zen5-2cores", "QK-LSTM layer", lambda d: of(d["layer"][:2], "over nn.LSTM")),
        ("qklstm_step-zen5-2cores", "... batch 64", lambda d: of(d["layer_batch_64"][:3:2], "over nn.LSTM")),
        ("qklstm_step-zen5-2cores", "... the layer by", lambda d: of(d["pennylane_layer"][:2], "over dqk")),
        ("qklstm_step-zen5-2cores", "... with states", lambda d: of(d["pennylane_layer"][5:3:-1], "over dqk")),
        ("qklstm_step-zen5-2cores", "memory kept", lambda d: of(d["memory"], "over activations")),
        ("training-zen5-2cores", "training epoch", lambda d: of(d["rows"][::-1], "ratio")),
        ("farming-epyc-2cores-busy", "steps per second", lambda d: [d["ratio"]]),
        ("executors-zen5-2cores", "kernel matrix on two", lambda d: [d["of_bare"][k] for k in ("ray", "mpi")]),
        ("executors-zen5-2cores", "... their speed", lambda d: [d["inline_over"][k] for k in ("ray", "mpi")]),
        (
            "executors-zen5-2cores",
            "what a tile costs",
            lambda d: [d["scheduling"][1][k] for k in ("driver_ms_per_tile", "memory_beyond_result_mib")],
        ),
        ("launching-zen5-2cores", "job on a virtual", lambda d: [d[k]["first_tile_s"] for k in ("mpi", "ray")]),
        (
            "launching-zen5-2cores",
            "... warning to saved",
            lambda d: [d["mpi"]["save_s"], d["ray"]["save_s"], d["ray"]["tiles_computed_again"]],
        ),
        ("store-zen5-2cores", "store:", lambda d: [d["write_ratio"], d["resume_s"]]),
        ("learning-epyc-2cores-busy", "`NystroemFeatures`", lambda d: [d["seconds"]["random"]]),
        ("learning-epyc-2cores-busy", "... over scikit-learn", lambda d: [d["pair_by_pair"]]),
        (
            "learning-epyc-2cores-busy",
            "... 64 landmarks",
            lambda d: [
                d["digits"][0]["kernel_values_ratio"],
                d["digits"][0]["time_ratio"],
                100 * (d["digits"][0]["accuracy_whole"] - d["digits"][0]["accuracy_landmarks"]),
            ],
        ),
        ("structure-zen5-2cores", "1000 x 1000", lambda d: of(d["rows"][:1], "dqk_s")),
        ("structure-zen5-2cores", "6400 x 6400", lambda d: of(d["rows"][1:3], "dqk_s")),
        ("structure-zen5-2cores", "... multiply-adds", lambda d: of(d["rows"][1:3], "fraction_of_peak")),
        ("planner-zen5-2cores", "predictions of", lambda d: [100 * d["predicted_within_2x"], d["worst_choice"]]),
        ("qpu-zen5-2cores", "jobs of a symmetric", lambda d: [max(c["jobs"] / c["least"] for c in d["jobs"].values())]),
        (
            "qpu-zen5-2cores",
            "eight QPU services",
            lambda d: [d["fleet"]["ratio"], 1000 * d["client"]["100"]["overhead_s"]],
        ),
    ],
)
def test_figures_are_those_of_their_file(file: str, row: str, values: Callable[[Any], list[float]]) -> None:
    measured = values(json.loads((RESULTS / f"{file}.json").read_text()))
    shown = cell(row)
    assert len(shown) == len(measured)
    assert all(map(rounded_to, shown, measured)), (shown, measured)


def test_accuracies_on_the_treebank() -> None:
    document = json.loads((RESULTS / "treebank-zen5-2cores.json").read_text())
    rows = document["default"]["rows"] + [row for row in document["chosen"]["rows"] if row["directions"] == 2]
    measured = [(row["parameters"], row["accuracy"]["mean"], row["no_recurrence"]["mean"]) for row in rows]
    table = README.partition("| model | parameters | held-out accuracy |")[2].partition("\n\n")[0].splitlines()[2:]
    shown = [re.findall(r"[\d,]*\.?\d+", "|".join(line.split("|")[2:])) for line in table[:-1]]
    assert len(shown) == len(measured) == 8
    for line, values in zip(shown, measured, strict=True):
        assert int(line[0].replace(",", "")) == values[0] and all(map(rounded_to, line[1:], values[1:]))
    assert rounded_to(re.findall(r"0\.\d+", table[-1])[0], document["default"]["most_frequent_tag"])


def test_deviations_of_virtual_time() -> None:
    found = json.loads((RESULTS / "emulation-epyc-2cores-busy.json").read_text())
    off = {name: abs(one["virtual_s"] / one["real_s"] - 1) for name, one in found["real_time"].items()}
    outage = off.pop("outage4, pull")
    use = max(abs(one["virtual_used"] - one["real_used"]) for one in found["real_time"].values())
    stated = re.search(r"at most ([\d.]+) %, with an outage ([\d.]+) %, use by (\d+) points.* take (\d+) s", README)
    assert stated is not None
    measured = [100 * max(off.values()), 100 * outage, 100 * use, found["speed"]["10000"]["seconds"]]
    assert all(map(rounded_to, stated.groups(), measured)), measured


@pytest.mark.parametrize(("task", "column", "last"), [("treebank", 2, "every word"), ("co2", 4, "linear auto")])
def test_comparisons(task: str, column: int, last: str) -> None:
    """Scores, and differences to the linear twin with their intervals."""
    with (RESULTS / f"compare-{task}" / "compare.csv").open() as file:
        rows = list(csv.DictReader(file))
    rows = rows[:8] + [row for row in rows if row["title"].startswith(last)]
    table = README.partition("| model | treebank, accuracy |")[2].partition("\n\n")[0].splitlines()[2:]
    assert len(table) == len(rows) == 9
    for line, row in zip(table, rows, strict=True):
        cells = line.split("|")[column : column + 2]
        shown = [float(number) for number in re.findall(r"[-+]?\d\.\d+", "".join(cells))]
        names = ["test", "minus_linear", "minus_linear_low", "minus_linear_high"][: len(shown)]
        assert len(shown) == (1 if row["name"] == "linear" else 4)
        assert shown == pytest.approx([float(row[name]) for name in names], abs=0.00051), row["title"]
