"""`dqk qpu`: QPU services to test against, one or a fleet."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from dqk.cli import fleet, partition
from dqk.cli.output import print_json, stderr

app = typer.Typer(
    name="qpu",
    help="Quantum processors behind HTTP: an emulated one that behaves like a provider's.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    epilog="Example: dqk qpu serve --qubits 8",
)

_SERVE = """
Examples:

  dqk qpu serve --qubits 8

  dqk qpu serve --qubits 8 --profile examples/qpu/profile.toml --port 8000 --token-file tokens.txt --data jobs
"""


@app.command(epilog=_SERVE)
def serve(
    qubits: Annotated[int, typer.Option(help="Qubits of the device.")] = 8,
    profile: Annotated[
        Path | None,
        typer.Option(help="TOML file with times, noise, limits, ... (default: no noise, drift, outage or delay)."),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen at, 0 for a free one.")] = 0,
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    token_file: Annotated[
        Path | None, typer.Option(help="Tokens to accept, one in each line; that of DQK_QPU_TOKEN is accepted, too.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder that jobs survive in (default: they end with the service).")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Serve an emulated quantum processor over HTTP; prints its URL once it is ready, and ends with Ctrl-C."""
    from dqk.qpu._serve import serve as run
    from dqk.qpu.profile import Profile

    def ready(url: str) -> None:
        print_json({"url": url, "qubits": qubits}) if json else print(url)
        sys.stdout.flush()  # whoever started the service waits for this line

    known = Profile() if profile is None else Profile.read(profile)
    try:
        run(
            qubits,
            known,
            host=host,
            port=port,
            token_file=token_file,
            data=data,
            ready=ready,
            note=lambda text: stderr().print(text, markup=False, soft_wrap=True),
        )
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


app.command(epilog=partition.EXAMPLES)(partition.partition)
fleet.register(app)
