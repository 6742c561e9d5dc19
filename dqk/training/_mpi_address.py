"""Where rank 0 listens, told to all ranks of an MPI job; MPI carries nothing else."""

from __future__ import annotations

import socket

import numpy as np

from dqk.cluster._mpi_session import load_mpi

_BYTES = 256  # of a host's name


def agree_on_address() -> tuple[str, int]:
    """Host and a free port of rank 0. All ranks call this together.

    Raises:
        BackendUnavailableError: if mpi4py or an MPI library is missing.
        ClusterError: if the ranks do not see each other.
    """
    comm = load_mpi().COMM_WORLD
    host = np.zeros(_BYTES, np.uint8)
    name = socket.gethostname().encode()[:_BYTES]
    host[: len(name)] = np.frombuffer(name, np.uint8)
    hosts = np.zeros((comm.Get_size(), _BYTES), np.uint8)
    comm.Allgather(host, hosts)
    port = np.zeros(1, np.int64)
    if comm.Get_rank() == 0:
        with socket.socket() as free:
            free.bind(("", 0))
            port[0] = free.getsockname()[1]
    comm.Bcast(port, root=0)
    # A laptop's own name is not always an address of it.
    address = "127.0.0.1" if (hosts == hosts[0]).all() else bytes(hosts[0]).rstrip(b"\0").decode()
    return address, int(port[0])
