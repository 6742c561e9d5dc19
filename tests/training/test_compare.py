"""Comparisons and figure 3: the protocol is kept, numbers are those of single runs, nothing is computed twice."""

import csv
import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dqk.data import read_conllu
from dqk.errors import InvalidInputError
from dqk.training import compare as compare_module
from dqk.training import fig3, trials
from dqk.training.bootstrap import score
from dqk.training.compare import Protocol, compare
from dqk.training.compare_report import command_line, findings, page, verdict
from dqk.training.config import OPTIONS, resolve
from dqk.training.contestants import CONTESTANTS, DECIDED, chosen
from dqk.training.contests import ForecastContest, PosContest
from dqk.training.forecast import train_forecast
from dqk.training.interrupt import Interrupted
from dqk.training.metrics import most_frequent_tag_accuracy
from tests.training.corpus import write_corpus
from tests.training.test_forecast import write_waves


@pytest.fixture
def waves(tmp_path: Path) -> dict[str, Any]:
    options = {"data": str(write_waves(tmp_path / "waves.csv")), "column": "level", "season": 6, "window": 8}
    return options | {"horizon": 3, "hidden_dim": 4, "n_qubits": 2, "n_references": 3, "epochs": 2, "batch_size": 16}


def protocol(options: dict[str, Any], *models: str, task: str = "forecast") -> Protocol:
    return Protocol(task, options, models, (0.01, 0.05), seeds=3, tuning_seeds=2, draws=200)


def test_the_table_of_models() -> None:
    for name in ("qklstm", "reuploading", "rbf", "linear", "lstm", "lstm-matched", "qlstm", "no-recurrence"):
        assert CONTESTANTS[name].title
        for task, data in (("pos", {"data": "x"}), ("forecast", {"series": "co2"})):
            resolve({**data, **CONTESTANTS[name].options}, task)
    assert chosen(None) == list(CONTESTANTS) and chosen(["lstm", "qklstm"]) == ["qklstm", "lstm"]
    with pytest.raises(InvalidInputError, match="unknown model 'lst'; did you mean 'lstm'"):
        chosen(["lst"])
    assert set(DECIDED) <= set(OPTIONS)


def test_a_final_run_is_the_run_that_train_makes(waves: dict, tmp_path: Path) -> None:
    found = compare(protocol(waves, "qklstm", "linear", "lstm"), tmp_path / "out")
    row = next(row for row in found["rows"] if row["name"] == "qklstm")
    for seed in range(3):
        options = {**waves, "feature_map": "qklstm", "learning_rate": row["learning_rate"], "seed": seed}
        alone = train_forecast(options, tmp_path / f"run{seed}")
        assert row["test_by_seed"][seed] == pytest.approx(alone["rmse"], rel=1e-9)
    assert row["parameters"] == alone["parameters"]
    baselines = {row["name"]: row["test"] for row in found["rows"] if "parameters" not in row}
    assert baselines["persistence"] == pytest.approx(alone["baselines"]["persistence"]["rmse"])
    assert baselines["seasonal naive"] == pytest.approx(alone["baselines"]["seasonal_naive"]["rmse"])
    assert sorted(entry.name for entry in (tmp_path / "out").iterdir()) == [
        "compare.csv",
        "compare.md",
        "compare.png",
        "protocol.json",
        "runs.jsonl",
    ]


