"""How the computation of a kernel matrix shows itself on standard error: a bar and the workers' load, or some lines."""

from __future__ import annotations

import time

from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from dqk._run import Observer
from dqk.cli.output import stderr
from dqk.cluster import Worker
from dqk.scheduler import Statistics, WorkerStatistics

_ROWS = 16  # workers shown at most
_EVERY_S = 30.0  # a line this often where there is no terminal


class LiveDisplay(Observer):
    """Tiles done, rate, time left; per worker its tiles and load; retries and losses.

    Args:
        unit: what is counted: `tiles`, or `jobs` of devices.

    Attributes:
        unit: what is counted.
        total: tiles in all; jobs of all stages, where a pilot comes first.
        done: those that needed no computing.
        jobs: jobs that were submitted to devices, without those that cost nothing after all.
        circuits: in those jobs.
        shots: of those circuits in all.
        device_s: seconds that they take there, as the device predicts them.
    """

    def __init__(self, unit: str = "tiles") -> None:
        self.unit = unit
        self.jobs = self.circuits = self.shots = 0
        self.device_s = 0.0
        self._stages: list[Statistics] = []
        self._stage = 0, 0  # its total, and what was done before it
        self.total = self.done = 0
        self._console = stderr()
        self._nodes: dict[str, str] = {}
        self._started = self._said = time.monotonic()
        columns = (TextColumn(unit), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
        self._bar = Progress(
            *columns, TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), console=self._console
        )
        self._live: Live | None = None

    @property
    def statistics(self) -> Statistics:
        """Of all stages."""
        whole = Statistics()
        for stage in self._stages:
            whole.accepted += stage.accepted
            whole.retries += stage.retries
            whole.lost_workers += stage.lost_workers
            whole.duplicates += stage.duplicates
            for name, worker in stage.workers.items():
                whole.workers.setdefault(name, WorkerStatistics()).items += worker.items
        return whole

    def started(self, total: int, done: int) -> None:
        """Starts the display."""
        self._stage = total, done
        self._stages.append(Statistics())
        self.total += total
        self.done += done
        self._started = self._said = time.monotonic()
        if done:
            self._say(f"{done} of {total} {self.unit} are there, {total - done} to do")
        self._task = self._bar.add_task("", total=total, completed=done, rate="")
        if self._console.is_terminal:
            self._live = Live(get_renderable=self._render, console=self._console, refresh_per_second=4)
            self._live.start()

    def joined(self, worker: Worker) -> None:
        """Remembers the worker's node."""
        self._nodes[worker.id] = worker.node

    def lost(self, worker: str, cause: str) -> None:
        """Says so: it is rare, and whoever watches wants to know."""
        node = self._nodes.get(worker, "")
        self._say(f"worker {worker}{f' ({node})' if node else ''} is lost: {cause}")

    def progressed(self, statistics: Statistics, remaining: int) -> None:
        """Moves the bar."""
        self._stages[-1] = statistics
        total, done = self._stage
        finished, now = total - remaining, time.monotonic()
        rate = (finished - done) / max(now - self._started, 1e-9)
        self._bar.update(self._task, completed=finished, rate=f"{rate:.1f} {self.unit}/s")
        if not self._console.is_terminal and now - self._said > _EVERY_S:
            self._said = now
            self._say(
                f"{finished} of {total} {self.unit}, {rate:.1f} {self.unit}/s, {remaining / max(rate, 1e-9):.0f} s left"
            )

    def submitted(self, circuits: int, shots: int, device_s: float) -> None:
        """Counts."""
        self.jobs += 1
        self.circuits += circuits
        self.shots += shots
        self.device_s += device_s

    def refunded(self, circuits: int, shots: int, device_s: float) -> None:
        """Takes back what was counted."""
        self.jobs -= 1
        self.circuits -= circuits
        self.shots -= shots
        self.device_s -= device_s

    def finished(self) -> None:
        """Leaves the last state on the terminal."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _render(self) -> Group:
        found = self._stages[-1]
        if not found.accepted:
            return Group(self._bar, "waiting for workers ...")
        elapsed = max(time.monotonic() - self._started, 1e-9)
        table = Table(box=None, padding=(0, 2), header_style="bold")
        for name in ("worker", "node", self.unit, "load"):
            table.add_column(name, justify="right" if name in (self.unit, "load") else "left")
        for name, worker in list(found.workers.items())[:_ROWS]:
            load = "lost" if worker.lost else f"{min(worker.busy_s / elapsed, 1.0):.0%}"
            table.add_row(name, self._nodes.get(name, ""), str(worker.items), load)
        more = len(found.workers) - _ROWS
        notes = [f"and {more} more workers"] if more > 0 else []
        trouble = f"retries {found.retries}, lost workers {found.lost_workers}, computed twice {found.duplicates}"
        return Group(self._bar, table, *notes, trouble)

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)
