"""What a comparison trains and tests on: a treebank or a series, cut into three parts, with units to draw intervals over."""

from __future__ import annotations

import abc
import functools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dqk.data import TaggedSentence, Vocabulary, read_conllu
from dqk.data.batches import encode, pad, sorted_batches
from dqk.data.sentences import digest
from dqk.errors import InvalidInputError
from dqk.training.config import TrainConfig, resolve
from dqk.training.forecast import baselines, load_split
from dqk.training.forecasting import Forecasting
from dqk.training.metrics import most_frequent_tags
from dqk.training.models import build_forecaster, build_tagger
from dqk.training.state import State
from dqk.training.tagging import Tagging
from dqk.training.task import Task

_TOGETHER = 32  # sentences in a batch of a test


class Contest(abc.ABC):
    """Data of a comparison.

    Attributes:
        metric: what is compared.
        unit: what intervals are drawn over, beside seeds.
        sizes: words or values of each test unit, shape (U,).
        root: whether totals are squared errors, of which the metric is the root of the mean.
        digest: of the data.
        data: the data in a sentence.
    """

    metric: str
    unit: str
    sizes: np.ndarray
    root: bool
    digest: str
    data: str

    @property
    def higher_is_better(self) -> bool:
        """Whether a larger score is the better one."""
        return not self.root

    @abc.abstractmethod
    def build(self, config: TrainConfig) -> nn.Module:
        """A model with freshly drawn parameters."""

    @abc.abstractmethod
    def task(self, config: TrainConfig) -> Task:
        """Training and validation part."""

    @abc.abstractmethod
    def validation(self, state: State) -> float:
        """Score of the best epoch on the validation part."""

    @abc.abstractmethod
    def totals(self, model: nn.Module, config: TrainConfig) -> np.ndarray:
        """Right words, or squared errors, of each test unit, shape (U,)."""

    @abc.abstractmethod
    def baselines(self) -> dict[str, np.ndarray]:
        """Totals of what needs no training by gradients, by title."""


class PosContest(Contest):
    """Part-of-speech tagging: accuracy on words of sentences that were in no training or validation.

    Args:
        options: `data`, and `test` or `test_part`; `held_out`; `first`, so many sentences of the data alone, 0 for all.
    """

    metric, unit, root = "accuracy", "sentences", False

    def __init__(self, options: Mapping[str, Any]):
        sentences = read_conllu(options["data"])
        sentences = sentences[: options["first"] or len(sentences)]
        n_test = 0 if options.get("test") else math.ceil(options["test_part"] * len(sentences))
        n_held_out = math.ceil(options["held_out"] * len(sentences))
        cuts = len(sentences) - n_test - n_held_out, len(sentences) - n_test
        if cuts[0] < 1 or not n_held_out or not (n_test or options.get("test")):
            raise InvalidInputError(
                f"{len(sentences)} sentences of {options['data']} are {max(cuts[0], 0)} to train on, {n_held_out} for validation "
                f"and {n_test} for the test; each part needs one at least"
            )
        self.train, self.held_out = tuple(sentences[: cuts[0]]), tuple(sentences[cuts[0] : cuts[1]])
        self.test = tuple(read_conllu(options["test"])) if options.get("test") else tuple(sentences[cuts[1] :])
        self.vocabulary = Vocabulary.of(self.train)
        self.sizes = np.array([len(sentence) for sentence in self.test], float)
        self.digest = digest(self.train + self.held_out + self.test)
        source = Path(options["data"]).name + (f" and {Path(options['test']).name}" if options.get("test") else "")
        self.data = (
            f"{source}: {len(self.train)} sentences to train on, {len(self.held_out)} for validation, {len(self.test)} "
            f"({int(self.sizes.sum())} words) for the test, in the order of the file"
        )

    def build(self, config: TrainConfig) -> nn.Module:
        """A tagger."""
        return build_tagger(config, self.vocabulary)

    def task(self, config: TrainConfig) -> Tagging:
        """Sentences."""
        return Tagging(config, self.vocabulary, self.train, self.held_out)

    def validation(self, state: State) -> float:
        """Accuracy."""
        assert state.best is not None
        return float(state.best["eval_accuracy"])

    @torch.no_grad()
    def totals(self, model: nn.Module, config: TrainConfig) -> np.ndarray:
        """Right words of each sentence."""
        model.eval()
        encoded, found = encode(self.test, self.vocabulary), np.zeros(len(self.test))
        for indices in sorted_batches([len(sentence) for sentence in self.test], _TOGETHER):
            batch = pad([encoded[index] for index in indices], self.vocabulary)
            right = model(batch.words, batch.lengths).argmax(-1) == batch.tags
            found[indices] = right.sum(dim=1).numpy()
        return found

    def baselines(self) -> dict[str, np.ndarray]:
        """Every word's most frequent tag."""
        tag_of = most_frequent_tags(self.train)

        def right(sentence: TaggedSentence) -> int:
            return sum(tag_of(word) == tag for word, tag in zip(sentence.words, sentence.tags, strict=True))

        return {"every word's most frequent tag": np.array([right(sentence) for sentence in self.test], float)}


class ForecastContest(Contest):
    """Forecasts: RMSE on the last part of a series. Windows that overlap are no independent units, so seasons are drawn.

    Args:
        options: as of `dqk train forecast`.
    """

    metric, root = "RMSE", True

    def __init__(self, options: Mapping[str, Any]):
        self.split = load_split(resolve(options, "forecast"))
        series, count = self.split.series, len(self.split.test)
        length = max(series.season or 0, self.split.horizon)
        n_blocks = max(1, count // length)
        self._block_of = np.minimum(np.arange(count) // length, n_blocks - 1)  # the last one takes the rest
        self.unit = f"blocks of {length} successive windows"
        self.sizes = np.bincount(self._block_of) * float(self.split.horizon)
        self.digest = series.digest
        self.data = Forecasting(resolve(options, "forecast"), self.split).describe()
        if series.note:
            self.data += f" ({series.note})"

    def build(self, config: TrainConfig) -> nn.Module:
        """A forecaster."""
        return build_forecaster(config, torch.from_numpy(self.split.train.inputs).reshape(-1, 1).float())

    def task(self, config: TrainConfig) -> Forecasting:
        """Windows."""
        return Forecasting(config, self.split)

    def validation(self, state: State) -> float:
        """RMSE in the units of the series."""
        assert state.best is not None
        return float(state.best["eval_rmse"])

    def totals(self, model: nn.Module, config: TrainConfig) -> np.ndarray:
        """Squared errors of each block."""
        return self._squared(self.task(config).forecasts(model, self.split.test))

    def baselines(self) -> dict[str, np.ndarray]:
        """Persistence, the last season, and the best linear map."""
        titles = {"seasonal_naive": "seasonal naive", "autoregression": "linear autoregression (least squares)"}
        found = baselines(self.split, self.split.test)
        return {titles.get(name, name): self._squared(values) for name, values in found.items()}

    def _squared(self, forecasts: np.ndarray) -> np.ndarray:
        errors = np.square(forecasts - self.split.test.truth).sum(axis=1)
        return np.bincount(self._block_of, errors)


def open_contest(task: str, options: Mapping[str, Any]) -> Contest:
    """The data of a comparison, read once in each process.

    Args:
        task: `pos` or `forecast`.
        options: of the data, see the classes.
    """
    return _open(task, json.dumps(options, sort_keys=True))


@functools.lru_cache(maxsize=2)
def _open(task: str, options: str) -> Contest:
    kind = {"pos": PosContest, "forecast": ForecastContest}[task]
    return kind(json.loads(options))
