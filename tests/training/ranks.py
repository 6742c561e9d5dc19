"""Real ranks: processes that a test starts as a launcher would, and ends."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
LIMIT_S = 90
TRAIN = (sys.executable, "-m", "dqk", "train", "pos")
FAILING = (sys.executable, str(Path(__file__).with_name("failing_rank.py")), "train", "pos")


def arguments(options: Mapping[str, Any]) -> list[str]:
    """Options as they are typed."""
    return [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "DQK_THREADS": "1", **more}


@contextlib.contextmanager
def started(n_ranks: int, *words: str, failing: int | None = None) -> Iterator[list[subprocess.Popen[str]]]:
    """`dqk train pos --distributed` on ranks that torchrun might have started."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with contextlib.ExitStack() as stack:
        ranks = []
        for rank in range(n_ranks):
            place = {
                "RANK": str(rank),
                "WORLD_SIZE": str(n_ranks),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            }
            program = FAILING if rank == failing else TRAIN
            ranks.append(stack.enter_context(process(*program, "--distributed", "--json", *words, **place)))
        yield ranks


@contextlib.contextmanager
def process(*command: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """A process that ends with the block."""
    pipe: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment(**variables), cwd=ROOT, **pipe) as started:
        try:
            yield started
        finally:
            if started.poll() is None:
                started.kill()


def ends(ranks: Sequence[subprocess.Popen[str]]) -> tuple[list[int], str, str]:
    """Waits for all: exit codes, everything on standard output, and on standard error."""
    told = [rank.communicate(timeout=LIMIT_S) for rank in ranks]
    return [rank.returncode for rank in ranks], "".join(out for out, _ in told), "".join(err for _, err in told)


def train(n_ranks: int, options: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """A whole run; gives its result."""
    with started(n_ranks, *arguments(options), f"--out={out}") as ranks:
        codes, output, messages = ends(ranks)
    assert codes == [0] * n_ranks, messages
    result: dict[str, Any] = json.loads(output)  # of rank 0, which alone speaks
    return result


def wait_for_epochs(out: Path, number: int, ranks: Sequence[subprocess.Popen[str]]) -> None:
    """Waits until so many epochs are done."""
    metrics, deadline = out / "metrics.jsonl", time.monotonic() + LIMIT_S
    while not metrics.exists() or len(metrics.read_text().splitlines()) < number:
        assert time.monotonic() < deadline and all(rank.poll() is None for rank in ranks)
        time.sleep(0.001)


def descendants(pid: int) -> dict[int, str]:
    """Command lines of the processes below one, by number."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found: dict[int, str] = {}
    for child in parents:
        above = child
        while above in parents and above != pid:
            above = parents[above]
        if above == pid and child != pid:
            with contextlib.suppress(OSError):
                found[child] = Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return found
