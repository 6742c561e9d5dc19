"""`dqk launch`: commands of dqk as jobs on clusters."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from dqk.cli.output import print_json, stderr, stdout, table
from dqk.errors import ClusterError, InvalidInputError, unknown_name

app = typer.Typer(
    name="launch",
    help="Run a command of dqk on a cluster: hand it to Slurm or to a Ray cluster, and find it again.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    epilog="Example: dqk launch slurm --nodes 4 --time 2:00:00 -- gram X.npy -o K.zarr --executor ray",
)

_SLURM = """
Examples:

  dqk launch slurm --nodes 4 --time 2:00:00 --dry-run -- gram X.npy -o K.zarr --executor ray

  dqk launch slurm --nodes 2 --tasks-per-node 8 --site site.toml --follow -- gram X.npy -o K.zarr --executor mpi

  dqk launch slurm --nodes 2 --gpus-per-node 4 -- train pos --data train.conllu --out runs/t --distributed

  dqk launch slurm --qpu heron -- gram X.npy -o K.zarr --backend qiskit:qrmi/heron --shots 1000

  dqk launch slurm --array 8 --time 30 -- gram X.npy -o K.zarr

Warned before its time limit or preempted, a job saves its state, is queued again and goes on.
"""
_UsageError: Any = typer.BadParameter.__base__  # click's, of which typer has a copy without a public name
_RUN = Annotated[Path, typer.Argument(metavar="RUN", help="The run folder that launch printed.")]
_JSON = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
_FOLLOW = Annotated[
    bool, typer.Option("--follow", "-f", help="Show the log until the job ends, and exit with its exit code.")
]
_PAYLOAD = Annotated[list[str], typer.Argument(metavar="-- COMMAND", help="A command of dqk with its options.")]


@app.command(epilog=_SLURM)
def slurm(
    payload: _PAYLOAD,
    nodes: Annotated[int, typer.Option(help="Nodes.")] = 1,
    gpus_per_node: Annotated[int, typer.Option(help="GPUs of each node: one task for each.")] = 0,
    tasks_per_node: Annotated[
        int | None, typer.Option(help="MPI or training ranks on each node (default: one per GPU, or one).")
    ] = None,
    cpus_per_task: Annotated[
        int | None, typer.Option(help="CPUs of each task (default: whole nodes, divided among their tasks).")
    ] = None,
    time_limit: Annotated[
        str | None,
        typer.Option("--time", help="Limit in Slurm's notation, such as 2:00:00 (default: the partition's)."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Of the job (default: dqk- and the command).")] = None,
    array: Annotated[int | None, typer.Option(help="Jobs that share one kernel matrix, a shard each.")] = None,
    site: Annotated[
        Path | None, typer.Option(help="TOML file with partition, account, modules, ... (examples/sites).")
    ] = None,
    signal_seconds: Annotated[
        int, typer.Option(help="Seconds before the time limit at which the state is saved.")
    ] = 120,
    requeue: Annotated[
        bool, typer.Option("--requeue/--no-requeue", help="Queue the job again after that, to go on.")
    ] = True,
    qpu: Annotated[
        str | None, typer.Option(help="The site's QPUs for the job, such as a,b (QRMI's SPANK plugin).")
    ] = None,
    emulated_qpus: Annotated[
        Path | None, typer.Option(help="Fleet file whose QPUs are tasks of the job; gram gets their --qpu.")
    ] = None,
    run: Annotated[
        Path | None, typer.Option(help="Run folder, on a shared disk (default: a new one under runs/).")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the batch script and hand in nothing.")] = False,
    follow: _FOLLOW = False,
    json: _JSON = False,
) -> None:
    """Hand a command of dqk to Slurm: a Ray cluster inside the job, MPI ranks, or training ranks, as the command says."""
    from dqk.cluster.launchers import Site, SlurmOptions, launch
    from dqk.cluster.launchers.handle import free_folder
    from dqk.cluster.launchers.launch import script_of

    work = _payload(payload)
    resources = (nodes, gpus_per_node, tasks_per_node, cpus_per_task, time_limit, name, array, signal_seconds, requeue)
    options = SlurmOptions(*resources, qpu, _fleet_file(emulated_qpus))
    known = Site() if site is None else Site.read(site)
    if array is None:
        _check_store(work)
    if dry_run:
        folder = free_folder(run, work)
        text = script_of(work.placed(folder), options, known, folder)
        print_json({"script": text, "engine": work.engine}) if json else sys.stdout.write(text)
        return
    if work.command == "gram" and not work.goes_on:
        stderr().print("note: without a store (-o K.zarr) a job that is queued again begins anew", markup=False)
    _handed_in(launch(work.words, options, site=known, run=run), follow, json)


def _check_store(work: Any) -> None:
    """Refuses a store that is there already, before a job waits for hours to do so."""
    if work.has_store and not (work.has("--resume") or work.value("--shard")) and Path(work.out).exists():
        raise InvalidInputError(f"{work}: {work.out} exists; give --resume to go on with it, or choose another path")


@app.command(epilog="Example: dqk launch ray --address http://head:8265 -- gram X.npy -o /shared/K.zarr --executor ray")
def ray(
    payload: _PAYLOAD,
    address: Annotated[str, typer.Option(help="Of the cluster's dashboard, such as http://head:8265.")],
    run: Annotated[Path | None, typer.Option(help="Run folder (default: a new one under runs/).")] = None,
    follow: _FOLLOW = False,
    json: _JSON = False,
) -> None:
    """Hand a command of dqk to a Ray cluster that is there already, with a copy of this folder, through Ray's job API."""
    from dqk.cluster.launchers import launch

    _handed_in(launch(_payload(payload, elsewhere=True).words, address=address, run=run), follow, json)


