"""A rank fails outside a task, in the way that the second argument names; the others wait for it."""

import sys

from ranks import COMM, RANK, answers, probe, tell

from dqk.cluster._mpi import MPIPool, serve

way = sys.argv[2]
if RANK == 0:
    with MPIPool(COMM) as pool:
        if way == "serving":
            pool._session.send(1, 99)  # there is no such message
        elif way == "killed":
            pool.kill("rank-1")
        if way != "after":
            tell(waits=True)
            probe(pool, "rank-1", sleep_s=60)
            answers(pool, 1)
else:
    tell(serves=True)
    serve(COMM)
    if RANK == 1:
        raise ValueError("rank 1 stumbles")
COMM.Barrier()
tell(passed=True)
