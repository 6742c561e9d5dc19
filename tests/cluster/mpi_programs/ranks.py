"""What the programs share: each rank says what it saw in a file of its own, because output of ranks mixes."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from mpi4py import MPI

from dqk._wire import pack, unpack
from dqk.cluster import Done, Failed, WorkerPool

FOLDER = Path(sys.argv[1])
COMM = MPI.COMM_WORLD
RANK, SIZE = COMM.Get_rank(), COMM.Get_size()


def tell(**facts: Any) -> None:
    """Adds facts to this rank's file."""
    path = FOLDER / f"rank-{RANK}.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    fresh = path.with_suffix(".fresh")
    fresh.write_text(json.dumps(known | facts))
    fresh.replace(path)


def probe(
    pool: WorkerPool, worker: str, ticket: int = 0, arrays: dict[str, np.ndarray] | None = None, **header: Any
) -> None:
    pool.submit(worker, ticket, pack({"kind": "probe", **header}, arrays))


def answers(pool: WorkerPool, n: int) -> list[Done | Failed]:
    """The next n results."""
    found: list[Done | Failed] = []
    deadline = time.monotonic() + 30
    while len(found) < n:
        assert time.monotonic() < deadline, f"{len(found)} of {n} results came in time"
        found += [event for event in pool.poll(1.0) if isinstance(event, Done | Failed)]
    return found


def ask(pool: WorkerPool, **header: Any) -> dict[str, dict[str, Any]]:
    """What each worker answers to a probe."""
    for worker in pool.workers():
        probe(pool, worker.id, **header)
    return {answer.worker: unpack(answer.result)[0] for answer in answers(pool, len(pool.workers()))}
