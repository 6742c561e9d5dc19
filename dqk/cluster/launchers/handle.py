"""A job that was handed in, and its run folder, by which it is found again."""

from __future__ import annotations

import abc
import json
import os
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dqk.cluster.launchers.payload import Payload
from dqk.errors import ClusterError, InvalidInputError

_RECORD = "launch.json"
_SILENCE_S = 300.0
_POLL_S = (0.3, 5.0)  # first and last pause between two looks


@dataclass(frozen=True)
class Task:
    """A job, or one job of an array.

    Attributes:
        job: its name in the cluster.
        state: in the cluster's words, such as PENDING or RUNNING.
        ended: whether it has come to its end.
        nodes: where it runs, empty if not yet.
        run_time: how long it has run, as the cluster writes it.
        restarts: how often it was queued again.
        reason: why it waits, or why it ended, if the cluster says so.
        exit_code: of the payload; None before its end, or if the job ended otherwise.
    """

    job: str
    state: str
    ended: bool
    nodes: str = ""
    run_time: str = ""
    restarts: int = 0
    reason: str = ""
    exit_code: int | None = None


class Handle(abc.ABC):
    """What `launch` gives.

    Attributes:
        folder: the run folder, with the script, the log and what was handed in.
        record: what was handed in.
    """

    kind: str

    def __init__(self, folder: Path, record: dict[str, Any]):
        self.folder, self.record = folder, record

    @staticmethod
    def find(run: str | os.PathLike[str]) -> Handle:
        """The job of a run folder.

        Raises:
            InvalidInputError: if the folder is none of `launch`.
        """
        from dqk.cluster.launchers._ray_jobs import RayJob
        from dqk.cluster.launchers.slurm import SlurmJob

        folder = Path(run)
        file = folder / _RECORD
        try:
            record = json.loads(file.read_text())
            kind = {SlurmJob.kind: SlurmJob, RayJob.kind: RayJob}[record["kind"]]
            kind.check(record)
        except FileNotFoundError as error:
            raise InvalidInputError(
                f"{folder} is no run folder of `dqk launch` (there is no {_RECORD} in it); give the folder that it printed"
            ) from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InvalidInputError(f"{file} cannot be read ({error}); look for the job with squeue instead") from error
        return kind(folder.absolute(), record)

    @staticmethod
    def check(record: dict[str, Any]) -> None:
        """Raises ValueError if a record is not one that was written."""
        payload = record.get("payload")
        if not isinstance(payload, list) or not all(isinstance(word, str) for word in payload):
            raise ValueError(f"its payload is {payload!r}")
        if not isinstance(record.get("job"), str):
            raise ValueError(f"its job is {record.get('job')!r}")

    @property
    def payload(self) -> Payload:
        """What it runs."""
        return Payload(tuple(self.record["payload"]))

    @property
    def job(self) -> str:
        """Its name in the cluster."""
        return str(self.record["job"])

    @abc.abstractmethod
    def status(self) -> list[Task]:
        """How it is doing; several tasks for an array.

        Raises:
            ClusterError: if the cluster cannot be asked.
        """

    @abc.abstractmethod
    def log_parts(self) -> dict[str, str]:
        """What it has written so far, each file under its name."""

    def logs(self) -> str:
        """What it has written so far."""
        return "".join(self.log_parts().values())

    @abc.abstractmethod
    def cancel(self) -> None:
        """Ends it; a store or training run that it was at can be gone on with."""

    def wait(self, timeout_s: float | None = None, look: Callable[[list[Task]], None] | None = None) -> list[Task]:
        """Returns when it has ended.

        Args:
            timeout_s: None for as long as it takes.
            look: called with every status.

        Raises:
            ClusterError: if it has not ended in time, or the cluster cannot be asked for five minutes.
        """
        started, pause, answered = time.monotonic(), _POLL_S[0], time.monotonic()
        while True:
            try:
                tasks = self.status()
            except ClusterError:
                if time.monotonic() - answered > _SILENCE_S:
                    raise
                time.sleep(_POLL_S[1])
                continue
            answered = time.monotonic()
            if look is not None:
                look(tasks)
            if tasks and all(task.ended for task in tasks):
                return tasks
            if timeout_s is not None and time.monotonic() - started > timeout_s:
                raise ClusterError(f"job {self.job} is {tasks[0].state} after {timeout_s:g} s; it goes on by itself")
            time.sleep(pause)
            pause = min(1.2 * pause, _POLL_S[1])

    def result(self, timeout_s: float | None = None) -> dict[str, Any] | None:
        """Waits for the end. Gives the JSON document that the payload printed, None if it printed none (without --json).

        Raises:
            ClusterError: if it failed, or has not ended in time; the message ends with the last lines of the log.
        """
        tasks = self.wait(timeout_s)
        text = self.logs()
        failed = next((task for task in tasks if task.exit_code != 0), None)
        if failed is not None:
            why = failed.state if failed.exit_code is None else f"{failed.state}, exit code {failed.exit_code}"
            last = "\n".join(text.splitlines()[-10:])
            raise ClusterError(f"job {failed.job}, {self.payload}: {why}\n{last}")
        return next(filter(None, map(_document, reversed(text.splitlines()))), None)


def _document(line: str) -> dict[str, Any] | None:
    if not line.startswith("{"):
        return None
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def free_folder(given: str | os.PathLike[str] | None, payload: Payload) -> Path:
    """Where the run folder goes, absolute: the one given, or a new one under `runs/`. It is not made here.

    Raises:
        InvalidInputError: if it exists and has something in it.
    """
    if given is None:
        folder = Path("runs").absolute() / f"launch-{payload.command}-{time.strftime('%Y%m%d-%H%M%S')}"
        return folder.with_name(f"{folder.name}-{uuid.uuid4().hex[:4]}") if folder.exists() else folder
    folder = Path(given).absolute()
    try:  # a script alone is what a refused submission has left
        if folder.exists() and (not folder.is_dir() or {entry.name for entry in folder.iterdir()} - {"job.sh"}):
            raise InvalidInputError(f"the run folder {folder} exists and is not empty; choose another one")
    except OSError as error:
        raise InvalidInputError(
            f"the run folder {folder} cannot be used: {error.strerror}; choose another one"
        ) from error
    return folder


def make_folder(folder: Path) -> None:
    """Makes a run folder.

    Raises:
        InvalidInputError: if that is not possible.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInputError(
            f"the run folder {folder} cannot be made: {error.strerror}; choose another one"
        ) from error


def refuse(problems: list[str]) -> None:
    """Raises InvalidInputError with all of them, if there are any."""
    if problems:
        raise InvalidInputError("this job cannot be launched:\n" + "\n".join(problems))


def write_record(folder: Path, kind: str, job: str, payload: Payload, **more: Any) -> dict[str, Any]:
    """Keeps what was handed in, all of it or nothing, and gives it back. Makes the folder if need be."""
    words, submitted = list(payload.words), time.strftime("%Y-%m-%dT%H:%M:%S%z")
    record = {"kind": kind, "job": job, **more, "payload": words, "engine": payload.engine, "submitted": submitted}
    make_folder(folder)
    temporary = folder / f".{_RECORD}.part"
    temporary.write_text(json.dumps(record, indent=1) + "\n")
    temporary.replace(folder / _RECORD)
    return record
