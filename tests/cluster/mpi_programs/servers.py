"""Rank 0 opens the pool, the others serve: every rank computes, and what was put is on every rank."""

import os

import numpy as np
from ranks import COMM, RANK, ask, tell

from dqk.cluster._mpi import MPIPool, serve

if RANK == 0:
    with MPIPool(COMM) as pool:
        pool.put("some", {"x": np.arange(5), "empty": np.empty((0, 3)), "one": np.array(2.0)})
        seen = ask(pool)
        tell(seen=seen, slots={worker.id: worker.slots for worker in pool.workers()})
else:
    serve(COMM)
tell(pid=os.getpid(), node_workers=os.environ["DQK_NODE_WORKERS"], ended=True)
