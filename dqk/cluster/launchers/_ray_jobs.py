"""Ray clusters that are there already: jobs through Ray's job API, with this folder and what dqk needs of the environment."""

from __future__ import annotations

import os
import shlex
import time
from pathlib import Path
from typing import Any

from dqk.cluster.launchers.handle import Handle, Task, free_folder, refuse, write_record
from dqk.cluster.launchers.payload import Payload
from dqk.errors import BackendUnavailableError, ClusterError

_EXCLUDED = [".git", ".venv", "runs", "__pycache__"]
_ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
_AGENT_S = 60.0
_PASSED_ON = ("DQK_", "OMP_NUM_THREADS")


class RayJob(Handle):
    """A job that a Ray cluster took."""

    kind = "ray"

    @staticmethod
    def check(record: dict[str, Any]) -> None:
        """Also that there is an address."""
        Handle.check(record)
        if not isinstance(record.get("address"), str):
            raise ValueError(f"its address is {record.get('address')!r}")

    def status(self) -> list[Task]:
        """As the cluster knows it."""
        info = self._ask(lambda client: client.get_job_info(self.job))
        state = str(getattr(info.status, "value", info.status))
        ended = state in _ENDED
        code = 0 if state == "SUCCEEDED" else getattr(info, "driver_exit_code", None) if ended else None
        ran = "" if not info.start_time else f"{((info.end_time or 1000 * time.time()) - info.start_time) / 1000:.0f} s"
        reason = "" if state == "SUCCEEDED" else " ".join((info.message or "").split())
        return [Task(self.job, state, ended, getattr(info, "driver_node_id", "") or "", ran, 0, reason, code)]

    def log_parts(self) -> dict[str, str]:
        """What the driver has written."""
        return {self.job: str(self._ask(lambda client: client.get_job_logs(self.job)))}

    def cancel(self) -> None:
        """By SIGTERM to the driver."""
        self._ask(lambda client: client.stop_job(self.job))

    def _ask(self, question: Any) -> Any:
        address = self.record["address"]
        client = client_of(address)
        try:
            return question(client)
        except RuntimeError as error:
            raise ClusterError(f"the Ray at {address} says about job {self.job}: {error}") from error


def client_of(address: str) -> Any:
    """A client of the job API.

    Raises:
        BackendUnavailableError: if Ray is not installed with its dashboard.
        ClusterError: if no Ray answers.
    """
    try:
        from ray.job_submission import JobSubmissionClient
    except ImportError as error:
        raise BackendUnavailableError(
            f"`dqk launch ray` needs Ray, which cannot be imported ({error}); pip install 'dqk[ray]'"
        ) from error
    try:
        return JobSubmissionClient(address)
    except (ConnectionError, RuntimeError, ValueError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ClusterError(
            f"no dashboard of Ray answers at {address}: {first}; give the address that `ray start --head` printed, such as "
            "http://head:8265, and forward its port if the cluster is behind a gateway"
        ) from error


def hand_in(payload: Payload, address: str, run: str | os.PathLike[str] | None) -> RayJob:
    """Submits a command of dqk; see `launch`. Paths in it are looked for in a copy of this folder, unless they are absolute."""
    problems = payload.problems()
    if not address.startswith(("http://", "https://")):
        problems.append(f"--address {address!r}, expected that of the dashboard, such as http://head:8265")
    if payload.engine not in ("ray", "single"):
        problems.append(f"{payload} is started by {payload.engine}, not by Ray; use --executor ray, or --launcher ray")
    if payload.command == "train" and payload.out is None and payload.value("--resume") is None:
        problems.append(f"{payload}: give --out, an absolute path that the cluster's machines share")
    if payload.out is not None and not os.path.isabs(payload.out):
        problems.append(
            f"--out {payload.out}: the cluster works in a copy of this folder, which it removes; give an absolute path that the "
            "cluster's machines share"
        )
    refuse(problems)
    client, folder = client_of(address), free_folder(run, payload)
    passed = {name: value for name, value in os.environ.items() if name.startswith(_PASSED_ON)}
    environment = {
        "working_dir": str(Path.cwd()),
        "excludes": _EXCLUDED,
        "env_vars": {**passed, "RAY_ADDRESS": "auto"},
    }
    job = _submit(client, address, shlex.join(["python", "-m", "dqk", *payload.words]), environment, payload.command)
    record = write_record(folder, RayJob.kind, job, payload, address=address)
    return RayJob(folder, record)


def _submit(client: Any, address: str, entrypoint: str, environment: dict[str, Any], command: str) -> str:
    """Number of the job. A cluster that has just started may have nobody yet to start it, which Ray waits 10 s for."""
    deadline = time.monotonic() + _AGENT_S
    while True:
        try:
            return client.submit_job(entrypoint=entrypoint, runtime_env=environment, metadata={"dqk": command})
        except (RuntimeError, ValueError, OSError) as error:
            if "No available agent" not in str(error) or time.monotonic() > deadline:
                raise ClusterError(f"the Ray at {address} did not take the job: {error}") from error
            time.sleep(1.0)
