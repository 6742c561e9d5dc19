"""`dqk qpu up`, `list` and `drop`: the QPUs of a fleet file as services on this machine."""

from __future__ import annotations

import contextlib
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from dqk.cli.output import print_json, stderr, stdout, table
from dqk.errors import ClusterError, InvalidInputError, unknown_name

_JSON = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
_FOLDER = Annotated[
    Path | None, typer.Option(help="Folder with a fleet's record (default: all fleets below runs/ of this directory).")
]
_LOOK_S = 1.0

_UP = """
Examples:

  dqk qpu up examples/fleets/homogeneous4.toml

  dqk qpu up fleet.toml --foreground --token-file tokens.txt

The services run on when the command returns, and listen at 127.0.0.1 alone. `dqk qpu drop --all` ends them.
"""
_DROP = """
Examples:

  dqk qpu drop --all

  dqk qpu drop fast-0 --folder runs/fleet-hetero6-20260131-120000
"""


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command(epilog=_UP)(up)
    app.command(name="list", epilog="Example: dqk qpu list")(list_)
    app.command(epilog=_DROP)(drop)


def up(
    file: Annotated[
        Path, typer.Argument(metavar="FLEET", help="TOML file with a `qpu` table for each kind of processor.")
    ],
    folder: Annotated[
        Path | None, typer.Option(help="For record and logs, new or empty (default: a new one under runs/).")
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="Tokens that the services ask for, one in each line (default: none).")
    ] = None,
    foreground: Annotated[bool, typer.Option("--foreground", help="Stay, and end the services with Ctrl-C.")] = False,
    json: _JSON = False,
) -> None:
    """Start a service for each QPU of a fleet; prints their URLs once all are ready."""
    from dqk.qpu import running
    from dqk.qpu.fleet import Fleet
    from dqk.qpu.records import read_tokens

    fleet = Fleet.read(file)
    if token_file is not None:
        read_tokens(token_file)  # before anything starts
    if fleet.worker:
        stderr().print("note: GPUs and CPUs of the fleet run no service; its QPUs do", markup=False)
    with _signals_stop():
        started = running.up(
            fleet,
            folder,
            token_file=token_file,
            note=lambda text: stderr().print(text, markup=False, soft_wrap=True),
        )
        try:
            _show_started(started, json)
            if not foreground:
                stderr().print(
                    f"they run on; dqk qpu drop --all --folder {shlex.quote(str(started.folder))} ends them",
                    markup=False,
                    soft_wrap=True,
                )
                return
            stderr().print("Ctrl-C ends them", markup=False)
            _stay(started)
        except BaseException:
            running.clear(started.folder)
            raise


def list_(folder: _FOLDER = None, json: _JSON = False) -> None:
    """Show the services that `up` started: queue, load, error of a two-qubit gate now, time since the last calibration."""
    from dqk.qpu import running

    fleets = running.found(folder)
    services = [(fleet, service) for fleet in fleets for service in fleet.services]
    with ThreadPoolExecutor(max(1, min(32, len(services)))) as threads:
        found = list(threads.map(lambda pair: _looked_at(pair[1]), services))
    if json:
        documents = [
            {
                "fleet": fleet.fleet,
                "folder": str(fleet.folder),
                "name": one.name,
                "url": one.url,
                "pid": one.process.pid,
            }
            | state
            for (fleet, one), state in zip(services, found, strict=True)
        ]
        print_json({"services": documents})
        return
    if not services:
        stderr().print("no services; dqk qpu up fleet.toml starts some", markup=False)
        return
    by_place = dict(zip(((fleet.folder, one.name) for fleet, one in services), found, strict=True))
    for fleet in fleets:
        stdout().print(f"{fleet.fleet}, {fleet.folder}", markup=False, soft_wrap=True)
        _show_fleet(fleet, [by_place[fleet.folder, one.name] for one in fleet.services])


