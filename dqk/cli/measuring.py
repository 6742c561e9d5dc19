"""`dqk gram` where a device measures: shots, budgets, quantum processors, and what it will cost."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
from rich.table import Table

from dqk.cli.output import print_json, stdout, table
from dqk.cli.pools import opened
from dqk.errors import InvalidInputError

_PANEL = "Measurements"


def _option(help: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=_PANEL, **more)


@dataclass
class Measuring:
    """What a command line says about measurements by devices."""

    shots: Annotated[int | None, _option("Measurements per entry (default: exact values).", min=1)] = None
    seed: Annotated[int | None, _option("Of the measurements (default: 0).", min=0)] = None
    budget: Annotated[int | None, _option("Measurements in all, never exceeded.", min=1)] = None
    budget_seconds: Annotated[float | None, _option("Seconds of the device in all, never exceeded.")] = None
    allocation: Annotated[
        str | None, _option("uniform, or variance: a pilot, then the rest of the budget where it helps most.")
    ] = None
    max_circuits_per_job: Annotated[int | None, _option("Fewer circuits in a job than the device takes.", min=1)] = None
    evaluate_duplicates: Annotated[
        str | None, _option("off_diagonal (the default: a symmetric K's diagonal is 1, unmeasured), all or none.")
    ] = None
    return_std_error: Annotated[
        bool, _option("With -o K.npy also K.std_error.npy; a store has them anyway.", "--return-std-error")
    ] = False
    qpu: Annotated[list[str] | None, _option("URL of a QPU service; several share the work.", "--qpu")] = None
    token_file: Annotated[Path | None, _option("File with the service's token (or DQK_QPU_TOKEN).")] = None
    least_fidelity: Annotated[
        float | None, _option("Drain a QPU whose k(x, x), measured every minute, is below this.")
    ] = None
    dry_run: Annotated[bool, _option("Say what measuring takes and costs; compute nothing.", "--dry-run")] = False

    def checked_seed(self) -> int | None:
        """The seed of the measurements; None if nothing is measured.

        Raises:
            InvalidInputError: if there is one all the same.
        """
        if self.plan() is None:
            if self.seed is not None:
                raise InvalidInputError(f"--seed {self.seed} without --shots: exact values need no seed")
            return None
        return self.seed or 0

    def plan(self) -> Any:
        """What a kernel takes as `shots`: a plan if anything but a number was asked for."""
        given: dict[str, Any] = {
            "budget": self.budget,
            "budget_s": self.budget_seconds,
            "allocation": self.allocation,
            "max_circuits_per_job": self.max_circuits_per_job,
            "evaluate_duplicates": self.evaluate_duplicates,
        }
        named = {name: value for name, value in given.items() if value is not None}
        if not named:
            return self.shots
        from dqk.kernels import ShotPlan

        return ShotPlan(self.shots, **named)

    def pool(self, executor: str, workers: int | None, backend: str) -> Any:
        """A pool of the processors that were named, or of the executor's workers.

        Raises:
            InvalidInputError: if both were asked for.
        """
        if not self.qpu:
            if self.least_fidelity is not None:
                raise InvalidInputError(f"--least-fidelity {self.least_fidelity} is for --qpu")
            from dqk._executors import gpus_for

            return opened(executor, workers, gpus_for(backend))
        given = "" if executor == "inline" else f"--executor {executor}"
        given = given or ("" if workers is None else f"--workers {workers}")
        if given:
            raise InvalidInputError(f"{given} with --qpu: the processors are the workers; leave one of them out")
        from dqk.qpu.pool import QPUPool

        return QPUPool(list(self.qpu), self.least_fidelity)


def with_measuring(command: Callable[..., None], without: tuple[str, ...] = ()) -> Callable[..., None]:
    """Gives a command that takes `measuring` one option for each of its fields but some."""
    own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "measuring"]
    hints = get_type_hints(Measuring, include_extras=True)
    more = [
        inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=hints[f.name])
        for f in fields(Measuring)
        if f.name not in without
    ]

    @functools.wraps(command)
    def run(**given: Any) -> None:
        command(**{p.name: given[p.name] for p in own}, measuring=Measuring(**{p.name: given[p.name] for p in more}))

    run.__signature__ = inspect.Signature([*own, *more])  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in (*own, *more)}
    return run


def measured(kernel: Any, pool: Any) -> bool:
    """Whether a device measures the kernel, so that work comes in jobs instead of tiles."""
    from dqk._executors import executor_of
    from dqk._gram import sampled_job_of

    return sampled_job_of(kernel.backend, kernel.circuit, kernel.shots, 0, executor_of(pool)) is not None


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
    from dqk._executors import executor_of
    from dqk._gram import sampled_job_of

    job = sampled_job_of(kernel.backend, kernel.circuit, kernel.shots, 0, executor_of(pool))
    if job is None or job.plan is None:
        raise InvalidInputError("--dry-run prices measurements: give --qpu URL and --shots, or a backend that measures")
    document = prices(job, n, m)
    print_json(document) if json else _show(document)


def prices(job: Any, n: int, m: int | None) -> dict[str, Any]:
    """What a matrix that a device measures takes of it.

    Args:
        job: with a plan of shots.
        n: samples of the rows.
        m: of the columns; None for a symmetric matrix.
    """
    from dqk._measure import job_rows
    from dqk.backends.shifts import shift_terms

    everything = job.plan.evaluate_duplicates == "all"
    circuits = n * m if m is not None else n * (n + 1) // 2 if everything else n * (n - 1) // 2
    uniform = job.plan.allocation != "variance"
    entries, circuits = circuits, circuits if uniform else 2 * circuits  # a pilot, then the rest
    each = job.plan.allocation == "uniform"
    shots = job.plan.per_entry(entries) * entries if each else job.plan.total(entries)
    limits = job.device.limits
    jobs = -(-circuits // job_rows(limits, job.plan.max_circuits_per_job))
    return {
        "entries": n * (n if m is None else m),
        "circuits": circuits,
        "gates": len(job.circuit.gates) * 2,
        "shots": shots,
        "jobs": jobs if uniform else None,
        "about_jobs": jobs,
        "device_s": limits.seconds(circuits, shots, jobs),
        "price": limits.price(circuits, shots, jobs),
        "currency": limits.currency,
        "gradient_circuits_per_entry": len(shift_terms(job.circuit)),
    }


def _show(document: dict[str, Any]) -> None:
    shown = table("what", "how much")
    shown.add_row("entries of K", f"{document['entries']:,}")
    shown.add_row("circuits", f"{document['circuits']:,}, of {document['gates']} gates")
    shown.add_row("shots", f"{document['shots']:,}")
    jobs = document["jobs"]
    shown.add_row(
        "jobs", f"{jobs:,}" if jobs is not None else f"about {document['about_jobs']:,}, as the pilot decides"
    )
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
