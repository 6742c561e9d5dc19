"""Many short runs, one after the other or in several processes: what a figure or a comparison is made of.

A trial is plain data in and plain data out. A module-level function runs it, here or in a process that knows nothing else.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

from torch import nn

from dqk.training import checkpoint
from dqk.training.config import TrainConfig
from dqk.training.interrupt import Interrupted, StopRequest
from dqk.training.loop import Trainer
from dqk.training.run_folder import RunFolder
from dqk.training.state import Reporter, State
from dqk.training.task import Task

_POLL_S = 0.5

Trial = dict[str, Any]
Run = Callable[[Trial], dict[str, Any]]
Heard = Callable[[Trial, dict[str, Any]], None]


def train_once(config: TrainConfig, model: nn.Module, task: Task) -> State:
    """Trains in a folder that is thrown away, and leaves the best epoch's parameters in the model.

    Args:
        config: the configuration.
        model: freshly drawn.
        task: what for.

    Returns:
        Where the run ended.
    """
    with tempfile.TemporaryDirectory(prefix="dqk-") as place:
        folder = RunFolder(Path(place), task=config.task)
        trainer = Trainer(config, model, task, folder, Reporter())
        trainer.run()
        tensors, _ = checkpoint.load_checkpoint(folder.best, "run it again")
        checkpoint.load_model(model, tensors, folder.best)
        return trainer.state


def run_trials(run: Run, trials: Sequence[Trial], jobs: int, heard: Heard, if_stopped: str) -> None:
    """Runs trials.

    Args:
        run: a function of a module, which gives the result of a trial.
        trials: in the order in which they begin.
        jobs: processes; 1 for this one alone.
        heard: is given each trial and its result, in this process, as soon as it is there.
        if_stopped: what to tell a user who stops it.

    Raises:
        Interrupted: after Ctrl-C or SIGTERM; what was heard of is whole.
    """
    if jobs == 1:
        for trial in trials:
            try:
                heard(trial, run(trial))
            except Interrupted as stopped:
                raise Interrupted(if_stopped, stopped.number) from None
        return
    with StopRequest() as stop, _pool(min(jobs, max(1, len(trials)))) as pool:
        left = iter(trials)
        running: dict[Future[dict[str, Any]], Trial] = {}
        while True:
            for trial in left:  # few at a time, so that a stop has little to cancel
                running[pool.submit(run, trial)] = trial
                if len(running) > jobs:
                    break
            if not running:
                return
            done, _ = wait(running, _POLL_S, FIRST_COMPLETED)
            if stop.number is not None:
                raise Interrupted(if_stopped, stop.number)
            for future in done:
                heard(running.pop(future), future.result())


@contextlib.contextmanager
def _pool(jobs: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that end with this one, whatever ends it."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, context, _end_with_parent)
    try:
        yield pool
    except BaseException:
        for process in list((pool._processes or {}).values()):
            process.kill()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
