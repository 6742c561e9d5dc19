"""Several ranks train as one process does, however many there are and whatever happens to them."""

import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dqk.data import Vocabulary
from dqk.errors import BackendUnavailableError
from dqk.training.checkpoint import load_checkpoint
from dqk.training.config import resolve
from dqk.training.pos import load_corpus, resume_pos, train_pos
from dqk.training.state import Reporter
from tests.requirements import mpiexec, require
from tests.training.corpus import write_corpus
from tests.training.ranks import LIMIT_S, TRAIN, arguments, descendants, ends, process, started, train, wait_for_epochs
from tests.training.test_resume import assert_same_run, numbers

pytestmark = pytest.mark.timeout(2 * LIMIT_S)


def assert_close_runs(first: Path, second: Path) -> None:
    """The same loss curve and parameters but for rounding."""
    curves = [[list(line.values()) for line in numbers(folder)] for folder in (first, second)]
    assert len(curves[0]) == len(curves[1])
    for a, b in zip(*curves, strict=True):
        assert a == pytest.approx(b, rel=1e-10, abs=1e-10)
    tensors = [load_checkpoint(folder / "last.safetensors", "")[0] for folder in (first, second)]
    for name, tensor in tensors[0].items():
        if name.startswith("model."):
            assert (tensor - tensors[1][name]).abs().max() < 1e-9, name


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("distributed")


@pytest.fixture(scope="module")
def options(parent: Path) -> dict[str, Any]:
    """25 epochs of 5 steps, in the last of which is a single sentence, so that most ranks have nothing. Words that occur once
    become unknown at random, and several ranks evaluate."""
    corpus = write_corpus(parent / "corpus.conllu", 22, clauses=3, names=0.5)
    read = load_corpus(resolve({"data": str(corpus)}))
    assert len(read.train) % 4 == 1 and len(read.held_out) > 4 and Vocabulary.of(read.train).n_rare > 4
    sizes = {"embedding_dim": 6, "hidden_dim": 5, "n_qubits": 2, "n_references": 3, "batch_size": 4}
    rest = {"epochs": 25, "learning_rate": 0.02, "dropout": 0.2, "clip": 0.5, "dtype": "float64", "seed": 1}
    return {"data": str(corpus), **sizes, **rest}


@pytest.fixture(scope="module")
def alone(options: dict[str, Any], parent: Path) -> Path:
    train_pos(options, parent / "alone")
    return parent / "alone"


@pytest.fixture(scope="module")
def of_two(options: dict[str, Any], parent: Path) -> Path:
    result = train(2, options, parent / "two")
    assert result["ranks"] == 2
    return parent / "two"


@pytest.fixture(scope="module")
def of_three(options: dict[str, Any], parent: Path) -> Path:
    result = train(3, options, parent / "three")
    assert result["ranks"] == 3
    return parent / "three"


def test_one_two_and_three_ranks_have_the_same_losses(alone: Path, of_two: Path, of_three: Path) -> None:
    assert len(numbers(alone)) == 25
    assert numbers(alone)[-1]["train_loss"] < 0.7 * numbers(alone)[0]["train_loss"]  # something was learned
    assert_close_runs(alone, of_two)
    assert_close_runs(alone, of_three)


def test_parts_of_a_batch_one_after_the_other_change_rounding_alone(
    options: dict[str, Any], alone: Path, tmp_path: Path
) -> None:
    train_pos({**options, "accumulate": 4}, tmp_path / "parts")
    assert_close_runs(alone, tmp_path / "parts")


def test_ranks_of_mpi_write_the_same_metrics(options: dict[str, Any], of_two: Path, tmp_path: Path) -> None:
    require("mpi")
    launcher = mpiexec()
    assert launcher
    dqk = (sys.executable, "-m", "mpi4py", "-m", "dqk", "train", "pos", "--distributed")
    out = f"--out={tmp_path / 'mpi'}"
    with process(launcher, "-n", "2", *dqk, *arguments(options), out) as job:
        codes, _, messages = ends([job])
    assert codes == [0], messages
    assert "2 ranks started by MPICH" in messages
    assert_same_run(of_two, tmp_path / "mpi")


