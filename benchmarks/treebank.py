"""Taggers on a treebank: QK-LSTM, LSTM and QLSTM, what recurrence gives each of them, and a tagger that counts.

`python benchmarks/treebank.py --data en_ewt-ud-dev.conllu` trains every model with and without recurrence for every seed,
with the options of `dqk train pos --data` on all sides alike, and prints mean and standard deviation of the held-out
accuracy (best epoch); the last line is a JSON document. "Without recurrence" is the same cell with h_{t-1} = c_{t-1} = 0
at every word. One run at a time, 2 to 100 seconds each: `--seeds 0`, `--models qklstm` and `--directions 2` take less.
`--first 1600` leaves all but the first sentences out: options are to be chosen there, not on what the table is measured on.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from timing import machine

import dqk
from dqk.data import Vocabulary
from dqk.nn.no_recurrence import NoRecurrence
from dqk.training.config import OPTIONS, TrainConfig, resolve
from dqk.training.loop import Reporter, Trainer
from dqk.training.metrics import most_frequent_tag_accuracy
from dqk.training.models import build_tagger, count_parameters
from dqk.training.options import MODELS
from dqk.training.pos import Corpus, load_corpus
from dqk.training.run_folder import RunFolder
from dqk.training.tagging import Tagging


def train(config: TrainConfig, corpus: Corpus, recurrent: bool) -> dict[str, Any]:
    """One run: its parameters, its best held-out accuracy and the epoch in which it was reached."""
    vocabulary = Vocabulary.of(corpus.train)
    model: Any = build_tagger(config, vocabulary)
    if not recurrent:
        model.recurrent = NoRecurrence(model.recurrent)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder(Path(folder))
        trainer = Trainer(config, model, Tagging(config, vocabulary, corpus.train, corpus.held_out), run, Reporter())
        trainer.run()
    best = trainer.state.best
    assert best is not None
    return {
        "accuracy": best["eval_accuracy"],
        "best_epoch": best["epoch"],
        "parameters": count_parameters(model),
        "seconds": round(time.perf_counter() - started, 1),
    }


def measure(options: dict[str, Any], corpus: Corpus, model: str, directions: int, seeds: list[int]) -> dict[str, Any]:
    """A row of the table: all seeds, with and without recurrence."""
    runs: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
    for seed in seeds:
        for recurrent in runs:
            given = {**options, "model": model, "bidirectional": directions == 2, "seed": seed}
            config = resolve({name: value for name, value in given.items() if model in OPTIONS[name].models})
            runs[recurrent].append(train(config, corpus, recurrent))
            what = f"{model}, {directions} direction(s), seed {seed}, {'' if recurrent else 'no '}recurrence"
            print(f"{what}: {runs[recurrent][-1]}", file=sys.stderr, flush=True)
    with_it, without = ([run["accuracy"] for run in runs[recurrent]] for recurrent in (True, False))
    return {
        "model": model,
        "directions": directions,
        "parameters": runs[True][0]["parameters"],
        "accuracy": spread(with_it),
        "no_recurrence": spread(without),
        "gain": spread([a - b for a, b in zip(with_it, without, strict=True)]),
        "seconds": statistics.median(run["seconds"] for run in runs[True]),
        "runs": {"recurrence": runs[True], "no_recurrence": runs[False]},
    }


def spread(values: list[float]) -> dict[str, float]:
    """Mean and standard deviation over seeds."""
    return {"mean": statistics.fmean(values), "std": statistics.stdev(values) if len(values) > 1 else 0.0}


def show(rows: list[dict[str, Any]], title: str) -> None:
    """The table for people."""
    table = Table(title=title, title_justify="left")
    for name in ("model", "directions", "parameters", "accuracy", "no recurrence", "gain of recurrence", "s/run"):
        table.add_column(name, justify="left" if name == "model" else "right")
    for row in rows:
        cells = [f"{row[key]['mean']:.4f} ± {row[key]['std']:.4f}" for key in ("accuracy", "no_recurrence", "gain")]
        sizes = [str(row["directions"]), f"{row['parameters']:,}"]
        table.add_row(row["model"], *sizes, *cells, f"{row['seconds']:.0f}")
    Console(width=110).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="CoNLL-U file; its last fifth is held out")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--directions", nargs="+", type=int, choices=(1, 2), default=[1, 2])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--first", type=int, default=0, help="use so many sentences alone (default: all)")
    for field in dataclasses.fields(TrainConfig):
        if field.name in ("epochs", "dropout", "embedding_std", "learning_rate", "gate_kernel", "bandwidth"):
            flag = f"--{field.name.replace('_', '-')}"
            parser.add_argument(flag, type=type(field.default), default=field.default, help=f"default {field.default}")
    given = vars(parser.parse_args())
    models, directions, seeds, first = (given.pop(name) for name in ("models", "directions", "seeds", "first"))
    corpus = load_corpus(resolve({"data": given["data"]}))
    if first:
        sentences = (corpus.train + corpus.held_out)[:first]
        cut = first - math.ceil(first / 5)
        corpus = Corpus(sentences[:cut], sentences[cut:])
    table_of_words = most_frequent_tag_accuracy(corpus.train, corpus.held_out)
    rows = [measure(given, corpus, model, count, seeds) for count in directions for model in models]
    n_words = sum(map(len, corpus.held_out))
    settings = ", ".join(f"{name} {value}" for name, value in given.items() if name != "data")
    show(
        rows,
        f"{len(corpus.train)} sentences to train on, {len(corpus.held_out)} ({n_words} words) held out; {settings}; seeds "
        f"{seeds}; every word's most frequent tag: {table_of_words:.4f}",
    )
    versions = {"dqk": dqk.__version__, "torch": torch.__version__}
    document = {
        "settings": given | {"data": Path(given["data"]).name, "first": first},
        "seeds": seeds,
        "sha256": corpus.digests["data"],
    }
    print(json.dumps({**document, "most_frequent_tag": table_of_words, "rows": rows, **versions, **machine()}))


if __name__ == "__main__":
    main()
