"""A run from its trainer to its result, whatever it trains for."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, cast

from dqk.errors import CheckpointError
from dqk.training import checkpoint, profiling
from dqk.training._tensorboard import Board
from dqk.training.interrupt import Interrupted
from dqk.training.loop import DivergenceError, Trainer


def complete(trainer: Trainer, draw: Callable[[], None], result: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Trains until finished, draws, and writes what the run came to; of all ranks, rank 0 calls it.

    Args:
        trainer: at its start, or where a run stopped.
        draw: writes the curves; called after an interruption, too.
        result: what the run came to, plain data for JSON; called with the best parameters in the model.

    Returns:
        The result.

    Raises:
        CheckpointError: if the folder cannot be written, with the command that goes on afterwards.
        Interrupted: after a signal, once the state is saved.
        DivergenceError: if the loss is no longer finite.
        LostRankError: if another rank is gone.
    """
    folder = trainer.folder
    try:
        try:
            with _board(trainer):
                trainer.run()
        except (Interrupted, DivergenceError):
            if trainer.state.history:
                draw()
            raise
        draw()
        profile = trainer.profile() if trainer.config.profile else None
        _take_best(trainer)
        found = result()
        if profile is not None:
            profiling.write(folder.path, profile)
            found["profile"] = profile
        folder.write_result(found)
    except OSError as error:
        raise CheckpointError(
            f"cannot write {error.filename or folder.path}: {error.strerror or error}; what was saved before is whole: make "
            f"room in {folder.path}, then go on with: {folder.resume_command}"
        ) from error
    return cast(dict[str, Any], trainer.group.share_json(found))


def _take_best(trainer: Trainer) -> None:
    folder = trainer.folder
    tensors, _ = checkpoint.load_checkpoint(folder.best, folder.remedy_for_best)
    checkpoint.load_model(trainer.model, tensors, folder.best)


@contextlib.contextmanager
def _board(trainer: Trainer) -> Iterator[None]:
    """TensorBoard, if it is asked for."""
    if not trainer.config.tensorboard:
        yield
        return
    board = Board(trainer.folder.path / "tensorboard", trainer.state.epoch)
    trainer.heard.append(board.epoch)
    try:
        yield
    finally:
        board.close()