@pytest.mark.faults
def test_a_killed_rank(options: dict[str, Any], alone: Path, of_three: Path, tmp_path: Path) -> None:
    """Rank 0 is left, and saves what there is. As many ranks end in the same bits, another number in the same losses."""
    out = tmp_path / "run"
    with started(3, *arguments(options), f"--out={out}") as ranks:
        wait_for_epochs(out, 3, ranks)
        ranks[1].kill()
        killed_at = time.monotonic()
        codes, output, messages = ends(ranks)
    assert time.monotonic() - killed_at < 20
    assert codes == [1, -signal.SIGKILL, 1] and output == ""
    assert messages.count("error: lost another rank: ") == 1 and "Traceback" not in messages
    assert f"train pos --resume {out}" in messages
    assert 3 <= len(numbers(out)) < 25
    shutil.copytree(out, tmp_path / "by one")
    resume_pos(tmp_path / "by one", {})
    assert_close_runs(alone, tmp_path / "by one")
    with started(3, f"--resume={out}") as ranks:
        codes, _, messages = ends(ranks)
    assert codes == [0, 0, 0], messages
    assert "going on after" in messages
    assert_same_run(of_three, out)


@pytest.mark.faults
def test_rank_0_is_killed(options: dict[str, Any], alone: Path, tmp_path: Path) -> None:
    """It takes the store of the ranks with it. What was saved last is there."""
    out = tmp_path / "run"
    with started(2, *arguments({**options, "checkpoint_steps": 1, "accumulate": 2}), f"--out={out}") as ranks:
        wait_for_epochs(out, 3, ranks)
        ranks[0].kill()
        codes, output, messages = ends(ranks)
    assert codes == [-signal.SIGKILL, 1] and output == ""
    assert messages.count("error: lost another rank: ") == 1 and "Traceback" not in messages
    assert 3 <= len(numbers(out)) < 25
    resume_pos(out, {})
    assert_close_runs(alone, out)


@pytest.mark.faults
def test_a_signal_to_any_rank_stops_all(options: dict[str, Any], of_two: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with started(2, *arguments(options), f"--out={out}", f"--resume={out}") as ranks:  # starts, as there is none
        wait_for_epochs(out, 3, ranks)
        ranks[1].send_signal(signal.SIGUSR1)
        codes, output, messages = ends(ranks)
    assert codes == [128 + signal.SIGUSR1] * 2 and output == ""
    assert messages.count("stopped: ") == 1 and "nothing is lost" in messages and "Traceback" not in messages
    with started(2, f"--out={out}", f"--resume={out}") as ranks:
        codes, _, messages = ends(ranks)
    assert codes == [0, 0], messages
    assert_same_run(of_two, out)


@pytest.mark.faults
def test_a_rank_that_fails_ends_all_with_its_reason(options: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "run"
    with started(2, *arguments({**options, "checkpoint_minutes": 0}), f"--out={out}", failing=1) as ranks:
        codes, output, messages = ends(ranks)
    assert codes == [1, 1] and output == "" and "Traceback" not in messages and messages.count("error: ") == 1
    assert "error: lost another rank: rank 1 ended with MemoryBoundError: too large; go on with: " in messages
    # Rank 0 has saved the state after the 19 steps that all ranks did, of which an epoch has five.
    state = load_checkpoint(out / "last.safetensors", "")[1]["state"]
    assert (state["epoch"], state["batch"]) == (3, 4)


def test_what_rank_0_refuses_ends_all_with_one_message(options: dict[str, Any], alone: Path) -> None:
    with started(3, *arguments(options), f"--out={alone}") as ranks:
        codes, output, messages = ends(ranks)
    assert codes == [2, 2, 2] and output == ""
    assert messages.count("error: --out:") == 1 and messages.count("error") == 1 and "Traceback" not in messages


@pytest.mark.faults
def test_ray_starts_the_ranks_and_starts_them_again(options: dict[str, Any], of_two: Path, tmp_path: Path) -> None:
    require("ray")
    out = tmp_path / "ray"
    by_ray = (*TRAIN, "--distributed", "--launcher=ray", "--ranks=2", "--json", *arguments(options), f"--out={out}")
    with process(*by_ray, TMPDIR="/tmp") as driver:
        wait_for_epochs(out, 3, [driver])
        workers = [pid for pid, command in descendants(driver.pid).items() if "RayTrainWorker" in command]
        assert len(workers) == 2
        os.kill(workers[0], signal.SIGKILL)
        codes, output, messages = ends([driver])
    assert codes == [0], messages
    assert messages.count("2 ranks started by Ray") == 2 and "going on after" in messages
    assert '"ranks": 2' in output and output.count("\n") == 1
    assert_same_run(of_two, out)


def test_plain_ray_cannot_start_ranks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`pip install ray` has no Ray Train's dependencies."""
    require("ray")
    from dqk.training._ray_train import train_pos_by_ray

    monkeypatch.setitem(sys.modules, "ray.train.torch", None)
    with pytest.raises(BackendUnavailableError, match=r"pip install 'dqk\[ray\]'"):
        train_pos_by_ray({}, tmp_path / "run", None, Reporter())
    assert not (tmp_path / "run").exists()
