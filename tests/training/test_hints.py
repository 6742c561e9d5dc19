"""Command lines that messages give: found from the shell that the program was started from."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from dqk.training.hints import command

SCRIPT = Path(sys.executable).with_name("dqk")


def test_a_program_on_the_path_goes_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(SCRIPT.parent))
    assert command("predict", "my run", "it's") == """dqk predict 'my run' 'it'"'"'s'"""


def test_another_program_of_the_same_name_is_not_meant(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "dqk").write_text("#!/bin/sh\n")
    (tmp_path / "dqk").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert Path(shlex.split(command("--version"))[0]).samefile(SCRIPT)


@pytest.mark.parametrize("folder", ["/", str(SCRIPT.parents[1])])
def test_without_an_activated_environment_it_works_all_the_same(monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.chdir(folder)
    done = subprocess.run(command("--version"), shell=True, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout.startswith("dqk ")


def test_an_installation_without_a_script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.chdir(tmp_path)
    assert command("--version") == "./python -m dqk --version"
