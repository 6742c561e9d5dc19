"""What a fleet's errors do to a QK-LSTM, and the mixture of devices that its values come from."""

import json
from pathlib import Path

import numpy as np
import pytest

from dqk.cli import main
from dqk.errors import InvalidInputError
from dqk.kernels.feature_maps import reuploading_feature_map
from dqk.qpu.coupling import routed
from dqk.qpu.emulate import emulate
from dqk.qpu.experiment import Experiment
from dqk.qpu.mixture import MixtureBackend
from dqk.qpu.profile import Noise
from dqk.training.emulated import qklstm_loss
from tests.qpu.test_noisy import mixed, problem

NOISE = Noise(0.001, 0.003, 0.01, 0.02)
TWO = """
[[qpu]]
name = "good"
max_circuits_per_job = 5
[[qpu]]
name = "bad"
max_circuits_per_job = 5
noise = { depolarising_2q = 0.1, readout_0 = 0.2, readout_1 = 0.2 }
drift = { per_hour = 3600 }
[experiment]
data = "random"
samples = 8
test_samples = 4
repeats = 1
downstream = "qklstm"
"""


def test_rows_are_measured_by_devices_as_often_as_their_shares() -> None:
    """Against density matrices: 30 % on a line with errors, 50 % without, 20 % computed."""
    circuit, left, right, shared, _ = problem(reuploading_feature_map(3, layers=2))
    both, table = circuit.compute_uncompute(), np.hstack([left, right])
    noisy = mixed(routed(both, "line"), table, np.tile(shared, 2), NOISE)
    ideal = mixed(both, table, np.tile(shared, 2), Noise())
    device = MixtureBackend([0.3, 0.5, 0.2], [(NOISE, "line"), (Noise(), "all"), None], seed=0)
    found = np.mean([device.run(circuit, left, right, shared, 2000) for _ in range(300)], axis=0)
    assert np.allclose(found, 0.3 * noisy + 0.7 * ideal, atol=0.01)
    assert np.abs(noisy - ideal).max() > 0.05
    again = [MixtureBackend([0.5, 0.5], [(NOISE, "all"), None], seed=4) for _ in range(2)]
    first, second = (one.run(circuit, left, right, shared, 100) for one in again)
    assert first.tolist() == second.tolist()


def test_the_loss_without_errors_is_the_exact_one_and_grows_with_them() -> None:
    losses = [
        qklstm_loss(MixtureBackend([1.0], [(NOISE.times(factor), "all")], seed=0), 2, 10**8) for factor in (0, 1, 4, 16)
    ]
    exact = losses[0]["exact_lstm_loss"]
    assert 0.01 < exact < 0.5  # it has learned, and is not sure of every word
    assert losses[0]["lstm_loss"] == pytest.approx(exact, abs=1e-4)
    found = [loss["lstm_loss"] for loss in losses]
    assert found == sorted(found) and found[-1] > 1.1 * exact


def test_an_experiment_that_asks_for_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The best devices' loss is nearer to the exact one than that of all."""
    path = tmp_path / "e.toml"
    path.write_text(TWO)
    with pytest.raises(InvalidInputError, match="give downstream="):
        emulate(Experiment.read(path))
    command = ["emulate", str(path), "-o", str(tmp_path / "out"), "--policy", "quality", "--policy", "round_robin"]
    with pytest.raises(SystemExit) as ended:
        main([*command, "--json", "--set", "experiment.qubits=2"])
    assert not ended.value.code
    best, all_ = (row["mean"] for row in json.loads(capsys.readouterr().out)["rows"])
    assert best["exact_lstm_loss"] == all_["exact_lstm_loss"]
    assert abs(best["lstm_loss"] - best["exact_lstm_loss"]) < 0.01 < all_["lstm_loss"] - all_["exact_lstm_loss"]
    assert "lstm_loss" in (tmp_path / "out" / "report.html").read_text()
