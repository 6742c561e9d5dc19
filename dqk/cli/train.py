"""`dqk train`: training runs."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from dqk.cli import train_forecast
from dqk.cli.farming import Farming
from dqk.cli.measuring import use_tokens
from dqk.cli.option_tables import converted, merged, with_options
from dqk.cli.output import counted, print_json, stderr, stdout, table
from dqk.cli.pools import check_not_distributed, serves
from dqk.cli.train_options import (
    Distributed,
    Executor,
    Farm,
    Launcher,
    MaxFailures,
    MicroBatch,
    QPUs,
    Ranks,
    TokenFile,
    Workers,
)
from dqk.errors import InvalidInputError
from dqk.training.hints import command
from dqk.training.options import flag

if TYPE_CHECKING:
    from dqk.training.group import Group

app = typer.Typer(name="train", help="Train a model.", no_args_is_help=True, epilog="Example: dqk train pos --seed 0")

train_forecast.register(app)

_EXAMPLES = """
Examples:

  dqk train pos --seed 0

  dqk train pos --model lstm --epochs 20 --json

  dqk train pos --data train.conllu --test test.conllu --out runs/ud

  dqk train pos --resume runs/ud --epochs 20

  dqk train pos --executor ray --workers 2 --farm always

  dqk train pos --backend qpu:http://127.0.0.1:8000 --shots 2000 --epochs 3

  torchrun --nproc-per-node 2 -m dqk train pos --data train.conllu --distributed

  mpiexec -n 2 python -m mpi4py -m dqk train pos --data train.conllu --distributed

  dqk train pos --data train.conllu --distributed --launcher ray --ranks 2

Ctrl-C saves the state and exits with 130 (SIGTERM: 143, SIGUSR1: 138); --resume goes on, with any number of ranks.

With --out RUN --resume RUN a run goes on, or starts if there is none yet.
"""


@app.command(epilog=_EXAMPLES)
@with_options("pos")
def pos(
    config: Annotated[
        Path | None, typer.Option(help="TOML file with options by the same names; the command line wins.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder, missing or empty (default: a new one in runs/).")
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with the run in this folder.")] = None,
    take_over: Annotated[
        bool, typer.Option("--take-over", help="Take the folder from a process on another machine that has ended.")
    ] = False,
    distributed: Distributed = False,
    launcher: Launcher = None,
    ranks: Ranks = None,
    max_failures: MaxFailures = None,
    executor: Executor = None,
    workers: Workers = None,
    farm: Farm = None,
    micro_batch: MicroBatch = None,
    qpu: QPUs = None,
    token_file: TokenFile = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON document.")] = False,
    **given: Any,
) -> None:
    """Train a part-of-speech tagger, on the paper's two sentences or on CoNLL-U files."""
    typed = {name: converted(name, text) for name, text in given.items() if text is not None}
    check_not_distributed("qpu" if qpu else executor, distributed)
    use_tokens(token_file)
    farming = Farming.asked_for(executor, workers, farm, micro_batch, qpu)
    if not distributed and executor != "mpi":
        _note_lone_ranks()
    if executor == "mpi" and serves(workers):
        return
    by_ray = _ray_options(distributed, launcher, ranks, max_failures)
    with _group(distributed and by_ray is None) as group:
        if not group.leads:
            from dqk.training.pos import train_pos

            train_pos({}, group=group)
            return
        options, out = merged(config, typed, out)
        if resume is not None and out is not None and out.resolve() != resume.resolve():
            raise InvalidInputError(
                f"--resume {resume} and --out {out}: a run stays in its folder, leave one of them out"
            )
        result = _train(options, out, resume, take_over, group, by_ray, farming)
    if json:
        print_json(result)
    else:
        _show(result)


def _ray_options(
    distributed: bool, launcher: str | None, ranks: str | None, max_failures: str | None
) -> dict[str, int] | None:
    """What Ray is to start; None if it is not to."""
    if launcher is None and (ranks or max_failures) is not None:
        name = "--ranks" if ranks is not None else "--max-failures"
        raise InvalidInputError(
            f"{name}: is for --launcher ray; other launchers are told themselves how many ranks to start"
        )
    if launcher is None:
        return None
    if launcher != "ray":
        raise InvalidInputError(
            f"--launcher: {launcher!r}, expected 'ray'; torchrun, mpiexec and srun stand before the command instead, see --help"
        )
    if not distributed:
        raise InvalidInputError("--launcher ray: needs --distributed, too")
    given = {"ranks": (ranks, 2, 1), "max_failures": (max_failures, 2, 0)}
    return {
        name: default if text is None else _count(flag(name), text, least)
        for name, (text, default, least) in given.items()
    }


