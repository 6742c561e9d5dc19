"""Curves for TensorBoard, if it is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dqk.errors import BackendUnavailableError


class Board:
    """Writes scalars of epochs into a folder that TensorBoard reads.

    Args:
        folder: made if it is missing.
        done: epochs that are there already; what an interrupted run wrote after them is dropped.

    Raises:
        BackendUnavailableError: if tensorboard is not installed.
    """

    def __init__(self, folder: Path, done: int):
        require_tensorboard()
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=done + 1)

    def epoch(self, line: dict[str, Any]) -> None:
        """The metrics of an epoch."""
        for name, value in line.items():
            if name != "epoch":
                part, _, what = name.partition("_")
                tag = f"{what}/{part}" if what else name
                self._writer.add_scalar(tag, value, line["epoch"])
        self._writer.flush()

    def close(self) -> None:
        """Ends the file."""
        self._writer.close()


def require_tensorboard() -> None:
    """Raises BackendUnavailableError with the line that installs what is missing."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise BackendUnavailableError(
            f"--tensorboard needs TensorBoard, which cannot be imported ({error}); pip install 'dqk[tensorboard]'"
        ) from error
