"""`dqk doctor --cluster`: what every task of a job finds, before hours depend on it."""

from __future__ import annotations

import os
import resource
import signal
import socket
import statistics
import subprocess
import tempfile
import time
import uuid
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from dqk.cli.output import print_json, stderr, stdout, table
from dqk.errors import DQKError

_SIGNAL_S = 10.0  # for a signal to arrive
_ROUNDS = 7  # of comparing clocks
_MOST_SKEW_S = 1.0  # files of the near future confuse make, caches and people
_FEWEST_FILES = 4096
_WIDTH = 132
_LONGEST_TEMP = 30  # Ray adds 70 characters to the path of its sockets, which may have 107


class PreflightError(DQKError):
    """Something that a job would trip over."""


def preflight(folder: Path, json: bool) -> None:
    """Looks, shows what all tasks have found on rank 0, and raises if something is wrong.

    Args:
        folder: where a store or run folder is to be.
        json: print one JSON document instead of a table.

    Raises:
        InvalidInputError: if no launcher has started this process.
        ClusterError: if the tasks do not meet.
        PreflightError: on rank 0, with everything that is wrong.
    """
    from dqk.training.group import Group
    from dqk.training.rank import Rank

    rank = Rank.from_environ(asked="--cluster", how="inside a job, start all tasks: srun dqk doctor --cluster")
    with Group.join(rank) as group:
        nonce = group.share_json(uuid.uuid4().hex if group.leads else None)
        own = _found(rank)
        own["store"] = _store(group, folder, nonce)
        own["clock"] = _clock(group)
        own["signal"] = _signal(group)
        everybody = group.gather_json(own)
        if not group.leads:
            return
        skews = [
            [mine - first for mine, first in zip(found["clock"], everybody[0]["clock"], strict=True)]
            for found in everybody
        ]
        for found, skew in zip(everybody, skews, strict=True):
            found["clock"] = statistics.median(skew)
        problems = _problems(everybody, folder)
        if json:
            print_json({"launcher": rank.launcher, "ranks": everybody, "problems": problems})
        else:
            _show(everybody)
        if problems:
            raise PreflightError("\n".join(problems))
        stderr().print(f"{group.size} tasks started by {rank.launcher}: nothing is in the way of a job")


def _found(rank: Any) -> dict[str, Any]:
    from dqk._resources import cpu_threads
    from dqk.cluster.nodes import ip_of

    node = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
    try:
        address = ip_of(node)
    except (DQKError, OSError) as error:
        address = f"none: {error}"
    return {
        "rank": rank.rank,
        "local_rank": rank.local_rank,
        "node": node,
        "address": address,
        "meets_at": f"{rank.master_addr}:{rank.master_port}" if rank.master_addr else "MPI",
        "cpus": sorted(os.sched_getaffinity(0)),
        "threads": cpu_threads(),
        "gpus": _gpus(),
        "open_files": resource.getrlimit(resource.RLIMIT_NOFILE),
        "temp": tempfile.gettempdir(),
    }


def _gpus() -> list[str]:
    """Their UUIDs, by which tasks that all call theirs number 0 are told apart; else what the environment calls them."""
    from dqk.cluster.resources import visible_gpus

    names = visible_gpus()
    command = ["nvidia-smi", "--query-gpu=index,uuid", "--format=csv,noheader"]
    try:
        shown = subprocess.run(command, capture_output=True, text=True, timeout=30).stdout
    except (OSError, subprocess.TimeoutExpired):
        return list(names)
    uuids = dict(line.split(", ") for line in shown.splitlines() if line.count(", ") == 1)
    return [uuids.get(name, name) for name in names]


def _store(group: Any, folder: Path, nonce: str) -> dict[str, Any]:
    """Whether this task can write there, and read what all others have written."""
    mine = folder / f".dqk-preflight-{nonce}-{group.rank}"
    problem = None
    try:
        mine.write_text(nonce)
    except OSError as error:
        problem = f"cannot write to {folder}: {error.strerror or error}"
    group.gather_json(None)
    read = 0
    for rank in range(group.size):
        try:
            read += (folder / f".dqk-preflight-{nonce}-{rank}").read_text() == nonce
        except OSError:
            continue
    group.gather_json(None)
    mine.unlink(missing_ok=True)
    return {"problem": problem, "read": read}


