"""Which `srun --mpi=` goes with the MPI library of mpi4py: a wrong pair gives as many lone processes as there are ranks."""

from __future__ import annotations

import re
import subprocess

from dqk.cluster.launchers.site import MPI_FLAVOURS
from dqk.errors import ClusterError

_LIBRARY = "import mpi4py; mpi4py.rc.initialize = False; from mpi4py import MPI; print(MPI.Get_library_version())"
_PATIENCE_S = 30


def mpi_library(python: str) -> str:
    """The MPI library that an interpreter's mpi4py uses, in one line.

    It is looked at in a process of its own: a library that does not fit the launcher may end the process that loads it.

    Raises:
        ClusterError: if it cannot be loaded; the message says why.
    """
    try:
        probe = subprocess.run([python, "-c", _LIBRARY], capture_output=True, text=True, timeout=_PATIENCE_S)
    except OSError as error:
        raise ClusterError(f"{python} cannot be started: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise ClusterError(f"the MPI library did not load within {_PATIENCE_S} s") from error
    if probe.returncode != 0:
        lines = probe.stderr.strip().splitlines()
        raise ClusterError(lines[-1] if lines else f"loading the MPI library ended with {probe.returncode}")
    return " ".join(probe.stdout.replace("\0", "").split("\n")[0].split())


def flavour(python: str) -> str:
    """What `srun --mpi=` has to be for it.

    Raises:
        ClusterError: if the library cannot be loaded or is not known, or this Slurm does not speak its language.
    """
    advice = f"say mpi = {' or '.join(map(repr, MPI_FLAVOURS))} in a site file (--site)"
    try:
        library = mpi_library(python)
    except ClusterError as error:
        raise ClusterError(f"{python} has no MPI library to look at: {error}; {advice}") from error
    name = library.lower()
    if "cray" in name:
        found = "cray_shasta"
    elif "open mpi" in name or "open rte" in name:
        found = "pmix"
    elif "mpich" in name or "mvapich" in name or "intel" in name:
        found = "pmi2"
    else:
        raise ClusterError(f"the MPI library of {python} is {library!r}, which is not known here; {advice}")
    known = _known()
    if known and not any(kind == found or kind.startswith(f"{found}_v") for kind in known):
        raise ClusterError(
            f"the MPI library of {python}, {library}, goes with srun --mpi={found}, which this Slurm does not have (it has "
            f"{', '.join(known)}); use an mpi4py built on the site's MPI, or {advice}"
        )
    return found


def _known() -> list[str]:
    """What this Slurm speaks; empty if it cannot be asked."""
    try:
        shown = subprocess.run(["srun", "--mpi=list"], capture_output=True, text=True, timeout=_PATIENCE_S)
    except (OSError, subprocess.TimeoutExpired):
        return []
    _, _, rest = (shown.stdout + shown.stderr).partition("MPI plugin types are")
    return re.findall(r"^\s*(\w+)\s*$", rest, re.MULTILINE)
