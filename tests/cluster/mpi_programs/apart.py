"""A rank that waits in MPI_Init for one that never comes."""

import os
import time

from dqk.cluster._mpi_session import load_mpi

if os.environ["PMI_RANK"] == "1":
    time.sleep(60)
load_mpi()
