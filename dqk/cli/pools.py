"""Workers that a command line asks for: `--executor` and `--workers`."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dqk.cli.output import stderr
from dqk.errors import InvalidInputError


def serves(workers: int | None) -> bool:
    """Whether this is a rank of an MPI job that computes for rank 0; then it has done so.

    Raises:
        InvalidInputError: if a number of workers was given, for the ranks are the workers.
    """
    if workers is not None:
        raise InvalidInputError(
            f"--workers {workers} with --executor mpi: every rank is a worker; start mpiexec -n {workers}"
        )
    from dqk.cluster._mpi import is_server, serve

    if not is_server():
        return False
    serve()
    return True


@contextlib.contextmanager
def opened(executor: str, workers: int | None, gpus: int = 0) -> Iterator[Any]:
    """The pool of an executor, open; `gpus` are what each worker on Ray takes."""
    from dqk.cluster import open_pool

    with open_pool(executor, workers, gpus) as pool:
        if executor == "mpi" and len(pool.workers()) == 1:
            stderr().print(
                "note: this is the only rank; `mpiexec -n 4 python -m mpi4py -m dqk ...` starts four", markup=False
            )
        yield pool


def qpu_names(given: Sequence[str]) -> list[str]:
    """What `--qpu` options name; of a service on this machine host and port will do.

    >>> qpu_names(["localhost:8000", "https://qpu.example.com", "qiskit:aer"])
    ['http://localhost:8000', 'https://qpu.example.com', 'qiskit:aer']

    Raises:
        InvalidInputError: for a host elsewhere without http or https, which decides whether tokens are sent in the clear.
    """
    return [_qpu_name(name) for name in given]


def _qpu_name(name: str) -> str:
    if re.match(r"[a-z]+:/", name, re.IGNORECASE) and not re.match(r"https?://.", name, re.IGNORECASE):
        raise InvalidInputError(f"--qpu {name}: expected a URL such as http://127.0.0.1:8000")
    bare = re.fullmatch(r"(?P<host>\[[0-9a-fA-F:]+\]|[\w.-]+)(?P<port>:\d+)?/?", name)
    if bare is None or bare["port"] is None and not re.fullmatch(r"localhost|[\d.]+|\[.*\]", name):
        return name
    if re.fullmatch(r"localhost|127\.[\d.]+|\[::1\]", bare["host"]):
        return f"http://{name}"
    raise InvalidInputError(f"--qpu {name}: expected a URL; write http://{name}, or https://{name}")


def part_in_good_order() -> None:
    """Has a run that was asked to stop, and has, leave MPI, if it is a rank, and say so to the batch script around it.

    `python -m mpi4py` would otherwise take the exit code of a stopped run for a crash, and end the job with another one. The
    script cannot tell from that code alone whether this was it or a rank that crashed; DQK_STOPPED names a file that tells.
    """
    mpi = sys.modules.get("mpi4py.MPI")
    if mpi is not None and mpi.Is_initialized() and not mpi.Is_finalized():
        mpi.Finalize()
    if file := os.environ.get("DQK_STOPPED"):
        with contextlib.suppress(OSError):  # a container may not have the folder
            Path(file).touch()


def check_not_distributed(executor: str | None, distributed: bool) -> None:
    """Refuses farming inside data-parallel training, where every rank would drive workers of its own.

    Raises:
        InvalidInputError: if both are asked for.
    """
    if executor is not None and distributed:
        raise InvalidInputError(
            f"--executor {executor} with --distributed: either kernels are farmed out to workers or batches to ranks; leave one out"
        )
