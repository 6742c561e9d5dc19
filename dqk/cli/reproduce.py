"""`dqk reproduce`: figures of the QK-LSTM paper, measured again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from dqk.cli.output import print_json, stderr, stdout, table

app = typer.Typer(
    name="reproduce",
    help="Measure figures of the QK-LSTM paper again.",
    no_args_is_help=True,
    epilog="Example: dqk reproduce table1",
)


@app.command(epilog="Example: dqk reproduce table1 --json")
def table1(json: Annotated[bool, typer.Option("--json", help="Print the rows as one JSON document.")] = False) -> None:
    """Count the parameters of the paper's Table I on models that are built for it, each with its formula."""
    from dqk.training.table1 import SOURCE
    from dqk.training.table1 import table1 as rows_of_table1

    rows = rows_of_table1()
    if json:
        print_json({"source": SOURCE, "rows": [row.to_dict() for row in rows]})
        return
    shown = table("model", "parameters", "paper", "formula", numbers=("parameters", "paper"))
    shown.show_lines = True
    for number, row in enumerate(rows, start=1):
        paper = "-" if row.paper is None else str(row.paper)
        shown.add_row(f"{number}. {row.name}", str(row.parameters), paper, row.formula)
    stdout().print(shown)
    stdout().print(f"parameters: trainable values of a model that was built just now; paper: {SOURCE}", markup=False)
    notes = Table.grid(padding=(0, 1, 0, 0))  # so that a long note goes on under its own beginning
    for number, row in enumerate(rows, start=1):
        notes.add_row(Text(f"{number}."), Text(row.note))
    stdout().print(notes)


@app.command(epilog="Example: dqk reproduce fig3 --out fig3")
def fig3(
    out: Annotated[Path, typer.Option(help="Folder for picture, tables and page; made if it is missing.")],
    seeds: Annotated[int, typer.Option(help="Seeds of every model.", min=1)] = 10,
    epochs: Annotated[int, typer.Option(help="Epochs of every run; the paper has 100.", min=1)] = 100,
    batch_size: Annotated[
        int, typer.Option(help="Sentences before each step; the paper does not say.", min=1, max=2)
    ] = 1,
    jobs: Annotated[int, typer.Option(help="Processes that train.", min=1)] = 1,
    json: Annotated[bool, typer.Option("--json", help="Print what was found as one JSON document.")] = False,
) -> None:
    """Train QK-LSTM, LSTM and QLSTM on the paper's two sentences, with Adam and SGD, with and without a kernel scale."""
    from dqk.cli.progress import counting
    from dqk.training.fig3 import findings, reproduce_fig3

    with counting("runs") as heard:
        found = reproduce_fig3(out, seeds, epochs, jobs, batch_size, heard)
    if json:
        print_json({**found, "out": str(out)})
        return
    shown = table(
        "optimiser",
        "model",
        "parameters",
        "all words right",
        "accuracy",
        "loss",
        numbers=("parameters", "all words right", "accuracy", "loss"),
    )
    for row in found["rows"]:
        right = f"{row['all_words_right_at_the_end']} of {row['seeds']}"
        numbers = f"{row['final_accuracy']:.3f}", f"{row['final_loss']:.3f}"
        shown.add_row(row["optimiser"], row["model"], str(row["parameters"]), right, *numbers)
    stdout().print(shown)
    for text in findings(found):
        stdout().print(f"- {text}", markup=False)
    stderr().print(f"picture, tables and page: {out}", markup=False, soft_wrap=True)
