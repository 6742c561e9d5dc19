"""A progress bar on standard error."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def bar(show: bool, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """Gives a function that advances the bar by so many units; nothing is shown unless `show`."""
    if not show:
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    parts = (TextColumn("kernel matrix"), BarColumn(), MofNCompleteColumn(), TextColumn(unit))
    with Progress(*parts, TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True)) as shown:
        task = shown.add_task("", total=total)
        yield lambda count: shown.advance(task, count)
