"""`dqk store`: kernel matrices on disk."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from dqk.cli.output import print_json, stdout, table
from dqk.errors import InvalidInputError

app = typer.Typer(
    name="store",
    help="Look at, check, export and compare kernel matrices on disk.",
    no_args_is_help=True,
    epilog="Example: dqk store info K.zarr",
)

_Store = Annotated[Path, typer.Argument(help="A store such as K.zarr.", show_default=False)]
_Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


@app.command(epilog="Example: dqk store info K.zarr")
def info(path: _Store, json: _Json = False) -> None:
    """Show what a store is a matrix of, how much of it is there, and who writes to it."""
    from dqk.store import StoredGram
    from dqk.store.leases import holders

    stored = StoredGram(path)
    document = _described(stored)
    document["in_use_by"] = [str(holder) for holder in holders(path)]
    if json:
        print_json(document)
        return
    shown = table("store", escape(str(path)))
    for name, value in document.items():
        shown.add_row(name.replace("_", " "), escape(_text(value)))
    stdout().print(shown)


def _described(stored: Any) -> dict[str, Any]:
    known, state = stored.fingerprint, stored.state
    return {
        "about": known.about,
        "shape": list(stored.shape),
        "dtype": known.dtype,
        "backend": known.backend or "qpu",
        "log": known.log,
        "symmetric": known.symmetric,
        "shots": known.shots,
        "seed": known.seed,
        "side": known.side,
        "tiles": stored.total,
        "done": stored.done,
        "lost": len(state.lost),
        "digest": stored.digest,
        "numeric_classes": [
            {**state.entries.classes.get(name, {}), "tiles": tiles} for name, tiles in sorted(state.classes.items())
        ],
        "damaged_lines": state.entries.damaged_lines,
    }


def _text(value: Any) -> str:
    match value:
        case None | []:
            return "-"
        case [int(), *_]:
            return " x ".join(map(str, value))
        case [dict(), *_]:
            return "\n".join(", ".join(f"{key} {part}" for key, part in item.items()) for item in value)
        case [*_]:
            return "\n".join(value)
    return str(value)


@app.command(epilog="Example: dqk store verify K.zarr --drop-damaged")
def verify(
    path: _Store,
    drop_damaged: Annotated[
        bool, typer.Option("--drop-damaged", help="Remove damaged tiles, so that --resume computes them again.")
    ] = False,
    json: _Json = False,
) -> None:
    """Read every tile, compare it with its digest, print the digest of the matrix.

    Exit code 1 if tiles are damaged; tiles that are not computed yet are no damage.
    """
    from dqk.store.check import verify

    found = verify(path, drop_damaged)
    if json:
        print_json(asdict(found))
    else:
        _show_verification(path, found)
    if found.damaged:
        raise typer.Exit(1)


def _show_verification(path: Path, found: Any) -> None:
    out = stdout()
    for damage in found.damaged:
        (top, bottom), (left, right) = damage.rows, damage.columns
        text = f"damaged: tile {damage.tile}: rows {top}-{bottom}, columns {left}-{right}: {damage.problem}"
        out.print(text, markup=False, soft_wrap=True)
    good = found.checked - len(found.damaged)
    out.print(f"{good:,} of {found.total:,} tiles are as they were computed", markup=False)
    if found.dropped:
        out.print(f"{len(found.damaged):,} damaged tiles were removed; compute them again with --resume", markup=False)
    elif found.damaged:
        repair = f"dqk store verify {path} --drop-damaged"
        out.print(
            f"to repair: {repair}, then run the command that computed it with --resume", markup=False, soft_wrap=True
        )
    elif found.digest is None:
        out.print("incomplete: run the command that computes it with --resume", markup=False)
    else:
        out.print(f"digest {found.digest}", markup=False)


@app.command(epilog="Example: dqk store export K.zarr K.npy")
def export(
    path: _Store,
    target: Annotated[Path, typer.Argument(help="A .npy file that does not exist.", show_default=False)],
    json: _Json = False,
) -> None:
    """Write a complete matrix to a .npy file, block of rows by block of rows."""
    from dqk.store import StoredGram

    if target.suffix != ".npy":
        raise InvalidInputError(f"target {target}, expected a name that ends in .npy")
    stored = StoredGram(path)
    stored.export(target)
    document = {"path": str(target), "shape": list(stored.shape), "dtype": stored.dtype.name, "digest": stored.digest}
    if json:
        print_json(document)
    else:
        text = f"{target}: {_text(document['shape'])} {document['dtype']}, digest {document['digest']}"
        stdout().print(text, markup=False, soft_wrap=True)


@app.command(epilog="Example: dqk store compare A.zarr B.zarr --atol 1e-12")
def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="A complete store.", show_default=False)],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another one of the same shape.", show_default=False)],
    atol: Annotated[float, typer.Option(min=0.0, help="Largest difference that counts as equal.")] = 0.0,
    json: _Json = False,
) -> None:
    """Print the largest |A - B| and where it is. Exit code 1 if it is above --atol."""
    from dqk.store.check import compare

    found = compare(first, second)
    equal = found.max_difference <= atol
    if json:
        document = {**asdict(found), "max_difference": _number(found.max_difference), "atol": atol, "equal": equal}
        print_json({**document, "values": found.values and [_number(value) for value in found.values]})
    elif found.row is None:
        stdout().print("the matrices are equal", markup=False)
    else:
        text = f"largest difference {found.max_difference:.6g} at row {found.row}, column {found.column}: "
        text += (
            f"{found.values[0]!r} and {found.values[1]!r}; {found.differing:,} entries differ" if found.values else ""
        )
        stdout().print(text, markup=False, soft_wrap=True)
    if not equal:
        raise typer.Exit(1)


def _number(value: float) -> float | None:
    """JSON has neither infinities nor NaN."""
    return value if math.isfinite(value) else None
