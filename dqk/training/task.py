"""What a training loop needs to know about the task that it trains for."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from dqk.training.group import Group
from dqk.training.state import State


class Task(abc.ABC):
    """Samples to train on, what a model is given of them, and how well it does.

    Attributes:
        lengths: what each sample counts for in a batch's mean loss: the words of a sentence, the values that a window asks for.
        counts: whether outputs are right or wrong, so that batches have an accuracy.
    """

    lengths: list[int]
    counts = False

    @abc.abstractmethod
    def describe(self) -> str:
        """The data in a line."""

    @abc.abstractmethod
    def inputs(
        self, state: State, batch: list[int], lengths: list[int], rows: list[int]
    ) -> tuple[tuple[Any, ...], Tensor]:
        """What the model is called with, and the targets.

        Args:
            state: where the run stands: what is drawn at random follows from it.
            batch: samples of the whole batch, by their numbers.
            lengths: of those samples.
            rows: positions in the batch of the samples that are asked for.
        """

    @abc.abstractmethod
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Sum of the losses of what `lengths` counts."""

    def count_correct(self, outputs: Tensor, targets: Tensor) -> int:
        """How many outputs are right."""
        return 0

    @abc.abstractmethod
    def evaluate(self, model: nn.Module, group: Group) -> Mapping[str, float]:
        """Metrics on the samples that decide which epoch is best, `eval_loss` among them; all ranks of the group call it."""
