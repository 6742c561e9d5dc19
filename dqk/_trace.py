"""What every worker did and when: a trace for Perfetto or chrome://tracing, and a picture of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dqk._run import Observer
from dqk.cluster import Worker

KINDS = {
    "encode": "#E69F00",
    "overlap": "#0072B2",
    "backward": "#009E73",
    "commit": "#56B4E9",
    "transfer": "#CC79A7",
    "wait": "#D9D9D9",
}
"""Kinds of spans and their colours (Okabe and Ito's palette, told apart by anyone)."""

_LANES = {
    "commit": (0.17, 0.1),
    "transfer": (0.29, 0.1),
}  # these happen beside computing: where they are drawn, and how high


@dataclass(frozen=True, slots=True)
class Span:
    """Something that a worker did.

    Attributes:
        worker: who.
        kind: one of `KINDS`: encoding a block, overlapping two (both for one tile), a strip of the backward pass, writing to
            the store, a result on its way to the driver, waiting for work.
        item: the tile; -1 if the span belongs to none.
        start: seconds since the epoch, by the clock of the worker's node.
        end: likewise.
    """

    worker: str
    kind: str
    item: int
    start: float
    end: float


class Trace(Observer):
    """Collects spans."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.nodes: dict[str, str] = {}
        self._first: dict[str, float] = {}  # when a worker was first given something to do

    def joined(self, worker: Worker) -> None:
        """Remembers where it runs."""
        self.nodes[worker.id] = worker.node

    def assigned(self, worker: str, ticket: int, items: Sequence[int], now: float) -> None:
        """Remembers when, the first time."""
        self._first.setdefault(worker, now)

    def returned(self, worker: str, ticket: int, spans: Sequence[Sequence[Any]], now: float) -> None:
        """The worker's own spans, and the way of the result."""
        if not spans:
            return
        self.spans += [Span(worker, kind, item, began, ended) for kind, item, began, ended in spans]
        if now > (end := spans[-1][3]):
            self.spans.append(Span(worker, "transfer", -1, end, now))

    def waits(self) -> list[Span]:
        """Between two computations of a worker, and before its first: tasks that run side by side may return in any order."""
        found = []
        for worker, free in self._first.items():
            computed = [span for span in self.spans if span.worker == worker and span.kind not in _LANES]
            for span in sorted(computed, key=lambda span: span.start):
                if span.start > free:
                    found.append(Span(worker, "wait", -1, free, span.start))
                free = max(free, span.end)
        return found

    def save(self, path: Path) -> None:
        """Writes Chrome's trace event format, times in microseconds; transfers have a row of their own beside their worker."""
        spans = [*self.spans, *self.waits()]
        origin = min((span.start for span in spans), default=0.0)
        numbers = {worker: k for k, worker in enumerate(self.nodes)}
        events: list[dict[str, Any]] = [
            {"ph": "M", "name": "process_name", "pid": k, "args": {"name": f"{worker} {self.nodes[worker]}".strip()}}
            for worker, k in numbers.items()
        ]
        for span in spans:
            event = {"ph": "X", "name": span.kind, "cat": "dqk", "pid": numbers.get(span.worker, len(numbers))}
            event |= {
                "tid": list(_LANES).index(span.kind) + 1 if span.kind in _LANES else 0,
                "ts": (span.start - origin) * 1e6,
                "dur": (span.end - span.start) * 1e6,
            }
            events.append(event | ({"args": {"tile": span.item}} if span.item >= 0 else {}))
        path.write_text(json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}))

    def draw(self, path: Path) -> None:
        """Draws every worker's time into a PNG file."""
        from matplotlib.figure import Figure
        from matplotlib.patches import Patch

        workers = list(self.nodes)
        spans = [*self.spans, *self.waits()]
        origin = min((span.start for span in spans), default=0.0)
        figure = Figure(figsize=(10, 1.6 + 0.5 * len(workers)), layout="constrained")
        axes = figure.subplots()
        for kind, colour in KINDS.items():
            for k, worker in enumerate(workers):
                bars = [(s.start - origin, s.end - s.start) for s in spans if s.worker == worker and s.kind == kind]
                low, height = _LANES.get(kind, (-0.3, 0.45))
                axes.broken_barh(bars, (k + low, height), facecolors=colour, edgecolors="none")
        axes.set_yticks(range(len(workers)), workers)
        axes.set_ylim(len(workers) - 0.4, -0.6)
        axes.set_xlabel("time (s)")
        used = {span.kind for span in spans}
        patches = [Patch(color=colour, label=kind) for kind, colour in KINDS.items() if kind in used]
        figure.legend(handles=patches, loc="outside upper center", ncols=len(KINDS), frameon=False)
        figure.savefig(path, format="png", dpi=150)
