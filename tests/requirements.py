"""What a test needs of the machine: without it the test is skipped with the reason, or fails where it is required.

`DQK_REQUIRE=ray,mpi` names what the machine is known to have, so that continuous integration cannot skip it by accident.
"""

import functools
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest


def mpiexec() -> str | None:
    """The MPI launcher beside this interpreter, else the one on PATH."""
    return shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or shutil.which("mpiexec")


def _ray() -> str | None:
    return None if importlib.util.find_spec("ray") else "ray is not installed"


def _mpi() -> str | None:
    if mpiexec() is None:
        return "there is no mpiexec"
    return _fails(sys.executable, "-c", "from mpi4py import MPI")


def _tmpfs() -> str | None:
    return _fails("unshare", "--user", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "none", "/tmp")


def _slurm() -> str | None:
    from tests.slurm.cluster import missing

    return missing()


def _shellcheck() -> str | None:
    return None if shutil.which("shellcheck") else "there is no shellcheck"


def browser() -> str | None:
    """A browser that shows pages without a screen."""
    return next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)


def _browser() -> str | None:
    return None if browser() else "there is neither chromium nor google-chrome"


def _fails(*command: str) -> str | None:
    """The last line that a command says if it does not succeed."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except OSError as error:
        return str(error)
    return None if done.returncode == 0 else f"{command[0]}: {(done.stderr.splitlines() or ['failed'])[-1]}"


MISSING: dict[str, Callable[[], str | None]] = {
    "ray": functools.cache(_ray),
    "mpi": functools.cache(_mpi),
    "slurm": functools.cache(_slurm),
    "browser": functools.cache(_browser),
    "shellcheck": functools.cache(_shellcheck),
    "tmpfs": functools.cache(_tmpfs),  # may mount one in a mount namespace of its own
}
"""For each name a function that says what the machine lacks, or None."""


def require(name: str) -> None:
    """Skips the test that calls it if the machine lacks something; fails it if DQK_REQUIRE names that."""
    required = set(filter(None, os.environ.get("DQK_REQUIRE", "").replace(" ", "").split(",")))
    if unknown := required - MISSING.keys():
        pytest.fail(f"DQK_REQUIRE names {sorted(unknown)}, expected some of {sorted(MISSING)}", pytrace=False)
    reason = MISSING[name]()
    if reason is None:
        return
    if name in required:
        pytest.fail(f"DQK_REQUIRE names {name!r}, but {reason}", pytrace=False)
    pytest.skip(f"needs {name}: {reason}")
