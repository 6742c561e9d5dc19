"""Runs of `train forecast`: numbers against NumPy and scikit-learn, resumption, mistakes."""

import csv
import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import mean_absolute_error, root_mean_squared_error

from dqk.errors import CheckpointError, DataFileError, InvalidInputError
from dqk.training.config import resolve
from dqk.training.forecast import load_split, resume_forecast, train_forecast
from dqk.training.forecasting import Forecasting, errors
from dqk.training.interrupt import Interrupted
from dqk.training.models import build_forecaster
from dqk.training.predict import predict_tags
from dqk.training.state import State
from tests.training.test_resume import StopAfter, assert_same_run, numbers

FILES = ["best.safetensors", "config.json", "curves.png", "forecast.csv", "forecast.png"]
FILES += ["last.safetensors", "metrics.jsonl", "result.json"]


def write_waves(path: Path, n: int = 90) -> Path:
    """A season of 6, a trend and noise, with a date per line."""
    t, noise = np.arange(n), np.random.default_rng(0).normal(size=n)
    values = 300 + 0.2 * t + 3 * np.sin(2 * np.pi * t / 6) + 0.1 * noise
    lines = [f"{1990 + k // 12}-{k % 12 + 1:02d},{value:.6f},1.0" for k, value in enumerate(values)]
    path.write_text("month,level,flat\n" + "\n".join(lines) + "\n")
    return path


@pytest.fixture
def small(tmp_path: Path) -> dict[str, Any]:
    options = {"data": str(write_waves(tmp_path / "waves.csv")), "column": "level", "season": 6, "window": 8}
    options |= {"horizon": 3, "hidden_dim": 6, "n_qubits": 2, "n_references": 4, "batch_size": 16, "epochs": 3}
    return options


def for_model(options: dict[str, Any], model: str) -> dict[str, Any]:
    kept = {"qklstm": ("n_qubits", "n_references"), "qlstm": ("n_qubits",), "lstm": ()}[model]
    return {name: value for name, value in options.items() if not name.startswith("n_") or name in kept} | {
        "model": model
    }


@pytest.mark.parametrize("model", ["qklstm", "lstm", "qlstm"])
def test_a_run_reports_what_scikit_learn_computes(model: str, small: dict, tmp_path: Path) -> None:
    options = for_model(small, model) | {"epochs": 20, "learning_rate": 0.03}
    result = train_forecast(options, tmp_path / "run")
    assert sorted(entry.name for entry in (tmp_path / "run").iterdir()) == FILES
    with (tmp_path / "run" / "forecast.csv").open() as stream:
        lines = list(csv.DictReader(stream))
    truth = np.array([float(line["truth"]) for line in lines])
    for name, found in {model: result, **result["baselines"]}.items():
        guess = np.array([float(line[name]) for line in lines])
        assert found["rmse"] == pytest.approx(root_mean_squared_error(truth, guess), rel=1e-6)
        assert found["mae"] == pytest.approx(mean_absolute_error(truth, guess), rel=1e-6)
        for step in (1, 2, 3):
            at = np.array([line["step"] == str(step) for line in lines])
            assert found["rmse_by_step"][step - 1] == pytest.approx(
                root_mean_squared_error(truth[at], guess[at]), rel=1e-6
            )
    assert set(result["baselines"]) == {"persistence", "autoregression", "seasonal_naive"}
    assert result["rmse"] < result["baselines"]["persistence"]["rmse"]  # something was learned
    best = numbers(tmp_path / "run")[result["best_epoch"] - 1]
    assert (result["loss"], result["validation_rmse"]) == (best["eval_loss"], best["eval_rmse"])
    assert best["eval_loss"] == min(line["eval_loss"] for line in numbers(tmp_path / "run"))


def test_the_truth_in_the_table_is_that_of_the_file(small: dict, tmp_path: Path) -> None:
    train_forecast({**small, "epochs": 1}, tmp_path / "run")
    written = dict(line.split(",")[:2] for line in Path(small["data"]).read_text().splitlines()[1:])
    with (tmp_path / "run" / "forecast.csv").open() as stream:
        lines = list(csv.DictReader(stream))
    assert lines and all(float(line["truth"]) == pytest.approx(float(written[line["time"]])) for line in lines)
    times = list(written)
    assert all(times.index(line["time"]) - times.index(line["origin"]) == int(line["step"]) for line in lines)
    assert min(times.index(line["time"]) for line in lines) == round(0.8 * 90)


def test_training_never_sees_what_comes_later(small: dict, tmp_path: Path) -> None:
    """With another test part, every number of the training is the same, and the result's test numbers are not."""
    found = []
    for name, shift in (("a", 0.0), ("b", 50.0)):
        path = tmp_path / f"{name}.csv"
        lines = Path(small["data"]).read_text().splitlines()
        head, rows = lines[0], [line.split(",") for line in lines[1:]]
        for k in range(72, 90):
            rows[k][1] = str(float(rows[k][1]) + shift * (k - 71))
        path.write_text("\n".join([head, *(",".join(row) for row in rows)]) + "\n")
        found.append(train_forecast({**small, "data": str(path)}, tmp_path / name))
    assert numbers(tmp_path / "a") == numbers(tmp_path / "b")
    assert found[0]["rmse"] != found[1]["rmse"] and found[0]["validation_rmse"] == found[1]["validation_rmse"]