@app.command(epilog="Example: dqk launch status runs/launch-gram-20260131-120000")
def status(run: _RUN, json: _JSON = False) -> None:
    """Show how a job is doing: state, nodes, time, restarts, exit code."""
    job = _find(run)
    tasks = job.status()
    if json:
        print_json({"job": job.job, "payload": list(job.payload.words), "tasks": [vars(task) for task in tasks]})
        return
    shown = table("job", "state", "nodes", "time", "restarts", "exit code", "reason", numbers=("restarts", "exit code"))
    for task in tasks:
        code = "" if task.exit_code is None else str(task.exit_code)
        shown.add_row(task.job, task.state, task.nodes, task.run_time, str(task.restarts), code, escape(task.reason))
    stdout().print(shown)


@app.command(epilog="Example: dqk launch logs runs/launch-gram-20260131-120000 --follow")
def logs(run: _RUN, follow: _FOLLOW = False) -> None:
    """Print what a job has written."""
    job = _find(run)
    if follow:
        _follow(job)
        return
    text = job.logs()
    sys.stdout.write(text)
    if not text:
        states = ", ".join(f"{task.job} {task.state}" for task in job.status())
        stderr().print(f"nothing is written yet: {states}", markup=False)


@app.command(epilog="Example: dqk launch cancel runs/launch-gram-20260131-120000")
def cancel(run: _RUN) -> None:
    """End a job. A store or training run that it was at can be gone on with."""
    job = _find(run)
    job.cancel()
    stderr().print(f"job {job.job} is being cancelled; what it was at can be gone on with by --resume", markup=False)


def _fleet_file(file: Path | None) -> str | None:
    """The name of a fleet file. What is wrong with it is said here and not by a job that has waited."""
    if file is None:
        return None
    from dqk.qpu.fleet import Fleet

    Fleet.read(file)
    return str(file)


def _find(run: Path) -> Any:
    from dqk.cluster.launchers import Handle

    return Handle.find(run)


def _payload(words: Sequence[str], elsewhere: bool = False) -> Any:
    """The command line, once the program itself has read it: a mistyped option is not found out by a job that has waited."""
    from dqk.cli import app as program
    from dqk.cluster.launchers import Payload

    payload = Payload.of(words)
    if payload.problems():
        return payload
    command: Any = typer.main.get_command(program)
    rest = list(payload.words)
    while hasattr(command, "commands"):
        if not rest or rest[0] not in command.commands:
            raise unknown_name("command", rest[0] if rest else "", command.commands)
        command = command.commands[rest.pop(0)]
    if "--help" in rest:
        raise InvalidInputError(f"{payload} only shows help; give the command that the job is to run")
    try:
        context = command.make_context(command.name, rest)
    except _UsageError as error:
        raise InvalidInputError(f"{payload}: {error.format_message()}") from error
    if payload.command == "gram":
        files = [context.params[key] for key in ("x", "y") if context.params.get(key)]
        absent = [str(file) for file in files if not file.exists() and not (elsewhere and file.is_absolute())]
        if absent:
            raise InvalidInputError(f"{payload}: there is no file {' and no file '.join(absent)}")
    return payload


def _handed_in(job: Any, follow: bool, json: bool) -> None:
    if json and not follow:
        print_json({"job": job.job, "run": str(job.folder), "engine": job.payload.engine})
    elif json:
        stderr().print(f"job {job.job}, run folder {job.folder}", markup=False, soft_wrap=True)
    else:
        stdout().print(
            f"job:    {job.job}\nrun:    {job.folder}\nfollow: dqk launch logs --follow {job.folder}",
            markup=False,
            soft_wrap=True,
        )
    if follow:
        _follow(job)


def _follow(job: Any) -> None:
    """Shows the log as it grows, and exits with the job's code."""
    shown: dict[str, int] = {}
    said = ""

    def look(tasks: list[Any]) -> None:
        nonlocal said
        states = ", ".join(f"{task.job} {task.state}" + (f" ({task.reason})" if task.reason else "") for task in tasks)
        for name, text in job.log_parts().items():
            sys.stdout.write(text[shown.get(name, 0) :])
            shown[name] = len(text)
        sys.stdout.flush()
        if states != said:
            said = states
            stderr().print(f"[dim]{escape(states)}[/dim]")

    with _left_running(job):
        tasks = job.wait(look=look)
        time.sleep(0.2)  # what a network disk still holds back
        look(tasks)
    failed = [task for task in tasks if task.exit_code != 0]
    lost = [task for task in failed if task.exit_code is None]
    if lost:
        raise ClusterError(f"job {lost[0].job} ended as {lost[0].state}, without an exit code of its command")
    sys.exit(failed[0].exit_code if failed else 0)


@contextlib.contextmanager
def _left_running(job: Any) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        folder = job.folder
        stderr().print(
            f"job {job.job} goes on; dqk launch logs --follow {folder} watches it again, dqk launch cancel {folder} ends it",
            markup=False,
            soft_wrap=True,
        )
        sys.exit(130)
