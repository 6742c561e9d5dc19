"""Fleets of services: started together, found again from any shell, ended without touching anything else."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest

from dqk._lease import Holder
from dqk.cli import main
from dqk.errors import InvalidInputError
from dqk.qpu.running import RECORD, Running, Service
from tests.processes import running, wait_for_end
from tests.qpu.server import until

pytestmark = [pytest.mark.qpu, pytest.mark.timeout(120)]

FLEET = """
name = "two kinds"
[[qpu]]
name = "alike"
count = 2
qubits = 3
[[qpu]]
name = "down"
qubits = 4
noise = { readout_0 = 0.25 }
outage = [{ start_s = 0, duration_s = 100000 }]
[[worker]]
name = "gpu"
entries_per_s = 10
"""
TOO_WIDE = '[[qpu]]\nname = "fits"\nqubits = 2\n[[qpu]]\nname = "wide"\nqubits = 400\n'


def dqk(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A command in a shell of its own; leaves services that it has started behind."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DQK_QPU")}
    return subprocess.run(
        [sys.executable, "-m", "dqk", *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=90,
    )


@contextlib.contextmanager
def cleared(folder: Path) -> Iterator[None]:
    """Ends what the records below a folder name, whatever the test has done."""
    try:
        yield
    finally:
        for record in folder.rglob(RECORD):
            Running.read(record.parent).drop()


def pids(folder: Path) -> dict[str, int]:
    return {one.name: one.process.pid for one in Running.read(folder).services}


def test_a_fleet_from_up_to_drop(tmp_path: Path) -> None:
    (tmp_path / "fleet.toml").write_text(FLEET)
    with cleared(tmp_path):
        done = dqk("qpu", "up", "fleet.toml", "--json", folder=tmp_path)
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout)
        urls = {one["name"]: one["url"] for one in said["services"]}
        assert [(one["name"], one["n_qubits"]) for one in said["services"]] == [
            ("alike-0", 3),
            ("alike-1", 3),
            ("down", 4),
        ]
        assert said["options"] == [word for url in urls.values() for word in ("--qpu", url)]
        assert "dqk qpu drop --all" in done.stderr and "run no service" in done.stderr

        np.save(tmp_path / "X.npy", np.random.default_rng(0).uniform(size=(3, 2)))
        pair = ["--qpu", urls["alike-0"], "--qpu", urls["alike-1"]]
        work = dqk("gram", "X.npy", "--shots", "100", "-o", "K.npy", *pair, folder=tmp_path)
        assert work.returncode == 0, work.stderr
        assert np.load(tmp_path / "K.npy").shape == (3, 3)

        listed = json.loads(dqk("qpu", "list", "--json", folder=tmp_path).stdout)["services"]
        assert [(one["name"], one["state"]) for one in listed] == [
            ("alike-0", "idle"),
            ("alike-1", "idle"),
            ("down", "outage"),
        ]
        assert sum(one["status"]["jobs"]["done"]["jobs"] for one in listed) > 0
        assert listed[2]["status"]["calibration"]["readout_0"] == 0.25
        shown = dqk("qpu", "list", folder=tmp_path)
        assert all(url in shown.stdout for url in urls.values())

        mine = pids(Path(said["folder"]))
        os.kill(mine["alike-1"], signal.SIGKILL)
        assert wait_for_end({mine["alike-1"]}, 10) == set()
        lost = dqk("qpu", "list", folder=tmp_path)
        assert "gone" in lost.stdout and "alike-1 has ended, its log is" in lost.stderr
        assert dqk("qpu", "drop", "alike-0", folder=tmp_path).stdout == "alike-0: ended\n"
        assert not running(mine["alike-0"]) and running(mine["down"])
        assert "'down'" in dqk("qpu", "drop", "dwn", folder=tmp_path).stderr
        assert dqk("qpu", "drop", "--all", folder=tmp_path).stdout == "alike-1: had ended before\ndown: ended\n"
        assert not running(mine["down"])
        assert json.loads(dqk("qpu", "list", "--json", folder=tmp_path).stdout) == {"services": []}


def test_a_service_that_does_not_start_ends_the_others(tmp_path: Path) -> None:
    (tmp_path / "fleet.toml").write_text(TOO_WIDE)
    with cleared(tmp_path):
        done = dqk("qpu", "up", "fleet.toml", "--folder", "here", folder=tmp_path)
        assert done.returncode == 1 and done.stdout == ""
        assert "service wide did not start (exit code 1)" in done.stderr
        assert "--qubits is 400, at most" in done.stderr  # what it said itself
        assert not (tmp_path / "here" / RECORD).exists()
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            assert str(tmp_path).encode() not in process.read_bytes()


def test_in_the_foreground_a_signal_ends_all(tmp_path: Path) -> None:
    (tmp_path / "fleet.toml").write_text('[[qpu]]\nname = "a"\nqubits = 2\n')
    (tmp_path / "tokens").write_text("a-secret\n")
    command = ["qpu", "up", "fleet.toml", "--foreground", "--json", "--folder", "here", "--token-file", "tokens"]
    with cleared(tmp_path):
        process = subprocess.Popen(
            [sys.executable, "-m", "dqk", *command], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert process.stdout is not None
        said = json.loads(process.stdout.readline())
        assert httpx.get(said["services"][0]["url"] + "/limits").status_code == 401
        assert said["options"][2:] == ["--token-file", str(tmp_path / "tokens")]
        mine = pids(tmp_path / "here")
        assert "a-secret" not in (tmp_path / "here" / RECORD).read_text()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        assert process.returncode == 130
        assert not running(mine["a"]) and not (tmp_path / "here" / RECORD).exists()


def test_a_number_that_now_is_another_process_is_left_alone(tmp_path: Path) -> None:
    """The system gives numbers of processes again."""
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        now = Holder.of(other.pid)
        assert now.start_time is not None
        earlier = replace(now, start_time=now.start_time - 1)
        service = Service("a", 2, None, "log", earlier)
        before_boot = replace(service, process=replace(now, boot_id="another"))
        assert service.gone and before_boot.gone
        Running(tmp_path, "f", None, (service, replace(before_boot, name="b"))).write()
        assert Running.read(tmp_path).drop() == {"a": False, "b": False}
        time.sleep(0.1)
        assert other.poll() is None
        same = Running(tmp_path, "f", None, (Service("a", 2, None, "log", now),))
        assert not same.services[0].gone
        assert same.drop() == {"a": True}  # the test can fail: this is the process of the record
        assert other.wait(30) == -signal.SIGTERM
    finally:
        other.kill()
        other.wait()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[[worker]]\nname = "g"\nentries_per_s = 1\n', "has 0 QPUs"),
        ('[[qpu]]\nname = "a"\ncount = 5000\n', "5,000 QPUs"),
        ('[[qpu]]\nname = "a"\nqubit = 3\n', "qubit"),
    ],
)
def test_fleets_that_cannot_be_started(tmp_path: Path, text: str, says: str, monkeypatch, capsys) -> None:  # noqa: ANN001
    (tmp_path / "fleet.toml").write_text(text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["qpu", "up", "fleet.toml"])
    assert ended.value.code == 2 and says in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("text", ["{", "[]", '{"fleet": "f", "token_file": null, "services": [{"name": "a"}]}'])
def test_a_damaged_record_ends_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / RECORD).write_text(text)
    with pytest.raises(InvalidInputError, match="no record of a fleet"):
        Running.read(tmp_path)


def test_a_service_is_in_the_record_before_it_is_ready(tmp_path: Path) -> None:
    """So `up` may be killed in between."""
    (tmp_path / "fleet.toml").write_text('[[qpu]]\nname = "a"\nqubits = 2\n')
    with cleared(tmp_path):
        process = subprocess.Popen(
            [sys.executable, "-m", "dqk", "qpu", "up", "fleet.toml", "--folder", "here"],
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until(lambda: (tmp_path / "here" / RECORD).exists())
        process.kill()
        process.wait()
        mine = pids(tmp_path / "here")
        assert running(mine["a"])
        assert dqk("qpu", "drop", "--all", "--folder", "here", folder=tmp_path).stdout == "a: ended\n"
        assert not running(mine["a"])
