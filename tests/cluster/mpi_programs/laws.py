"""The laws of pools on rank 0; the others serve one session after the other."""

import sys

import numpy as np
from ranks import COMM, RANK, tell

import dqk.cluster._mpi_session
from dqk.cluster._mpi import MPIPool, serve
from dqk.testing.pools import PoolSubject, check_pool

dqk.cluster._mpi_session._CHUNK = int(sys.argv[2])
more = np.zeros(1, np.int8)


class AnnouncedPool(MPIPool):
    def start(self) -> None:
        more[0] = 1
        COMM.Bcast(more, 0)
        super().start()


if RANK == 0:
    tell(laws=check_pool(PoolSubject(lambda slots: AnnouncedPool(COMM))))
    more[0] = 0
    COMM.Bcast(more, 0)
else:
    while COMM.Bcast(more, 0) or more[0]:
        serve(COMM)
