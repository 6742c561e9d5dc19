"""`dqk train forecast`, `dqk compare` and `dqk reproduce fig3` as they are typed."""

import json
import sys
from pathlib import Path

import pytest

from dqk.cli import main
from tests.training.corpus import write_corpus
from tests.training.test_forecast import write_waves

SMALL = ["--data", "waves.csv", "--column", "level", "--window", "6", "--horizon", "2", "--hidden-dim", "4"]


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    write_waves(Path("waves.csv"))

    def run(*arguments: str, code: int = 0):
        with pytest.raises(SystemExit) as end:
            main(list(arguments))
        assert (end.value.code or 0) == code
        return capsys.readouterr()

    return run


def test_a_shipped_series(run) -> None:
    done = run("train", "forecast", "--series", "co2", "--model", "lstm", "--epochs", "2", "--out", "r", "--json")
    found = json.loads(done.out)
    assert found["task"] == "forecast" and found["series"] == "co2" and found["season"] == 12
    assert set(found["baselines"]) == {"persistence", "autoregression", "seasonal_naive"}
    assert "5 months without any" in found["note"]
    assert Path("r/forecast.png").read_bytes().startswith(b"\x89PNG")
    shown = run("train", "forecast", "--resume", "r", "--epochs", "3").out
    assert "seasonal naive" in shown and "RMSE" in shown and "r/forecast.png" in shown and "59 are missing" in shown


def test_a_file_and_a_toml_file(run) -> None:
    Path("c.toml").write_text("model = 'lstm'\nepochs = 1\nseason = 6\nout = 'run'\n")
    shown = run("train", "forecast", *SMALL, "--config", "c.toml")
    assert "lstm" in shown.out and Path("run/forecast.csv").exists()
    bare = run("train", "forecast", *SMALL, "--model", "lstm", "--epochs", "1", "--out", "bare").out
    assert "no seasonal-naive baseline" in bare


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["train", "forecast"], 2, "--data and --series: neither given"),
        (["train", "forecast", *SMALL, "--column", "flat"], 2, "constant"),
        (["train", "forecast", *SMALL, "--window", "85"], 2, "too few"),
        (["train", "forecast", *SMALL, "--column", "x"], 2, "has no column 'x'"),
        (
            ["train", "forecast", *SMALL, "--data", "gap.csv"],
            1,
            "1 of 2 values in column 'level' are missing (lines 3)",
        ),
        (["train", "forecast", *SMALL, "--data", "order.csv"], 1, "dates are out of order"),
        (["train", "forecast", "--series", "gold"], 2, "--series: 'gold'"),
        (["compare", "pos", "--out", "c"], 2, "--data: missing"),
        (["compare", "forecast", "--series", "co2", "--out", "c", "--models", "lst"], 2, "did you mean 'lstm'?"),
        (["compare", "forecast", "--series", "co2", "--out", "c", "--learning-rates", "a"], 2, "--learning-rates: 'a'"),
        (["compare", "forecast", *SMALL, "--out", "gap.csv"], 1, "cannot make the folder gap.csv: File exists"),
        (["reproduce", "fig3", "--out", "gap.csv"], 1, "cannot make the folder gap.csv: File exists"),
    ],
)
def test_bad_input(run, arguments: list[str], code: int, says: str) -> None:
    Path("gap.csv").write_text("date,level\n2001-01-01,1\n2001-01-02,\n")
    Path("order.csv").write_text("date,level\n2001-01-02,1\n2001-01-01,3\n")
    error = run(*arguments, code=code).err
    assert says in error and "Traceback" not in error
    assert not Path("c").exists() and not Path("runs").exists()


def test_without_statsmodels(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "statsmodels", None)
    monkeypatch.setitem(sys.modules, "statsmodels.datasets", None)
    assert "pip install 'dqk[forecast]'" in run("train", "forecast", "--series", "co2", code=1).err


def test_compare(run) -> None:
    more = ["--models", "lstm,linear", "--learning-rates", "0.01", "--seeds", "2", "--epochs", "1", "--out"]
    done = run("compare", "forecast", *SMALL, "--n-qubits", "2", *more, "c", "--json")
    found = json.loads(done.out)
    assert [row["name"] for row in found["rows"]][:2] == ["linear", "lstm"] and found["metric"] == "RMSE"
    assert "6 of 6 runs" in done.err and Path("c/compare.md").read_text().startswith("# 2 models on one task: forecast")
    again = run("compare", "forecast", *SMALL, "--n-qubits", "2", *more, "c")
    assert "linear twin" in again.out and "persistence" in again.out
    write_corpus(Path("corpus.conllu"), 30)
    words = ["--data", "corpus.conllu", "--hidden-dim", "4", "--embedding-dim", "4"]
    assert "most frequent tag" in run("compare", "pos", *words, *more, "w").out


def test_reproduce_fig3(run) -> None:
    done = run("reproduce", "fig3", "--out", "f", "--seeds", "1", "--epochs", "2", "--json")
    assert len(json.loads(done.out)["rows"]) == 8
    assert Path("f/fig3.png").read_bytes().startswith(b"\x89PNG")
    assert "QLSTM" in run("reproduce", "fig3", "--out", "f", "--seeds", "1", "--epochs", "1").out
