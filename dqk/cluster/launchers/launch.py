"""The verb: hand a command of dqk to a cluster."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dqk.cluster.launchers.handle import Handle, free_folder, make_folder, refuse, write_record
from dqk.cluster.launchers.mpi import flavour
from dqk.cluster.launchers.options import SlurmOptions
from dqk.cluster.launchers.payload import Payload
from dqk.cluster.launchers.script import render
from dqk.cluster.launchers.site import Site
from dqk.cluster.launchers.slurm import SlurmJob, submit
from dqk.errors import InvalidInputError


def launch(
    payload: str | Sequence[str],
    options: SlurmOptions | None = None,
    *,
    site: Site | str | os.PathLike[str] | None = None,
    run: str | os.PathLike[str] | None = None,
    address: str | None = None,
    executor: Any = None,
) -> Handle:
    """Hands a command of dqk to Slurm, to a Ray cluster that is there already, or to an executor of submitit.

    Args:
        payload: the command as typed, such as `"gram X.npy -o K.zarr --executor ray"`, or its words.
        options: what to ask Slurm for.
        site: what the site wants said, or the TOML file that says it.
        run: run folder, on a disk that the cluster's machines share; None for a new one under `runs/`.
        address: of a Ray cluster's dashboard, such as `http://head:8265`: the job goes there and not to Slurm.
        executor: an executor of submitit, already told what to ask for: it starts the command.

    Returns:
        The job's handle: `status()`, `logs()`, `result()`, `cancel()`.

    Raises:
        InvalidInputError: names everything that is wrong with the arguments; nothing was handed in.
        ClusterError: if the cluster does not take the job.

    Example:
        >>> from dqk.cluster import launch
        >>> from dqk.cluster.launchers import SlurmOptions
        >>> job = launch("gram X.npy -o K.zarr --executor mpi", SlurmOptions(nodes=4, time="2:00:00"))  # doctest: +SKIP
        >>> job.result()["digest"]  # doctest: +SKIP
    """
    work = Payload.of(_words(payload))
    if executor is not None:
        from dqk.cluster.launchers._submitit import hand_in

        return hand_in(work, executor, run)
    if address is not None:
        from dqk.cluster.launchers._ray_jobs import hand_in as hand_to_ray

        return hand_to_ray(work, address, run)
    site = site if isinstance(site, Site) else Site() if site is None else Site.read(site)
    options = options or SlurmOptions()
    folder = free_folder(run, work)
    work = work.placed(folder)
    text = script_of(work, options, site, folder)
    make_folder(folder)
    script = folder / "job.sh"
    script.write_text(text)
    script.chmod(0o755)
    record = write_record(folder, SlurmJob.kind, submit(script), work, array=options.array)
    return SlurmJob(folder, record)


def _words(payload: str | Sequence[str]) -> Sequence[str]:
    try:
        words = shlex.split(payload) if isinstance(payload, str) else list(payload)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(
            f"payload is {payload!r}, expected a command line or a list of words ({error})"
        ) from error
    if not all(isinstance(word, str) for word in words):
        raise InvalidInputError(f"payload is {payload!r}, expected words, all of them text")
    return words


def script_of(payload: Payload, options: SlurmOptions, site: Site, folder: Path) -> str:
    """The batch script for a run folder; see `launch`."""
    refuse(options.problems(payload, site))
    python = site.python or (f"{site.venv}/bin/python" if site.venv else sys.executable)
    mpi = (site.mpi or flavour(python)) if payload.engine == "mpi" else "none"
    return render(payload, options, site, folder, Path.cwd(), sys.executable, mpi)
