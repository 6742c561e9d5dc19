"""`dqk gram` where a device measures: shots, budgets, quantum processors, and what it will cost."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from dqk.cli.output import print_json, stdout, table
from dqk.errors import InvalidInputError

Budget = Annotated[int | None, typer.Option(help="Measurements in all, never exceeded.", min=1)]
BudgetSeconds = Annotated[float | None, typer.Option(help="Seconds of the device in all, never exceeded.")]
Allocation = Annotated[
    str | None, typer.Option(help="uniform, or variance: a pilot, then the rest of the budget where it helps most.")
]
MaxCircuits = Annotated[int | None, typer.Option(help="Circuits of a job: fewer than the device takes.", min=1)]
Duplicates = Annotated[
    str | None, typer.Option(help="off_diagonal (the default: a symmetric K's diagonal is 1, unmeasured), all or none.")
]
StdError = Annotated[
    bool, typer.Option("--return-std-error", help="With -o K.npy also K.std_error.npy; a store has them anyway.")
]
QPUs = Annotated[list[str] | None, typer.Option("--qpu", help="URL of a QPU service; several share the work.")]
TokenFile = Annotated[Path | None, typer.Option(help="File with the service's token (or DQK_QPU_TOKEN).")]
LeastFidelity = Annotated[
    float | None, typer.Option(help="Drain a QPU whose k(x, x), measured every minute, is below this.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what measuring takes and costs; compute nothing.")]


def shots_of(
    shots: int | None,
    budget: int | None,
    budget_s: float | None,
    allocation: str | None,
    max_circuits_per_job: int | None,
    evaluate_duplicates: str | None,
) -> Any:
    """What a kernel takes as `shots`: a plan if anything but a number was asked for."""
    given: dict[str, Any] = {
        "budget": budget,
        "budget_s": budget_s,
        "allocation": allocation,
        "max_circuits_per_job": max_circuits_per_job,
        "evaluate_duplicates": evaluate_duplicates,
    }
    named = {name: value for name, value in given.items() if value is not None}
    if not named:
        return shots
    from dqk.kernels import ShotPlan

    return ShotPlan(shots, **named)


def measured(kernel: Any, pool: Any) -> bool:
    """Whether a device measures the kernel, so that work comes in jobs instead of tiles."""
    from dqk._gram import executor_of, sampled_job_of

    return sampled_job_of(kernel.backend, kernel.circuit, kernel.shots, 0, executor_of(pool)) is not None


def pool_of(qpus: Sequence[str], least_fidelity: float | None, executor: str) -> Any:
    """A pool of the processors that were named.

    Raises:
        InvalidInputError: if something else was asked for, too.
    """
    if executor != "inline":
        raise InvalidInputError(
            f"--executor {executor} with --qpu: the processors are the workers; leave one of them out"
        )
    from dqk.qpu.pool import QPUPool

    return QPUPool(list(qpus), least_fidelity)


def use_tokens(token_file: Path | None) -> None:
    """Has clients of this process use the token of a file."""
    if token_file is not None:
        from dqk.qpu import read_token
        from dqk.qpu.records import TOKEN_VARIABLE

        os.environ[TOKEN_VARIABLE] = read_token(token_file)


def price(kernel: Any, n: int, m: int | None, pool: Any, json: bool) -> None:
    """Says what a matrix will take, and computes nothing.

    Args:
        kernel: with shots.
        n: samples of the rows.
        m: of the columns; None for a symmetric matrix.
        pool: open; a QPU pool, or another one.
        json: prints one JSON document.

    Raises:
        InvalidInputError: if nothing is measured.
    """
    from dqk._gram import executor_of, sampled_job_of
    from dqk._measure import job_rows
    from dqk.backends.shifts import shift_terms

    job = sampled_job_of(kernel.backend, kernel.circuit, kernel.shots, 0, executor_of(pool))
    if job is None or job.plan is None:
        raise InvalidInputError("--dry-run prices measurements: give --qpu URL and --shots, or a backend that measures")
    everything = job.plan.evaluate_duplicates == "all"
    circuits = n * m if m is not None else n * (n + 1) // 2 if everything else n * (n - 1) // 2
    uniform = job.plan.allocation == "uniform"
    shots = job.plan.per_entry(circuits) * circuits if uniform else job.plan.total(circuits)
    limits = job.device.limits
    jobs = -(-circuits // job_rows(limits, job.plan.max_circuits_per_job))
    document = {
        "entries": n * (n if m is None else m),
        "circuits": circuits,
        "gates": len(job.circuit.gates) * 2,
        "shots": shots,
        "jobs": jobs if uniform else None,
        "device_s": limits.seconds(circuits, shots, jobs),
        "price": limits.price(circuits, shots, jobs),
        "currency": limits.currency,
        "gradient_circuits_per_entry": len(shift_terms(job.circuit)),
    }
    print_json(document) if json else _show(document)


def _show(document: dict[str, Any]) -> None:
    shown = table("what", "how much")
    shown.add_row("entries of K", f"{document['entries']:,}")
    shown.add_row("circuits", f"{document['circuits']:,}, of {document['gates']} gates")
    shown.add_row("shots", f"{document['shots']:,}")
    jobs = document["jobs"]
    shown.add_row("jobs", f"{jobs:,}" if jobs is not None else "as the pilot decides: a few more than with equal shots")
    shown.add_row("time of the device", f"{document['device_s']:,.1f} s" if document["device_s"] else "not known")
    cost = f"{document['price']:,.2f} {document['currency']}".strip()
    shown.add_row("price", cost if document["price"] else "none that the device names")
    shown.add_row("circuits for an entry's gradient", f"{document['gradient_circuits_per_entry']:,} more")
    stdout().print(shown)


def report(display: Any, pool: Any) -> dict[str, Any]:
    """What was submitted, and what each processor did; nothing if nothing was measured by a device."""
    if not display.jobs:
        return {}
    found: dict[str, Any] = {
        "jobs": display.jobs,
        "circuits": display.circuits,
        "shots": display.shots,
        "device_s": round(display.device_s, 3),
    }
    reports = getattr(pool, "reports", None)
    if reports is not None:
        found["qpus"] = {
            one.name: {
                "jobs": one.jobs,
                "mean_wait_s": round(one.seconds / one.jobs, 4) if one.jobs else None,
                "fidelity": one.fidelity,
                "drained": one.drained,
            }
            for one in reports
        }
    return found


def show(shown: Table, document: dict[str, Any]) -> None:
    """Adds to a table what `report` found."""
    if "shots" not in document:
        return
    seconds = f", {document['device_s']:,.1f} s of the device" if document["device_s"] else ""
    shown.add_row("measured", f"{document['circuits']:,} circuits, {document['shots']:,} shots{seconds}")
    for name, one in document.get("qpus", {}).items():
        state = f"; drained: {one['drained']}" if one["drained"] else ""
        fidelity = f", k(x, x) = {one['fidelity']:.3f}" if one["fidelity"] is not None else ""
        wait = f", {one['mean_wait_s']:.2f} s each" if one["jobs"] else ""
        shown.add_row(name, f"{one['jobs']} tasks{wait}{fidelity}{state}")