def _clock(group: Any) -> list[float]:
    """This task's time at moments that are nearly the same everywhere."""
    times = []
    for _ in range(_ROUNDS):
        group.gather()()
        times.append(time.time())
    return times


def _signal(group: Any) -> bool | None:
    """Whether Slurm's signal reaches this task; None outside of a job step."""
    step = f"{os.environ.get('SLURM_JOB_ID')}.{os.environ.get('SLURM_STEP_ID')}"
    if not group.share_json("SLURM_STEP_ID" in os.environ if group.leads else None):
        return None
    arrived: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: arrived.append(number))
    try:
        group.gather_json(None)  # all tasks listen
        sent = group.share_json(_send(step) if group.leads else None)
        deadline = time.monotonic() + _SIGNAL_S
        while sent and not arrived and time.monotonic() < deadline:
            time.sleep(0.02)
        group.gather_json(None)
    finally:
        signal.signal(signal.SIGUSR1, before)
    return bool(arrived) if sent else None


def _send(step: str) -> bool:
    """Whether Slurm took the wish; inside a container there may be no scancel."""
    try:
        done = subprocess.run(["scancel", "--signal=USR1", step], capture_output=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode in (0, -signal.SIGUSR1)  # it may belong to the step itself


def _problems(everybody: list[dict[str, Any]], folder: Path) -> list[str]:
    found: list[str] = []
    by_node: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for task in everybody:
        by_node[task["node"]].append(task)
        who = f"rank {task['rank']} on {task['node']}"
        if task["address"].startswith("none"):
            found.append(f"{who} has no address that others could reach ({task['address']})")
        if task["store"]["problem"]:
            found.append(
                f"{who} {task['store']['problem']}; choose a folder on a disk that all nodes share with --store"
            )
        elif task["store"]["read"] < len(everybody):
            found.append(
                f"{who} reads what {task['store']['read']} of {len(everybody)} tasks have written to {folder}; stores and run "
                "folders belong on a disk that all nodes share"
            )
        if abs(task["clock"]) > _MOST_SKEW_S:
            found.append(f"the clock of {who} is {task['clock']:+.1f} s off that of rank 0; tell the administrators")
        if task["open_files"][1] < _FEWEST_FILES:
            found.append(
                f"{who} may open {task['open_files'][1]} files, Ray needs thousands; ask for a higher ulimit -n"
            )
        if task["signal"] is False:
            found.append(
                f"Slurm's signal did not reach {who} within {_SIGNAL_S:g} s: a job would not save its state before its time limit; "
                "start the program without a shell in front of it, or with exec"
            )
    for node, tasks in by_node.items():
        shared = [gpu for gpu, count in Counter(gpu for task in tasks for gpu in task["gpus"]).items() if count > 1]
        if shared:
            found.append(f"tasks on {node} share the GPUs {', '.join(shared)}; give srun --gpus-per-task=1")
        threads, cpus = sum(task["threads"] for task in tasks), len({cpu for task in tasks for cpu in task["cpus"]})
        if threads > cpus:
            found.append(
                f"{len(tasks)} tasks on {node} have {threads} threads for {cpus} CPUs; give srun --cpus-per-task (it ignores "
                "that of sbatch), or set DQK_THREADS"
            )
    return found


def _show(everybody: list[dict[str, Any]]) -> None:
    shown = table("rank", "node", "address", "threads", "GPUs", "files", "temp", "disk", "clock", "signal")
    for task in everybody:
        shared = task["store"]["problem"] is None and task["store"]["read"] == len(everybody)
        shown.add_row(
            str(task["rank"]),
            task["node"],
            task["address"],
            str(task["threads"]),
            ", ".join(task["gpus"]) or "none",
            str(task["open_files"][1]),
            task["temp"] + (" (long)" if len(task["temp"]) > _LONGEST_TEMP else ""),
            "shared" if shared else "NOT SHARED",
            f"{1e3 * task['clock']:+.0f} ms",
            {True: "arrives", False: "LOST", None: "not asked"}[task["signal"]],
        )
    console = stdout()
    if not console.is_terminal:  # the output of a job step
        console.width = _WIDTH
    console.print(shown, markup=False)
