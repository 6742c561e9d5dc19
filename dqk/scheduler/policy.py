"""How a run is to be driven, and what came of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from dqk.errors import InvalidInputError


@dataclass(frozen=True, slots=True)
class Policy:
    """Rules of `Dispatch`.

    Attributes:
        max_retries: an item is tried once and so many times more, on another worker if one lives.
        window: assignments in flight for each slot of a worker: one computes, the others wait, so that no slot waits for a
            message.
        writing: how many of them its slot may have computed already and be writing: if the worker is lost, the one after those
            may be what killed it.
        message_s: predicted seconds of work in an assignment; less towards the end, more if a single item takes longer.
        hang_factor: a worker that needs so many times the predicted time is killed; infinity where workers cannot be killed.
        hang_least_s: it is never killed sooner: compiled code may have to be made first.
        hedge: at the end, workers without work get copies of items that are late, or that wait at a busy worker.
    """

    max_retries: int = 2
    window: int = 2
    writing: int = 0
    message_s: float = 0.25
    hang_factor: float = 30.0
    hang_least_s: float = 120.0
    hedge: bool = True

    def __post_init__(self) -> None:
        least = {"max_retries": 0, "window": 1, "writing": 0, "message_s": 0.0, "hang_factor": 1.0, "hang_least_s": 0.0}
        wrong = [
            f"{name}: {getattr(self, name)}, expected at least {bound:g}"
            for name, bound in least.items()
            if math.isnan(getattr(self, name)) or getattr(self, name) < bound
        ]
        if wrong:
            raise InvalidInputError("\n".join(wrong))


@dataclass(slots=True)
class WorkerStatistics:
    """What one worker did.

    Attributes:
        items: results of it that were accepted.
        busy_s: seconds during which its slots had something to compute.
        lost: why it is gone; None while it lives.
    """

    items: int = 0
    busy_s: float = 0.0
    lost: str | None = None


@dataclass(slots=True)
class Statistics:
    """What became of a run so far.

    Attributes:
        accepted: items whose first result came.
        given_up: items that failed as often as they may.
        assignments: messages with work.
        retries: items that were sent again after a failure or after their worker was lost while it computed them.
        hedged: items of which a second copy was sent to an idle worker.
        duplicates: results that came too late to be used.
        lost_workers: workers that went or were killed.
        workers: by name, in the order in which they joined.
    """

    accepted: int = 0
    given_up: int = 0
    assignments: int = 0
    retries: int = 0
    hedged: int = 0
    duplicates: int = 0
    lost_workers: int = 0
    workers: dict[str, WorkerStatistics] = field(default_factory=dict)
