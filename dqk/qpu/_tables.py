"""Results as Parquet files: one row for each run, and one for each job of the first repeats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dqk.errors import BackendUnavailableError
from dqk.qpu.results import FIGURES, Results


def write_parquet(results: Results, runs: Path, jobs: Path) -> None:
    """Writes both tables.

    Args:
        results: of an experiment.
        runs: file with the figures of every run; a swept key is a column.
        jobs: file with what happened to every job of each policy's first repeat.

    Raises:
        BackendUnavailableError: if pyarrow is not installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise BackendUnavailableError("Parquet files need pyarrow: pip install 'dqk[parquet]'") from error
    keys = list(dict.fromkeys(key for run in results.runs for key in run.point))
    columns: dict[str, Any] = {
        "policy": [run.policy for run in results.runs],
        "repeat": [r.repeat for r in results.runs],
    }
    columns |= {key: [run.point.get(key) for run in results.runs] for key in keys}
    columns |= {name: [run.figures.get(name) for run in results.runs] for name in FIGURES}
    columns["not_done"] = [
        "; ".join(f"{count} job{'s' * (count != 1)}: {why}" for why, count in r.not_done.items()) for r in results.runs
    ]
    parquet.write_table(pyarrow.table(columns), runs)
    parts = [pyarrow.table(part) for part in _jobs(results, keys)]
    parquet.write_table(pyarrow.concat_tables(parts, promote_options="default"), jobs)


def _jobs(results: Results, keys: list[str]) -> list[dict[str, Any]]:
    found = []
    for run in results.runs:
        for stage, (outcome, kinds, kind) in enumerate(run.stages):
            log, count = outcome.log, len(outcome.log)
            of_item = kind[np.frombuffer(log.item, np.int64)] if count else np.zeros(0, int)
            columns: dict[str, Any] = {"policy": [run.policy] * count} | {
                key: [run.point.get(key)] * count for key in keys
            }
            columns |= {
                "stage": np.full(count, stage),
                "item": np.array(log.item, np.int64),
                "device": np.array(run.devices, object)[np.array(log.device, int)] if count else np.array([], str),
                "rows": np.array([k.rows for k in kinds])[of_item],
                "shots": np.array([k.shots for k in kinds])[of_item],
            }
            columns |= {name: np.array(getattr(log, name)) for name in ("submitted", "taken", "started", "ended")}
            columns |= {name: np.frombuffer(bytes(getattr(log, name)), np.uint8) > 0 for name in ("worked", "accepted")}
            found.append(columns)
    return found