def _show_fleet(fleet: Any, found: list[dict[str, Any]]) -> None:
    numbers = ("queue", "load", "error", "age")
    shown = table("name", "URL", "state", *numbers, numbers=numbers)
    for column in shown.columns:
        column.no_wrap = True
    for one, state in zip(fleet.services, found, strict=True):
        more, told = ["", "", "", ""], state["status"]
        if told is not None:
            errors = told["calibration"]
            more = [str(told["jobs"]["queued"]["jobs"]), f"{told['load']:.0%}"]
            more += [f"{errors['depolarising_2q']:.2%}", f"{errors['calibrated_s_ago']:.0f} s"]
        shown.add_row(escape(one.name), one.url or "", state["state"], *more)
    stdout().print(shown)
    for one, state in zip(fleet.services, found, strict=True):
        if state["state"] == "gone":
            stderr().print(f"{one.name} has ended, its log is {one.log}", markup=False, soft_wrap=True)


def drop(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Of services.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All services.")] = False,
    folder: _FOLDER = None,
    json: _JSON = False,
) -> None:
    """End services that `up` started, and nothing else."""
    from dqk.qpu import running

    if bool(names) == everything:
        raise InvalidInputError("give the names of services or --all, one of the two; dqk qpu list shows them")
    fleets = running.found(folder)
    if names:
        known = [one.name for fleet in fleets for one in fleet.services]
        for name in names:
            if name not in known:
                raise unknown_name("service", name, known)
            if known.count(name) > 1:
                raise InvalidInputError(f"{known.count(name)} fleets have a service {name}; say which by --folder")
    ended: list[dict[str, Any]] = []
    for fleet in fleets:
        mine = None if everything else [one.name for one in fleet.services if one.name in (names or [])]
        ended += [{"fleet": fleet.fleet, "name": name, "ran": ran} for name, ran in fleet.drop(mine).items()]
    if json:
        print_json({"dropped": ended})
        return
    for one in ended:
        stdout().print(f"{one['name']}: {'ended' if one['ran'] else 'had ended before'}", markup=False)
    if not ended:
        stderr().print("no services", markup=False)


def _show_started(started: Any, json: bool) -> None:
    if json:
        services = [{"name": one.name, "url": one.url, "n_qubits": one.qubits} for one in started.services]
        print_json(
            {"fleet": started.fleet, "folder": str(started.folder), "services": services, "options": started.options}
        )
    else:
        shown = table("name", "URL", "qubits", numbers=("qubits",))
        for one in started.services:
            shown.add_row(escape(one.name), one.url, str(one.qubits))
        stdout().print(shown)
        stdout().print(
            f"dqk gram X.npy -o K.zarr --shots 1000 {shlex.join(started.options)}", markup=False, soft_wrap=True
        )
    sys.stdout.flush()  # whoever started the fleet waits for it


def _looked_at(service: Any) -> dict[str, Any]:
    """State of a service: `gone`, `starting`, `elsewhere`, `silent`, or what it says itself."""
    if service.gone:
        return {"state": "gone", "status": None}
    if not service.here:
        return {"state": "elsewhere", "status": None}
    if service.url is None:
        return {"state": "starting", "status": None}
    told = service.status()
    return {"state": "silent" if told is None else told["state"], "status": told}


def _stay(started: Any) -> None:
    """Until all services are dropped, one ends otherwise, or a signal comes."""
    from dqk.qpu import running

    before: set[str] = set()
    while (now := running.recorded(started.folder)) is not None:
        for one in now.services:
            if one.gone and one.name in before:  # `drop` ends a service first and takes it off the record then
                raise ClusterError(f"service {one.name} has ended, its log is {one.log}; all services are ended")
        before = {one.name for one in now.services if one.gone}
        time.sleep(_LOOK_S)


@contextlib.contextmanager
def _signals_stop() -> Iterator[None]:
    """Has the signals that end a program raise, so that what was started is ended, too."""

    def stop(number: int, _: Any) -> None:
        raise typer.Exit(128 + number)

    wanted = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, stop) for number in wanted}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
