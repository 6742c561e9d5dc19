"""What measurements may cost, and what they have cost."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dqk.backends.sampled import DeviceLimits
from dqk.errors import BudgetError

_ROUNDING = 1e-9  # of sums of seconds


@dataclass
class Budget:
    """What may be spent, and what was. It is never exceeded: a job that would is not submitted.

    Attributes:
        shots: at most; None for any number.
        seconds: of the device, at most; None for any number.
        spent_shots: of jobs that were or may have been submitted.
        spent_s: the same in seconds of the device, as the device's limits predict them.
        jobs: how many.
    """

    shots: int | None = None
    seconds: float | None = None
    spent_shots: int = 0
    spent_s: float = 0.0
    jobs: int = 0

    def spend(self, limits: DeviceLimits, circuits: int, shots: int) -> None:
        """Takes a job's shots.

        Raises:
            BudgetError: if they are not there.
        """
        seconds = limits.seconds(circuits, shots)
        self.require("the next job needs", shots, seconds)
        self.note(shots, seconds)

    def require(self, what: str, shots: int, seconds: float) -> None:
        """Makes sure that so much may still be spent.

        Raises:
            BudgetError: if it may not; `what` is how it begins.
        """
        if self.shots is not None and self.spent_shots + shots > self.shots:
            raise BudgetError(f"{what} {shots:,} shots, and of {self.shots:,} {self.spent_shots:,} are spent")
        if self.seconds is not None and self.spent_s + seconds > self.seconds * (1 + _ROUNDING):
            raise BudgetError(
                f"{what} {seconds:.3g} s of the device, and of {self.seconds:g} s {self.spent_s:.3g} s are spent"
            )

    def enough(self, shots: int, seconds: float) -> str:
        """What to do where so much is needed and `require` has refused it."""
        found = []
        if self.shots is not None and self.spent_shots + shots > self.shots:
            found.append(f"{self.spent_shots + shots:,} shots")
        if self.seconds is not None and self.spent_s + seconds > self.seconds * (1 + _ROUNDING):
            found.append(f"{_above(self.spent_s + seconds)} s")
        return (
            f"give a larger budget, at least {' and '.join(found)} in all, or fewer shots; a budget for a part of the jobs "
            "measures none of them"
        )

    def note(self, shots: int, seconds: float, jobs: int = 1) -> None:
        """Counts what was spent, by this run or an earlier one; negative numbers give back."""
        self.spent_shots += shots
        self.spent_s += seconds
        self.jobs += jobs


def _above(seconds: float) -> str:
    """In three digits, none of which is rounded down."""
    step = 10.0 ** (math.floor(math.log10(seconds)) - 2)
    return f"{math.ceil(seconds / step * (1 - _ROUNDING)) * step:.3g}"
