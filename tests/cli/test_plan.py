"""`dqk plan`: one JSON document, a table, exit codes, and that what it says is what `dqk gram` does."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from dqk import _calibration
from dqk.backends.sampled import DeviceLimits
from dqk.backends.simulated import SimulatedBackend
from dqk.cli import main
from dqk.scheduler import CostModel
from dqk.store.files import read_description


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("DQK_THREADS", "2")
    monkeypatch.setattr(_calibration, "cost_model", CostModel)
    generator = np.random.default_rng(3)
    np.save("X.npy", generator.uniform(-1, 1, (150, 12)))
    np.save("wide.npy", generator.uniform(-1, 1, (9, 784)))


@pytest.fixture
def run(capsys):
    """Runs the program in this process; gives exit code, standard output and standard error."""

    def run(*arguments):
        with pytest.raises(SystemExit) as end:
            main(["plan", *arguments, *([] if "--calibrate" in arguments else ["--no-calibrate"])])
        captured = capsys.readouterr()
        return int(end.value.code or 0), captured.out, captured.err

    return run


@pytest.fixture
def document(run):
    def document(*arguments, code=0):
        found, out, err = run(*arguments, "--json")
        assert found == code, err
        return json.loads(out)

    return document


def chosen(found):
    (one,) = [row for row in found["backends"] if row["chosen"]]
    assert one["backend"] == found["chosen"]
    return one


def test_what_is_planned_is_what_gram_does(document, capsys):
    for options in (["--feature-map", "bsp"], ["--feature-map", "ising", "--layers", "4"], ["--backend", "reference"]):
        found = document("X.npy", *options)
        with pytest.raises(SystemExit):
            main(["gram", "X.npy", *options, "-o", "K.zarr", "--resume"])
        capsys.readouterr()
        stored = read_description(Path("K.zarr"))
        assert stored.backend == found["chosen"] and stored.side == chosen(found)["side"]
        assert stored.grid.total == chosen(found)["tiles"] and found["shape"] == [150, 150]
        shutil.rmtree("K.zarr")


def test_784_features_on_a_laptop(document):
    found = document("wide.npy", "--feature-map", "bsp")
    one = chosen(found)
    assert (one["backend"], one["bond"], one["exact"]) == ("mps", 2, True) and one["seconds"] < 1
    reasons = {row["backend"]: row for row in found["backends"]}
    assert "at most 28 qubits, the circuit has 784" in reasons["statevector"]["why"]
    assert reasons["statevector"]["seconds"] is None and found["refusal"] is None


def test_size_precision_and_workers_count(document):
    np.save("Y.npy", np.zeros((40, 12), np.float32))
    part = document("Y.npy", "--y", "X.npy", "--feature-map", "bsp")
    assert part["shape"] == [40, 150] and not part["symmetric"] and part["dtype"] == "float64"
    assert document("Y.npy", "--feature-map", "bsp")["dtype"] == "float32"
    np.save("Z.npy", np.zeros((4000, 12)))
    one, eight = (document("Z.npy", "--feature-map", "bsp", "--workers", str(k)) for k in (1, 8))
    assert 5 < chosen(one)["seconds"] / chosen(eight)["seconds"] < 9 and eight["threads"] == 8


def test_the_table_has_a_row_for_each_backend_and_the_chosen_one_first(run):
    code, out, err = run("X.npy", "--feature-map", "bsp")
    assert code == 0 and err == ""
    rows = [line.split("│") for line in out.splitlines() if line.startswith("│") and line.split("│")[1].strip()]
    names = [row[1].strip() for row in rows]
    assert names[0] == "mps" and set(names) >= {"statevector", "reference", "custatevec"}
    assert "predicted to be the fastest; exact, bonds of 2 follow from the circuit" in rows[0][5]
    assert "times the time of mps" in rows[1][5]
    assert "150 x 150, float64, 12 qubits, 2 threads" in out


def test_a_refusal_is_in_the_document_on_standard_error_and_in_the_exit_code(run):
    np.save("X40.npy", np.zeros((3, 40)))
    code, out, err = run("X40.npy", "--feature-map", "zz", "--json")
    found = json.loads(out)
    assert code == 1 and found["chosen"] is None and "bonds of dimension 1048576" in found["refusal"]
    assert "error:" in err and "mps:max_bond=32" in err and "Traceback" not in err
    (option,) = [row for row in found["backends"] if row["seconds"] is not None]
    assert option["backend"] == "mps:max_bond=32" and not option["exact"]
    code, out, _ = run("X40.npy", "--feature-map", "zz")
    assert code == 1 and "not exact; --backend mps:max_bond=32" in out
    assert run("X40.npy", "--feature-map", "zz", "--backend", "mps:max_bond=4")[0] == 0


def test_too_little_memory_for_the_one_that_was_asked_for(run, monkeypatch):
    monkeypatch.setenv("DQK_MEMORY_MIB", "5")
    code, out, err = run("X.npy", "--feature-map", "bsp", "--backend", "statevector", "--json")
    assert code == 1 and "need 3" in err and "the bound is 5 MiB" in err and json.loads(out)["chosen"] is None
    assert json.loads(run("X.npy", "--feature-map", "bsp", "--json")[1])["chosen"] == "mps"


def test_a_matrix_that_memory_does_not_hold_is_noted(run, monkeypatch):
    monkeypatch.setenv("DQK_MEMORY_MIB", "5")
    np.save("many.npy", np.zeros((1000, 3)))
    code, _, err = run("many.npy")
    assert code == 0 and "K itself takes 8 MiB, more than the bound of 5 MiB" in err


def test_measurements_are_priced_by_the_device(document, run):
    """`simulated` names no prices; entries above the diagonal: 150 * 149 / 2, of 100 shots each."""
    np.save("two.npy", np.zeros((2, 3)))
    found = document("X.npy", "--backend", "simulated", "--shots", "100")
    one = chosen(found)
    assert one["backend"] == "simulated" and one["seconds"] is None and not one["exact"]
    assert "11,175 circuits" in one["why"] and "1,117,500 shots" in one["why"] and "names no times" in one["why"]
    assert all("measurements were asked for" in row["why"] for row in found["backends"] if row["seconds"] is not None)
    assert "in about 1 job, 2 shots" in chosen(document("two.npy", "--backend", "simulated", "--shots", "2"))["why"]
    assert chosen(document("X.npy", "--budget", "200000"))["backend"] == "simulated"
    assert chosen(document("X.npy", "--shots", "100"))["backend"] == "mps"  # exact values, of which shots are drawn
    code, out, err = run("X.npy", "--backend", "simulated")
    assert code == 2 and out == ""
    assert err == "error: --backend simulated: gives exact probabilities, which have no price; give --shots 1000, say\n"


def test_prices_and_times_are_those_of_the_device(document, run, monkeypatch):
    """45 entries of 10 shots in two jobs: 2 * 3 + 450 * 0.01 seconds, 2 * 0.5 + 450 * 0.002 EUR."""
    limits = DeviceLimits(
        max_circuits_per_job=30, job_s=3.0, shot_s=0.01, price_per_job=0.5, price_per_shot=0.002, currency="EUR"
    )
    monkeypatch.setattr(SimulatedBackend, "limits", property(lambda self: limits))
    np.save("ten.npy", np.zeros((10, 3)))
    one = chosen(document("ten.npy", "--backend", "simulated", "--shots", "10"))
    assert one["seconds"] == pytest.approx(10.5) and one["price"] == pytest.approx(1.9) and one["currency"] == "EUR"
    assert (
        "45 circuits in about 2 jobs, 450 shots; 1.90 EUR"
        in run("ten.npy", "--backend", "simulated", "--shots", "10")[1]
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["X.npy", "--feature-map", "zzz"], "did you mean 'zz'"),
        (["X.npy", "--feature-map", "bsp", "--layers", "2"], "only reuploading, zz, iqp, ising have layers"),
        (["X.npy", "--backend", "statevectr"], "did you mean 'statevector'"),
        (["X.npy", "--backend", "mps:max_bond=x"], "expected mps or mps:max_bond=N"),
        (["X.npy", "--workers", "0"], "--workers"),
        (["X.npy", "--qpu", "http://127.0.0.1:1"], "give --shots 1000"),
        (["X.npy", "--qpu", "http://127.0.0.1:1", "--shots", "10", "--workers", "2"], "the processors are the workers"),
        (["X.npy", "--dry-run"], "No such option"),
        (["X.npy", "--y", "wide.npy"], "expected the same features"),
    ],
)
def test_bad_usage_is_explained(arguments, message, run):
    code, out, err = run(*arguments)
    assert code == 2 and message in err and "Traceback" not in err and not out


def test_a_machine_is_measured_once(run, monkeypatch):
    asked = []
    monkeypatch.setattr(_calibration, "quick_model", lambda told: asked.append(told("measuring")) or CostModel())
    code, out, err = run("X.npy", "--calibrate", "--json")
    assert code == 0 and len(asked) == 1 and err == "measuring\n" and json.loads(out)["chosen"]
