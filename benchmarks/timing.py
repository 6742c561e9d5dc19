"""Alternating measurements: both sides of a ratio in one process, medians, no side always first."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_VISIT_S = 0.15


def alternate(sides: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median seconds of each side; the order turns round every time.

    Each visit to a side begins with a pause, in which thread pools of the other side stop spinning, and an untimed run, which
    brings clock, caches and threads back; short runs are then timed several times.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    names = list(sides)
    for repeat in range(repeats):
        for name in names if repeat % 2 == 0 else reversed(names):
            time.sleep(0.05)
            warm_up = _seconds(sides[name])
            for _ in range(max(1, min(10, int(_VISIT_S / warm_up)))):
                seconds[name].append(_seconds(sides[name]))
    return {name: statistics.median(values) for name, values in seconds.items()}


def _seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def machine() -> dict[str, Any]:
    """What a figure was measured on."""
    from threadpoolctl import threadpool_info

    from dqk._resources import cpu_threads

    model = platform.processor()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    # OPENBLAS_CORETYPE can halve what a peer reaches: the core that OpenBLAS took belongs to the figure.
    blas = sorted({library["architecture"] for library in threadpool_info() if "architecture" in library})
    return {"cpu": model, "blas": blas, "threads": cpu_threads(), "python": platform.python_version()}
