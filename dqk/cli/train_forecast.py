"""`dqk train forecast`: the next values of a series."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dqk.cli.option_tables import converted, merged, with_options
from dqk.cli.output import print_json, stdout, table
from dqk.errors import InvalidInputError

_EXAMPLES = """
Examples:

  dqk train forecast --series co2

  dqk train forecast --series sunspots --model lstm --json

  dqk train forecast --data series.csv --column co2 --season 12 --out runs/co2

  dqk train forecast --resume runs/co2 --epochs 100

The series is split in the order of time; scaling is fitted on the training part; validation chooses the best epoch.

The test part is used once, in the end. Ctrl-C saves the state; --resume goes on to the numbers of an uninterrupted run.
"""


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(epilog=_EXAMPLES)(forecast)


@with_options("forecast")
def forecast(
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
    json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON document.")] = False,
    **given: Any,
) -> None:
    """Train a forecaster on a column of a CSV file, or on a series that statsmodels ships."""
    typed = {name: converted(name, text) for name, text in given.items() if text is not None}
    options, out = merged(config, typed, out)
    if resume is not None and out is not None and out.resolve() != resume.resolve():
        raise InvalidInputError(f"--resume {resume} and --out {out}: a run stays in its folder, leave one of them out")
    result = _train(options, out, resume, take_over)
    if json:
        print_json(result)
    else:
        _show(result)


def _train(options: dict[str, Any], out: Path | None, resume: Path | None, take_over: bool) -> dict[str, Any]:
    from dqk.cli.progress import ProgressReporter
    from dqk.training.forecast import resume_forecast, train_forecast
    from dqk.training.run_folder import RunFolder

    if resume is not None and out is not None and not RunFolder.is_run(resume):
        resume = None  # a batch script says the same the first time and after a requeue
    with ProgressReporter() as reporter:
        if resume is not None:
            return resume_forecast(resume, options, reporter, take_over)
        return train_forecast(options, out, reporter, take_over)


def _show(result: dict[str, Any]) -> None:
    windows = result["windows"]["test"]
    shown = table(f"{result['series']}: {windows} windows of the test part", "RMSE", "MAE", numbers=("RMSE", "MAE"))
    model = f"{result['model']}, {result['parameters']} parameters, seed {result['seed']}"
    for name, found in ((model, result), *result["baselines"].items()):
        shown.add_row(name.replace("_", " "), f"{found['rmse']:.4g}", f"{found['mae']:.4g}")
    stdout().print(shown)
    whole: dict[str, Any] = {"markup": False, "soft_wrap": True}
    if result["note"]:
        stdout().print(f"data: {result['note']}", **whole)
    if "seasonal_naive" not in result["baselines"]:
        stdout().print(
            "no seasonal-naive baseline: --season is not known, or longer than the series before the test", **whole
        )
    stdout().print(
        f"best epoch {result['best_epoch']} of {result['epochs']} by validation RMSE {result['validation_rmse']:.4g}, "
        f"{result['seconds']:.1f} s in all; the next {result['horizon']} values from {result['window']}",
        **whole,
    )
    stdout().print(f"picture:   {result['run_dir']}/forecast.png", **whole)
    stdout().print(f"numbers:   {result['run_dir']}/forecast.csv", **whole)
