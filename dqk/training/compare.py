"""Many models under one protocol: equal budget and tuning, paired seeds, selection on validation, one test.

1. Every model is trained with every learning rate of one grid and some seeds that are used for nothing else; the learning rate
   with the best mean validation score is kept. All other options are the same for all models, as far as they apply.
2. With it every model is trained with the same final seeds; each run keeps its best epoch by validation, and is tested once.
3. Differences of means have intervals over seeds and test units, in pairs (`dqk.training.bootstrap`).
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dqk.errors import CheckpointError, InvalidInputError
from dqk.nn.no_recurrence import NoRecurrence
from dqk.training.bootstrap import paired_difference, score
from dqk.training.config import TrainConfig, resolve
from dqk.training.contestants import CONTESTANTS, DECIDED, MATCHED_TO, RADIAL, REFERENCE, USUAL, Contestant, chosen
from dqk.training.contests import Contest, open_contest
from dqk.training.files import make_folder, write_json
from dqk.training.loop import DivergenceError
from dqk.training.models import count_parameters
from dqk.training.trials import Trial, run_trials, train_once

_FIRST_TUNING_SEED = 1_000_000  # far from the final ones
_MOST_HIDDEN = 512


@dataclass(frozen=True)
class Protocol:
    """What decides every number of a comparison.

    Attributes:
        task: `pos` or `forecast`.
        options: of training runs, the same for all models; for `pos` with `test_part` and `first`, see `PosContest`.
        models: keys of `CONTESTANTS`.
        learning_rates: the grid, the same for all models.
        seeds: of the final runs, from 0.
        tuning_seeds: of each learning rate.
        draws: bootstrap samples.
    """

    task: str
    options: dict[str, Any]
    models: tuple[str, ...] = tuple(CONTESTANTS)
    learning_rates: tuple[float, ...] = (0.003, 0.01, 0.03, 0.1)
    seeds: int = 10
    tuning_seeds: int = 1
    draws: int = 10_000

    def __post_init__(self) -> None:
        problems = []
        if unknown := [name for name in self.options if name in DECIDED]:
            problems.append(f"{', '.join(unknown)}: the protocol decides, leave out")
        if not self.learning_rates or not all(0 < rate < 1e30 for rate in self.learning_rates):
            problems.append(f"learning rates are {self.learning_rates}, expected numbers above 0")
        if self.task == "pos" and not self.options.get("data"):
            problems.append("--data: missing; the paper's two sentences leave nothing to test on")
        if problems:
            raise InvalidInputError("\n".join(problems))
        chosen(list(self.models))

    @property
    def contest_options(self) -> dict[str, Any]:
        """What the data are read with."""
        if self.task == "forecast":
            return dict(self.options)
        given = {"test_part": 0.2, "first": 0, "held_out": 0.2, **self.options}
        return {name: given.get(name) for name in ("data", "test", "held_out", "test_part", "first")}

    def config(self, contestant: Contestant, **own: Any) -> TrainConfig:
        """The training run of a model: shared options as far as they apply to it, then its own."""
        shared = {name: value for name, value in self.options.items() if name not in ("first", "test_part")}
        if self.task == "forecast":
            shared = dict(self.options)
        needed: dict[str, Any] = {name: shared[name] for name in ("data", "series", "column") if name in shared}
        applies = resolve({**needed, **contestant.options}, self.task).applies
        shared = {name: value for name, value in shared.items() if applies(name)}
        return resolve({**shared, **contestant.options, **own}, self.task)


def compare(
    protocol: Protocol, out: Path, jobs: int = 1, heard: Callable[[int, int], None] = lambda done, total: None
) -> dict[str, Any]:
    """Runs a comparison, or goes on with one, and writes `compare.md`, `.csv` and `.png`.

    Args:
        protocol: what to compare and how.
        out: folder, missing, empty or of a comparison by the same protocol, whose finished runs are kept.
        jobs: processes that train.
        heard: is told how many runs are done, of how many.

    Returns:
        What was found, plain data for JSON.

    Raises:
        InvalidInputError: if the data cannot be cut so, or the folder holds something else.
        DataFileError: if a file cannot be read.
        Interrupted: after Ctrl-C; the same call goes on.
    """
    from dqk.training import compare_report

    contest = open_contest(protocol.task, protocol.contest_options)
    hidden = {name: _hidden(protocol, contest, name) for name in protocol.models}
    ledger = _Ledger(out, protocol, contest)
    tuning = [
        _trial(protocol, name, rate, _FIRST_TUNING_SEED + k, False, hidden[name])
        for name in protocol.models
        for rate in protocol.learning_rates
        for k in range(protocol.tuning_seeds)
    ]
    total = len(tuning) + len(protocol.models) * protocol.seeds
    ledger.run(tuning, jobs, lambda done: heard(done, total))
    rates = {name: _best_rate(protocol, contest, ledger, name) for name in protocol.models}
    final = [
        _trial(protocol, name, rates[name], seed, True, hidden[name])
        for seed in range(protocol.seeds)
        for name in protocol.models
    ]
    ledger.run(final, jobs, lambda done: heard(len(tuning) + done, total))
    found = {name: [ledger[_key(trial)] for trial in final if trial["model"] == name] for name in protocol.models}
    document = _summary(protocol, contest, rates, found)
    compare_report.write(out, document)
    return document


class _Ledger:
    """Results of runs by their keys, one line each in `runs.jsonl`, written as soon as a run is finished."""

    def __init__(self, out: Path, protocol: Protocol, contest: Contest):
        self._path = out / "runs.jsonl"
        document = json.loads(json.dumps({**asdict(protocol), "digest": contest.digest}))
        make_folder(out)
        place = out / "protocol.json"
        if place.exists():
            before = json.loads(place.read_text())
            changed = [name for name in document if before.get(name) != document[name]]
            if changed:
                told = "; ".join(f"{name} was {before.get(name)}, is {document[name]}" for name in changed)
                raise InvalidInputError(
                    f"--out: {out} holds a comparison by another protocol ({told}); name another folder"
                )
        elif any(out.iterdir()):
            raise InvalidInputError(f"--out: {out} is not empty, and holds no comparison; name another folder")
        else:
            write_json(place, document)
        self._found: dict[str, dict[str, Any]] = {}
        if self._path.exists():
            for line in self._path.read_text().splitlines(keepends=True):
                if line.endswith("\n"):  # else the process was killed while it wrote
                    entry = json.loads(line)
                    self._found[entry["key"]] = entry["result"]

    def __getitem__(self, key: str) -> dict[str, Any]:
        return self._found[key]

    def run(self, trials: list[Trial], jobs: int, heard: Callable[[int], None]) -> None:
        """Runs what is not known yet."""
        missing = [trial for trial in trials if _key(trial) not in self._found]

        def keep(trial: Trial, result: dict[str, Any]) -> None:
            self._found[_key(trial)] = result
            try:
                with self._path.open("a") as stream:
                    stream.write(json.dumps({"key": _key(trial), "result": result}) + "\n")
            except OSError as error:
                raise CheckpointError(
                    f"cannot write {self._path}: {error.strerror}; make room, then start again"
                ) from error
            heard(sum(_key(trial) in self._found for trial in trials))

        run_trials(run_trial, missing, jobs, keep, "runs that were finished are kept; the same command goes on")


def _trial(protocol: Protocol, name: str, rate: float, seed: int, final: bool, hidden: int | None) -> Trial:
    return {
        "protocol": asdict(protocol),
        "model": name,
        "learning_rate": rate,
        "seed": seed,
        "final": final,
        "hidden": hidden,
    }


def _key(trial: Trial) -> str:
    return f"{trial['model']} {trial['learning_rate']:g} {trial['seed']} {'final' if trial['final'] else 'tuning'}"


def run_trial(trial: Trial) -> dict[str, Any]:
    """One model, learning rate and seed: its validation score, and what it did on the test units if this is its final run."""
    protocol = Protocol(**{**trial["protocol"], "models": tuple(trial["protocol"]["models"])})
    contest = open_contest(protocol.task, protocol.contest_options)
    own = {} if trial["hidden"] is None else {"hidden_dim": trial["hidden"]}
    config = protocol.config(
        CONTESTANTS[trial["model"]], learning_rate=trial["learning_rate"], seed=trial["seed"], **own
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(config.threads)
    try:
        model = _build(contest, config, CONTESTANTS[trial["model"]])
        state = train_once(config, model, contest.task(config))
        result: dict[str, Any] = {"validation": contest.validation(state), "parameters": count_parameters(model)}
        assert state.best is not None
        result["best_epoch"] = state.best["epoch"]
        result["seconds"] = round(sum(line["seconds"] for line in state.history), 3)
        if trial["final"]:
            result["totals"] = contest.totals(model, config).tolist()
        return result
    except DivergenceError:
        if trial["final"]:
            raise
        return {"validation": None}  # a step size that cannot be chosen
    finally:
        torch.set_num_threads(threads)


def _build(contest: Contest, config: TrainConfig, contestant: Contestant) -> torch.nn.Module:
    model: Any = contest.build(config)
    if not contestant.recurrent:
        model.recurrent = NoRecurrence(model.recurrent)
    return model


def _hidden(protocol: Protocol, contest: Contest, name: str) -> int | None:
    """The hidden size with which a matched model comes nearest to the parameters of what it is matched to."""
    if not CONTESTANTS[name].matched:
        return None
    wanted = count_parameters(contest.build(protocol.config(CONTESTANTS[MATCHED_TO])))

    def distance(size: int) -> int:
        with torch.device("meta"):
            return abs(count_parameters(contest.build(protocol.config(CONTESTANTS[name], hidden_dim=size))) - wanted)

    size = 1
    while size < _MOST_HIDDEN and distance(size + 1) <= distance(size):  # parameters grow with the size
        size += 1
    return size


def _best_rate(protocol: Protocol, contest: Contest, ledger: _Ledger, name: str) -> float:
    """The learning rate with the best mean validation score over the tuning seeds."""
    scores: dict[float, float] = {}
    for rate in protocol.learning_rates:
        seeds = range(_FIRST_TUNING_SEED, _FIRST_TUNING_SEED + protocol.tuning_seeds)
        found = [ledger[_key(_trial(protocol, name, rate, seed, False, None))]["validation"] for seed in seeds]
        if None not in found:
            scores[rate] = statistics.fmean(found) * (1 if contest.higher_is_better else -1)
    if not scores:
        raise InvalidInputError(
            f"{name}: every learning rate of {list(protocol.learning_rates)} diverged; give smaller ones"
        )
    return max(scores, key=scores.__getitem__)


def _summary(
    protocol: Protocol, contest: Contest, rates: Mapping[str, float], found: Mapping[str, list[dict[str, Any]]]
) -> dict[str, Any]:
    totals = {name: np.array([run["totals"] for run in runs]) for name, runs in found.items()}
    rows = []
    for name, runs in found.items():
        scores = score(totals[name], contest.sizes, contest.root)
        rows.append(
            {
                "name": name,
                "title": CONTESTANTS[name].title,
                "quantum": CONTESTANTS[name].quantum,
                "parameters": runs[0]["parameters"],
                "learning_rate": rates[name],
                "validation": statistics.fmean(run["validation"] for run in runs),
                "test": float(scores.mean()),
                "test_std": float(scores.std(ddof=1)) if len(scores) > 1 else None,
                "test_by_seed": scores.tolist(),
                "seconds": statistics.median(run["seconds"] for run in runs),
            }
        )
    flat = {title: values[None] for title, values in contest.baselines().items()}
    rows += [
        {"name": title, "title": title, "quantum": False, "test": float(score(values, contest.sizes, contest.root)[0])}
        for title, values in flat.items()
    ]
    differences = []
    for against in [name for name in (REFERENCE, RADIAL, USUAL) if name in totals]:
        for name, values in {**totals, **flat}.items():
            if name != against:
                shape = np.broadcast_to(values, totals[against].shape)
                interval = paired_difference(shape, totals[against], contest.sizes, contest.root, protocol.draws)
                differences.append({"first": name, "second": against, **asdict(interval)})
    return {
        "task": protocol.task,
        "protocol": asdict(protocol),
        "data": contest.data,
        "digest": contest.digest,
        "metric": contest.metric,
        "higher_is_better": contest.higher_is_better,
        "unit": contest.unit,
        "units": len(contest.sizes),
        "rows": rows,
        "differences": differences,
    }
