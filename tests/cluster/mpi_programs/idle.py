"""How much of a core a rank takes that has nothing to do, serving or polling."""

import sys
import time

from ranks import COMM, RANK, ask, tell

from dqk.cluster._mpi import MPIPool, serve

SECONDS = float(sys.argv[2])
if RANK == 0:
    with MPIPool(COMM) as pool:
        ask(pool)
        used, began = time.process_time(), time.monotonic()
        while time.monotonic() - began < SECONDS:
            pool.poll(SECONDS)
        tell(share=(time.process_time() - used) / (time.monotonic() - began))
else:
    used, began = time.process_time(), time.monotonic()
    serve(COMM)
    tell(share=(time.process_time() - used) / (time.monotonic() - began))
