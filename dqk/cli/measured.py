"""What measuring a matrix takes before it runs (`dqk gram --dry-run`), and what it took."""

from __future__ import annotations

from typing import Any

from rich.markup import escape
from rich.table import Table

from dqk.cli.output import counted, stdout, table
from dqk.errors import InvalidInputError


def measured(kernel: Any, pool: Any) -> bool:
    """Whether a device measures the kernel, so that work comes in jobs instead of tiles."""
    from dqk._executors import executor_of
    from dqk._gram import sampled_job_of

    return sampled_job_of(kernel.backend, kernel.circuit, kernel.shots, 0, executor_of(pool)) is not None


def measured_by(kernel: Any, pool: Any) -> str | list[str]:
    """What computes or measures the entries: a backend's name, or those of several processors."""
    names = getattr(pool, "names", None)
    if names is not None:
        return names[0] if len(names) == 1 else list(names)
    # What computes has a name by now (`settled_kernel`); what is still "auto" has a plan of shots.
    return "simulated" if kernel.backend == "auto" else str(kernel.backend)


def prices(
    kernel: Any, samples: Any, others: Any, pool: Any, destination: Any, seed: int | None, log: bool
) -> dict[str, Any]:
    """What a matrix will take, job by job as the run would submit them; measures nothing.

    Args:
        kernel: with shots.
        samples: of the rows.
        others: of the columns; None for a symmetric matrix.
        pool: open; a QPU pool, or another one.
        destination: the store; None for an array.
        seed: of the measurements.
        log: whether logarithms are asked for.

    Raises:
        DQKError: what the run would raise before it submits anything.
        InvalidInputError: if nothing is measured.
    """
    from dqk._gram import rehearsed
    from dqk.backends.shifts import shift_terms
    from dqk.nn.measured import Spent

    spent = Spent()
    job = rehearsed(kernel, samples, others, pool, destination, [spent], seed, log)
    if job is None:
        raise InvalidInputError(
            "--dry-run: no device measures here; give --qpu URL and --shots 1000, say, or a --backend that measures: "
            "qpu:URL, qiskit:SAMPLER, pennylane:DEVICE, simulated"
        )
    if job.plan is None:
        raise InvalidInputError(
            f"--backend {kernel.backend}: gives exact probabilities, which have no price; give --shots 1000, say"
        )
    limits = job.device.limits
    guess = job.plan.allocation == "variance"
    return {
        "entries": len(samples) * len(samples if others is None else others),
        "circuits": spent.circuits,
        "gates": len(job.circuit.gates) * 2,
        "shots": spent.shots,
        "jobs": None if guess else spent.jobs,
        "about_jobs": spent.jobs,
        "device_s": spent.device_s,
        "price": limits.price(spent.circuits, spent.shots, spent.jobs),
        "currency": limits.currency,
        "timed": limits.seconds(1, 1) > 0,
        "priced": limits.priced,
        "gradient_circuits_per_entry": len(shift_terms(job.circuit)),
        "measured_by": measured_by(kernel, pool),
    }


def show_prices(document: dict[str, Any]) -> None:
    """Prints what `prices` found as a table."""
    shown = table("what", "how much")
    shown.add_row("entries of K", f"{document['entries']:,}")
    shown.add_row("circuits", f"{document['circuits']:,}, of {counted(document['gates'], 'gate')}")
    shown.add_row("shots", f"{document['shots']:,}")
    jobs = document["jobs"]
    shown.add_row(
        "jobs", f"{jobs:,}" if jobs is not None else f"about {document['about_jobs']:,}, as the pilot decides"
    )
    seconds = f"{_amount(document['device_s'], 1)} s" if document["timed"] else "not known"
    shown.add_row("time of the device", seconds)
    cost = f"{_amount(document['price'], 2)} {document['currency']}".strip()
    shown.add_row("price", cost if document["priced"] else "none that the device names")
    shown.add_row("circuits for an entry's gradient", f"{document['gradient_circuits_per_entry']:,} more")
    by = document["measured_by"]
    shown.add_row("measured by", escape(by if isinstance(by, str) else ", ".join(by)))
    stdout().print(shown)


def _amount(number: float, places: int) -> str:
    return f"{number:,.{places}f}" if number == 0 or number >= 10**-places else f"{number:.2g}"


def report(display: Any, kernel: Any, pool: Any) -> dict[str, Any]:
    """What was submitted and by whom it was measured; of each processor what it did."""
    found: dict[str, Any] = {"measured_by": measured_by(kernel, pool)}
    if display.unit != "jobs":
        return {**found, "shots_per_entry": kernel.shots} if kernel.shots is not None else {}
    found |= {
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
    if "shots_per_entry" in document:
        shots = counted(document["shots_per_entry"], "shot")
        shown.add_row("measured", f"{shots} of every entry, simulated by {document['measured_by']}")
    if "shots" not in document:
        return
    seconds = f", {_amount(document['device_s'], 1)} s of the device" if document["device_s"] else ""
    jobs = f" in {counted(document['jobs'], 'job')}{seconds}" if document["jobs"] else ", all were there"
    shown.add_row("measured", f"{counted(document['circuits'], 'circuit')}, {counted(document['shots'], 'shot')}{jobs}")
    for name, one in document.get("qpus", {}).items():
        state = f"; drained: {one['drained']}" if one["drained"] else ""
        fidelity = f", k(x, x) = {one['fidelity']:.3f}" if one["fidelity"] is not None else ""
        each = " each" if one["jobs"] > 1 else ""
        wait = f", {one['mean_wait_s']:.2f} s{each}" if one["jobs"] else ""
        shown.add_row(escape(name), escape(f"{counted(one['jobs'], 'job')}{wait}{fidelity}{state}"))
