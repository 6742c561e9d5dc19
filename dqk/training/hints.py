"""Command lines in messages: they can be pasted as they are into the shell that started this process."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path


def command(*words: str) -> str:
    """The words after `dqk` as a command line, with whatever name reaches this program from here.

    Args:
        words: unquoted.
    """
    return shlex.join([*_program(), *words])


def _program() -> list[str]:
    """`dqk` if the shell finds this installation by it, else the path of its script or interpreter."""
    script = Path(sys.executable).with_name("dqk")
    if not script.is_file():
        return [_shown(Path(sys.executable)), "-m", "dqk"]
    found = shutil.which("dqk")
    return ["dqk"] if found is not None and os.path.samefile(found, script) else [_shown(script)]


def _shown(path: Path) -> str:
    """Relative to the working folder if it is below it."""
    here = Path.cwd()
    return f".{os.sep}{path.relative_to(here)}" if path.is_relative_to(here) else str(path)
