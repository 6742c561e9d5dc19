"""A rank that runs out of memory in its 20th step."""

import itertools
from typing import Any

from dqk.cli import main
from dqk.errors import MemoryBoundError
from dqk.training.tagging import Tagging

steps, compute = itertools.count(1), Tagging.inputs


def inputs(self: Tagging, *arguments: Any) -> Any:
    if next(steps) == 20:
        raise MemoryBoundError("too large")
    return compute(self, *arguments)


if __name__ == "__main__":
    Tagging.inputs = inputs  # type: ignore[method-assign]
    main()
