"""The training loop: epochs, batches, checkpoints, stopping. Every number follows from the configuration and the data.

The state is saved after every epoch (at most once a second), within one as often as the options say, and when a stop is
requested; a loop that starts from a saved state gives bitwise the numbers of one that was never stopped.

Batches belong to the run and not to its ranks. Each rank takes a share of every batch, and its loss is the share's sum over the
words of the *whole* batch: summed over the ranks, gradients are then those of one process, whatever the lengths of the sentences,
which averages of averages are not.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from dqk.data import epoch_batches
from dqk.data.batches import share_of
from dqk.errors import CheckpointError
from dqk.nn.gate_check import warn_of_gates
from dqk.training import checkpoint
from dqk.training.config import FREE, TrainConfig
from dqk.training.group import ALONE, Group
from dqk.training.interrupt import AgreedError, Interrupted, LostRankError, StopRequest
from dqk.training.models import count_parameters, kernel_fingerprint, kernel_of
from dqk.training.optimisers import make_optimizer, set_step_size
from dqk.training.profiling import Phases, measure
from dqk.training.run_folder import RunFolder
from dqk.training.state import Facts, Reporter, State
from dqk.training.task import Task

_PROFILED = 20  # steps
_SAVE_INTERVAL_S = 1.0  # what a killed process may lose; a durable write takes longer than a short epoch


class DivergenceError(AgreedError, ArithmeticError):
    """Training that has left the finite numbers; the message says where."""


class Trainer:
    """Trains a model in a run folder.

    Args:
        config: the configuration.
        model: what is trained.
        task: what for.
        folder: where the state is saved; only rank 0 writes to it.
        reporter: hears how it goes.
        group: the ranks that train together, all of which have a trainer.

    Attributes:
        state: where the run stands.
        stop: a wish to stop, on any rank, which all grant after the same batch.
        heard: who else is given the metrics of an epoch.
    """

    def __init__(
        self,
        config: TrainConfig,
        model: nn.Module,
        task: Task,
        folder: RunFolder,
        reporter: Reporter,
        group: Group = ALONE,
    ):
        self.config = config
        self.model = model
        self.task = task
        self.folder = folder
        self.reporter = reporter
        self.group = group
        self.state = State()
        self.stop = StopRequest(group.grace_s)
        self._lengths = task.lengths
        self._kernel = kernel_fingerprint(model)
        self._best_tensors: dict[str, Tensor] = {}  # not written yet
        self._saved_at = -math.inf
        self._due_from = math.inf
        self._saved_steps = 0
        self._steps = 0  # since this process started
        self._optimizer = make_optimizer(config, model)
        self.phases = Phases()
        self.heard: list[Callable[[dict[str, Any]], None]] = []

    @property
    def n_batches(self) -> int:
        """Batches in an epoch."""
        return math.ceil(len(self._lengths) / self.config.batch_size)

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or `patience` of them brought nothing better."""
        best, patience = self.state.best, self.config.patience
        stopped = bool(patience and best and self.state.epoch - best["epoch"] >= patience)
        return self.state.epoch >= self.config.epochs or stopped

    def run(self) -> None:
        """Trains until finished, from wherever the state stands.

        Raises:
            Interrupted: after Ctrl-C, SIGTERM or SIGUSR1 on any rank, once the state is saved.
            DivergenceError: if the loss is no longer finite.
            LostRankError: if another rank is gone; rank 0, if it is left, has saved the state.
        """
        self.reporter.started(self)
        self.reporter.began(self.facts())
        self._due_from = time.monotonic()
        if self.group.leads and self.state == State():
            warn_of_gates(self.model)
        with self.stop, self._threads():
            try:
                while not self.finished:
                    self._epoch()
            except RuntimeError as error:
                if not self.group.lost(error):
                    raise
                self.stop.end_in_order()
                cause = self.group.cause(error)
                self.save()  # no parameter changes before all ranks have done their part of a step
                raise LostRankError(f"lost another rank: {cause}; go on with: {self.folder.resume_command}") from error

    @contextlib.contextmanager
    def _threads(self) -> Iterator[None]:
        """Torch on as many threads as the options say."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.config.threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def facts(self) -> Facts:
        """What the user is told about the run."""
        return Facts(
            model=self.config.model,
            parameters=count_parameters(self.model),
            data=self.task.describe(),
            counts=self.task.counts,
            kernel=kernel_of(self.model),
            folder=str(self.folder.path),
            epochs=self.config.epochs,
            batches=self.n_batches,
            ranks=self.group.size,
            launcher=self.group.launcher,
            done=(self.state.epoch, self.state.batch),
        )

    def _epoch(self) -> None:
        state, started = self.state, time.perf_counter()
        batches = self._batches(state.epoch)
        spent = state.seconds
        self.model.train()
        while state.batch < len(batches):
            wish = self._step(batches[state.batch])
            state.seconds = spent + time.perf_counter() - started
            self.reporter.batch(state)
            if self.group.size == 1:  # no need to wait for the next step to hear of it
                wish = self.stop.number or 0
            if wish:
                self.save()
                raise Interrupted(
                    f"in epoch {state.epoch + 1} of {self.config.epochs}, nothing is lost; "
                    f"go on with: {self.folder.resume_command}",
                    wish,
                )
            if self._due():
                self.save()
        found = self.task.evaluate(self.model, self.group)
        self._check_finite(found["eval_loss"], f"after epoch {state.epoch + 1}")
        line = {
            "epoch": state.epoch + 1,
            "train_loss": state.loss_sum / state.tokens,
            **({"train_accuracy": state.correct / state.tokens} if self.task.counts else {}),
            **found,
            "learning_rate": self._optimizer.param_groups[0]["lr"],
            "seconds": round(spent + time.perf_counter() - started, 3),
        }
        self.state = State(epoch=state.epoch + 1, history=[*state.history, line])
        if self.state.best is line:
            self._best_tensors = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        if self.finished or time.monotonic() - self._saved_at >= _SAVE_INTERVAL_S:
            self.save()
        elif self.group.leads:
            self.folder.write_metrics(self.state.history)
        for hear in (self.reporter.epoch, *self.heard):
            hear(line)

    def _batches(self, epoch: int) -> list[list[int]]:
        lengths = self._lengths if self.config.bucketing else None
        return epoch_batches(len(self._lengths), self.config.batch_size, self.config.seed, epoch, lengths)

    def _step(self, batch: list[int]) -> int:
        """One batch of the run; gives the number of the signal that some rank was sent, 0 without one."""
        group, state = self.group, self.state
        share = share_of(batch, self._lengths, group.rank, group.size)
        parts = [share[first :: self.config.accumulate] for first in range(min(self.config.accumulate, len(share)))]
        lengths = [self._lengths[index] for index in batch]
        tokens = sum(lengths)
        self._optimizer.zero_grad()
        value, correct = 0.0, 0
        for number, rows in enumerate(parts or [[0]]):
            with self.phases.phase("data"):
                inputs, targets = self.task.inputs(state, batch, lengths, rows)
            with self.phases.phase("forward"):
                outputs = self.model(*inputs)
                loss = self.task.loss(outputs, targets)
            if parts:
                value += loss.item()
                correct += self.task.count_correct(outputs, targets)
            else:  # fewer sentences than ranks: this one takes part without a weight
                loss = loss * 0
            if number + 1 >= len(parts):  # sums travel during the backward pass
                sums = group.gather(value, correct, self.stop.number or 0)
            with self.phases.phase("backward"):
                (loss / tokens).backward()
        with self.phases.phase("all-reduce"):
            group.sum_gradients(self.model)
            values, counts, wishes = zip(*sums(), strict=True)
        value = sum(values)
        self._check_finite(value, f"in epoch {state.epoch + 1}, batch {state.batch + 1}")
        with self.phases.phase("optimiser"):
            if self.config.clip:
                nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
            step, steps = state.epoch * self.n_batches + state.batch, self.config.epochs * self.n_batches
            set_step_size(self._optimizer, self.config, step, steps)
            self._optimizer.step()
        self._steps += 1
        state.batch += 1
        state.loss_sum += value
        state.correct += int(sum(counts))
        state.tokens += tokens
        return int(max(wishes))

    def profile(self) -> dict[str, Any]:
        """Where the time of a step goes, see `dqk.training.profiling`; the trainer is then where it was.

        All ranks of the group have to call it.
        """
        before, tensors = self.state, {name: tensor.clone() for name, tensor in self.tensors().items()}
        batches = self._batches(0)
        count = min(_PROFILED, len(batches))

        def steps(number: int) -> None:
            self.state = State()
            for batch in batches[:number]:
                self._step(batch)

        self.model.train()
        try:
            with self._threads():
                return measure(steps, self.phases, self.model, count)
        finally:
            self.adopt(tensors, before)

    def _due(self) -> bool:
        """Whether the options ask for the state to be saved now."""
        steps, minutes = self.config.checkpoint_steps, self.config.checkpoint_minutes
        if steps and self._steps - self._saved_steps >= steps:
            return True
        return bool(minutes) and time.monotonic() - self._due_from >= 60 * minutes

    def _check_finite(self, loss: float, where: str) -> None:
        if not math.isfinite(loss):
            raise DivergenceError(
                f"the loss is {loss} {where}; the last good state is in {self.folder.path}; "
                f"try a smaller --learning-rate (now {self.config.learning_rate:g}) or --clip"
            )

    def save(self) -> None:
        """Rank 0 writes the best parameters if they are new, the state, then the metrics that belong to it.

        Raises:
            LeaseError: if another process has taken the folder over.
        """
        if not self.group.leads:
            return
        self.folder.check_lease()
        if self._best_tensors and self.state.best:
            checkpoint.save_checkpoint(self.folder.best, checkpoint.pack("model", self._best_tensors), self.state.best)
            self._best_tensors = {}
        document = {"state": asdict(self.state), "options": self._options(), "kernel": self._kernel}
        checkpoint.save_checkpoint(self.folder.last, self.tensors(), document)
        self.folder.write_metrics(self.state.history)
        self._saved_at = self._due_from = time.monotonic()
        self._saved_steps = self._steps

    def tensors(self) -> dict[str, Tensor]:
        """Everything that changes in training, besides the state."""
        return {
            **checkpoint.pack("model", self.model.state_dict()),
            **checkpoint.pack("optimizer", checkpoint.optimizer_tensors(self._optimizer)),
            "rng.torch": torch.get_rng_state(),
        }

    def adopt(self, tensors: Mapping[str, Tensor], state: State) -> None:
        """Goes where another trainer was when it gave its `tensors` and `state`.

        Raises:
            CheckpointError: if they belong to another model.
        """
        checkpoint.load_model(self.model, tensors, self.folder.last)
        checkpoint.load_optimizer(self._optimizer, checkpoint.unpack("optimizer", tensors))
        torch.set_rng_state(tensors["rng.torch"])
        self.state = state

    def _options(self) -> dict[str, Any]:
        """What must not change between a checkpoint and its resumption; data files are compared by digest elsewhere."""
        free = {"epochs", "data", "test", *FREE}
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
            state = State(**document["state"])
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"{self.folder.last} has no state of training ({error}); {remedy}") from error
        self._refuse_changes(document)
        if state.best is not None:  # a run that goes on for hours should not fail at its end for want of this file
            checkpoint.load_checkpoint(self.folder.best, self.folder.remedy_for_best)
        self.adopt(tensors, state)

    def _refuse_changes(self, document: Mapping[str, Any]) -> None:
        saved, given = document.get("options", {}), self._options()
        changed = [
            f"{name} is {given.get(name)!r}, was {saved[name]!r}"
            for name in saved
            if name not in FREE and saved[name] != given.get(name)
        ]
        if changed:
            raise CheckpointError(
                f"the configuration in {self.folder.path} is not the one that {self.folder.last.name} was trained with: "
                f"{'; '.join(changed)}; put the old values back or start a new run"
            )
        kernel = document.get("kernel", self._kernel)
        changed = [
            f"{name} is {self._kernel.get(name)!r}, was {kernel[name]!r}"
            for name in kernel
            if kernel[name] != self._kernel.get(name)
        ]
        if changed:
            raise CheckpointError(
                f"the kernel is not the one that {self.folder.last.name} was trained with: {'; '.join(changed)}; go on with the "
                "version of dqk that config.json names, or start a new run"
            )
