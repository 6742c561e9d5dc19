"""Where the time of a training step goes.

Compiled time steps are one call; `split` runs them in torch, where encoding, overlaps and readout can be told apart: shares of
the same work, not times of the compiled code.
"""

from __future__ import annotations

import contextlib
import copy
import io
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from torch import nn

from dqk.backends import EncodingBackend
from dqk.nn import QKLSTM
from dqk.training.files import write_atomic, write_json

PHASES = ("data", "forward", "backward", "all-reduce", "optimiser", "rest")
"""Of a step, in the order of the picture."""


IN_TORCH = (
    "forward: encode",
    "forward: overlap",
    "forward: readout and update",
    "backward: readout and update",
    "backward: overlap",
    "backward: sweep",
)
"""Of the time steps of QK-LSTMs, likewise."""


class Phases:
    """Seconds by name; `phase` does nothing until `on`."""

    def __init__(self) -> None:
        self.on = False
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Around a part of a step."""
        if not self.on:
            yield
            return
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - began

    def taken(self) -> dict[str, float]:
        """What was measured, which begins anew."""
        found, self.seconds = dict(self.seconds), defaultdict(float)
        return found


_METHODS = {
    "encode": "forward: encode",
    "overlap": "forward: overlap",
    "prepare": "forward: overlap",
    "encode_vjp": "backward: sweep",
    "overlap_vjp": "backward: overlap",
}


def _with_timers(backend: EncodingBackend, phases: Phases) -> EncodingBackend:
    """A copy of a backend whose calls are timed."""
    timed = copy.copy(backend)
    for method, name in _METHODS.items():
        setattr(timed, method, _timed(getattr(backend, method), name, phases))
    return timed


def _timed(method: Callable[..., Any], name: str, phases: Phases) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        with phases.phase(name):
            return method(*arguments)

    return call


@contextlib.contextmanager
def split(model: nn.Module, phases: Phases) -> Iterator[bool]:
    """Time steps of QK-LSTMs in torch, with the calls of their backends timed; gives whether there are any."""
    cells: list[Any] = [cell for part in model.modules() if isinstance(part, QKLSTM) for cell in part.cells]
    cells = [
        cell for cell in cells if isinstance(getattr(cell, "backend", None), EncodingBackend) and cell.farm is None
    ]
    kept = [(cell.plan, cell.backend) for cell in cells]
    try:
        for cell in cells:
            cell.plan, cell.backend = None, _with_timers(cell.backend, phases)
        yield bool(cells)
    finally:
        for cell, (plan, backend) in zip(cells, kept, strict=True):
            cell.plan, cell.backend = plan, backend


def measure(steps: Callable[[int], None], phases: Phases, model: nn.Module, count: int) -> dict[str, Any]:
    """Seconds per step: of its phases as it is, and of the parts of QK-LSTM time steps in torch.

    Args:
        steps: trains so many steps.
        phases: that the steps report to.
        model: that they train.
        count: steps to measure; as many before them warm everything up.
    """
    steps(count)
    phases.on = True
    try:
        began = time.perf_counter()
        steps(count)
        total = (time.perf_counter() - began) / count
        step = {name: seconds / count for name, seconds in phases.taken().items()}
        document: dict[str, Any] = {"steps": count, "step": {**step, "rest": max(0.0, total - sum(step.values()))}}
        with split(model, phases) as any_cell:
            if any_cell:
                steps(1)
                phases.taken()
                steps(count)
                found = {name: seconds / count for name, seconds in phases.taken().items()}
                forward = sum(found.get(f"forward: {part}", 0.0) for part in ("encode", "overlap"))
                backward = sum(found.get(f"backward: {part}", 0.0) for part in ("sweep", "overlap"))
                document["in_torch"] = {
                    **dict.fromkeys(IN_TORCH, 0.0),
                    **{name: value for name, value in found.items() if ":" in name},
                    "forward: readout and update": max(0.0, found.get("forward", 0.0) - forward),
                    "backward: readout and update": max(0.0, found.get("backward", 0.0) - backward),
                }
    finally:
        phases.on = False
    return document


def write(folder: Path, document: dict[str, Any]) -> None:
    """`profile.json` and `profile.png`."""
    write_json(folder / "profile.json", document)
    write_atomic(folder / "profile.png", _picture(document))


def _picture(document: dict[str, Any]) -> bytes:
    from matplotlib.figure import Figure

    rows = [("a step", {name: document["step"][name] for name in PHASES if name in document["step"]})]
    if "in_torch" in document:
        rows.append(("time steps in torch", {name: document["in_torch"][name] for name in IN_TORCH}))
    figure = Figure(figsize=(9, 1.6 + 1.5 * len(rows)), layout="constrained")
    panels = figure.subplots(len(rows), 1, squeeze=False)[:, 0]
    colours = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#999999")
    for axes, (title, parts) in zip(panels, rows, strict=True):
        start = 0.0
        for colour, (name, seconds) in zip(colours, parts.items(), strict=False):
            axes.barh([0], [1e3 * seconds], left=[start], color=colour, label=f"{name}: {1e3 * seconds:.2f} ms")
            start += 1e3 * seconds
        axes.set_title(title, loc="left")
        axes.set_yticks([])
        axes.set_xlabel("milliseconds")
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=120)
    return stream.getvalue()
