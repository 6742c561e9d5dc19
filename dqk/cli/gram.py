"""`dqk gram`: kernel matrices of samples in files, on this machine, a Ray cluster or the ranks of an MPI job."""

from __future__ import annotations

import contextlib
import os
import signal
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from rich.markup import escape

from dqk.cli.kernels import BackendName, Bandwidth, Layers, MapName, Others, Samples, problem, settled_kernel
from dqk.cli.measured import measured, measured_by, prices, report, show, show_prices
from dqk.cli.measuring import Measuring, use_tokens, with_measuring
from dqk.cli.output import print_json, stderr, stdout, table
from dqk.cli.pools import opened, serves
from dqk.errors import BudgetError, ClusterError, InvalidInputError, TileError

_EXAMPLES = """
Examples:

  dqk gram X.npy -o K.zarr

  dqk gram X.npy --feature-map reuploading --layers 3 -o K.zarr --executor ray --workers 2 --json

  mpiexec -n 4 python -m mpi4py -m dqk gram X.npy -o K.zarr --executor mpi

  dqk gram X.npy -o K.zarr --resume

  dqk gram X_test.npy --y X_train.npy -o K_test.npy

  dqk gram X.npy -o K.zarr --qpu http://127.0.0.1:8000 --shots 1000 --dry-run
"""

_Out = Annotated[
    Path,
    typer.Option("--out", "-o", help="K.zarr: a store that fills tile by tile and can be resumed. K.npy: an array."),
]
_NO_STORE = "note: a rank that is lost ends an MPI job, and without a store (-o K.zarr) its work with it"
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(epilog=_EXAMPLES)(with_measuring(gram))


def gram(
    x: Samples,
    out: _Out,
    y: Others = None,
    feature_map: MapName = "qklstm",
    layers: Layers = None,
    bandwidth: Bandwidth = 1.0,
    backend: BackendName = "auto",
    log: Annotated[bool, typer.Option("--log", help="Natural logarithms, which do not underflow.")] = False,
    executor: Annotated[str, typer.Option(help="inline, processes, ray or mpi.")] = "inline",
    workers: Annotated[int | None, typer.Option(help="Workers, or threads if inline (default: all).", min=1)] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the store, or begin it.")] = False,
    take_over: Annotated[
        bool, typer.Option("--take-over", help="Take the store from a driver that is no more.")
    ] = False,
    shard: Annotated[str | None, typer.Option(help="i/k: the i-th of k parts, for job arrays on one store.")] = None,
    trace: Annotated[Path | None, typer.Option(help="Write who did what and when, for ui.perfetto.dev.")] = None,
    timeline: Annotated[Path | None, typer.Option(help="Draw it into a PNG file.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON document.")] = False,
    *,
    measuring: Measuring,
) -> None:
    """Compute the kernel matrix of the samples in a file, one qubit per column."""
    if executor == "mpi" and serves(workers):
        return
    with contextlib.ExitStack() as stack:
        if executor == "mpi":  # the other ranks wait for rank 0, also if it finds that there is nothing to do
            pool = stack.enter_context(opened(executor, None))
        measuring.check(backend, executor, workers, log, shard)
        use_tokens(measuring.token_file)
        errors = measuring.return_std_error and out.suffix == ".npy"
        destination = _destination(out, resume, take_over, shard, trace, timeline, errors)
        kernel, samples, others = problem(x, y, feature_map, layers, bandwidth, backend, measuring.plan)
        measuring.check_kernel(kernel, log, shard)
        if executor == "mpi" and destination is None:
            stderr().print(_NO_STORE)
        stack.enter_context(_stoppable(out, destination is not None))
        if executor != "mpi":
            pool = stack.enter_context(measuring.pool(executor, workers, backend))
        seed = (measuring.seed or 0) if measuring.measures else None
        if measuring.dry_run:
            found = prices(kernel, samples, others, pool, destination, seed, log)
            print_json(found) if json else show_prices(found)
            return
        kernel = settled_kernel(kernel, samples, others, pool, destination)
        display, spans = _observers(measured(kernel, pool))
        began = time.perf_counter()
        watching = [display, *([spans] if trace or timeline else [])]
        found = _compute(kernel, samples, others, pool, destination, watching, log, seed, errors)
        seconds = time.perf_counter() - began
    found = _saved(out, found, errors) if destination is None else found
    _written(spans, trace, timeline)
    named = {"executor": executor, "std_error": str(_beside(out))} if errors else {"executor": executor}
    document = _document(kernel, found, others is None, out, pool, display, seconds) | named
    document |= report(display, kernel, pool)
    print_json(document) if json else _show(document)


