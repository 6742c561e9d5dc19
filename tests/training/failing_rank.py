"""A rank that runs out of memory in its 20th step."""

import itertools
from typing import Any

from dqk.cli import main
from dqk.errors import MemoryBoundError
from dqk.training.loop import Trainer

steps, compute = itertools.count(1), Trainer._step


def step(self: Trainer, *arguments: Any) -> Any:
    if next(steps) == 20:
        raise MemoryBoundError("too large")
    return compute(self, *arguments)


if __name__ == "__main__":
    Trainer._step = step  # type: ignore[method-assign]
    main()
