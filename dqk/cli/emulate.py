"""`dqk emulate`: an experiment on a fleet of quantum processors in virtual time."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.measure import Measurement
from rich.table import Table

from dqk.cli.output import counted, print_json, stderr, stdout, table
from dqk.errors import BackendUnavailableError, InvalidInputError

_EXAMPLES = """
Examples:

  dqk emulate examples/fleets/hetero6.toml

  dqk emulate examples/fleets/hetero6.toml --policy pull --policy hedged+variance --set experiment.shots=2000 --repeats 20

  dqk emulate examples/fleets/hetero6.toml --sweep qpu.fast.count=1,2,4,8 -o scaling

  dqk emulate examples/fleets/homogeneous4.toml --policy pull --real-time
"""

_SHORT = {
    "makespan_s": "makespan s",
    "utilisation": "used",
    "queue_share": "others",
    "idle_share": "idle",
    "shots": "shots",
    "price": "price",
    "energy_kwh": "kWh",
    "error": "error",
    "weighted_error": "w. error",
    "accuracy": "SVC",
    "lstm_loss": "LSTM loss",
}

_WIDEST = 10_000  # characters in a line of a file


def register(app: typer.Typer) -> None:
    """Adds the command to the program."""
    app.command(epilog=_EXAMPLES)(emulate)


def emulate(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Experiment or fleet, TOML.")],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Folder of the report and tables (default: emulated/NAME).")
    ] = None,
    policy: Annotated[
        list[str] | None, typer.Option(help="In place of the file's; several may be given, see the README.")
    ] = None,
    repeats: Annotated[int | None, typer.Option(help="Of everything that is drawn.", min=1)] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything that is drawn.", min=0)] = None,
    change: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE, such as experiment.shots=2000.")] = None,
    sweep: Annotated[list[str] | None, typer.Option(help="KEY=A,B,C: play every value through.")] = None,
    real_time: Annotated[
        bool,
        typer.Option("--real-time", help="Run the policies on services of this machine, too, beside virtual time."),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the table as one JSON document.")] = False,
) -> None:
    """Play policies through on a fleet of emulated QPUs, GPUs and CPUs: time, use, error and cost. Takes seconds."""
    from dqk.qpu.emulate import emulate as play
    from dqk.qpu.experiment import Experiment

    changes: dict[str, Any] = dict(_pair(text, "--set") for text in change or ())
    named = {"experiment.policies": policy or None, "experiment.repeats": repeats, "experiment.seed": seed}
    changes |= {key: value for key, value in named.items() if value is not None}
    swept = {
        key: value if isinstance(value, list) else [value]
        for key, value in (_pair(t, "--sweep", True) for t in sweep or ())
    }
    experiment = Experiment.read(file, changes, swept)
    if real_time:
        _beside(experiment, json)
        return
    folder = out or Path("emulated") / file.stem
    folder.mkdir(parents=True, exist_ok=True)  # before the work is done
    console = stderr()
    with console.status("") as status:
        results = play(experiment, lambda text: status.update(text), _qklstm_loss)
    written = _write(experiment, results, folder)
    if json:
        rows = [_document(row) for row in results.rows]
        print_json({"files": [str(path) for path in written], "note": experiment.told, "rows": rows})
        return
    _show(results, experiment.told)
    for path in written:
        stdout().print(f"written: {path}", markup=False, soft_wrap=True)


def _qklstm_loss(*given: Any) -> dict[str, float]:
    from dqk.training.emulated import qklstm_loss  # loaded only where it is asked for

    return qklstm_loss(*given)


def _beside(experiment: Any, json: bool) -> None:
    """Both times of each policy."""
    from dqk.qpu.realtime import beside

    console = stderr()
    with console.status("") as status:
        found = beside(experiment, lambda text: status.update(text))
    if json:
        print_json({name: {**vars(one), "deviation": one.deviation} for name, one in found.items()})
        return
    heads = ("real s", "virtual s", "off by", "used", "used, virtual")
    listed = table("policy", *heads, numbers=heads)
    for name, one in found.items():
        used = (f"{100 * share:.1f} %" for share in (one.real_used, one.virtual_used))
        listed.add_row(name, f"{one.real_s:.2f}", f"{one.virtual_s:.2f}", f"{100 * one.deviation:+.1f} %", *used)
    stdout().print(listed)
    console.print(
        "used: share of the devices' time that was charged; errors are left out, GPUs and CPUs too", markup=False
    )


def _pair(text: str, option: str, several: bool = False) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise InvalidInputError(f"{option} {text!r}, expected KEY=VALUE, such as experiment.shots=2000")
    return key, _value(f"[{value}]" if several and not value.startswith("[") else value)


def _value(text: str) -> Any:
    """A value as TOML has it; what is none is a text, or texts between commas."""
    try:
        return tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:
        if text.startswith("["):
            return [_value(part.strip()) for part in text[1:-1].split(",")]
        return text


def _write(experiment: Any, results: Any, folder: Path) -> list[Path]:
    from dqk.qpu._tables import write_parquet
    from dqk.qpu.report import report

    page, runs, jobs = folder / "report.html", folder / "runs.parquet", folder / "jobs.parquet"
    page.write_text(report(experiment, results), encoding="utf-8")
    try:
        write_parquet(results, runs, jobs)
    except BackendUnavailableError as error:
        stderr().print(f"note: no tables are written: {error}", markup=False, soft_wrap=True)
        return [page]
    return [page, runs, jobs]


def _document(row: Any) -> dict[str, Any]:
    return {
        "policy": row.policy,
        "point": row.point,
        "mean": row.mean,
        "margin": row.margin,
        "not_done": row.runs[0].not_done,
    }


def _table(results: Any, names: Sequence[str]) -> tuple[Table, int]:
    """The columns of these names, and the characters that a line of them takes."""
    from dqk.qpu.report import label, shown

    listed = table("policy", *(_SHORT.get(name, name) for name in names), numbers=tuple(_SHORT.values()))
    for row in results.rows:
        listed.add_row(label(row), *(shown(name, row) for name in names))
    for column in listed.columns:
        column.no_wrap = True
    console = stdout()
    return listed, Measurement.get(console, console.options.update(max_width=_WIDEST), listed).maximum


def _show(results: Any, note: str | None) -> None:
    from dqk.qpu.report import columns, label

    names = columns(results)
    console = stdout()
    width = console.width if sys.stdout.isatty() else _WIDEST  # lines of a file are not broken
    for count in range(len(names), 0, -1):
        listed, needed = _table(results, names[:count])
        if needed <= width:
            break
    console.width = max(console.width, needed)
    console.print(listed)
    if count < len(names):
        left = ", ".join(_SHORT.get(name, name) for name in names[count:])
        console.print(f"no room for {left}: the report has them", markup=False, soft_wrap=True)
    if note:
        console.print(note, markup=False, soft_wrap=True)
    for row in results.rows:
        for why, count in row.runs[0].not_done.items():
            console.print(f"not done by {label(row)}: {counted(count, 'job')}, {why}", markup=False, soft_wrap=True)