def _observers(measured: bool) -> tuple[Any, Any]:
    from dqk._trace import Trace
    from dqk.cli.live import LiveDisplay

    return LiveDisplay("jobs" if measured else "tiles"), Trace()


def _written(spans: Any, trace: Path | None, timeline: Path | None) -> None:
    for path, write in ((trace, spans.save), (timeline, spans.draw)):
        if path is not None:
            write(path)


def _saved(out: Path, found: Any, errors: bool) -> Any:
    """Writes K, and its standard errors beside it; gives K."""
    if errors:
        found, spread = found
        _save(_beside(out), spread)
    _save(out, found)
    return found


def _beside(out: Path) -> Path:
    """The file of standard errors."""
    return out.with_suffix(".std_error.npy")


def _destination(
    out: Path,
    resume: bool,
    take_over: bool,
    shard: str | None,
    trace: Path | None,
    timeline: Path | None,
    errors: bool,
) -> Any:
    """The store, or None for an array in memory that is saved at the end."""
    from dqk._stored import Destination

    problems = []
    if out.suffix not in (".zarr", ".npy"):
        problems.append(f"--out {out} ends in {out.suffix!r}, expected .zarr or .npy")
    if out.suffix == ".npy":
        given = {"--resume": resume, "--take-over": take_over, "--shard": shard is not None}
        problems += [
            f"{name} needs a store: --out {out.with_suffix('.zarr')}" for name, is_given in given.items() if is_given
        ]
        if out.exists():
            problems.append(f"--out {out} exists; remove it or choose another path")
        elif errors and _beside(out).exists():
            problems.append(f"--return-std-error: {_beside(out)} exists; remove it or choose another --out")
    if take_over and not resume:
        problems.append("--take-over goes on with a store, so it needs --resume")
    for name, path, suffix in (
        ("--out", out, out.suffix),
        ("--trace", trace, ".json"),
        ("--timeline", timeline, ".png"),
    ):
        if path is not None and not path.parent.is_dir():
            problems.append(f"{name} {path}: there is no folder {path.parent}")
        elif path is not None and not os.access(path.parent, os.W_OK):
            problems.append(f"{name} {path}: the folder {path.parent} cannot be written to")
        if path is not None and path.suffix != suffix:
            problems.append(f"{name} {path} ends in {path.suffix!r}, expected {suffix}")
    part = None
    if shard is not None:
        numbers = shard.split("/")
        if (
            len(numbers) == 2
            and all(number.isdecimal() for number in numbers)
            and 1 <= int(numbers[0]) <= int(numbers[1])
        ):
            part = int(numbers[0]), int(numbers[1])
        else:
            problems.append(f"--shard {shard}, expected i/k with i from 1 to k, such as 3/8")
    if problems:
        raise InvalidInputError("\n".join(problems))
    return None if out.suffix == ".npy" else Destination(out, resume, take_over, part)


