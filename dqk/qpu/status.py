"""How a service is doing: one document for programs, and the same as a page for people.

Like `/metrics` it is about all tokens together: it has neither tokens nor keys, ids, circuits or results of jobs.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from html import escape
from typing import TYPE_CHECKING, Any

from dqk.qpu.metrics import STATES

if TYPE_CHECKING:
    from dqk.qpu._api import Service

REFRESH_S = 5
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
}

_ERRORS = {
    "depolarising_1q": "one-qubit gate",
    "depolarising_2q": "two-qubit gate, each qubit",
    "readout_0": "reading 1 for 0",
    "readout_1": "reading 0 for 1",
}
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 44rem; margin: 2rem auto; padding: 0 1rem;
  color: #1c2330; background: #fff; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.05rem; margin: 1.8rem 0 .4rem; } p { margin: .2rem 0; }
table { border-collapse: collapse; width: 100%; } caption { text-align: left; }
th, td { padding: .25rem .6rem .25rem 0; border-bottom: 1px solid #d5dae3; text-align: right;
  font-variant-numeric: tabular-nums; }
th { font-weight: 600; } th:first-child, td:first-child { text-align: left; } td:first-child { font-weight: 400; }
.state { display: inline-block; padding: 0 .6rem; border-radius: 1rem; color: #fff; background: #1d6b3a; }
.outage { background: #a32121; } .working { background: #1d4f91; } meter { width: 12rem; vertical-align: middle; }
footer { margin-top: 2rem; color: #56607a; font-size: .9rem; overflow-wrap: anywhere; } h1 { overflow-wrap: anywhere; }
"""


def status(service: Service) -> dict[str, Any]:
    """What `/status` answers."""
    store, machine, profile = service.store, service.machine, service.profile
    totals, now, at_work = store.totals(), time.monotonic(), machine.running
    running = None
    if at_work is not None:
        job, began = at_work
        running = {"circuits": len(job.parameters), "shots": job.shots, "seconds": now - began}
    outage_s = profile.outage_left_s(store.age_s)
    return {
        "name": profile.name,
        "n_qubits": service.n_qubits,
        "state": "outage" if outage_s else "idle" if running is None else "working",
        "outage_left_s": outage_s,
        "age_s": store.age_s,
        "load": machine.load.share(now, None if at_work is None else at_work[1]),
        "load_over_s": machine.load.over_s,
        "running": running,
        "calibration": service.calibration(),
        "jobs": {
            state: {
                name: totals.get(state, {}).get(name, 0) for name in ("jobs", "circuits", "shots", "seconds", "price")
            }
            for state in STATES
        },
        "currency": profile.price.currency,
    }


def page(found: Mapping[str, Any]) -> str:
    """The page of `/`: one file without scripts and without anything from elsewhere, which loads itself again.

    Args:
        found: what `status` gives.
    """
    name, state, jobs = escape(found["name"]), found["state"], found["jobs"]
    said = state
    if found["outage_left_s"]:
        said = f"outage: starts no job and takes none for {_seconds(found['outage_left_s'])} more"
    run, queued, calibration = found["running"], jobs["queued"], found["calibration"]
    at_work = "none"
    if run is not None:
        at_work = (
            f"a job for {_seconds(run['seconds'])}, circuits: {run['circuits']:,}, shots of each: {run['shots']:,}"
        )
    load = f'<meter min="0" max="1" value="{found["load"]:.3f}"></meter> {found["load"]:.0%}'
    now = [
        ("queue", f"jobs: {queued['jobs']:,}, circuits: {queued['circuits']:,}"),
        ("at work", at_work),
        (f"load in the last {found['load_over_s']:.0f} s", load),
    ]
    errors = [(text, f"{calibration[key]:.3%}") for key, text in _ERRORS.items()]
    history = [
        (
            kind,
            f"{row['jobs']:,}",
            f"{row['circuits']:,}",
            f"{row['shots']:,.0f}",
            f"{row['seconds']:,.1f}",
            f"{row['price']:,.2f}",
        )
        for kind, row in jobs.items()
    ]
    price = f"price in {escape(found['currency'])}"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="refresh" content="{REFRESH_S}">
<link rel="icon" href="data:,">
<title>{name}: {escape(state)}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{name}</h1>
<p>{found["n_qubits"]} qubits, emulated. <span class="state {escape(state)}">{escape(said)}</span></p>
<h2>Now</h2>
{_table((), now)}
<h2>Calibration</h2>
<p>Calibrated {_seconds(calibration["calibrated_s_ago"])} ago; probabilities of errors now:</p>
{_table(("error of", "probability"), errors)}
<h2>History</h2>
{_table(("jobs", "number", "circuits", "shots", "seconds charged", price), history)}
<footer>For {_seconds(found["age_s"])}, of all tokens together. Loads again every {REFRESH_S} s;
the same for programs: <a href="/status">/status</a>, <a href="/metrics">/metrics</a>.</footer>
</body>
</html>
"""


def _table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table of cells that are HTML already."""
    names = [f'<th scope="col">{name}</th>' for name in columns]
    head = f"<tr>{''.join(names)}</tr>\n" if names else ""
    lines = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>\n" for row in rows)
    return f"<table>\n{head}{lines}</table>"


def _seconds(given: float) -> str:
    """A span for people: in its two largest units.

    >>> _seconds(0.24), _seconds(75), _seconds(7265), _seconds(200_000)
    ('0.2 s', '1 min 15 s', '2 h 1 min', '2 d 7 h')
    """
    if given < 60:
        return f"{given:.1f} s"
    whole = int(given)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"
