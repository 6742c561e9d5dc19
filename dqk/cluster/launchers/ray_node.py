"""Ray inside a job of Slurm, as its batch script calls it: `python -m dqk.cluster.launchers.ray_node address|start|wait`.

`address` chooses where the head will listen, `start` becomes one node of Ray and ends with its step, `wait` returns when all nodes
have joined.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import NoReturn

from dqk._resources import cpu_threads
from dqk.cluster._ray_session import ray_module
from dqk.cluster.nodes import ip_of
from dqk.cluster.resources import visible_gpus
from dqk.errors import ClusterError, DQKError

_PATIENCE_S = 180.0
_POLL_S = 0.2
_PARTING_S = 10.0
_TRIES = 3


def address() -> str:
    """Where the head will listen: this node's address as the others know it, and a port that is free now."""
    _joined().unlink(missing_ok=True)  # of the job before a requeue
    ip = ip_of(os.environ["SLURMD_NODENAME"])
    with socket.socket() as free:
        free.bind((ip, 0))
        return f"{ip}:{free.getsockname()[1]}"


def start() -> int:
    """A node of Ray, until the step ends; the head on the first node. Gives Ray's exit code."""
    head, ip = os.environ["RAY_ADDRESS"], ip_of(os.environ["SLURMD_NODENAME"])
    leads = os.environ.get("SLURM_NODEID", "0") == "0"
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    where = ["--head", f"--port={head.rpartition(':')[2]}", "--include-dashboard=false", f"--temp-dir={_temp()}"]
    if not leads:
        _until_listening(head)
        where = [f"--address={head}"]
    command = [
        sys.executable,
        "-m",
        "ray.scripts.scripts",
        "start",
        *where,
        "--block",
        f"--node-ip-address={ip}",
        f"--num-cpus={os.environ.get('SLURM_CPUS_PER_TASK') or cpu_threads()}",
        f"--num-gpus={len(visible_gpus())}",
        "--min-worker-port=0",  # ports of other jobs on this node would collide with Ray's range
        "--max-worker-port=0",
        "--disable-usage-stats",
    ]
    if leads:
        Path(os.environ["DQK_RAY_STEP"]).write_text(os.environ["SLURM_STEP_ID"])
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"] = "0"  # the work is over when Ray is ended
    environment["RAY_prestart_worker_first_driver"] = "0"  # they would idle: ours have environments of their own
    return _run(command, environment)


def _run(command: list[str], environment: dict[str, str]) -> int:
    """Until it ends; once more where it fails at once, for Ray gives a node half a minute, which a busy file system may use up."""
    node = None
    ended = False

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal ended
        ended = True
        if node is not None:
            node.terminate()
            threading.Timer(_PARTING_S, node.kill).start()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # Slurm's warning is for the program; Ray would end
    deadline = time.monotonic() + _PATIENCE_S
    try:
        for left in range(_TRIES - 1, -1, -1):
            node = subprocess.Popen(command, env=environment)
            if ended:  # between the tries
                node.terminate()
            code = node.wait()
            if code == 0 or ended or not left or time.monotonic() > deadline or _joined().exists():
                break
            print(f"Ray did not start on {socket.gethostname()} (exit code {code}); trying again", file=sys.stderr)
        return code
    finally:
        shutil.rmtree(_temp(), ignore_errors=True)


def _temp() -> str:
    return os.environ["DQK_RAY_TEMP"]


def _joined() -> Path:
    """Is there once all nodes have joined: what ends from then on has not failed to start."""
    return Path(os.environ["DQK_RAY_STEP"]).with_suffix(".joined")


def _until_listening(where: str) -> None:
    host, _, port = where.rpartition(":")
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"Ray's head cannot be reached at {where} from {socket.gethostname()} within {_PATIENCE_S:g} s: {error}; "
                    "`srun dqk doctor --cluster` looks at addresses and ports"
                ) from error
            time.sleep(_POLL_S)


def wait(count: int, step: int) -> None:
    """Returns when so many nodes have joined.

    Args:
        count: how many.
        step: process that has started them; its end is the end of waiting.

    Raises:
        ClusterError: if the step has ended, or nodes are missing after three minutes; names those that are there.
    """
    ray, where = ray_module(), os.environ["RAY_ADDRESS"]
    deadline, joined = time.monotonic() + _PATIENCE_S, []
    host, _, port = where.rpartition(":")
    while time.monotonic() < deadline:
        if not os.path.exists(f"/proc/{step}"):
            raise ClusterError("Ray's step has ended before all of its nodes had joined; its log follows")
        if not ray.is_initialized():
            try:
                socket.create_connection((host, int(port)), timeout=5).close()
                ray.init(address=where, log_to_driver=False, logging_level="ERROR")
            except (OSError, RuntimeError, ValueError):
                time.sleep(_POLL_S)
                continue
        joined = [node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]]
        if len(joined) >= count:
            print(f"Ray has {len(joined)} nodes: {', '.join(sorted(joined))}")
            ray.shutdown()
            _joined().touch()
            return
        time.sleep(_POLL_S)
    raise ClusterError(
        f"{len(joined)} of {count} nodes of Ray have joined within {_PATIENCE_S:g} s ({', '.join(joined) or 'none'}); its log "
        "follows"
    )


def main(words: list[str]) -> NoReturn:
    """What the batch script calls."""
    try:
        match words:
            case ["address"]:
                print(address())
                sys.exit(0)
            case ["start"]:
                sys.exit(start())
            case ["wait", count, step]:
                wait(int(count), int(step))
                sys.exit(0)
    except DQKError as error:
        sys.exit(f"error: {error}")
    sys.exit(f"ray_node {' '.join(words)}: expected address, start, or wait NODES PID")


if __name__ == "__main__":
    main(sys.argv[1:])
