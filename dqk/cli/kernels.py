"""Kernels that a command line names: samples, `--feature-map`, `--layers`, `--bandwidth`, `--backend`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from dqk.cli.measured import measured
from dqk.errors import InvalidInputError, unknown_name

Samples = Annotated[Path, typer.Argument(metavar="X", help="Samples, one per row: .npy, .npz, .csv or .parquet.")]
Others = Annotated[Path | None, typer.Option("--y", help="Samples of the columns (default: those of X).")]
MapName = Annotated[
    str, typer.Option(help="Circuit that encodes a sample: qklstm, bsp, reuploading, zz, iqp or ising.")
]
Layers = Annotated[int | None, typer.Option(help="Layers of reuploading, repetitions of zz, iqp, ising.", min=1)]
Bandwidth = Annotated[float, typer.Option(help="Multiplies the samples before anything else.")]
BackendName = Annotated[
    str,
    typer.Option(
        help="auto (see `dqk plan`), statevector, mps, mps:max_bond=N, reference; simulated, "
        "pennylane:DEVICE, qiskit:SAMPLER, qpu:URL measure."
    ),
]

Plan = Callable[[tuple[int, int], bool], Any]


def problem(
    x: Path, y: Path | None, name: str, layers: int | None, bandwidth: float, backend: str, plan: Plan
) -> tuple[Any, Any, Any]:
    """The kernel and its samples, see `kernel_of`; `plan` gives the shots for a K of some shape that is symmetric or not."""
    from dqk.data.samples import read_samples

    samples = read_samples(x)
    others = None if y is None else read_samples(y)
    if others is not None and others.shape[1] != samples.shape[1]:
        raise InvalidInputError(
            f"{x} has {samples.shape[1]} columns and {y} {others.shape[1]}; expected the same features"
        )
    shots = plan((len(samples), len(samples if others is None else others)), others is None)
    return kernel_of(samples.shape[1], name, layers, bandwidth, backend, shots), samples, others


def kernel_of(width: int, name: str, layers: int | None, bandwidth: float, backend: str, shots: Any) -> Any:
    """A fidelity kernel.

    Args:
        width: number of qubits, one for each feature.
        name: of the feature map.
        layers: of a map that has layers; None for its default.
        bandwidth: multiplies the samples.
        backend: its name.
        shots: what `FidelityKernel` takes.

    Raises:
        InvalidInputError: for a map that there is not, or layers that it does not have.
    """
    from dqk.kernels import FidelityKernel
    from dqk.kernels.feature_maps import FEATURE_MAPS
    from dqk.training.config import LAYERED_MAPS

    if name not in FEATURE_MAPS:
        raise unknown_name("feature map", name, FEATURE_MAPS)
    options: dict[str, Any] = {"bandwidth": bandwidth}
    if layers is not None:
        if name not in LAYERED_MAPS:
            raise InvalidInputError(
                f"--layers {layers} with --feature-map {name}; only {', '.join(LAYERED_MAPS)} have layers"
            )
        options[LAYERED_MAPS[name]] = layers
    return FidelityKernel(FEATURE_MAPS[name](width, **options), backend, shots)  # type: ignore[operator]


def precision(kernel: Any, samples: Any, others: Any) -> Any:
    """The torch dtype of a matrix of samples."""
    import torch

    from dqk.kernels.inputs import to_samples

    parts = [("X", samples), *([] if others is None else [("Y", others)])]
    dtypes = [to_samples(name, part, kernel.n_features).dtype for name, part in parts]
    return torch.float64 if torch.float64 in dtypes else dtypes[0]


def settled_kernel(kernel: Any, samples: Any, others: Any, pool: Any, destination: Any) -> Any:
    """The kernel with the backend that `auto` stands for, so that what is computed, shown and stored names one; else as it is."""
    from dqk._executors import executor_of
    from dqk._gram import settled

    if kernel.backend != "auto" or measured(kernel, pool):
        return kernel
    name = settled(kernel.circuit, precision(kernel, samples, others), executor_of(pool), destination)
    return type(kernel)(kernel.feature_map, name, kernel.shots)
