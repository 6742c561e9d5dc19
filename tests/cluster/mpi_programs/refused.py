"""What cannot work is refused: the second argument is a thread level for MPI, or names a misuse."""

import sys

import mpi4py

case = sys.argv[2]
if case in ("single", "funneled"):
    mpi4py.rc.thread_level = case
elif case == "missing":
    sys.modules["mpi4py.MPI"] = None

from dqk.cluster._mpi import MPIPool, serve  # noqa: E402
from dqk.errors import DQKError  # noqa: E402

try:
    if case == "serve":
        serve()
    else:
        with MPIPool() as pool:
            print(pool.workers())
except DQKError as error:
    print(f"{type(error).__name__}: {error}")
