"""`dqk qpu partition`: a kernel whose circuit is wider than each QPU."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Annotated, Any

import typer

from dqk.cli.output import print_json, stdout, table
from dqk.errors import InvalidInputError, unknown_name

EXAMPLES = """
Examples:

  dqk qpu partition --feature-map reuploading --qubits 12 --capacity 6 --capacity 6

  dqk qpu partition --feature-map zz --qubits 9 --capacity 4 --capacity 4 --capacity 4 --link 0-1 --link 1-2 --json
"""


def partition(
    qubits: Annotated[int, typer.Option(help="Qubits of the feature map.")],
    capacity: Annotated[list[int], typer.Option(help="Qubits that a QPU has room for; once for each QPU.")],
    feature_map: Annotated[
        str, typer.Option(help="Circuit that encodes a sample: qklstm, bsp, reuploading, zz, iqp or ising.")
    ] = "reuploading",
    layers: Annotated[
        int | None, typer.Option(help="Layers of reuploading, repetitions of zz, iqp, ising.", min=1)
    ] = None,
    link: Annotated[
        list[str] | None, typer.Option(help="i-j: QPUs that can entangle qubits, once for each link (default: all).")
    ] = None,
    shots: Annotated[int, typer.Option(help="Shots of an entry on one wide QPU; they set the accuracy.")] = 1000,
    link_fidelity: Annotated[float, typer.Option(help="Fidelity of an e-bit, above 0.5.")] = 0.95,
    ebit_rate_hz: Annotated[float, typer.Option(help="E-bits that a link makes in a second.")] = 100.0,
    shot_s: Annotated[float, typer.Option(help="Seconds of a shot without e-bits.")] = 1e-3,
    seed: Annotated[int, typer.Option(help="Of the search for a partition.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Spread a kernel over QPUs that are too narrow for it: which qubits where, and e-bits or cuts?"""
    from dqk.qpu.partition import kernel_circuit
    from dqk.qpu.wide import compare

    circuit = kernel_circuit(_circuit(feature_map, qubits, layers))
    links = None if not link else [_ends(text) for text in link]
    found = compare(circuit, capacity, shots, link_fidelity, ebit_rate_hz, shot_s=shot_s, links=links, seed=seed)
    print_json(_document(found)) if json else _show(found)


def _circuit(name: str, qubits: int, layers: int | None) -> Any:
    from dqk.kernels.feature_maps import FEATURE_MAPS

    if name not in FEATURE_MAPS:
        raise unknown_name("feature map", name, FEATURE_MAPS)
    depth = {"reuploading": "layers", "zz": "reps", "iqp": "reps", "ising": "reps"}
    if layers is not None and name not in depth:
        raise InvalidInputError(
            f"--layers is {layers}, but {name} has none; leave it out or take one of {sorted(depth)}"
        )
    options = {} if layers is None else {depth[name]: layers}
    return FEATURE_MAPS[name](qubits, **options).circuit  # type: ignore[operator]


def _ends(text: str) -> tuple[int, int]:
    parts = text.split("-")
    if len(parts) != 2 or not all(part.isdecimal() for part in parts):
        raise InvalidInputError(f"--link is {text!r}, expected two numbers of QPUs such as 0-1")
    return int(parts[0]), int(parts[1])


def _document(found: Any) -> dict[str, Any]:
    """As JSON: times that no float holds are null."""
    document = asdict(found)
    for way in ("distributed", "cut"):
        document[way] = {k: v if math.isfinite(v) else None for k, v in document[way].items()}
    document["partition"]["groups"] = found.partition.groups
    return document


def _show(found: Any) -> None:
    from dqk.qpu.wide import seconds, times

    split = found.partition
    qpus = table("QPU", "room", "qubits", numbers=("QPU", "room"))
    for number, (room, group) in enumerate(zip(split.capacities, split.groups, strict=True)):
        qpus.add_row(str(number), str(room), " ".join(map(str, group)) or "-")
    console = stdout()
    console.print(qpus, markup=False)
    console.print(
        f"{split.nonlocal_gates} gates between QPUs, {split.ebits} e-bits a shot"
        + "".join(f"; link {a}-{b}: {count}" for (a, b), count in split.links),
        markup=False,
    )
    fits = found.wire_cuts
    console.print(
        "wire cuts (qml.cut_circuit): "
        + (
            "none found whose fragments fit"
            if fits is None
            else f"{len(fits.cuts)} cuts, {fits.circuits} circuits, {times(2 * fits.gamma_log10)} the shots"
        ),
        markup=False,
    )
    ways = table("way", "shots", "time", "error", "error at equal shots", numbers=("shots", "time", "error"))
    names = {
        "distributed": "e-bits, corrected" if found.corrected else "e-bits",
        "cut": f"cutting {found.cut_by}",
    }
    for way, name in names.items():
        cost = getattr(found, way)
        ways.add_row(
            name,
            times(cost.overhead_log10),
            seconds(cost.time_s),
            f"{cost.error:.2g}",
            f"{cost.error_at_shots:.2g}",
        )
    console.print(ways, markup=False)
    console.print(found.recommendation, markup=False)
