"""Ctrl-C, SIGTERM and SIGUSR1 as a wish that the loop grants at the next safe place; and how ranks end together."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

from dqk.errors import ClusterError, DQKError

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)  # the last one is what Slurm sends before a time limit


class AgreedError(DQKError):
    """The end of a run that all of its ranks come to at the same step."""


class RankEnded(DQKError):
    """This rank ends because rank 0 has ended, and has said why.

    Attributes:
        exit_code: rank 0's.
    """

    def __init__(self, exit_code: int):
        super().__init__(f"rank 0 has ended with exit code {exit_code}, and says why")
        self.exit_code = exit_code


class LostRankError(ClusterError):
    """A rank that was killed, or whose machine is gone, while the others trained."""


class Interrupted(AgreedError):
    """A run that was stopped by a signal after its state had been saved.

    Args:
        message: says how to go on.
        number: the signal.
    """

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.number = number

    @property
    def exit_code(self) -> int:
        """What a shell expects of a process that a signal ended: 128 + its number."""
        return 128 + self.number


class StopRequest:
    """While the context is open, the first of the signals is noted instead of obeyed; a second is obeyed at once.

    Args:
        grace_s: after the first signal, how long others are taken for the same one: a launcher passes on what the terminal
            has sent to the ranks as well.

    Attributes:
        number: the signal that came, None so far.
    """

    def __init__(self, grace_s: float = 0.0) -> None:
        self.number: int | None = None
        self._grace_s = grace_s
        self._noted_at = 0.0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers nowhere else
            self._previous = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def note(self, number: int) -> None:
        """Asks for a stop as a signal would."""
        if self.number is None:
            self.number, self._noted_at = number, time.monotonic()

    def end_in_order(self) -> None:
        """Has SIGTERM ignored from now on, also afterwards: torchrun sends it to those that a lost rank has left."""
        if signal.SIGTERM in self._previous:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            self._previous[signal.SIGTERM] = signal.SIG_IGN

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.number is None:
            self.note(number)
            if not self._grace_s:
                self._restore()
        elif time.monotonic() - self._noted_at > self._grace_s:
            self._restore()
            signal.raise_signal(number)

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