def test_step_sizes_are_chosen_on_the_validation_part_and_the_test_is_used_once(
    waves: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tested: list[int] = []
    totals = ForecastContest.totals

    def count(self: ForecastContest, model: Any, config: Any) -> np.ndarray:
        tested.append(config.seed)
        return totals(self, model, config)

    monkeypatch.setattr(ForecastContest, "totals", count)
    found = compare(protocol(waves, "lstm", "linear"), tmp_path / "out")
    assert sorted(tested) == [0, 0, 1, 1, 2, 2]  # final runs alone
    runs = [json.loads(line) for line in (tmp_path / "out" / "runs.jsonl").read_text().splitlines()]
    by_key = {run["key"]: run["result"] for run in runs}
    for row in (row for row in found["rows"] if "parameters" in row):
        scores = {
            rate: np.mean([by_key[f"{row['name']} {rate:g} {10**6 + k} tuning"]["validation"] for k in range(2)])
            for rate in (0.01, 0.05)
        }
        assert row["learning_rate"] == min(scores, key=scores.__getitem__)  # of an error, the smallest
    assert all("totals" not in result for key, result in by_key.items() if key.endswith("tuning"))


def test_a_comparison_goes_on_where_it_stopped(waves: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = compare(protocol(waves, "lstm", "linear"), tmp_path / "whole")
    original = trials.train_once
    monkeypatch.setattr(compare_module, "train_once", lambda *arguments: stop_after(original, arguments, 6))
    seen = {"calls": 0}

    def stop_after(run: Any, arguments: Any, last: int) -> Any:
        seen["calls"] += 1
        if seen["calls"] == last:
            raise Interrupted("in epoch 1", signal.SIGINT)
        return run(*arguments)

    with pytest.raises(Interrupted, match="the same command goes on") as error:
        compare(protocol(waves, "lstm", "linear"), tmp_path / "parts")
    assert error.value.exit_code == 130
    path = tmp_path / "parts" / "runs.jsonl"
    with path.open("a") as stream:
        stream.write('{"key": "torn')  # a process that was killed while it wrote
    seen["calls"] = 100
    found = compare(protocol(waves, "lstm", "linear"), tmp_path / "parts")
    assert seen["calls"] == 100 + 14 - 5
    timeless = [[{**row, "seconds": 0} for row in document["rows"]] for document in (whole, found)]
    assert timeless[0] == timeless[1] and whole["differences"] == found["differences"]
    with pytest.raises(InvalidInputError, match="by another protocol \\(learning_rates was"):
        compare(Protocol("forecast", waves, ("lstm", "linear"), (0.5,), 3, 2, 200), tmp_path / "parts")
    with pytest.raises(InvalidInputError, match="is not empty, and holds no comparison"):
        compare(protocol(waves, "lstm"), tmp_path)


def test_processes_give_the_same_numbers(waves: dict, tmp_path: Path) -> None:
    one = compare(protocol(waves, "lstm", "linear"), tmp_path / "one")
    two = compare(protocol(waves, "lstm", "linear"), tmp_path / "two", jobs=2)
    assert one["differences"] == two["differences"]
    assert [row["test"] for row in one["rows"]] == [row["test"] for row in two["rows"]]


def test_taggers(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus.conllu", 60, names=0.3)
    options = {"data": str(corpus), "embedding_dim": 6, "hidden_dim": 5, "n_qubits": 2, "n_references": 3, "epochs": 4}
    options |= {"batch_size": 8, "first": 50, "test_part": 0.3}
    names = ("qklstm", "linear", "lstm", "lstm-matched", "no-recurrence")
    rules = Protocol("pos", options, names, (0.05,), seeds=2, draws=200)
    found = compare(rules, tmp_path / "out")
    contest = PosContest(rules.contest_options)
    assert (len(contest.train), len(contest.held_out), len(contest.test)) == (25, 10, 15)
    assert contest.train + contest.held_out + contest.test == tuple(read_conllu(corpus)[:50])
    assert contest.sizes.tolist() == [len(sentence) for sentence in contest.test]
    rows = {row["name"]: row for row in found["rows"]}
    word = rows["every word's most frequent tag"]["test"]
    assert word == pytest.approx(most_frequent_tag_accuracy(contest.train, contest.test))
    assert abs(rows["lstm-matched"]["parameters"] - rows["qklstm"]["parameters"]) < 60  # one hidden unit more or less
    assert rows["no-recurrence"]["parameters"] == rows["qklstm"]["parameters"]
    assert rows["qklstm"]["test"] > 0.5
    runs = [json.loads(line) for line in (tmp_path / "out" / "runs.jsonl").read_text().splitlines()]
    totals = np.array(
        [run["result"]["totals"] for run in runs if run["key"].startswith("linear") and "totals" in run["result"]]
    )
    assert rows["linear"]["test_by_seed"] == pytest.approx(score(totals, contest.sizes, False).tolist())


def test_blocks_of_a_series_hold_every_window_once(waves: dict) -> None:
    contest = ForecastContest(waves)
    n = len(contest.split.test)
    assert (n, contest.unit) == (16, "blocks of 6 successive windows")
    assert contest.sizes.tolist() == [6 * 3.0, 10 * 3.0]
    naive = contest.baselines()["persistence"]
    wrong = contest.split.series.values[contest.split.test.origins, None] - contest.split.test.truth
    assert naive.sum() == pytest.approx(np.square(wrong).sum())
    assert naive[0] == pytest.approx(np.square(wrong[:6]).sum())


@pytest.mark.parametrize(
    ("low", "high", "higher", "expected"),
    [
        (0.1, 0.2, True, "better"),
        (0.1, 0.2, False, "worse"),
        (-0.2, -0.1, False, "better"),
        (-0.1, 0.1, True, "not told apart"),
    ],
)
def test_verdicts(low: float, high: float, higher: bool, expected: str) -> None:
    rows = [{"name": name, "title": name, "quantum": False, "test": 0.5} for name in ("qklstm", "linear")]
    differences = [{"first": "qklstm", "second": "linear", "difference": (low + high) / 2, "low": low, "high": high}]
    document = {"rows": rows, "differences": differences, "higher_is_better": higher, "metric": "m"}
    assert verdict(document, "qklstm", "linear") == expected
    said = findings(document)[0]
    assert ("is better than the linear twin" in said) == (expected == "better")
    assert ("no benefit of its quantum kernel" in said) == (expected != "better")


def test_the_page_says_what_to_type() -> None:
    rules = {"task": "pos", "options": {"data": "/a b/c d.conllu", "bidirectional": True, "first": 5}}
    rules |= {"models": ["lstm"], "learning_rates": [0.01, 0.1], "seeds": 3, "tuning_seeds": 2}
    assert command_line(rules) == (
        "dqk compare pos --data 'c d.conllu' --bidirectional --first 5 --models lstm --learning-rates 0.01,0.1 --seeds 3 "
        "--tuning-seeds 2 --out DIR"
    )


def test_without_the_twin_nothing_is_claimed(waves: dict, tmp_path: Path) -> None:
    found = compare(Protocol("forecast", waves, ("qklstm", "lstm"), (0.01,), 2, 1, 100), tmp_path / "out")
    assert "nothing is said about a benefit of a quantum kernel" in page(found)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"model": "lstm", "seed": 1}, "model, seed: the protocol decides"),
        ({"data": None}, "--data: missing"),
    ],
)
def test_protocols_that_cannot_be(options: dict, says: str) -> None:
    with pytest.raises(InvalidInputError, match=says):
        Protocol("pos", {"data": "x", **options})
    with pytest.raises(InvalidInputError, match="expected numbers above 0"):
        Protocol("pos", {"data": "x"}, learning_rates=(0.0,))


