"""A run that was stopped, wherever and however, ends in the numbers of one that was not."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dqk.errors import CheckpointError, InvalidInputError
from dqk.training.checkpoint import load_checkpoint, save_checkpoint
from dqk.training.interrupt import Interrupted, StopRequest
from dqk.training.loop import Reporter, State
from dqk.training.pos import resume_pos, train_pos
from dqk.training.predict import predict_tags
from tests.training.corpus import write_corpus


def numbers(folder: Path) -> list[dict[str, Any]]:
    """The metrics without the time they took."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def assert_same_run(first: Path, second: Path) -> None:
    assert numbers(first) == numbers(second)
    for name in ("best.safetensors", "last.safetensors"):
        a, b = (load_checkpoint(folder / name, "")[0] for folder in (first, second))
        assert a.keys() == b.keys()
        for key in a:
            assert a[key].numpy().tobytes() == b[key].numpy().tobytes(), key


class StopAfter(Reporter):
    """Sends this process a signal after some batches."""

    def __init__(self, batches: int, number: int):
        self.left, self.number = batches, number

    def batch(self, state: State) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("model", ["qklstm", "lstm"])
@pytest.mark.parametrize("batches", [1, 3, 5, 8])
def test_stopped_after_any_batch(model: str, batches: int, small: dict, tmp_path: Path) -> None:
    """Three batches an epoch, three epochs: first, last of an epoch, middle, last but one."""
    options = {name: value for name, value in small.items() if model == "qklstm" or not name.startswith("n_")}
    options["model"] = model
    whole = train_pos(options, tmp_path / "whole")
    with pytest.raises(Interrupted, match="--resume") as error:
        train_pos(options, tmp_path / "parts", StopAfter(batches, signal.SIGINT))
    assert error.value.exit_code == 130
    assert len(numbers(tmp_path / "parts")) == (batches - 1) // 3
    result = resume_pos(tmp_path / "parts", {})
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    for name in whole.keys() - {"seconds", "run_dir"}:
        assert result[name] == whole[name], name


def test_stopped_again_and_again(small: dict, tmp_path: Path) -> None:
    train_pos(small, tmp_path / "whole")
    with pytest.raises(Interrupted):
        train_pos(small, tmp_path / "parts", StopAfter(1, signal.SIGTERM))
    for _ in range(3):
        with pytest.raises(Interrupted) as error:
            resume_pos(tmp_path / "parts", {}, StopAfter(2, signal.SIGTERM))
        assert error.value.exit_code == 143
    resume_pos(tmp_path / "parts", {})
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_more_epochs_continue_a_finished_run(small: dict, tmp_path: Path) -> None:
    train_pos({**small, "epochs": 4}, tmp_path / "whole")
    train_pos({**small, "epochs": 2}, tmp_path / "parts")
    result = resume_pos(tmp_path / "parts", {"epochs": 4})
    assert result["epochs"] == 4
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    assert resume_pos(tmp_path / "parts", {"epochs": 4}) == result  # finished: nothing is trained
    with pytest.raises(InvalidInputError, match="epochs: 2, but the run has 4"):
        resume_pos(tmp_path / "parts", {"epochs": 2})


def test_a_finished_run_gives_its_result_wherever_it_is(small: dict, tmp_path: Path) -> None:
    result = train_pos(small, tmp_path / "run")
    content = {entry.name: entry.read_bytes() for entry in (tmp_path / "run").iterdir()}
    (tmp_path / "run").rename(tmp_path / "moved")
    again = resume_pos(tmp_path / "moved", {})
    assert again == {**result, "run_dir": str(tmp_path / "moved")}
    assert {entry.name: entry.read_bytes() for entry in (tmp_path / "moved").iterdir()} == content


