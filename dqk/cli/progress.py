"""How a training run shows itself on standard error: a bar on a terminal, some lines anywhere else."""

from __future__ import annotations

import math
from types import TracebackType
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from dqk.cli.output import stderr
from dqk.training.config import TrainConfig
from dqk.training.loop import Reporter, State, Trainer
from dqk.training.models import count_parameters
from dqk.training.pos import kernel_of

_LINES = 20  # at most, where there is no terminal
_MANY_QUBITS = 10_000


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

    def started(self, trainer: Trainer) -> None:
        """Says what is trained and starts the bar."""
        config, state = trainer.config, trainer.state
        self._epochs, self._n_batches = config.epochs, trainer.n_batches
        self._print(
            f"{config.model}: {count_parameters(trainer.model)} parameters; {len(trainer.train)} sentences of "
            f"{sum(map(len, trainer.train))} words to train on, {len(trainer.vocabulary.words)} words and "
            f"{len(trainer.vocabulary.tags)} tags distinct"
        )
        kernel = kernel_of(trainer.model)
        if kernel is not None:
            self._print(f"kernel: {kernel}")
        self._print(f"run folder: {trainer.folder.path}")
        group = trainer.group
        if group.launcher:
            share = "each takes a part of every batch" if group.size > 1 else "so that it trains alone"
            self._print(f"{group.size} rank{'s' * (group.size > 1)} started by {group.launcher}, {share}")
        if state.epoch or state.batch:
            self._print(f"going on after {state.epoch} epochs and {state.batch} batches")
        self._bar.start()
        self._task = self._bar.add_task("", total=self._epochs * self._n_batches, epoch="", metrics="")
        self._update(state)
        self._bar.refresh()  # the first batch may compile for a while

    def batch(self, state: State) -> None:
        """Moves the bar."""
        loss, accuracy = state.loss_sum / state.tokens, state.correct / state.tokens
        self._update(state, f"loss {loss:.4f} accuracy {accuracy:.3f}")

    def epoch(self, line: dict[str, Any]) -> None:
        """Prints a line where there is no terminal."""
        every = math.ceil(self._epochs / _LINES)
        if self._bar.disable and (line["epoch"] % every == 0 or line["epoch"] in (1, self._epochs)):
            self._print(
                f"epoch {line['epoch']}/{self._epochs}: loss {line['train_loss']:.4f}, "
                f"then {line['eval_loss']:.4f} and accuracy {line['eval_accuracy']:.4f}, in {line['seconds']:.2f} s"
            )

    def _update(self, state: State, metrics: str = "first batch ...") -> None:
        done = state.epoch * self._n_batches + state.batch
        shown = f"{min(state.epoch + 1, self._epochs)}/{self._epochs}"
        self._bar.update(self._task, completed=done, epoch=shown, metrics=metrics)

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)
