"""`dqk inspect`: what a kernel really does."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dqk.cli.kernels import Bandwidth, Layers, MapName, kernel_of
from dqk.cli.output import print_json, stderr, stdout
from dqk.errors import DataFileError, InvalidInputError

_EXAMPLES = """
Examples:

  dqk inspect --feature-map qklstm --n-qubits 4

  dqk inspect X.npy --feature-map bsp --figure kernel.png

  dqk inspect X.npy --labels y.npy --feature-map reuploading --layers 3 --json
"""


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(epilog=_EXAMPLES)(inspect)


def inspect(
    x: Annotated[
        Path | None, typer.Argument(metavar="[X]", help="Samples, one per row: .npy, .npz, .csv or .parquet.")
    ] = None,
    labels: Annotated[Path | None, typer.Option(help="Labels of the samples: .npy, .npz, .csv or .parquet.")] = None,
    feature_map: MapName = "qklstm",
    n_qubits: Annotated[int | None, typer.Option(help="Without samples: qubits (default: 4).", min=1)] = None,
    layers: Layers = None,
    bandwidth: Bandwidth = 1.0,
    figure: Annotated[Path | None, typer.Option(help="Draw matrix, entries and spectrum into a PNG file.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Say what a kernel really does: gates that cancel, what factorises, how its values spread on your data, and what to change."""
    from dqk.data.samples import read_samples

    problems = _problems(x, labels, n_qubits, figure)
    if problems:
        raise InvalidInputError("\n".join(problems))
    samples = None if x is None else read_samples(x)
    width = samples.shape[1] if samples is not None else n_qubits or 4
    found = kernel_of(width, feature_map, layers, bandwidth, "auto", None).diagnose(samples, _read_labels(labels))
    if figure is not None:
        from dqk.kernels.diagnosis_plot import draw

        draw(found, figure)
        stderr().print(f"figure: {figure}", markup=False, soft_wrap=True)
    print_json(found.to_dict()) if json else stdout().print(str(found), markup=False, highlight=False, soft_wrap=True)


def _problems(x: Path | None, labels: Path | None, n_qubits: int | None, figure: Path | None) -> list[str]:
    found = []
    if x is None and labels is not None:
        found.append(f"--labels {labels} without samples: give X, too")
    if x is None and figure is not None:
        found.append(f"--figure {figure} without samples: there is no matrix to draw; give X, too")
    if x is not None and n_qubits is not None:
        found.append(f"--n-qubits {n_qubits} with {x}: there is one qubit for each column; leave one of them out")
    if figure is not None and figure.suffix != ".png":
        found.append(f"--figure {figure} ends in {figure.suffix!r}, expected .png")
    if figure is not None and not figure.parent.is_dir():
        found.append(f"--figure {figure}: there is no folder {figure.parent}")
    return found


def _read_labels(path: Path | None) -> Any:
    if path is None:
        return None
    import numpy as np

    from dqk.data.samples import read_samples

    if path.suffix == ".npy":  # labels may be words
        try:
            return np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise DataFileError(f"cannot read the labels in {path}: {error}") from error
    table = read_samples(path)
    if table.shape[1] != 1:
        raise InvalidInputError(f"{path} has {table.shape[1]} columns, expected one: the label of each sample")
    return table[:, 0]