def test_contradictions_are_refused_by_name(small: dict, tmp_path: Path) -> None:
    train_pos({**small, "epochs": 1}, tmp_path / "run")
    with pytest.raises(InvalidInputError) as error:
        resume_pos(tmp_path / "run", {"hidden_dim": 7, "seed": 2, "learning_rate": small["learning_rate"]})
    assert "--hidden-dim: 7, but the run has 5" in str(error.value)
    assert "seed: 2, but the run has 1" in str(error.value)
    assert "--learning-rate" not in str(error.value)


def test_other_data_are_refused_and_a_copy_of_the_same_is_not(small: dict, corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        train_pos(small, tmp_path / "run", StopAfter(2, signal.SIGINT))
    copy = tmp_path / "copy.conllu"
    corpus.rename(copy)
    write_corpus(corpus, 30, seed=5)
    with pytest.raises(CheckpointError, match="other sentences"):
        resume_pos(tmp_path / "run", {})
    resume_pos(tmp_path / "run", {"data": str(copy)})


@pytest.mark.parametrize("name", ["last.safetensors", "config.json", "vocabulary.json"])
@pytest.mark.parametrize("damage", ["cut", "removed"])
def test_damage_is_named_and_nothing_is_overwritten(name: str, damage: str, small: dict, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(Interrupted):
        train_pos(small, run, StopAfter(5, signal.SIGINT))
    if damage == "cut":
        (run / name).write_bytes((run / name).read_bytes()[:-20])
    else:
        (run / name).unlink()
    before = {entry.name: entry.read_bytes() for entry in run.iterdir()}
    with pytest.raises(CheckpointError, match=name):
        resume_pos(run, {})
    assert {entry.name: entry.read_bytes() for entry in run.iterdir()} == before


@pytest.mark.parametrize("content", ["[]", '{"options": 3}', '{"options": {"epochs": "x"}, "sha256": {}}', "{}"])
def test_a_configuration_that_is_none_is_named(content: str, small: dict, tmp_path: Path) -> None:
    train_pos({**small, "epochs": 1}, tmp_path / "run")
    (tmp_path / "run" / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match="config.json is not the configuration of a run"):
        resume_pos(tmp_path / "run", {})


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_again(small: dict, tmp_path: Path) -> None:
    train_pos(small, tmp_path / "whole")
    with pytest.raises(Interrupted):
        train_pos(small, tmp_path / "parts", StopAfter(1, signal.SIGINT))
    for name in ("last.safetensors", "metrics.jsonl"):
        (tmp_path / "parts" / name).unlink()
    resume_pos(tmp_path / "parts", {})
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.faults
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_killed_process(number: signal.Signals, small: dict, tmp_path: Path) -> None:
    options = {**small, "epochs": 20}
    run = tmp_path / "parts"
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    command = [sys.executable, "-m", "dqk", "train", "pos", "--out", str(run), *arguments, "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    metrics, deadline = run / "metrics.jsonl", time.monotonic() + 250
    while not metrics.exists() or len(metrics.read_text().splitlines()) < 3:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(number)
    output, messages = process.communicate(timeout=60)
    assert process.returncode == {signal.SIGKILL: -9, signal.SIGINT: 130, signal.SIGTERM: 143}[number]
    assert output == "" and "Traceback" not in messages
    if number != signal.SIGKILL:
        assert f"--resume {run}" in messages
    assert 3 <= len(numbers(run)) < 20
    train_pos(options, tmp_path / "whole")
    resume_pos(run, {})
    assert_same_run(tmp_path / "whole", run)


def test_a_second_signal_is_obeyed_at_once() -> None:
    with pytest.raises(KeyboardInterrupt), StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        while stop.number is None:
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_a_launcher_passes_on_counts_as_the_same_signal() -> None:
    with pytest.raises(KeyboardInterrupt), StopRequest(grace_s=0.3) as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.4)
        assert stop.number == signal.SIGTERM
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)


def test_slurms_signal_before_a_time_limit(small: dict, tmp_path: Path) -> None:
    train_pos(small, tmp_path / "whole")
    with pytest.raises(Interrupted, match="--resume") as error:
        train_pos(small, tmp_path / "parts", StopAfter(4, signal.SIGUSR1))
    assert error.value.exit_code == 138
    resume_pos(tmp_path / "parts", {})
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


class Fails(Reporter):
    """Stands for a process that ends without a warning after some batches."""

    def __init__(self, batches: int):
        self.left = batches

    def batch(self, state: State) -> None:
        self.left -= 1
        if self.left == 0:
            raise ZeroDivisionError


@pytest.mark.parametrize(
    ("options", "saved"),
    [({"checkpoint_steps": 2}, (0, 2)), ({"checkpoint_minutes": 1e-6}, (0, 2)), ({"checkpoint_minutes": 0}, None)],
)
def test_checkpoints_within_an_epoch(options: dict, saved: tuple[int, int] | None, small: dict, tmp_path: Path) -> None:
    """Three batches an epoch; the process ends after the third, before the evaluation."""
    with pytest.raises(ZeroDivisionError):
        train_pos({**small, **options}, tmp_path / "parts", Fails(3))
    last = tmp_path / "parts" / "last.safetensors"
    if saved is None:
        assert not last.exists()
    else:
        state = load_checkpoint(last, "")[1]["state"]
        assert (state["epoch"], state["batch"]) == saved
    train_pos(small, tmp_path / "whole")
    resume_pos(tmp_path / "parts", {"checkpoint_steps": 5})  # may change
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_another_kernel_is_refused(small: dict, tmp_path: Path) -> None:
    """As when a new version of the program makes another circuit of the same options."""
    with pytest.raises(Interrupted):
        train_pos(small, tmp_path / "run", StopAfter(2, signal.SIGINT))
    last = tmp_path / "run" / "last.safetensors"
    tensors, document = load_checkpoint(last, "")
    assert document["kernel"]["gates that matter"] == 6  # H, RY, RZ on two qubits; the CNOT cancels
    document["kernel"].update({"gates that matter": 7, "circuit": "0123"})
    save_checkpoint(last, tensors, document)
    with pytest.raises(CheckpointError, match="gates that matter is 6, was 7; circuit is '[0-9a-f]{16}', was '0123'"):
        resume_pos(tmp_path / "run", {})


@pytest.mark.parametrize("path", ["missing", "empty"])
def test_what_is_no_run_folder(path: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="is not a run folder"):
        resume_pos(tmp_path / path, {})


def test_an_edited_configuration_is_not_believed(tmp_path):
    """The same numbers as an uninterrupted run need the same options."""
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "dqk", "train", "pos"]
    subprocess.run([*command, "--epochs", "1", "--out", str(folder)], check=True, capture_output=True, timeout=250)
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 5'))
    before = (folder / "last.safetensors").read_bytes()
    done = subprocess.run(
        [*command, "--epochs", "2", "--resume", str(folder)], capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 1
    assert "seed is 5, was 0" in done.stderr
    assert (folder / "last.safetensors").read_bytes() == before


def test_words_with_the_numbers_of_others(small: dict, tmp_path: Path) -> None:
    """A vocabulary in another order is noticed, by a run that goes on and by a prediction."""
    train_pos({**small, "epochs": 1}, tmp_path / "run")
    file = tmp_path / "run" / "vocabulary.json"
    vocabulary = json.loads(file.read_text())
    vocabulary["words"] = vocabulary["words"][::-1]
    file.write_text(json.dumps(vocabulary))
    with pytest.raises(CheckpointError, match="words would have the numbers of others"):
        resume_pos(tmp_path / "run", {"epochs": 2})
    with pytest.raises(CheckpointError, match="words would have the numbers of others"):
        predict_tags(tmp_path / "run", "the noun1")


def test_a_result_without_content(small: dict, tmp_path: Path) -> None:
    """Is damaged, and named."""
    train_pos({**small, "epochs": 1}, tmp_path / "run")
    (tmp_path / "run" / "result.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"result.json is damaged; remove it"):
        resume_pos(tmp_path / "run", {})
