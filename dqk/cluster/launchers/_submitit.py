"""Executors of submitit, for those who launch everything else with it."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

from dqk.cluster.launchers.handle import Handle, Task, free_folder, refuse, write_record
from dqk.cluster.launchers.payload import Payload

_ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "FINISHED", "INTERRUPTED")


class SubmititJob(Handle):
    """A job that an executor of submitit took. Unlike the others it cannot be found again by its folder."""

    kind = "submitit"

    def __init__(self, folder: Any, record: dict[str, Any], job: Any):
        super().__init__(folder, record)
        self._job = job

    def status(self) -> list[Task]:
        """As submitit knows it."""
        state = str(self._job.state).upper()
        ended = self._job.done() or state in _ENDED
        code = None
        if ended:
            error = self._job.exception()
            code = 0 if error is None else 1
        return [Task(self.job, state, ended, exit_code=code)]

    def log_parts(self) -> dict[str, str]:
        """Standard output, then standard error."""
        return {"out": self._job.stdout() or "", "err": self._job.stderr() or ""}

    def cancel(self) -> None:
        """By submitit."""
        self._job.cancel()


def run_dqk(words: tuple[str, ...]) -> int:
    """What the executor runs: the command, in a process of its own.

    Raises:
        RuntimeError: if it fails.
    """
    code = subprocess.run([sys.executable, "-m", "dqk", *words], check=False).returncode
    if code != 0:
        raise RuntimeError(f"dqk ended with exit code {code}")
    return code


def hand_in(payload: Payload, executor: Any, run: str | os.PathLike[str] | None) -> SubmititJob:
    """Submits a command of dqk; see `launch`."""
    problems = payload.problems()
    if not callable(getattr(executor, "submit", None)) or not hasattr(executor, "folder"):
        problems.append(f"executor is {executor!r}, expected one of submitit, such as submitit.AutoExecutor('logs')")
    if payload.engine == "ray":
        problems.append(f"{payload}: submitit starts no Ray; launch without executor=, or use --executor mpi")
    refuse(problems)
    folder = free_folder(run, payload)
    job = executor.submit(run_dqk, payload.words)
    record = write_record(folder, SubmititJob.kind, str(job.job_id), payload)
    return SubmititJob(folder, record, job)
