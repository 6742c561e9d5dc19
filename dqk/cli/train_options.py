"""Options of `dqk train` that say who computes, not what."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_FARMING = "Workers for kernel values (qklstm)"
_DISTRIBUTED = "Several ranks"

Executor = Annotated[
    str | None,
    typer.Option(
        metavar="<text>",
        help="Who computes kernel values: inline, processes, ray or mpi. Default: this process.",
        rich_help_panel=_FARMING,
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(metavar="<int>", help="Workers, or threads if inline. Default: all.", rich_help_panel=_FARMING),
]
Farm = Annotated[
    str | None,
    typer.Option(
        metavar="<text>",
        help="auto: only where a message costs less than what it asks for; always. Default auto.",
        rich_help_panel=_FARMING,
    ),
]
MicroBatch = Annotated[
    int | None,
    typer.Option(
        metavar="<int>", help="Sentences of one task. Default: a sixteenth of the batch.", rich_help_panel=_FARMING
    ),
]
QPUs = Annotated[
    list[str] | None,
    typer.Option(
        "--qpu",
        metavar="<url>",
        help="A QPU service that measures kernel values; several share the work. Needs --shots.",
        rich_help_panel=_FARMING,
    ),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(metavar="<path>", help="File with the services' token (or DQK_QPU_TOKEN).", rich_help_panel=_FARMING),
]
Distributed = Annotated[
    bool,
    typer.Option(
        "--distributed",
        help="Share every batch among the ranks that torchrun, mpiexec or srun has started.",
        rich_help_panel=_DISTRIBUTED,
    ),
]
Launcher = Annotated[
    str | None,
    typer.Option(metavar="<text>", help="ray: have Ray start the ranks.", rich_help_panel=_DISTRIBUTED),
]
Ranks = Annotated[
    str | None,
    typer.Option(metavar="<int>", help="Ranks that Ray starts. Default 2.", rich_help_panel=_DISTRIBUTED),
]
MaxFailures = Annotated[
    str | None,
    typer.Option(
        metavar="<int>",
        help="How often Ray starts all ranks again, from the last checkpoint, after one was lost. Default 2.",
        rich_help_panel=_DISTRIBUTED,
    ),
]