@contextlib.contextmanager
def _stoppable(out: Path, stored: bool) -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGUSR1 (Slurm's warning) end the run with a word on how to go on."""
    from dqk.training.interrupt import Interrupted

    def stop(number: int, frame: FrameType | None) -> None:
        for signum in previous:
            signal.signal(signum, signal.SIG_IGN)  # workers are ended first; a second one would leave them behind
        rest = (
            f"what is done is in {out}: go on with the same command and --resume"
            if stored
            else f"{out} was not written"
        )
        raise Interrupted(f"by signal {signal.Signals(number).name}; {rest}", number)

    previous = {number: signal.signal(number, stop) for number in _SIGNALS}
    try:
        yield
    except SystemError as error:  # what Ray's waiting makes of an exception that a handler raises in it
        if isinstance(error.__cause__, Interrupted):
            raise error.__cause__ from None
        raise
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _compute(
    kernel: Any,
    samples: Any,
    others: Any,
    pool: Any,
    destination: Any,
    observers: Any,
    log: bool,
    seed: int | None,
    errors: bool,
) -> Any:
    from dqk import gram

    asked: dict[str, Any] = {"progress": observers, "log": log, "seed": seed, "return_std_error": errors}
    try:
        return gram(kernel, samples, others, executor=pool, store=destination, **asked)
    except (ClusterError, TileError) as error:
        if destination is not None and destination.path.exists() and not isinstance(error, BudgetError):
            note = f"what is done is in {destination.path}: the same command with --resume goes on"
            stderr().print(note, markup=False, soft_wrap=True)
        raise


def _save(out: Path, matrix: Any) -> None:
    """Under its name only when it is whole."""
    import numpy as np

    temporary = out.with_name(f".{out.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        with temporary.open("wb") as file:
            np.save(file, matrix)
        temporary.replace(out)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _document(
    kernel: Any, found: Any, symmetric: bool, out: Path, pool: Any, display: Any, seconds: float
) -> dict[str, Any]:
    from dqk._gram import described

    statistics = display.statistics
    return {
        "shape": list(found.shape),
        "dtype": str(found.dtype),
        "digest": _digest(kernel, found, symmetric, display.unit == "jobs"),
        "out": str(out),
        "kernel": described(kernel, pool),
        "backend": measured_by(kernel, pool),
        "tiles": display.total,
        "computed": statistics.accepted,
        "retries": statistics.retries,
        "lost_workers": statistics.lost_workers,
        "duplicates": statistics.duplicates,
        "workers": {name: worker.items for name, worker in statistics.workers.items()},
        "seconds": round(seconds, 3),
    }


def _digest(kernel: Any, found: Any, symmetric: bool, measured: bool) -> str | None:
    """Of the matrix, tile by tile: the same for a store and for an array."""
    import numpy as np
    import torch

    from dqk.backends import resolve
    from dqk.backends.sampled import SIDE
    from dqk.store import Grid, StoredGram, matrix_digest, tile_digest

    if isinstance(found, StoredGram):
        return found.digest
    dtype = torch.float32 if found.dtype == np.float32 else torch.float64
    side = SIDE if measured else resolve(kernel.backend, kernel.circuit, dtype=dtype).tile_side(kernel.circuit, dtype)
    grid = Grid(found.shape, side, symmetric, found.dtype)
    tiles = (found[slice(*grid.span(row, 0)), slice(*grid.span(column, 1))] for row, column in grid.tiles())
    return matrix_digest(found.shape, found.dtype, side, symmetric, map(tile_digest, tiles))


def _show(document: dict[str, Any]) -> None:
    shown = table("result", "value")
    rows, columns = document["shape"]
    shown.add_row("matrix", escape(f"{rows} x {columns}, {document['dtype']}, in {document['out']}"))
    if "std_error" in document:
        shown.add_row("standard errors", escape(f"in {document['std_error']}"))
    shown.add_row("kernel", escape(document["kernel"]))
    unit = "tiles" if "shots" not in document else "jobs"
    done = "computed" if unit == "tiles" else "done"
    shown.add_row(unit, f"{document['computed']} of {document['tiles']} {done} now, in {document['seconds']:.1f} s")
    show(shown, document)
    if "qpus" not in document:
        shown.add_row(
            "workers", ", ".join(f"{name}: {items}" for name, items in document["workers"].items()) or "none needed"
        )
    shown.add_row("digest", document["digest"] or "none yet: tiles are missing")
    stdout().print(shown)
    if document["retries"] or document["lost_workers"]:
        stderr().print(f"{unit} tried again: {document['retries']}; workers lost: {document['lost_workers']}")