def _count(name: str, text: str, least: int) -> int:
    if not text.isdecimal() or int(text) < least:
        raise InvalidInputError(f"{name}: {text!r}, expected a whole number of at least {least}")
    return int(text)


def _group(distributed: bool) -> Group:
    """The ranks that a launcher has started, or this process alone."""
    from dqk.training.group import ALONE, Group
    from dqk.training.rank import Rank

    return Group.join(Rank.from_environ()) if distributed else ALONE


def _note_lone_ranks() -> None:
    """Says so where a launcher has started several processes, each of which trains for itself."""
    from dqk.training.rank import Rank

    with contextlib.suppress(InvalidInputError):
        rank = Rank.from_environ()
        if rank.world_size > 1 and rank.rank == 0:
            stderr().print(
                f"note: {rank.launcher} has started {rank.world_size} processes, each of which trains alone; with --distributed "
                "they train together"
            )


def _train(
    options: dict[str, Any],
    out: Path | None,
    resume: Path | None,
    take_over: bool,
    group: Group,
    by_ray: dict[str, int] | None,
    farming: Farming,
) -> dict[str, Any]:
    from dqk.cli.progress import ProgressReporter
    from dqk.training.pos import resume_pos, train_pos
    from dqk.training.run_folder import RunFolder

    if resume is not None and out is not None and not RunFolder.is_run(resume):
        resume = None  # a batch script says the same the first time and after a requeue
    with contextlib.ExitStack() as stack:
        prepare = stack.enter_context(farming.on_workers())
        reporter = stack.enter_context(ProgressReporter())
        if by_ray is not None:
            from dqk.training._ray_train import train_pos_by_ray

            return train_pos_by_ray(options, out, resume, reporter, take_over, **by_ray)
        if resume is not None:
            result = resume_pos(resume, options, reporter, take_over, group, prepare)
        else:
            result = train_pos(options, out, reporter, take_over, group, prepare)
        return {**result, **farming.outcome()}


def _by(names: str | list[str]) -> str:
    return escape(" by " + (names if isinstance(names, str) else ", ".join(names))) if names else ""


def _show(result: dict[str, Any]) -> None:
    shown = table("result", "value")
    correct, tokens = result["correct"], result["tokens"]
    shown.add_row("model", f"{result['model']}, {result['parameters']} parameters, seed {result['seed']}")
    shown.add_row(result["evaluated_on"], f"{correct} of {tokens} words right: accuracy {result['accuracy']:.4f}")
    shown.add_row("loss", f"{result['loss']:.4f} nats per word")
    shown.add_row("every word's most frequent tag", f"accuracy {result['most_frequent_tag_accuracy']:.4f}")
    if "test_accuracy" in result:
        shown.add_row("test file", f"accuracy {result['test_accuracy']:.4f}, loss {result['test_loss']:.4f}")
    shown.add_row("best epoch", f"{result['best_epoch']} of {result['epochs']}, {result['seconds']:.1f} s in all")
    if "shots_spent" in result:
        shown.add_row(
            "measured",
            f"{counted(result['circuits'], 'circuit')}, {counted(result['shots_spent'], 'shot')} in "
            f"{counted(result['jobs'], 'job')}{_by(result.get('measured_by', []))}",
        )
    for name, seconds in result.get("profile", {}).get("step", {}).items():
        shown.add_row(f"a step: {name}", f"{1e3 * seconds:.3f} ms")
    stdout().print(shown)
    # Below the table, where a path is never broken.
    whole: dict[str, Any] = {"markup": False, "soft_wrap": True}
    stdout().print(f"curves:    {result['run_dir']}/curves.png", **whole)
    if "profile" in result:
        stdout().print(f"profile:   {result['run_dir']}/profile.png", **whole)
    stdout().print(f"try it:    {command('predict', result['run_dir'], 'Everybody eat the book')}", **whole)
