"""The folder of a training run: which files it has, and how it is made, opened and protected.

| file | holds |
|---|---|
| `config.json` | the options of the run and the digests of its data |
| `vocabulary.json` | words and tags in the order of their numbers |
| `metrics.jsonl` | one JSON document per epoch |
| `last.safetensors` | everything needed to go on: parameters, optimiser, random state, position, metrics |
| `best.safetensors` | the parameters with the best accuracy |
| `curves.png` | loss and accuracy over the epochs |
| `result.json` | what the run came to, once it is finished |
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dqk.data import Vocabulary
from dqk.errors import CheckpointError, InvalidInputError
from dqk.training.config import TrainConfig, resolve
from dqk.training.files import read_json, write_atomic, write_json

_PARENT = Path("runs")


class RunFolder:
    """Paths and small files of a run.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path):
        self.path = path
        self.metrics = path / "metrics.jsonl"
        self.last = path / "last.safetensors"
        self.best = path / "best.safetensors"
        self.curves = path / "curves.png"
        self._config = path / "config.json"
        self._vocabulary = path / "vocabulary.json"
        self._result = path / "result.json"

    @classmethod
    def create(cls, out: str | os.PathLike[str] | None, config: TrainConfig) -> RunFolder:
        """Makes the folder of a new run.

        Args:
            out: the folder, which must be missing or empty; None for a new one under `runs`.
            config: the model and seed name a folder that is not given.

        Raises:
            CheckpointError: if the folder has content or cannot be made.
        """
        if out is None:
            return cls(_make_new(config))
        path = Path(out)
        try:
            path.mkdir(parents=True, exist_ok=True)
            occupied = any(path.iterdir())
        except OSError as error:
            raise CheckpointError(f"cannot make the run folder {path}: {error.strerror or error}") from error
        if occupied:
            raise CheckpointError(
                f"{path} is not empty; name another folder with --out, or go on with the run in it: --resume {path}"
            )
        return cls(path)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> RunFolder:
        """The folder of a run that exists.

        Raises:
            CheckpointError: if it is not one.
        """
        folder = cls(Path(path))
        if not folder._config.is_file():
            what = "has no config.json" if folder.path.is_dir() else "does not exist"
            raise CheckpointError(
                f"{path} is not a run folder: it {what}; expected the folder that `dqk train` printed"
            )
        return folder

    def write_setup(self, config: TrainConfig, vocabulary: Vocabulary, digests: Mapping[str, str]) -> None:
        """Writes what the run is, the configuration last: without it the folder is no run."""
        from dqk import __version__

        write_json(self._vocabulary, vocabulary.to_dict())
        document = {"dqk": __version__, "task": "pos", "options": config.to_dict(), "sha256": dict(digests)}
        write_json(self._config, document)

    def read_setup(self) -> tuple[TrainConfig, Vocabulary, dict[str, str]]:
        """What `write_setup` wrote.

        Raises:
            CheckpointError: if a file is missing, damaged or from another version.
        """
        document = read_json(self._config)
        try:
            options, digests = document["options"], dict(document["sha256"])
            config = resolve({name: value for name, value in options.items() if value is not None})
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{self._config} is not the configuration of a run ({error}); restore it from a copy or start a new run"
            ) from error
        try:
            return config, Vocabulary.from_dict(read_json(self._vocabulary)), digests
        except InvalidInputError as error:
            raise CheckpointError(f"{self._vocabulary} is damaged ({error}); start a new run") from error

    def write_metrics(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Writes one line per epoch, all of them each time; the checkpoint has them too, and wins."""
        write_atomic(self.metrics, "".join(json.dumps(line) + "\n" for line in history).encode(), durable=False)

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Writes what the run came to."""
        write_json(self._result, result)

    def read_result(self) -> dict[str, Any] | None:
        """What the run came to, None if it is not finished."""
        if not self._result.exists():
            return None
        result = read_json(self._result)
        if not isinstance(result, dict):
            raise CheckpointError(f"{self._result} is damaged; remove it, then resume the run to write it anew")
        return result


def _make_new(config: TrainConfig) -> Path:
    """Makes a folder that no other process has, even if both start in the same second."""
    base = _PARENT / f"{time.strftime('%Y%m%d-%H%M%S')}-{config.model}-seed{config.seed}"
    for number in itertools.count(1):
        path = base if number == 1 else base.with_name(f"{base.name}-{number}")
        try:
            path.mkdir(parents=True)
            break
        except FileExistsError:
            continue
        except OSError as error:
            raise CheckpointError(
                f"cannot make the run folder {path}: {error.strerror or error}; name another one with --out"
            ) from error
    return path
