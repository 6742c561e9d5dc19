"""What `dqk doctor --cluster` makes of what the tasks have found; tests/slurm has real tasks."""

from pathlib import Path
from typing import Any

import pytest

from dqk.cli.preflight import _problems

FINE: dict[str, Any] = {
    "node": "n1",
    "address": "10.0.0.1",
    "cpus": [0, 1],
    "threads": 1,
    "gpus": [],
    "open_files": [1024, 65536],
    "temp": "/tmp",
    "store": {"problem": None, "read": 2},
    "clock": 0.001,
    "signal": True,
}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, None),
        ({"signal": None}, None),
        ({"node": "n2", "gpus": ["0"]}, None),
        ({"address": "none: no such name"}, "rank 1 on n1 has no address"),
        ({"store": {"problem": "cannot write to /x: denied", "read": 0}}, "rank 1 on n1 cannot write to /x: denied"),
        ({"store": {"problem": None, "read": 1}}, "reads what 1 of 2 tasks have written to /shared"),
        ({"clock": -3.0}, "the clock of rank 1 on n1 is -3.0 s off"),
        ({"open_files": [256, 1024]}, "may open 1024 files"),
        ({"signal": False}, "signal did not reach rank 1 on n1"),
        ({"gpus": ["0"]}, "tasks on n1 share the GPUs 0; give srun --gpus-per-task=1"),
        ({"threads": 2}, "2 tasks on n1 have 3 threads for 2 CPUs; give srun --cpus-per-task"),
    ],
)
def test_each_problem_alone(changes: dict[str, Any], says: str | None) -> None:
    """Of two tasks the second has it."""
    first = {**FINE, "rank": 0, "gpus": ["0"] if "gpus" in changes else []}
    found = _problems([first, {**FINE, "rank": 1, **changes}], Path("/shared"))
    assert found == [] if says is None else len(found) == 1 and says in found[0]
