"""Rank 0 works until it is told to stop; the others must be let go in good order."""

import os
import sys

from ranks import COMM, RANK, SIZE, answers, probe, tell

from dqk.cluster._mpi import MPIPool, serve

if RANK == 0:
    try:
        with MPIPool(COMM) as pool:
            for worker in pool.workers() * 3:
                probe(pool, worker.id, sleep_s=float(sys.argv[2]))
            tell(pid=os.getpid(), busy=True)
            answers(pool, 10 * SIZE)
    except BaseException as error:
        tell(stopped_by=type(error).__name__)
        raise
else:
    serve(COMM)
    tell(served=True)
