"""The command line. `main` is the program; every command imports what it needs when it runs."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from dqk.cli import compare, doctor, emulate, gram, inspect, launch, plan, predict, qpu, reproduce, store, train
from dqk.cli.output import report
from dqk.cli.pools import part_in_good_order
from dqk.errors import DQKError, exit_code
from dqk.training.interrupt import Interrupted

app = typer.Typer(
    name="dqk",
    help="Distributed quantum kernels: Gram matrices and the quantum-kernel LSTM.",
    epilog="Example: dqk train pos --seed 0",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
app.add_typer(train.app)
app.add_typer(reproduce.app)
app.add_typer(compare.app)
app.add_typer(store.app)
app.add_typer(launch.app)
app.add_typer(qpu.app)
predict.register(app)
gram.register(app)
plan.register(app)
inspect.register(app)
emulate.register(app)
doctor.register(app)


def _show_version(asked: bool) -> None:
    if asked:
        from dqk import __version__

        print(f"dqk {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    pass


def _without_flag_types(command: Any) -> None:
    """Switches take no value: without this their help would say `<bool>`."""
    for parameter in command.get_params(typer.Context(command)):
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
    for inner in getattr(command, "commands", {}).values():
        _without_flag_types(inner)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the program and ends the process: 0 for success, 1 for failure, 2 for bad usage, 128 + n after signal n.

    Args:
        arguments: as typed after the program's name; None for those of the process.
    """
    program = typer.main.get_command(app)
    warnings.formatwarning = lambda message, *_: f"warning: {message}\n"  # without lines of our source
    _without_flag_types(program)
    try:
        program(arguments, prog_name="dqk")
    except (DQKError, OSError) as error:
        report(error)
        if isinstance(error, Interrupted):
            part_in_good_order()
        sys.exit(exit_code(error))
