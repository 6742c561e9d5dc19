"""`dqk predict`: what a trained model says about a sentence."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from dqk.cli.output import print_json, stdout, table


def register(app: typer.Typer) -> None:
    """Adds the command to the program."""
    app.command(epilog='Example: dqk predict runs/my-run "Everybody eat the book"')(predict)


def predict(
    run: Annotated[Path, typer.Argument(help="Folder of a training run.", show_default=False)],
    text: Annotated[str, typer.Argument(help="Words with spaces between them.", show_default=False)],
    last: Annotated[
        bool, typer.Option("--last", help="Use the parameters of the last epoch instead of the best.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the prediction as one JSON document.")] = False,
) -> None:
    """Tag the words of a sentence with the best model of a run."""
    from dqk.training.predict import predict_tags

    prediction = predict_tags(run, text, last)
    if json:
        print_json(asdict(prediction))
        return
    shown = table("word", "tag", "probability", numbers=("probability",))
    rows = zip(prediction.words, prediction.tags, prediction.probabilities, prediction.unknown, strict=True)
    for word, tag, probability, unknown in rows:
        shown.add_row(f"{word} (unknown)" if unknown else word, tag, f"{probability:.3f}")
    stdout().print(shown, markup=False)
