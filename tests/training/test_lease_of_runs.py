"""One process at a time trains into a run folder; a full disk costs what was not saved yet, and says how to go on."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from dqk._lease import Holder, Lease
from dqk.errors import InvalidInputError, LeaseError
from dqk.training.interrupt import Interrupted
from dqk.training.loop import Reporter, State
from dqk.training.pos import resume_pos, train_pos
from tests.training.test_resume import StopAfter, assert_same_run

DQK = [sys.executable, "-m", "dqk"]


def words(options: dict[str, Any]) -> list[str]:
    return [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]


@pytest.fixture
def small(small: dict[str, Any]) -> dict[str, Any]:
    """With a network that needs no compiled code: these runs are processes of their own."""
    return {name: value for name, value in small.items() if not name.startswith("n_")} | {"model": "lstm"}


@pytest.fixture
def training(small: dict, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that trains into `run` for longer than any test takes."""
    command = [*DQK, "train", "pos", "--out", "run", *words({**small, "epochs": 100_000})]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "run" / "last.safetensors").exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.faults
def test_a_second_process_is_refused_until_the_first_is_dead(training, small: dict, tmp_path: Path) -> None:
    for arguments in (["--resume", "run"], ["--out", "run"]):
        done = subprocess.run(
            [*DQK, "train", "pos", *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 1
        assert f"run is in use by process {training.pid} on {os.uname().nodename}" in done.stderr
        assert f"kill {training.pid}" in done.stderr
    training.send_signal(signal.SIGKILL)
    training.wait()
    assert (tmp_path / "run" / "lease.json").exists()  # nobody could remove it
    with pytest.raises(Interrupted):
        resume_pos(tmp_path / "run", {}, StopAfter(4, signal.SIGINT))
    assert not (tmp_path / "run" / "lease.json").exists()


def test_a_holder_elsewhere_is_believed_unless_told_otherwise(small: dict, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        train_pos(small, tmp_path / "run", StopAfter(4, signal.SIGINT))
    elsewhere = replace(Holder.this_process(), host="node17", boot_id="another")
    (tmp_path / "run" / "lease.json").write_text(json.dumps(asdict(elsewhere)))
    with pytest.raises(LeaseError, match="node17.*--take-over"):
        resume_pos(tmp_path / "run", {})
    train_pos(small, tmp_path / "whole")
    resume_pos(tmp_path / "run", {}, take_over=True)
    assert_same_run(tmp_path / "whole", tmp_path / "run")


def test_a_folder_that_only_has_a_dead_lease_is_empty(small: dict, tmp_path: Path) -> None:
    """A process that was killed between making the folder and writing into it."""
    (tmp_path / "run").mkdir()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    (tmp_path / "run" / "lease.json").write_text(json.dumps(asdict(replace(Holder.this_process(), pid=ended.pid))))
    train_pos({**small, "epochs": 1}, tmp_path / "run")
    with pytest.raises(InvalidInputError, match="is not empty.*--resume"):
        train_pos(small, tmp_path / "run")


def test_who_lost_the_folder_writes_nothing_more(small: dict, tmp_path: Path) -> None:
    before: dict[str, bytes] = {}

    class TakenOver(Reporter):
        def batch(self, state: State) -> None:
            if state.epoch == 1 and state.batch == 2:
                Lease.acquire(tmp_path / "run" / "lease.json", take_over=True)
                before.update({entry.name: entry.read_bytes() for entry in (tmp_path / "run").iterdir()})

    with pytest.raises(LeaseError, match="taken over by process"):
        train_pos({**small, "epochs": 2}, tmp_path / "run", TakenOver())
    assert {entry.name: entry.read_bytes() for entry in (tmp_path / "run").iterdir()} == before


# Files above a size cannot be written, as on a disk that has so much room left.
_FULL = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2); from dqk.cli import main; "
_FULL += "main(sys.argv[2:])"


def run_on_a_full_disk(room: int, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", _FULL, str(room), *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)


@pytest.mark.faults
def test_a_full_disk_says_how_to_go_on(small: dict, tmp_path: Path) -> None:
    done = run_on_a_full_disk(4000, "train", "pos", "--out", "a run", *words(small), cwd=tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    message = done.stderr.rpartition("error:")[2]
    assert "cannot write a run/last.safetensors: File too large" in message
    assert "make room in a run, then go on with: " in message
    resume = shlex.split(message.partition("go on with:")[2])
    subprocess.run(resume, cwd=tmp_path, check=True, capture_output=True, timeout=120)
    train_pos(small, tmp_path / "whole")
    assert_same_run(tmp_path / "whole", tmp_path / "a run")


@pytest.mark.faults
def test_a_disk_without_room_for_the_beginning(small: dict, tmp_path: Path) -> None:
    """The lease fits, the configuration does not: there is no run, and the same command works later."""
    arguments = ["train", "pos", "--out", "run", *words({**small, "epochs": 1})]
    done = run_on_a_full_disk(600, *arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert "cannot write run/config.json: File too large; make room in run" in done.stderr
    assert list((tmp_path / "run").iterdir()) == []
    subprocess.run([*DQK, *arguments], cwd=tmp_path, check=True, capture_output=True, timeout=120)
