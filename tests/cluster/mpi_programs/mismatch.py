"""Ranks that call for different things: one has other data, and all of them learn which."""

from ranks import COMM, RANK, tell

from dqk.cluster._mpi import run_everywhere, serve
from dqk.errors import ClusterError

try:
    run_everywhere(COMM, "other data" if RANK == 1 else "data", lambda pool: {})
except ClusterError as error:
    tell(data=str(error))
try:
    if RANK == 1:
        serve(COMM)
    else:
        run_everywhere(COMM, "data", lambda pool: {})
except ClusterError as error:
    tell(mode=str(error))
tell(after=sorted(run_everywhere(COMM, "data", lambda pool: {})))
