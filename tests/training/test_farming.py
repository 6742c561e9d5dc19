"""`dqk train --executor`: the loss curve of a run whose kernel values come from workers is that of one without."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dqk.training.pos import train_pos
from tests.requirements import mpiexec, require
from tests.training.corpus import write_corpus
from tests.training.test_distributed import assert_close_runs

SIZES = {"embedding_dim": 5, "hidden_dim": 4, "n_qubits": 2, "n_references": 3, "batch_size": 9}
OPTIONS: dict[str, Any] = {**SIZES, "epochs": 3, "dtype": "float64", "seed": 1}
DQK = [sys.executable, "-m", "dqk"]


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("farming")


@pytest.fixture(scope="module")
def options(parent: Path) -> dict[str, Any]:
    return {**OPTIONS, "data": str(write_corpus(parent / "corpus.conllu", 20, clauses=2))}


@pytest.fixture(scope="module")
def alone(options: dict[str, Any], parent: Path) -> Path:
    train_pos(options, parent / "alone")
    return parent / "alone"


def run(options: dict[str, Any], *arguments: str, launch: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    given = [text for name, value in options.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    program = [DQK[0], "-m", "mpi4py", *DQK[1:]] if launch else DQK
    command = [*launch, *program, "train", "pos", *given, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=180)


@pytest.mark.parametrize("executor", ["processes", "ray", "mpi"])
def test_the_same_run(executor: str, options: dict[str, Any], alone: Path, parent: Path) -> None:
    """On two workers of each kind."""
    if executor in ("ray", "mpi"):
        require(executor)
    out = parent / executor
    launch = (str(mpiexec()), "-n", "2") if executor == "mpi" else ()
    workers = () if executor == "mpi" else ("--workers", "2")
    arguments = ("--executor", executor, *workers, "--farm", "always", "--json", "--out", str(out))
    done = run(options, *arguments, launch=launch)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["farmed"] and result["executor"] == executor
    assert "computed by workers" in result["farming"] and result["farming"] in done.stderr.replace("\n", " ")
    assert_close_runs(alone, out)


def test_the_rule_is_said(options: dict[str, Any], parent: Path) -> None:
    """Small circuits stay here unless they are sent, with the reason."""
    done = run({**options, "epochs": 1}, "--executor", "processes", "--json", "--out", str(parent / "rule"))
    assert done.returncode == 0, done.stderr
    assert not json.loads(done.stdout)["farmed"] and "computed in this process" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--executor", "rya"), "rya"),
        (("--executor", "processes", "--farm", "never"), "farm is 'never'"),
        (("--workers", "2"), "say which with --executor"),
        (("--executor", "processes", "--model", "lstm"), "only the model 'qklstm'"),
        (("--executor", "mpi", "--workers", "2"), "every rank is a worker"),
        (("--executor", "ray", "--distributed"), "leave one out"),
    ],
)
def test_refusals(arguments: tuple[str, ...], text: str, tmp_path: Path) -> None:
    """Bad usage, and no folder is left."""
    done = run({}, *arguments, "--out", str(tmp_path / "run"))
    assert (done.returncode, text in done.stderr) == (2, True), done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "run").exists()
