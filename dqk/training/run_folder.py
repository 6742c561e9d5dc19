"""The folder of a training run: which files it has, and how it is made, opened and protected.

| file | holds |
|---|---|
| `config.json` | the options of the run and the digests of its data |
| `vocabulary.json` | words and tags in the order of their numbers, of a tagger |
| `metrics.jsonl` | one JSON document per epoch |
| `last.safetensors` | everything needed to go on: parameters, optimiser, random state, position, metrics |
| `best.safetensors` | the parameters with the best accuracy, or loss where there is none |
| `curves.png` | loss and accuracy over the epochs |
| `forecast.png`, `forecast.csv` | truth and forecasts of the test part, of a forecaster |
| `result.json` | what the run came to, once it is finished |
| `lease.json` | which process trains into the folder, while one does, see `dqk._lease` |
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from dqk._lease import Lease
from dqk.data import Vocabulary
from dqk.errors import CheckpointError, InvalidInputError
from dqk.training.config import TrainConfig, resolve
from dqk.training.files import read_json, write_atomic, write_json
from dqk.training.hints import command

_PARENT = Path("runs")
_LEASE = "lease.json"
_RESULTS = {"pos": {"accuracy", "correct", "loss", "tokens"}, "forecast": {"rmse", "mae", "loss", "validation_rmse"}}
"""What a whole result has at least."""


class RunFolder:
    """Paths and small files of a run.

    Args:
        path: the folder.
        lease: the right to write to it; None for a folder that is only read.
        task: what the run trains for, as in `dqk train TASK`.
    """

    def __init__(self, path: Path, lease: Lease | None = None, task: str = "pos"):
        self.path = path
        self.lease = lease
        self.task = task
        self.metrics = path / "metrics.jsonl"
        self.last = path / "last.safetensors"
        self.best = path / "best.safetensors"
        self.curves = path / "curves.png"
        self._config = path / "config.json"
        self._vocabulary = path / "vocabulary.json"
        self._result = path / "result.json"

    @classmethod
    def create(cls, out: str | os.PathLike[str] | None, config: TrainConfig, take_over: bool = False) -> RunFolder:
        """Makes the folder of a new run and takes its lease.

        Args:
            out: the folder, which must be missing or empty; None for a new one under `runs`.
            config: the model and seed name a folder that is not given.
            take_over: takes the lease from a process that may still run.

        Raises:
            InvalidInputError: if the folder has content.
            LeaseError: if another process is about to use the folder.
            CheckpointError: if the folder cannot be made.
        """
        if out is None:
            path = new_folder(config)
            return cls(path, Lease.acquire(path / _LEASE, take_over), config.task)
        path = Path(out)
        try:
            path.mkdir(parents=True, exist_ok=True)
            occupied = _has_content(path)
        except OSError as error:
            raise CheckpointError(
                f"cannot make the run folder {path}: {error.strerror or error}; name another one with --out"
            ) from error
        if not occupied or (path / _LEASE).exists():  # else nothing is written to the folder, not even a lease
            lease = Lease.acquire(path / _LEASE, take_over)
            if not _has_content(path):
                return cls(path, lease, config.task)
            lease.release()
        raise InvalidInputError(
            f"--out: {path} is not empty; name another folder, or go on with the run in it: "
            f"{command('train', config.task, '--resume', str(path))}"
        )

    @staticmethod
    def is_run(path: str | os.PathLike[str]) -> bool:
        """Whether a folder holds a run that can go on."""
        return RunFolder(Path(path))._config.is_file()

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> RunFolder:
        """The folder of a run that exists, to read from.

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

    @classmethod
    def open_to_write(cls, path: str | os.PathLike[str], take_over: bool = False) -> RunFolder:
        """The folder of a run that exists, with its lease.

        Args:
            path: the folder.
            take_over: takes the lease from a process that may still run.

        Raises:
            CheckpointError: if it is not one.
            LeaseError: names the process that trains into it.
        """
        return cls(cls.open(path).path, Lease.acquire(Path(path) / _LEASE, take_over))

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Gives the lease up."""
        if self.lease is not None:
            self.lease.release()

    def check_lease(self) -> None:
        """Before writing: says that this process is alive.

        Raises:
            LeaseError: if another process has taken the folder over: nothing may be written any more.
        """
        if self.lease is not None:
            self.lease.refresh()

    @property
    def resume_command(self) -> str:
        """What to type to go on with the run."""
        return command("train", self.task, "--resume", str(self.path))

    @property
    def remedy_for_best(self) -> str:
        """What to do without the best parameters."""
        if not (self.metrics.exists() and self.metrics.stat().st_size):
            return f"it is written after the first epoch; go on with: {self.resume_command}"
        if self.task != "pos":
            return "restore it from a copy, or train again into another folder"
        last = command("predict", str(self.path), "SENTENCE", "--last")
        return (
            "restore it from a copy, or train again into another folder; the parameters of the last epoch are in "
            f"{self.last.name}, and used by: {last}"
        )

    def write_setup(
        self, config: TrainConfig, digests: Mapping[str, str], vocabulary: Vocabulary | None = None
    ) -> None:
        """Writes what the run is, the configuration last: without it the folder is no run.

        Raises:
            CheckpointError: if that is not possible; the folder is then as it was before.
        """
        from dqk import __version__

        words = {} if vocabulary is None else {"vocabulary": _digest(vocabulary)}
        document = {
            "dqk": __version__,
            "task": config.task,
            "options": config.to_dict(),
            "sha256": {**digests, **words},
        }
        known = self._vocabulary.exists()
        try:
            if vocabulary is not None:
                write_json(self._vocabulary, vocabulary.to_dict())
            write_json(self._config, document)
        except OSError as error:
            if not known:
                self._vocabulary.unlink(missing_ok=True)
            raise CheckpointError(
                f"cannot write {error.filename}: {error.strerror}; make room in {self.path} or name another folder with "
                "--out, then start again"
            ) from error

    def read_options(self, task: str) -> tuple[TrainConfig, dict[str, str]]:
        """Configuration of a run for some task, and the digests of its data.

        Raises:
            CheckpointError: if it is missing, damaged, from another version or for another task.
        """
        document = read_json(self._config)
        try:
            options, digests = document["options"], dict(document["sha256"])
            self.task = document.get("task", task)
            config = resolve({name: value for name, value in options.items() if value is not None}, self.task)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{self._config} is not the configuration of a run ({error}); restore it from a copy or start a new run"
            ) from error
        if self.task != task:
            raise CheckpointError(
                f"{self.path} is a run of `dqk train {self.task}`, expected one of `dqk train {task}`; "
                f"go on with it by: {self.resume_command}"
            )
        return config, digests

    def read_setup(self) -> tuple[TrainConfig, Vocabulary, dict[str, str]]:
        """What `write_setup` wrote about a tagger.

        Raises:
            CheckpointError: if a file is missing, damaged or from another version, or the run trains something else.
        """
        config, digests = self.read_options("pos")
        try:
            vocabulary = Vocabulary.from_dict(read_json(self._vocabulary))
        except InvalidInputError as error:
            raise CheckpointError(f"{self._vocabulary} is damaged ({error}); start a new run") from error
        if digests.get("vocabulary", expected := _digest(vocabulary)) != expected:
            raise CheckpointError(
                f"{self._vocabulary} is not the one that the run began with (sha256 in {self._config.name}), so that words would "
                "have the numbers of others; restore it from a copy or start a new run"
            )
        return config, vocabulary, digests

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
        if not isinstance(result, dict) or not _RESULTS[self.task] <= result.keys():
            raise CheckpointError(f"{self._result} is damaged; remove it, then resume the run to write it anew")
        return result


def _digest(vocabulary: Vocabulary) -> str:
    return hashlib.sha256(json.dumps(vocabulary.to_dict()).encode()).hexdigest()


def _has_content(path: Path) -> bool:
    """Whether a folder has more than a lease and what guards it."""
    return any(not entry.name.removeprefix(".").startswith(_LEASE) for entry in path.iterdir())


def new_folder(config: TrainConfig) -> Path:
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
