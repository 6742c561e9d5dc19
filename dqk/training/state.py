"""Where a run stands, and who hears of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dqk.training.config import TrainConfig

if TYPE_CHECKING:
    from dqk.training.loop import Trainer


@dataclass
class State:
    """Where a run stands.

    Attributes:
        epoch: finished epochs.
        batch: finished batches of the next one.
        loss_sum: sum of the losses in those batches (of words, say), before each update.
        correct: outputs that were right in them, where a task counts those.
        tokens: losses in them.
        seconds: time spent on them.
        history: metrics of the finished epochs.
    """

    epoch: int = 0
    batch: int = 0
    loss_sum: float = 0.0
    correct: int = 0
    tokens: int = 0
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)

    @property
    def best(self) -> dict[str, Any] | None:
        """Metrics of the best epoch: highest accuracy where there is one, then lowest loss, then first."""
        return min(self.history, key=lambda line: (-line.get("eval_accuracy", 0.0), line["eval_loss"]), default=None)


@dataclass(frozen=True)
class Facts:
    """What there is to say about a run that begins, as plain data.

    Attributes:
        model: kind of network.
        parameters: trainable values.
        data: what it is trained on, in a line.
        counts: whether outputs are right or wrong.
        kernel: what the kernel amounts to, None without one.
        folder: where the run is kept.
        epochs: to be done in all.
        batches: in an epoch.
        ranks: that train together.
        launcher: what started them; empty for a single process.
        done: finished epochs, and batches of the next one.
    """

    model: str
    parameters: int
    data: str
    counts: bool
    kernel: str | None
    folder: str
    epochs: int
    batches: int
    ranks: int
    launcher: str
    done: tuple[int, int]


class Reporter:
    """Hears how a run goes; this one keeps silent."""

    def preparing(self, config: TrainConfig) -> None:
        """Before the model is built, which can take a while if its circuits are large."""

    def started(self, trainer: Trainer) -> None:
        """Before the first batch."""

    def began(self, facts: Facts) -> None:
        """The same as plain data."""

    def batch(self, state: State) -> None:
        """After a batch."""

    def epoch(self, line: dict[str, Any]) -> None:
        """After an epoch, with its metrics."""