def test_the_same_seed_gives_the_same_run_and_another_does_not(small: dict, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        torch.rand(3)
        train_forecast({**small, "seed": seed}, tmp_path / name)
    assert_same_run(tmp_path / "a", tmp_path / "b")
    assert numbers(tmp_path / "c") != numbers(tmp_path / "a")


@pytest.mark.parametrize("batches", [1, 5])
def test_stopped_after_any_batch(batches: int, small: dict, tmp_path: Path) -> None:
    whole = train_forecast(small, tmp_path / "whole")
    with pytest.raises(Interrupted, match="train forecast --resume") as error:
        train_forecast(small, tmp_path / "parts", StopAfter(batches, signal.SIGINT))
    assert error.value.exit_code == 130
    result = resume_forecast(tmp_path / "parts", {})
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    assert {**result, "seconds": 0, "run_dir": ""} == {**whole, "seconds": 0, "run_dir": ""}
    assert resume_forecast(tmp_path / "parts", {}) == result  # finished: nothing is done again
    more = resume_forecast(tmp_path / "parts", {"epochs": 5})
    assert more["epochs"] == 5 and len(numbers(tmp_path / "parts")) == 5


def test_what_cannot_go_on(small: dict, tmp_path: Path) -> None:
    train_forecast(small, tmp_path / "run")
    with pytest.raises(InvalidInputError, match="--window: 9, but the run has 8"):
        resume_forecast(tmp_path / "run", {"window": 9})
    with pytest.raises(CheckpointError, match="is a run of `dqk train forecast`"):
        predict_tags(tmp_path / "run", "a b")
    path = Path(small["data"])
    path.write_text(path.read_text().replace("300.", "301.", 1))
    with pytest.raises(CheckpointError, match="it began with other values"):
        resume_forecast(tmp_path / "run", {})
    document = json.loads((tmp_path / "run" / "config.json").read_text())
    assert document["task"] == "forecast" and "embedding_dim" not in document["options"]


@pytest.mark.parametrize(
    ("options", "kind", "says"),
    [
        ({"column": "flat"}, InvalidInputError, "constant"),
        ({"window": 80}, InvalidInputError, "too few"),
        ({"column": "none"}, InvalidInputError, "it has month, level, flat"),
        ({"column": None}, InvalidInputError, "--column: missing"),
        ({"series": "co2"}, InvalidInputError, "--data and --series: both given"),
        ({"data": None, "column": None}, InvalidInputError, "neither given"),
        ({"data": "none.csv"}, DataFileError, "none.csv: No such file"),
        ({"held_out": 0.0}, InvalidInputError, "--held-out: 0"),
        ({"held_out": 0.5, "test_part": 0.5}, InvalidInputError, "leave nothing to train on"),
        ({"embedding_dim": 3}, InvalidInputError, "--embedding-dim: has no meaning for `dqk train forecast`"),
        ({"epochs": 0, "season": 0}, InvalidInputError, "--season: 0, expected at least 1"),
    ],
)
def test_mistakes_leave_nothing_behind(options: dict, kind: type, says: str, small: dict, tmp_path: Path) -> None:
    given = {name: value for name, value in {**small, **options}.items() if value is not None}
    with pytest.raises(kind) as error:
        train_forecast(given, tmp_path / "run")
    assert says in str(error.value) and not (tmp_path / "run").exists()


def test_options_of_forecasts_are_none_of_taggers() -> None:
    with pytest.raises(InvalidInputError, match="--window: has no meaning for `dqk train pos`, only for forecast"):
        resolve({"window": 3})


@pytest.mark.parametrize("options", [{"references": "data"}, {"kernel": "linear"}, {"target": "level"}])
def test_options_reach_the_network(options: dict, small: dict, tmp_path: Path) -> None:
    train_forecast({**small, **options}, tmp_path / "run")
    lines = numbers(tmp_path / "run")
    assert lines[-1]["train_loss"] < lines[0]["train_loss"]


def test_loss_and_metrics_by_hand(small: dict) -> None:
    config = resolve({**small, "dtype": "float64"}, "forecast")
    split = load_split(config)
    task = Forecasting(config, split)
    model = build_forecaster(config, torch.zeros(4, 1))
    (inputs,), targets = task.inputs(State(), [4, 2, 9], [3, 3, 3], [0, 2])
    assert inputs[..., 0].tolist() == split.train.inputs[[4, 9]].tolist()
    outputs = model(inputs)
    assert task.loss(outputs, targets).item() == pytest.approx(
        float(np.square(outputs.detach().numpy() - split.train.targets[[4, 9]]).sum())
    )
    forecasts = task.forecasts(model, split.test)
    np.testing.assert_allclose(
        forecasts[5],
        split.series.values[split.test.origins[5]]
        + split.scaling.target_mean
        + split.scaling.target_spread * model(torch.tensor(split.test.inputs[5])[None, :, None]).detach().numpy()[0],
    )
    found = errors(split.test.truth + np.array([1.0, -2.0, 3.0]), split.test)
    assert found["rmse_by_step"] == pytest.approx([1.0, 2.0, 3.0])
    assert (found["rmse"], found["mae"]) == pytest.approx((np.sqrt(14 / 3), 2.0))
