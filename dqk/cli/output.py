"""What goes where: results on standard output, everything else on standard error."""

from __future__ import annotations

import json
import sys
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dqk.training.interrupt import Interrupted, RankEnded


def stderr() -> Console:
    """The console for messages and progress."""
    return Console(stderr=True, highlight=False)


def stdout() -> Console:
    """The console for results."""
    return Console(highlight=False)


def print_json(document: Any) -> None:
    """Prints the one JSON document of a command with `--json`."""
    sys.stdout.write(json.dumps(document, ensure_ascii=False, allow_nan=False) + "\n")


def table(*columns: str, numbers: tuple[str, ...] = ()) -> Table:
    """An empty table in the program's style; columns of numbers are set to the right."""
    result = Table(header_style="bold")
    for name in columns:
        result.add_column(name, justify="right" if name in numbers else "left")
    return result


def counted(number: int, thing: str) -> str:
    """A number of things.

    >>> counted(1, "job"), counted(2000, "job")
    ('1 job', '2,000 jobs')
    """
    return f"{number:,} {thing}{'s' * (number != 1)}"


def report(error: Exception) -> None:
    """Prints an error for people: what was wrong, without a traceback. Nothing if another rank has said it."""
    if isinstance(error, RankEnded):
        return
    console = stderr()
    lines = str(error).splitlines() or [type(error).__name__]
    text = f" {lines[0]}" if len(lines) == 1 else "".join(f"\n  {line}" for line in lines)
    label = ("stopped:", "bold yellow") if isinstance(error, Interrupted) else ("error:", "bold red")
    # soft_wrap: the terminal breaks lines, so that paths can be copied whole and programs can search the text.
    console.print(Text.assemble(label, text), soft_wrap=True)
