"""How a training run shows itself on standard error: a bar on a terminal, some lines anywhere else."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from dqk.cli.output import stderr
from dqk.training.config import TrainConfig
from dqk.training.state import Facts, Reporter, State

_LINES = 20  # at most, where there is no terminal
_MANY_QUBITS = 10_000
_EVERY_S = 15.0  # a line this often where there is no terminal


@contextlib.contextmanager
def counting(what: str) -> Iterator[Callable[[int, int], None]]:
    """Shows how many of some things are done; gives what is to be told that, and of how many."""
    console = stderr()
    columns = TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn("left"), TimeRemainingColumn()
    said = time.monotonic()
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None)

        def heard(done: int, total: int) -> None:
            nonlocal said
            bar.update(task, completed=done, total=total)
            if bar.disable and (time.monotonic() - said > _EVERY_S or done == total):
                said = time.monotonic()
                console.print(f"{done} of {total} {what}", markup=False)

        yield heard


class ProgressReporter(Reporter):
    """Shows epochs, loss, accuracy and time left; used as a context manager."""

    def __init__(self) -> None:
        self._console = stderr()
        self._bar = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[metrics]}"),
            TextColumn("elapsed"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._epochs = 0
        self._n_batches = 0
        self._counts = False
        self._task: TaskID | None = None

    def __enter__(self) -> ProgressReporter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def preparing(self, config: TrainConfig) -> None:
        """Says that large circuits take a while."""
        qubits = config.n_qubits if config.applies("n_qubits") else 0
        if qubits >= _MANY_QUBITS:
            self._print(
                f"preparing circuits of {qubits:,} qubits, which takes minutes and gigabytes per million of them ..."
            )

    def began(self, facts: Facts) -> None:
        """Says what is trained and starts the bar."""
        self._epochs, self._n_batches = facts.epochs, facts.batches
        self._counts = facts.counts
        self._print(f"{facts.model}: {facts.parameters} parameters; {facts.data}")
        if facts.kernel is not None:
            self._print(f"kernel: {facts.kernel}")
        self._print(f"run folder: {facts.folder}")
        if facts.launcher:
            share = "each takes a part of every batch" if facts.ranks > 1 else "so that it trains alone"
            self._print(f"{facts.ranks} rank{'s' * (facts.ranks > 1)} started by {facts.launcher}, {share}")
        epoch, batch = facts.done
        if epoch or batch:
            self._print(f"going on after {epoch} epochs and {batch} batches")
        if self._task is None:  # else ranks were lost and have begun again
            self._bar.start()
            self._task = self._bar.add_task("", total=self._epochs * self._n_batches, epoch="", metrics="")
        self._update(State(epoch, batch))
        self._bar.refresh()  # the first batch may compile for a while

    def batch(self, state: State) -> None:
        """Moves the bar."""
        accuracy = f" accuracy {state.correct / state.tokens:.3f}" if self._counts else ""
        self._update(state, f"loss {state.loss_sum / state.tokens:.4f}{accuracy}")

    def epoch(self, line: dict[str, Any]) -> None:
        """Prints a line where there is no terminal."""
        every = math.ceil(self._epochs / _LINES)
        if self._bar.disable and (line["epoch"] % every == 0 or line["epoch"] in (1, self._epochs)):
            accuracy = f" and accuracy {line['eval_accuracy']:.4f}" if self._counts else ""
            self._print(
                f"epoch {line['epoch']}/{self._epochs}: loss {line['train_loss']:.4f}, "
                f"then {line['eval_loss']:.4f}{accuracy}, in {line['seconds']:.2f} s"
            )

    def _update(self, state: State, metrics: str = "first batch ...") -> None:
        done = state.epoch * self._n_batches + state.batch
        shown = f"{min(state.epoch + 1, self._epochs)}/{self._epochs}"
        assert self._task is not None
        self._bar.update(self._task, completed=done, epoch=shown, metrics=metrics)

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)
