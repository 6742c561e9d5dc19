"""`dqk reproduce`: figures of the QK-LSTM paper, measured again."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from dqk.cli.output import print_json, stdout, table

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
