"""Seconds per epoch of one rank against two data-parallel ranks, at the same global batch.

Both sides run `dqk train pos` on the same file, in processes of their own with one thread per rank; two ranks are started as
torchrun starts them. An epoch includes the evaluation on the held-out part; start-up and the first epoch are left out. The sides
alternate, and the median over all epochs of all rounds is compared. Losses of both sides are compared before anything is
reported.

How much two ranks gain depends on the batch: the compiled cell computes 16 sentences at once (float32), and the time steps of the
longest sentences are there on every rank. `--batch` takes several sizes.

Run `python benchmarks/training.py TREEBANK.conllu`; `--json FILE` keeps the figures.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from timing import machine

MODEL = ["--feature-map=reuploading", "--layers=3", "--n-qubits=8", "--n-references=32", "--hidden-dim=64"]
GOAL = 1.7


def train(ranks: int, arguments: list[str], folder: Path) -> list[dict[str, Any]]:
    """Metrics of the epochs of a run."""
    command = [sys.executable, "-m", "dqk", "train", "pos", *arguments, f"--out={folder}", "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DQK_THREADS": "1"}
    if ranks > 1:
        command.append("--distributed")
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    own = [
        {"RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(ranks)}
        for rank in range(ranks)
    ]
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        subprocess.Popen(
            command, env={**environment, **address, **place}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        for place in own
    ]
    messages = [process.communicate()[1].decode() for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit(f"training failed:\n{''.join(messages)}")
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def measure(batch: int, data: str, epochs: int, rounds: int) -> dict[str, Any]:
    arguments = [f"--data={data}", f"--batch-size={batch}", f"--epochs={epochs}", *MODEL]
    seconds: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as parent:
        for number in range(rounds):
            losses = {}
            for ranks in (1, 2) if number % 2 == 0 else (2, 1):
                lines = train(ranks, arguments, Path(parent, f"{number}-{ranks}"))
                seconds[ranks] += [line["seconds"] for line in lines[1:]]
                losses[ranks] = lines[0]["train_loss"]
            if abs(losses[1] - losses[2]) > 1e-3:
                raise SystemExit(f"batch {batch}: losses {losses} differ: not the same training")
    one, two = (statistics.median(seconds[ranks]) for ranks in (1, 2))
    return {"batch": batch, "1 rank, s": one, "2 ranks, s": two, "ratio": one / two}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", metavar="TREEBANK", help="CoNLL-U file")
    parser.add_argument("--batch", type=int, nargs="+", default=[64, 256], help="sentences in a global batch")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", metavar="FILE", help="write the figures to a file")
    options = parser.parse_args()
    rows = [measure(batch, options.data, options.epochs, options.rounds) for batch in options.batch]
    shown = Table(title=f"Seconds per epoch: {' '.join(MODEL)} (goal: {GOAL})", title_justify="left")
    for name in rows[0]:
        shown.add_column(name, justify="right")
    for row in rows:
        shown.add_row(*(f"{value:.3g}" for value in row.values()))
    Console(width=110).print(shown)
    if options.json:
        figures = {"machine": machine(), "model": MODEL, "epochs": options.epochs, "rows": rows}
        Path(options.json).write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
