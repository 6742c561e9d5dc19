"""Jobs of Slurm: handed in, watched and ended with Slurm's own commands, which are all that a login node has."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

from dqk.cluster.launchers.handle import Handle, Task
from dqk.errors import ClusterError

_PATIENCE_S = 60
_GOING_ON = (
    "PENDING",
    "CONFIGURING",
    "RUNNING",
    "COMPLETING",
    "SUSPENDED",
    "REQUEUED",
    "REQUEUE_HOLD",
    "RESIZING",
    "STAGE_OUT",
)
_FORGOTTEN = "invalid job id"


class SlurmJob(Handle):
    """A job that sbatch took, or an array of them."""

    kind = "slurm"

    @staticmethod
    def check(record: dict[str, Any]) -> None:
        """Also that the job is a number, which Slurm's commands are given."""
        Handle.check(record)
        if not record["job"].isdecimal() or not isinstance(record.get("array"), int | None):
            raise ValueError(f"its job is {record['job']!r}, of an array of {record.get('array')!r}")

    def status(self) -> list[Task]:
        """As scontrol knows it; once Slurm has forgotten the job, as its exit codes and Slurm's accounting say."""
        done = slurm("scontrol", "show", "job", "--oneliner", self.job)
        if done.returncode == 0:
            return [self._task(line) for line in done.stdout.splitlines() if "JobId=" in line]
        if _FORGOTTEN not in done.stderr.lower():
            raise ClusterError(f"Slurm cannot be asked about job {self.job}: {done.stderr.strip()}")
        return self._remembered()

    def _task(self, line: str) -> Task:
        found = dict(re.findall(r"(?:^|\s)(\w+)=(\S*)", line))
        job = f"{found['ArrayJobId']}_{found['ArrayTaskId']}" if "ArrayTaskId" in found else found["JobId"]
        state = found["JobState"]
        ended = state not in _GOING_ON
        nodes, reason = (
            "" if found.get(key) in ("(null)", "None", None) else found[key] for key in ("NodeList", "Reason")
        )
        code = self._exit_code(job) if ended else None
        return Task(job, state, ended, nodes, found.get("RunTime", ""), int(found.get("Restarts") or 0), reason, code)

    def _remembered(self) -> list[Task]:
        n_jobs = self.record.get("array")
        names = [self.job] if n_jobs is None else [f"{self.job}_{k + 1}" for k in range(n_jobs)]
        tasks = []
        for name in names:
            code = self._exit_code(name)
            state = {None: self._accounted(name), 0: "COMPLETED"}.get(code, "FAILED")
            tasks.append(Task(name, state, True, exit_code=code))
        return tasks

    def _accounted(self, job: str) -> str:
        try:
            done = slurm("sacct", "-n", "-P", "-X", "-j", job, "-o", "State")
        except ClusterError:
            return "FORGOTTEN"
        words = done.stdout.split()
        return words[0] if done.returncode == 0 and words else "FORGOTTEN"

    def _exit_code(self, job: str) -> int | None:
        try:
            return int((self.folder / f"exit-{job}").read_text())
        except (OSError, ValueError):
            return None

    def log_parts(self) -> dict[str, str]:
        """The files that are there by now, one for each job of an array."""
        files = sorted(self.folder.glob("log-*.txt"), key=lambda path: (len(path.name), path.name))
        return {path.name: path.read_text(errors="replace") for path in files}

    def cancel(self) -> None:
        """By scancel: SIGTERM, upon which a store or training run is left in good order."""
        tasks = self.status()
        if all(task.ended for task in tasks):
            raise ClusterError(f"job {self.job} has ended already: {', '.join(sorted({task.state for task in tasks}))}")
        done = slurm("scancel", self.job)
        if done.returncode != 0:
            raise ClusterError(f"Slurm did not cancel job {self.job}: {done.stderr.strip()}")


def submit(script: Path) -> str:
    """Hands a script in and gives the job's number.

    Raises:
        ClusterError: with what sbatch says, if it does not take it.
    """
    done = slurm("sbatch", "--parsable", str(script))
    if done.returncode != 0:
        raise ClusterError(
            f"Slurm did not take the job: {_said(done.stderr)}; the script is {script}, change it or the options"
        )
    return done.stdout.strip().split(";")[0]


def _said(text: str) -> str:
    lines = [line.removeprefix("sbatch: ").removeprefix("error: ").strip() for line in text.splitlines()]
    return "; ".join(filter(None, lines)) or "it says nothing"


def _environment() -> dict[str, str]:
    """Without the variables of a job that this process may be part of, which sbatch would hand on to the new one."""
    return {name: value for name, value in os.environ.items() if not name.startswith("SLURM_") or name == "SLURM_CONF"}


def slurm(*command: str) -> subprocess.CompletedProcess[str]:
    """One of Slurm's commands.

    Raises:
        ClusterError: if it is not here or does not answer.
    """
    try:
        return subprocess.run(command, env=_environment(), capture_output=True, text=True, timeout=_PATIENCE_S)
    except FileNotFoundError as error:
        raise ClusterError(
            f"{command[0]} is not on this machine's PATH; launch on a login node of the cluster (--dry-run shows the script here)"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise ClusterError(f"{' '.join(command)} does not answer within {_PATIENCE_S} s; try again later") from error
