"""The fixtures about the machine and its processes can fail."""

import subprocess
import sys

import pytest

from tests import requirements
from tests.processes import children, none_left_behind, running, session_long

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


def test_a_child_left_behind_is_found_and_ended() -> None:
    with pytest.raises(AssertionError, match="left processes behind.*time.sleep"), none_left_behind(patience_s=0.1):
        process = subprocess.Popen(SLEEP)
    assert process.wait(10) == -9


def test_children_that_end_soon_or_live_long_on_purpose_are_fine() -> None:
    with none_left_behind(patience_s=0.2):
        with session_long():
            process = subprocess.Popen(SLEEP)
        subprocess.run([sys.executable, "-c", ""])
        ended = subprocess.Popen([sys.executable, "-c", ""])
    assert process.pid in children() and running(process.pid)
    process.kill()
    process.wait()
    ended.wait()
    assert not running(process.pid)


def test_requirements(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(requirements.MISSING, "ray", lambda: "it is gone")
    monkeypatch.delenv("DQK_REQUIRE", raising=False)
    with pytest.raises(pytest.skip.Exception, match="needs ray: it is gone"):
        requirements.require("ray")
    monkeypatch.setenv("DQK_REQUIRE", "mpi, ray")
    with pytest.raises(pytest.fail.Exception, match="names 'ray', but it is gone"):
        requirements.require("ray")
    monkeypatch.setitem(requirements.MISSING, "ray", lambda: None)
    requirements.require("ray")
    monkeypatch.setenv("DQK_REQUIRE", "rya")
    with pytest.raises(pytest.fail.Exception, match="rya"):
        requirements.require("ray")