def test_figure_3(tmp_path: Path) -> None:
    found = fig3.reproduce_fig3(tmp_path, seeds=2, epochs=25)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["fig3.csv", "fig3.md", "fig3.png", "fig3_runs.csv"]
    with (tmp_path / "fig3_runs.csv").open() as stream:
        runs = list(csv.DictReader(stream))
    with (tmp_path / "fig3.csv").open() as stream:
        curves = list(csv.DictReader(stream))
    assert len(runs) == 2 * 4 * 2 * 25 and len(curves) == 2 * 4 * 25
    for line in curves[::17]:
        same = [run for run in runs if all(run[name] == line[name] for name in ("optimiser", "model", "epoch"))]
        for metric in ("accuracy", "loss"):
            values = [float(run[metric]) for run in same]
            assert float(line[f"{metric}_mean"]) == pytest.approx(np.mean(values), rel=1e-4)
            assert float(line[f"{metric}_p90"]) == pytest.approx(np.percentile(values, 90), rel=1e-4)
    rows = {(row["optimiser"], row["model"]): row for row in found["rows"]}
    assert [rows["Adam", name]["parameters"] for name in ("QK-LSTM", "LSTM", "QLSTM")] == [183, 477, 199]
    last = [run for run in runs if run["epoch"] == "25" and run["model"] == "lstm" and run["optimiser"] == "adam"]
    assert rows["Adam", "LSTM"]["all_words_right_at_the_end"] == sum(float(run["accuracy"]) == 1 for run in last)
    text = (tmp_path / "fig3.md").read_text()
    assert f"; LSTM: {rows['Adam', 'LSTM']['all_words_right_at_the_end']};" in text and "25 epochs of 2 steps" in text
    assert f"{rows['SGD', 'QLSTM']['final_loss']:.3f}" in text
