"""`dqk compare`: many models under one protocol."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dqk.cli.option_tables import converted, with_options
from dqk.cli.output import print_json, stdout, table
from dqk.errors import InvalidInputError
from dqk.training.contestants import DECIDED

app = typer.Typer(
    name="compare",
    help="Compare models under one protocol: equal tuning, paired seeds, one test, intervals.",
    no_args_is_help=True,
    epilog="Example: dqk compare forecast --series co2 --out compared",
)

_PROTOCOL = "Protocol"
Out = Annotated[Path, typer.Option(help="Folder of the comparison; one that was begun goes on.")]
Models = Annotated[
    str | None, typer.Option(help="Names with commas between them; without it all.", rich_help_panel=_PROTOCOL)
]
Rates = Annotated[str, typer.Option(help="Grid of step sizes, the same for all models.", rich_help_panel=_PROTOCOL)]
Seeds = Annotated[int, typer.Option(help="Final runs of each model.", min=1, rich_help_panel=_PROTOCOL)]
TuningSeeds = Annotated[
    int, typer.Option(help="Runs of each model and step size, to choose it.", min=1, rich_help_panel=_PROTOCOL)
]
Jobs = Annotated[int, typer.Option(help="Processes that train.", min=1)]
Json = Annotated[bool, typer.Option("--json", help="Print what was found as one JSON document.")]

_RATES = "0.003,0.01,0.03,0.1"


@app.command(epilog="Example: dqk compare pos --data train.conllu --out compared --jobs 2")
@with_options("pos", without=DECIDED)
def pos(
    out: Out,
    models: Models = None,
    learning_rates: Rates = _RATES,
    seeds: Seeds = 10,
    tuning_seeds: TuningSeeds = 1,
    test_part: Annotated[
        float, typer.Option(help="Without --test, last part of the data for the test.", min=0.0, max=1.0)
    ] = 0.2,
    first: Annotated[int, typer.Option(help="Use so many sentences of the data; 0 for all.", min=0)] = 0,
    jobs: Jobs = 1,
    json: Json = False,
    **given: Any,
) -> None:
    """Compare part-of-speech taggers on a CoNLL-U file."""
    more = {"test_part": test_part, "first": first}
    _compare("pos", {**_typed(given), **more}, out, models, learning_rates, seeds, tuning_seeds, jobs, json)


@app.command(epilog="Example: dqk compare forecast --series co2 --out compared --jobs 2")
@with_options("forecast", without=DECIDED)
def forecast(
    out: Out,
    models: Models = None,
    learning_rates: Rates = _RATES,
    seeds: Seeds = 10,
    tuning_seeds: TuningSeeds = 1,
    jobs: Jobs = 1,
    json: Json = False,
    **given: Any,
) -> None:
    """Compare forecasters on a column of a CSV file, or on a series that statsmodels ships."""
    _compare("forecast", _typed(given), out, models, learning_rates, seeds, tuning_seeds, jobs, json)


def _typed(given: dict[str, Any]) -> dict[str, Any]:
    return {name: converted(name, text) for name, text in given.items() if text is not None}


def _compare(
    task: str,
    options: dict[str, Any],
    out: Path,
    models: str | None,
    learning_rates: str,
    seeds: int,
    tuning_seeds: int,
    jobs: int,
    json: bool,
) -> None:
    from dqk.cli.progress import counting
    from dqk.training.compare import Protocol, compare
    from dqk.training.compare_report import findings
    from dqk.training.contestants import chosen

    try:
        rates = tuple(float(rate) for rate in learning_rates.split(","))
    except ValueError:
        raise InvalidInputError(
            f"--learning-rates: {learning_rates!r}, expected numbers with commas between them, such as {_RATES}"
        ) from None
    names = chosen(None if models is None else [name.strip() for name in models.split(",")])
    protocol = Protocol(task, options, tuple(names), rates, seeds, tuning_seeds)
    with counting("runs") as heard:
        found = compare(protocol, out, jobs, heard)
    if json:
        print_json({**found, "findings": findings(found), "out": str(out)})
    else:
        _show(found, findings(found), out)


def _show(found: dict[str, Any], said: list[str], out: Path) -> None:
    shown = table(
        "model",
        "parameters",
        f"test {found['metric']}",
        "std",
        numbers=("parameters", f"test {found['metric']}", "std"),
    )
    for row in found["rows"]:
        deviation = row.get("test_std")
        parameters = f"{row['parameters']:,}" if "parameters" in row else "-"
        shown.add_row(row["title"], parameters, f"{row['test']:.4f}", "-" if deviation is None else f"{deviation:.4f}")
    stdout().print(shown)
    for text in said:
        stdout().print(f"- {text}", markup=False)
    stdout().print(f"page, table and picture: {out}", markup=False, soft_wrap=True)
