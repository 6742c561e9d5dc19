"""The training loop: epochs, batches, checkpoints, stopping. Every number follows from the configuration and the data.

The state is saved after every epoch (at most once a second), and within one when a stop is requested; a loop that starts
from a saved state gives bitwise the numbers of one that was never stopped.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dqk.data import TaggedSentence, Vocabulary, collate, epoch_batches
from dqk.data.batches import hide_rare_words
from dqk.errors import CheckpointError, DQKError
from dqk.nn import SequenceTagger
from dqk.training import checkpoint
from dqk.training.config import TrainConfig
from dqk.training.interrupt import Interrupted, StopRequest
from dqk.training.metrics import count_correct, evaluate, token_loss
from dqk.training.run_folder import RunFolder

_SAVE_INTERVAL_S = 1.0  # what a killed process may lose; a durable write takes longer than a short epoch


class DivergenceError(DQKError, ArithmeticError):
    """Training that has left the finite numbers; the message says where."""


@dataclass
class State:
    """Where a run stands.

    Attributes:
        epoch: finished epochs.
        batch: finished batches of the next one.
        loss_sum: sum of the words' losses in those batches, before each update.
        correct: words tagged right in them.
        tokens: words in them.
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
        """Metrics of the best epoch: highest accuracy, then lowest loss, then first."""
        return min(self.history, key=lambda line: (-line["eval_accuracy"], line["eval_loss"]), default=None)


class Reporter:
    """Hears how a run goes; this one keeps silent."""

    def preparing(self, config: TrainConfig) -> None:
        """Before the model is built, which can take a while if its circuits are large."""

    def started(self, trainer: Trainer) -> None:
        """Before the first batch."""

    def batch(self, state: State) -> None:
        """After a batch."""

    def epoch(self, line: dict[str, Any]) -> None:
        """After an epoch, with its metrics."""


