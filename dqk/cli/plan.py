"""`dqk plan`: what a kernel matrix would take on each backend, which one is taken, and why the others are not."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Annotated, Any

import typer
from rich.markup import escape

from dqk.cli.kernels import BackendName, Bandwidth, Layers, MapName, Others, Samples, precision, problem
from dqk.cli.measured import prices
from dqk.cli.measuring import Measuring, use_tokens, with_measuring
from dqk.cli.output import counted, print_json, stderr, stdout, table

_EXAMPLES = """
Examples:

  dqk plan X.npy --feature-map bsp

  dqk plan X.npy --feature-map ising --layers 4 --workers 8 --json

  dqk plan X.npy --qpu http://127.0.0.1:8000 --shots 1000
"""

_MIB = 2**20
_NOT_HERE = ("dry_run", "return_std_error", "seed", "least_fidelity")


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(epilog=_EXAMPLES)(with_measuring(plan, _NOT_HERE))


def plan(
    x: Samples,
    y: Others = None,
    feature_map: MapName = "qklstm",
    layers: Layers = None,
    bandwidth: Bandwidth = 1.0,
    backend: BackendName = "auto",
    workers: Annotated[
        int | None, typer.Option(help="Processes of one thread each (default: the threads of this one).", min=1)
    ] = None,
    calibrate: Annotated[
        bool, typer.Option(help="Measure this machine once, unless that was done; else default speeds count.")
    ] = True,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    *,
    measuring: Measuring,
) -> None:
    """Say what `dqk gram` would take for these samples on each backend, and which one it takes. Computes nothing."""
    use_tokens(measuring.token_file)
    measuring.check(backend, "inline", workers if measuring.qpu else None, log=False, shard=None)
    kernel, samples, others = problem(x, y, feature_map, layers, bandwidth, backend, measuring.plan)
    measuring.check_kernel(kernel, log=False, shard=None)
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(measuring.pool("inline", workers, backend)) if measuring.qpu else None
        document, refused = _document(kernel, samples, others, workers, calibrate, pool)
    print_json(document) if json else _show(document)
    if refused is not None:
        raise refused


def _document(
    kernel: Any, samples: Any, others: Any, workers: int | None, calibrate: bool, pool: Any
) -> tuple[dict[str, Any], Exception | None]:
    from dqk._calibration import cost_model, quick_model
    from dqk._planner import Size, exact_rows, result_bytes
    from dqk._resources import cpu_threads, memory_bound

    columns, dtype = None if others is None else len(others), precision(kernel, samples, others)
    size, circuit = Size(len(samples), columns, dtype, workers), kernel.circuit
    model = quick_model(lambda text: stderr().print(text, markup=False)) if calibrate else cost_model()
    device = _device_row(kernel, samples, others, pool)
    rows, refused = exact_rows(circuit, size, "auto" if device else kernel.backend, model)
    if device is not None:
        exact = "exact values; measurements were asked for"
        rows = [device, *(_not_chosen(row, exact) for row in rows)]
    document = {
        "kernel": str(kernel),
        "shape": [size.rows, size.rows if columns is None else columns],
        "symmetric": columns is None,
        "dtype": str(dtype).removeprefix("torch."),
        "qubits": circuit.n_qubits,
        "gates": len(circuit.gates),
        "threads": cpu_threads() if workers is None else workers,
        "workers": workers,
        "memory_bound_mib": memory_bound() // _MIB,
        "result_mib": -(-result_bytes(size) // _MIB),
        "chosen": next((row.backend for row in rows if row.chosen), None),
        "backends": [row.to_dict() for row in rows],
        "refusal": None if refused is None or device else str(refused),
    }
    return document, None if device else refused


def _not_chosen(row: Any, why: str) -> Any:
    return replace(row, chosen=False, why=why if row.seconds is not None else row.why)


def _device_row(kernel: Any, samples: Any, others: Any, pool: Any) -> Any:
    """What a device takes; None if none measures."""
    from dqk._executors import executor_of
    from dqk._gram import sampled_job_of
    from dqk._planner import Row
    from dqk.kernels.shot_plan import ShotPlan

    if pool is None and kernel.backend == "auto" and not isinstance(kernel.shots, ShotPlan):
        return None  # exact values, of which a simulator draws shots if there are any
    if kernel.backend == "auto" and pool is None:
        kernel = type(kernel)(kernel.feature_map, "simulated", kernel.shots)
    job = sampled_job_of(kernel.backend, kernel.circuit, kernel.shots, 0, executor_of(pool))
    if job is None:
        return None
    found = prices(kernel, samples, others, pool, None, None if kernel.shots is None else 0, log=False)
    devices = 1 if pool is None else max(1, len(pool.workers()))
    why = f"asked for; {found['circuits']:,} circuits in about {counted(found['about_jobs'], 'job')}, {found['shots']:,} shots"
    seconds = found["device_s"] / devices if found["device_s"] else None
    why += "" if seconds else "; the device names no times"
    price = found["price"] or None
    return Row(
        job.device.label or job.device.name,
        True,
        seconds,
        exact=False,
        why=why,
        price=price,
        currency=found["currency"],
    )


def _show(document: dict[str, Any]) -> None:
    rows, columns = document["shape"]
    who = f"{document['workers']} workers" if document["workers"] else f"{document['threads']} threads"
    shown = table("backend", "seconds", "MiB", "tiles", "why", numbers=("seconds", "MiB", "tiles"))
    shown.title = f"{rows:,} x {columns:,}, {document['dtype']}, {document['qubits']} qubits, {who}"
    shown.title_justify = "left"
    for row in document["backends"]:
        numbers = [
            _number(row["seconds"]),
            *(f"{row[name]:,}" if row[name] else "" for name in ("memory_mib", "tiles")),
        ]
        price = f"; {row['price']:,.2f} {row['currency']}" if row["price"] else ""
        name = f"[bold]{escape(row['backend'])}[/]" if row["chosen"] else escape(row["backend"])
        shown.add_row(name, *numbers, escape(row["why"] + price))
    stdout().print(shown)
    if document["result_mib"] > document["memory_bound_mib"]:
        stderr().print(
            f"note: K itself takes {document['result_mib']:,} MiB, more than the bound of {document['memory_bound_mib']:,} MiB; "
            "dqk gram -o K.zarr keeps it on disk",
            soft_wrap=True,
        )


def _number(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds:,.0f}" if seconds >= 100 else f"{seconds:.3g}" if seconds >= 0.001 else f"{seconds:.1g}"
