"""Which worker may have which item: queues that `Dispatch` takes items from, in place of one stretch for each worker.

Choose `Stretches` (the default of `Dispatch`) where every worker may have every item; `Fixed` where all is settled beforehand;
`Chosen` where only some workers are to be used; `Kinds` where items differ in who can compute them, or in who should.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol, TypeAlias

import numpy as np

from dqk.scheduler.pending import Stretches


class Queue(Protocol):
    """Items that were never given to a worker.

    A worker that gets nothing while there is something is asked again when an item came back or a worker was lost.
    """

    @property
    def count(self) -> int:
        """How many there are."""

    @property
    def seconds(self) -> float:
        """What they are predicted to take."""

    @property
    def suits(self) -> Callable[[str, int], bool] | None:
        """Whether a worker can compute an item, asked about copies and what failed elsewhere; None if all can compute all."""

    def take(self, worker: str, seconds: float, most: int) -> tuple[int, ...]:
        """At most `most` items of about so many predicted seconds, at least one if there is one for this worker."""

    def release(self, worker: str) -> None:
        """A worker is gone: what was meant for it is for others."""


Suits: TypeAlias = Callable[[str, int], bool]
"""Whether a worker can compute an item."""

Placement: TypeAlias = Callable[[np.ndarray, np.ndarray], Queue]
"""Makes the queue of a run from the predicted seconds of all items, shape (T,), and the numbers of those that are open."""


class Fixed:
    """Each item has its worker; when that is lost, its items go to the others in turn.

    Args:
        seconds: predicted, of all items, shape (T,).
        shares: the items of each worker, in order.
        suits: whether a worker can compute an item; None if all can compute all.
    """

    def __init__(self, seconds: np.ndarray, shares: Mapping[str, Sequence[int]], suits: Suits | None = None):
        self._cost, self.suits = seconds, suits
        self._shares = {worker: deque(items) for worker, items in shares.items()}
        self.count = sum(map(len, self._shares.values()))
        self.seconds = float(sum(seconds[list(items)].sum() for items in self._shares.values()))

    def take(self, worker: str, seconds: float, most: int) -> tuple[int, ...]:
        """The next ones of its share."""
        taken = _first(self._shares.get(worker, deque()), self._cost, seconds, most)
        self.count -= len(taken)
        self.seconds = max(0.0, self.seconds - float(self._cost[list(taken)].sum())) if self.count else 0.0
        return taken

    def release(self, worker: str) -> None:
        """Deals its share out."""
        left = self._shares.pop(worker, deque())
        if not self._shares:  # nobody is left; who joins next gets it
            self._shares[worker] = left
            return
        others = list(self._shares.items())
        for place, item in enumerate(left):
            able = others if self.suits is None else [pair for pair in others if self.suits(pair[0], item)]
            if able:
                able[place % len(able)][1].append(item)
            else:  # nobody else can compute it; should the worker come back, it is there
                self._shares.setdefault(worker, deque()).append(item)


class Chosen:
    """Some workers pull, the others get nothing unless all of those are lost.

    Args:
        inner: the items.
        workers: who is chosen.
    """

    def __init__(self, inner: Queue, workers: Collection[str]):
        self._inner, self._workers = inner, set(workers)

    @property
    def count(self) -> int:
        """See `Queue`."""
        return self._inner.count

    @property
    def seconds(self) -> float:
        """See `Queue`."""
        return self._inner.seconds

    @property
    def suits(self) -> Suits | None:
        """See `Queue`; what failed at chosen workers may go to others."""
        return self._inner.suits

    def take(self, worker: str, seconds: float, most: int) -> tuple[int, ...]:
        """See `Queue`."""
        if self._workers and worker not in self._workers:
            return ()
        return self._inner.take(worker, seconds, most)

    def release(self, worker: str) -> None:
        """See `Queue`."""
        self._workers.discard(worker)
        self._inner.release(worker)


class Kinds:
    """Items of several kinds in a row: some workers take from its front, the others from its back, each what it can compute.

    Where both ends meet is decided by how fast they come along.

    Args:
        seconds: predicted, of all items, shape (T,).
        rows: items of each kind, the kinds in their order.
        able: for each worker, whether it can compute each kind.
        front: workers that begin with the first kind.
    """

    def __init__(
        self,
        seconds: np.ndarray,
        rows: Sequence[Sequence[int]],
        able: Mapping[str, Sequence[bool]],
        front: Collection[str],
    ):
        self._cost = seconds
        self._rows = [deque(items) for items in rows]
        self._able, self._front = able, frozenset(front)
        self._place = {item: place for place, items in enumerate(rows) for item in items}
        self.count = sum(map(len, self._rows))
        self.seconds = float(sum(seconds[list(items)].sum() for items in self._rows))

    def take(self, worker: str, seconds: float, most: int) -> tuple[int, ...]:
        """See `Queue`."""
        able = self._able.get(worker)
        if able is None:
            return ()
        order = range(len(self._rows)) if worker in self._front else range(len(self._rows) - 1, -1, -1)
        kind = next((k for k in order if able[k] and self._rows[k]), None)
        if kind is None:
            return ()
        taken = _first(self._rows[kind], self._cost, seconds, most)
        self.count -= len(taken)
        self.seconds = max(0.0, self.seconds - float(self._cost[list(taken)].sum())) if self.count else 0.0
        return taken

    def suits(self, worker: str, item: int) -> bool:
        """See `Queue`."""
        able = self._able.get(worker)
        return able is not None and bool(able[self._place[item]])

    def release(self, worker: str) -> None:
        """See `Queue`."""


def _first(items: deque[int], cost: np.ndarray, seconds: float, most: int) -> tuple[int, ...]:
    taken: list[int] = []
    while items and len(taken) < most:
        seconds -= float(cost[items[0]])
        if taken and seconds < 0:
            break
        taken.append(items.popleft())
    return tuple(taken)


def stretches(seconds: np.ndarray, items: np.ndarray) -> Queue:
    """The queue in which each worker eats a stretch of its own."""
    return Stretches(seconds, items)
