"""What an option of a training run is: its help, its range, its type."""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from dqk.errors import InvalidInputError, unknown_name

MODELS = ("qklstm", "lstm", "qlstm")
TASKS = ("pos", "forecast")

KernelScale = float | Literal["auto"]


@dataclass(frozen=True)
class Option:
    """What is known about an option besides its name, type and default.

    Attributes:
        help: one line.
        group: heading under which `--help` lists it.
        models: the models that it applies to.
        tasks: the tasks that it applies to.
        choices: the values that it takes, if they can be listed.
        least: smallest value.
        above: value that it must exceed.
        below: value that it must stay under.
        most: largest value, where `below` is not given; beyond the usual one float32 has no numbers to compute with.
    """

    help: str
    group: str
    models: tuple[str, ...] = MODELS
    tasks: tuple[str, ...] = TASKS
    choices: tuple[str, ...] = ()
    least: float | None = None
    above: float | None = None
    below: float | None = None
    most: float = 1e30

    def problem(self, value: Any) -> str | None:
        """Why a value of the right type cannot be used; None if it can."""
        if self.choices and value not in self.choices:
            return str(unknown_name("value", value, self.choices)).removeprefix("unknown value ")
        if isinstance(value, str | bool):
            return None
        if isinstance(value, float) and not math.isfinite(value):
            return f"{value}, expected a finite number"
        if self.least is not None and value < self.least:
            return f"{value}, expected at least {self.least:g}"
        if self.above is not None and value <= self.above:
            return f"{value}, expected more than {self.above:g}"
        if self.below is not None and value >= self.below:
            return f"{value}, expected less than {self.below:g}"
        if self.below is None and value > self.most:
            return f"{value}, expected at most {self.most:g}"
        return None


def flag(name: str) -> str:
    """An option as it is typed on a command line, which is what messages call it."""
    return f"--{name.replace('_', '-')}"


def option(default: Any, help: str, group: str, **details: Any) -> Any:
    """A field of a configuration, see `Option`."""
    return field(default=default, metadata={"option": Option(help, group, **details)})


def converted(value: Any, kind: Any) -> Any:
    """A value in the type of its option.

    Raises:
        InvalidInputError: if it is of another type.
    """
    return _CONVERSIONS[kind](value)


def _whole(value: Any) -> int:
    try:
        if not isinstance(value, bool):
            return operator.index(value)
    except TypeError:
        pass
    raise InvalidInputError(f"{value!r}, expected a whole number")


def _yes_or_no(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise InvalidInputError(f"{value!r}, expected true or false")


def _number(value: Any) -> float:
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        return float(value)
    raise InvalidInputError(f"{value!r}, expected a number")


def _text(value: Any) -> str:
    if isinstance(value, str) and value:
        return value
    raise InvalidInputError(f"{value!r}, expected a text")


def _scale(value: Any) -> KernelScale:
    if value == "auto":
        return "auto"
    try:
        return _number(float(value) if isinstance(value, str) else value)
    except (InvalidInputError, ValueError):
        raise InvalidInputError(f"{value!r}, expected a number or 'auto'") from None


_CONVERSIONS: dict[Any, Callable[[Any], Any]] = {
    bool: _yes_or_no,
    int: _whole,
    int | None: _whole,
    float: _number,
    float | None: _number,
    str: _text,
    str | None: _text,
    KernelScale: _scale,
}