class Trainer:
    """Trains a tagger in a run folder.

    Args:
        config: the configuration.
        model: the tagger.
        vocabulary: numbers words and tags.
        train: sentences to train on.
        evaluated: sentences that decide which epoch is best; those to train on if none are held out.
        folder: where the state is saved.
        reporter: hears how it goes.
    """

    def __init__(
        self,
        config: TrainConfig,
        model: SequenceTagger,
        vocabulary: Vocabulary,
        train: tuple[TaggedSentence, ...],
        evaluated: tuple[TaggedSentence, ...],
        folder: RunFolder,
        reporter: Reporter,
    ):
        self.config = config
        self.model = model
        self.vocabulary = vocabulary
        self.train = train
        self.evaluated = evaluated
        self.folder = folder
        self.reporter = reporter
        self.state = State()
        self._best_tensors: dict[str, Tensor] = {}  # not written yet
        self._saved_at = -math.inf
        kind = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[config.optimizer]
        self._optimizer: torch.optim.Optimizer = kind(model.parameters(), lr=config.learning_rate)

    @property
    def n_batches(self) -> int:
        """Batches in an epoch."""
        return math.ceil(len(self.train) / self.config.batch_size)

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or `patience` of them brought nothing better."""
        best, patience = self.state.best, self.config.patience
        stopped = bool(patience and best and self.state.epoch - best["epoch"] >= patience)
        return self.state.epoch >= self.config.epochs or stopped

    def run(self) -> None:
        """Trains until finished, from wherever the state stands.

        Raises:
            Interrupted: after Ctrl-C or SIGTERM, once the state is saved.
            DivergenceError: if the loss is no longer finite.
        """
        self.reporter.started(self)
        threads = torch.get_num_threads()
        torch.set_num_threads(self.config.threads)
        try:
            with StopRequest() as stop:
                while not self.finished:
                    self._epoch(stop)
        finally:
            torch.set_num_threads(threads)

    def _epoch(self, stop: StopRequest) -> None:
        state, started = self.state, time.perf_counter()
        batches = epoch_batches(len(self.train), self.config.batch_size, self.config.seed, state.epoch)
        spent = state.seconds
        self.model.train()
        while state.batch < len(batches):
            self._step(batches[state.batch])
            state.seconds = spent + time.perf_counter() - started
            self.reporter.batch(state)
            if stop.number is not None:
                self.save()
                raise Interrupted(
                    f"in epoch {state.epoch + 1} of {self.config.epochs}, nothing is lost; "
                    f"go on with: {self.folder.resume_command}",
                    stop.number,
                )
        score = evaluate(self.model, self.evaluated, self.vocabulary, self.config.batch_size)
        self._check_finite(score.loss, f"after epoch {state.epoch + 1}")
        line = {
            "epoch": state.epoch + 1,
            "train_loss": state.loss_sum / state.tokens,
            "train_accuracy": state.correct / state.tokens,
            "eval_loss": score.loss,
            "eval_accuracy": score.accuracy,
            "seconds": round(spent + time.perf_counter() - started, 3),
        }
        self.state = State(epoch=state.epoch + 1, history=[*state.history, line])
        if self.state.best is line:
            self._best_tensors = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        if self.finished or time.monotonic() - self._saved_at >= _SAVE_INTERVAL_S:
            self.save()
        else:
            self.folder.write_metrics(self.state.history)
        self.reporter.epoch(line)

    def _step(self, indices: list[int]) -> None:
        config, state = self.config, self.state
        batch = collate([self.train[index] for index in indices], self.vocabulary)
        words = hide_rare_words(batch.words, self.vocabulary, config.seed, state.epoch, state.batch)
        self._optimizer.zero_grad()
        logits = self.model(words, batch.lengths)
        loss, tokens = token_loss(logits, batch.tags)
        value = loss.item()
        self._check_finite(value, f"in epoch {state.epoch + 1}, batch {state.batch + 1}")
        (loss / tokens).backward()
        if config.clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), config.clip)
        self._optimizer.step()
        state.batch += 1
        state.loss_sum += value
        state.correct += count_correct(logits, batch.tags)
        state.tokens += tokens

    def _check_finite(self, loss: float, where: str) -> None:
        if not math.isfinite(loss):
            raise DivergenceError(
                f"the loss is {loss} {where}; the last good state is in {self.folder.path}; "
                f"try a smaller --learning-rate (now {self.config.learning_rate:g}) or --clip"
            )

    def save(self) -> None:
        """Writes the best parameters if they are new, the state, then the metrics that belong to it.

        Raises:
            LeaseError: if another process has taken the folder over.
        """
        self.folder.check_lease()
        if self._best_tensors and self.state.best:
            checkpoint.save_checkpoint(self.folder.best, checkpoint.pack("model", self._best_tensors), self.state.best)
            self._best_tensors = {}
        tensors = {
            **checkpoint.pack("model", self.model.state_dict()),
            **checkpoint.pack("optimizer", checkpoint.optimizer_tensors(self._optimizer)),
            "rng.torch": torch.get_rng_state(),
        }
        checkpoint.save_checkpoint(self.folder.last, tensors, {"state": asdict(self.state), "options": self._options()})
        self.folder.write_metrics(self.state.history)
        self._saved_at = time.monotonic()

    def _options(self) -> dict[str, Any]:
        """What must not change between a checkpoint and its resumption; data files are compared by digest elsewhere."""
        free = {"epochs", "data", "test"}
        return {name: value for name, value in asdict(self.config).items() if name not in free}

    def restore(self) -> None:
        """Goes back to the saved state; to the start if the run was stopped before there was one.

        Raises:
            CheckpointError: if the state is damaged, or missing although there are results.
        """
        # The best parameters alone: a run that was stopped, or found the disk full, while it first saved its state.
        written = (self.folder.last, self.folder.metrics, self.folder.path / "result.json")
        if not any(path.exists() for path in written):
            return
        remedy = f"restore it from a copy or start a new run; {self.folder.best.name} is enough for `dqk predict`"
        tensors, document = checkpoint.load_checkpoint(self.folder.last, remedy)
        try:
            self.state = State(**document["state"])
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"{self.folder.last} has no state of training ({error}); {remedy}") from error
        saved, given = document.get("options", {}), self._options()
        changed = [
            f"{name} is {given.get(name)!r}, was {saved[name]!r}" for name in saved if saved[name] != given.get(name)
        ]
        if changed:
            raise CheckpointError(
                f"the configuration in {self.folder.path} is not the one that {self.folder.last.name} was trained with: "
                f"{'; '.join(changed)}; put the old values back or start a new run"
            )
        if self.state.best is not None:  # a run that goes on for hours should not fail at its end for want of this file
            checkpoint.load_checkpoint(self.folder.best, self.folder.remedy_for_best)
        checkpoint.load_model(self.model, tensors, self.folder.last)
        checkpoint.load_optimizer(self._optimizer, checkpoint.unpack("optimizer", tensors))
        torch.set_rng_state(tensors["rng.torch"])
