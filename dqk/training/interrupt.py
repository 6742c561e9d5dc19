"""Ctrl-C and SIGTERM as a wish that the loop grants at the next safe place."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from dqk.errors import DQKError

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(DQKError):
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
    """While the context is open, the first SIGINT or SIGTERM is noted instead of obeyed; a second is obeyed at once.

    Attributes:
        number: the signal that came, None so far.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers nowhere else
            self._previous = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
