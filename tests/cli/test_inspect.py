"""`dqk inspect` as it is typed."""

import json
from pathlib import Path

import numpy as np
import pytest

from dqk.cli import main


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    np.save("X.npy", np.random.default_rng(0).uniform(-1, 1, (30, 3)))
    np.save("y.npy", np.array(["cat", "dog"] * 15))

    def run(*arguments: str, code: int = 0):
        with pytest.raises(SystemExit) as end:
            main(["inspect", *arguments])
        assert (end.value.code or 0) == code
        return capsys.readouterr()

    return run


def test_the_papers_kernel_factorises(run) -> None:
    found = json.loads(run("--feature-map", "qklstm", "--n-qubits", "4", "--json").out)
    assert found["circuit"]["factorises"] and [gate[1] for gate in found["circuit"]["cancelled"]] == ["cx"] * 3
    assert "the kernel factorises: it is a product of 4 one-qubit kernels" in run("--n-qubits", "4").out
    assert "factorises" not in run("--feature-map", "bsp", "--n-qubits", "4").out


def test_samples_labels_and_a_figure(run) -> None:
    found = run("X.npy", "--labels", "y.npy", "--feature-map", "zz", "--figure", "k.png", "--json")
    document = json.loads(found.out)
    assert document["data"]["n_samples"] == 30 and -1 <= document["data"]["alignment"] <= 1
    assert Path("k.png").read_bytes().startswith(b"\x89PNG") and "figure: k.png" in found.err
    assert "effective rank" in run("X.npy", "--bandwidth", "2").out


def test_bad_input(run) -> None:
    cases = {
        ("--labels", "y.npy"): "without samples: give X, too",
        ("--figure", "k.png"): "there is no matrix to draw",
        ("X.npy", "--n-qubits", "3"): "there is one qubit for each column",
        ("X.npy", "--figure", "k.jpg"): "expected .png",
        ("X.npy", "--figure", "no/k.png"): "there is no folder no",
        ("--feature-map", "zzz"): "unknown feature map 'zzz'; did you mean 'zz'?",
        ("--layers", "2"): "only reuploading, zz, iqp, ising have layers",
    }
    for arguments, message in cases.items():
        error = run(*arguments, code=2).err
        assert message in error.replace("\n  ", " ") and "Traceback" not in error
    np.save("y.npy", np.zeros(30))
    assert "labels of one class" in run("X.npy", "--labels", "y.npy", code=2).err
    Path("broken.npy").write_bytes(b"nonsense")
    assert "cannot read the labels in broken.npy" in run("X.npy", "--labels", "broken.npy", code=1).err
