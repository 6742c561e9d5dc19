"""`dqk doctor`: what this machine offers, and how fast it is."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

from dqk.cli.output import print_json, stderr, stdout, table
from dqk.errors import ClusterError, InvalidInputError

_MIB = 2**20


def register(app: typer.Typer) -> None:
    """Adds the command to the program."""
    app.command(epilog="Examples: dqk doctor --calibrate; srun dqk doctor --cluster")(doctor)


def doctor(
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Measure the backends and keep the cost model; some seconds.")
    ] = False,
    cluster: Annotated[
        bool, typer.Option("--cluster", help="Inside a job: have all tasks look at what a run would trip over.")
    ] = False,
    store: Annotated[
        Path | None, typer.Option(help="With --cluster: folder for a store or run (default: this one).")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Show what this machine offers: threads, memory, backends, executors, GPUs, and the cost model in force.

    The cost model sizes messages to workers and recognises workers that hang. No result depends on it.

    `srun dqk doctor --cluster` compares all tasks of a job: addresses, threads, GPUs, limits, shared disk, clocks, signals.

    Exit code 1 if something is wrong.
    """
    if store is not None and not cluster:
        raise InvalidInputError(f"--store {store} is for --cluster")
    if cluster:
        if calibrate:
            raise InvalidInputError("--calibrate and --cluster: one after the other")
        from dqk.cli.preflight import preflight

        preflight(store or Path.cwd(), json)
        return
    if calibrate:
        from dqk import _calibration

        console = stderr()
        model = _calibration.calibrate(lambda what: console.print(f"measuring {what}", markup=False))
        console.print(f"cost model: {_calibration.save(model)}", markup=False, soft_wrap=True)
    found = _found()
    if json:
        print_json(found)
        return
    shown = table("what", "here")
    for name, here in _rows(found):
        shown.add_row(name, here)
    stdout().print(shown, markup=False)


def _found() -> dict[str, Any]:
    from dqk import __version__
    from dqk._calibration import cost_model, model_file
    from dqk._resources import available_memory, cpu_threads, memory_bound
    from dqk.cluster.resources import visible_gpus
    from dqk.scheduler import CostModel

    model = cost_model()
    return {
        "dqk": __version__,
        "python": platform.python_version(),
        "node": platform.node(),
        "threads": cpu_threads(),
        "memory_available_mib": available_memory() // _MIB,
        "memory_bound_mib": memory_bound() // _MIB,
        "blas": _blas(),
        "gpus": list(visible_gpus()),
        "torch_cuda": _torch_cuda(),
        "cuda": _cuda(),
        "backends": _backends(),
        "executors": {"inline": {"available": True}, "processes": {"available": True}, "ray": _ray(), "mpi": _mpi()},
        "cost_model": {
            "measured": model != CostModel(),
            "file": str(model_file()),
            "rates": model.to_dict(),
        },
    }


def _blas() -> list[str]:
    """Libraries and the processor that each of them takes this one for: digests agree within such a class."""
    import numpy  # noqa: F401  # loads the library
    from threadpoolctl import threadpool_info

    libraries = [info for info in threadpool_info() if info["user_api"] == "blas"]
    return sorted(
        {" ".join(filter(None, map(info.get, ("internal_api", "version", "architecture")))) for info in libraries}
    )


def _torch_cuda() -> bool:
    import torch

    return bool(torch.cuda.is_available())


def _cuda() -> dict[str, Any]:
    """Driver, devices and packages of the GPU backend, and what it lacks."""
    from dqk.backends import gpu

    return {
        "driver": gpu.driver_version(),
        "torch_built_for": gpu.cuda_of_torch(),
        "devices": gpu.devices(),
        "packages": gpu.packages(),
        "missing": gpu.missing(),
    }


def _backends() -> dict[str, dict[str, Any]]:
    from dqk.backends.resolve import available, resolve
    from dqk.circuit import Circuit
    from dqk.errors import DQKError

    found: dict[str, dict[str, Any]] = {}
    for name in sorted(available()):
        try:
            found[name] = {"available": True, "device": resolve(name, Circuit(1, ())).capabilities.device}
        except (DQKError, ImportError, OSError) as error:
            found[name] = {"available": False, "why": str(error)}
    return found


def _ray() -> dict[str, Any]:
    version = _version("ray")
    if version is None:
        return {"available": False, "why": "not installed: pip install 'dqk[ray]'"}
    return {"available": True, "version": version, "address": os.environ.get("RAY_ADDRESS")}


def _mpi() -> dict[str, Any]:
    version = _version("mpi4py")
    if version is None:
        why = "not installed: pip install 'dqk[mpi]' with the MPI module of a cluster, 'dqk[mpi-local]' on a laptop"
        return {"available": False, "why": why}
    from dqk.cluster.launchers.mpi import mpi_library

    try:
        library = mpi_library(sys.executable)
    except ClusterError as error:
        return {"available": False, "version": version, "why": str(error)}
    return {"available": True, "version": version, "library": library}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [
        ("dqk", f"{found['dqk']} on Python {found['python']}, node {found['node']}"),
        ("threads", f"{found['threads']} (affinity mask and cgroup, or DQK_THREADS)"),
        (
            "memory",
            f"{found['memory_bound_mib']:,} MiB for states and tiles (DQK_MEMORY_MIB, or half of what is free: "
            f"{found['memory_available_mib']:,} MiB)",
        ),
        ("BLAS", "; ".join(found["blas"])),
        (
            "GPUs",
            f"{', '.join(found['gpus']) or 'none'}; torch {'sees' if found['torch_cuda'] else 'sees no'} CUDA device",
        ),
    ]
    cuda = found["cuda"]
    for_cuda = f"for CUDA {cuda['torch_built_for']}" if cuda["torch_built_for"] else "without CUDA"
    rows.append(("NVIDIA driver", f"{cuda['driver'] or 'none'}; torch is built {for_cuda}"))
    rows += [(f"GPU {d['uuid']}", f"{d['name']}, {d['memory_mib']:,} MiB") for d in cuda["devices"]]
    packages = ", ".join(f"{name} {version}" for name, version in cuda["packages"].items())
    rows.append(("cuQuantum", "; ".join(filter(None, [packages, cuda["missing"] and f"MISSING: {cuda['missing']}"]))))
    for kind in ("backends", "executors"):
        for name, about in found[kind].items():
            details = ", ".join(
                f"{key} {value}" for key, value in about.items() if key not in ("available", "why") and value
            )
            rows.append(
                (f"{kind[:-1]} {name}", _refusal(about["why"], cuda["missing"]) if "why" in about else details or "yes")
            )
    model = found["cost_model"]
    in_force = model["file"] if model["measured"] else "defaults; `dqk doctor --calibrate` measures this machine"
    return [*rows, ("cost model", in_force)]


def _refusal(why: str, missing: str | None) -> str:
    return "NO: see cuQuantum" if missing and missing in why else f"NO: {why}"
