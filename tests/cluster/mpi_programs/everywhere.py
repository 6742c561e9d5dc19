"""All ranks call the same function: a result, errors of two sorts, another result."""

import os
import sys
from hashlib import sha256

import numpy as np
from ranks import COMM, answers, ask, probe, tell

from dqk._wire import unpack
from dqk.cluster import Arrays, WorkerPool
from dqk.cluster._mpi import run_everywhere
from dqk.errors import TileError

LARGE = np.random.default_rng(0).integers(0, 2**63, int(sys.argv[2]) * 2**17)


def compute(pool: WorkerPool) -> Arrays:
    pids = [seen["pid"] for seen in ask(pool).values()]
    return {"pids": np.array(pids), "K": np.asfortranarray(np.arange(6.0).reshape(2, 3)), "none": np.empty((2, 0))}


def compute_large(pool: WorkerPool) -> Arrays:
    pool.put("large", {"x": LARGE})
    assert all(seen["held"] == ["large"] for seen in ask(pool).values())
    for worker in pool.workers():
        probe(pool, worker.id, 0, {"x": LARGE[: 10 * 2**20]})
    for answer in answers(pool, len(pool.workers())):
        assert np.array_equal(unpack(answer.result)[1]["x"], LARGE[: 10 * 2**20])
    return {"x": LARGE}


def give_up(pool: WorkerPool) -> Arrays:
    probe(pool, pool.workers()[-1].id, sleep_s=0.2)
    raise TileError("tile 3 failed three times")


def stumble(pool: WorkerPool) -> Arrays:
    raise ZeroDivisionError("by nothing")


def leave(pool: WorkerPool) -> Arrays:
    raise SystemExit(3)


def caught(drive) -> str:
    try:
        run_everywhere(COMM, "a problem", drive)
    except (Exception, SystemExit) as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


found = run_everywhere(COMM, "a problem", compute)
tell(pid=os.getpid(), pids=found["pids"].tolist(), K=found["K"].tolist(), none=found["none"].shape)
tell(dqk_error=caught(give_up), other_error=caught(stumble), exit=caught(leave))
found = run_everywhere(COMM, "large", compute_large)
found["x"][:1] += 0  # may be written to
tell(digest=sha256(found["x"]).hexdigest(), expected=sha256(LARGE).hexdigest())
