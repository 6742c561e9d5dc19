"""Items that nobody computes at the moment: stretches of the plan, one for each worker, and what came back from workers."""

from __future__ import annotations

import heapq
from array import array
from bisect import bisect_right
from collections.abc import Callable

import numpy as np

Eligible = Callable[[int, tuple[str, ...]], bool]


class Stretches:
    """Items that were never given to a worker, as stretches of the plan's order.

    Each worker eats its own stretch from the front, so that its items are neighbours and share encoded blocks. A worker without
    a stretch takes the back half of the longest one.
    """

    suits = None  # everybody can compute everything

    def __init__(self, seconds: np.ndarray, items: np.ndarray):
        self._items = items.astype(np.int32)
        self._until = array("d", np.concatenate([[0.0], np.cumsum(seconds[items])]).tobytes())
        self._owned: dict[str, list[int]] = {}
        self._longest: list[
            tuple[float, int, int, list[int]]
        ] = []  # a heap of owned stretches, by what they were or are
        self._free = [[0, len(items)]] if len(items) else []
        self.count = len(items)
        self.seconds = self._until[-1]

    def take(self, worker: str, seconds: float, most: int) -> tuple[int, ...]:
        """At most `most` items of about so many predicted seconds, at least one; nothing if there is none."""
        if not self.count:
            return ()
        stretch = self._owned.get(worker)
        if stretch is None or stretch[0] == stretch[1]:
            stretch = self._owned[worker] = self._acquire()
            self._note(stretch)
        start, end = stretch
        stop = bisect_right(self._until, self._until[start] + seconds, start + 2, end + 1) - 1
        stop = min(stop, start + most)
        stretch[0] = stop
        self.count -= stop - start
        self.seconds = max(0.0, self.seconds - (self._until[stop] - self._until[start])) if self.count else 0.0
        return tuple(self._items[start:stop].tolist())

    def release(self, worker: str) -> None:
        """Frees the stretch of a worker that is gone."""
        stretch = self._owned.pop(worker, None)
        if stretch is not None and stretch[0] < stretch[1]:
            self._free.append(list(stretch))
            stretch[0] = stretch[1]  # what the heap knows of it is empty

    def _acquire(self) -> list[int]:
        if self._free:
            return self._free.pop()
        longest = self._pop_longest()
        start, stop = longest
        middle = bisect_right(self._until, (self._until[start] + self._until[stop]) / 2, start, stop)
        longest[1] = min(middle, stop - 1)
        self._note(longest)
        return [longest[1], stop]

    def _note(self, stretch: list[int]) -> None:
        heapq.heappush(self._longest, (-self._length(stretch), -stretch[0], -stretch[1], stretch))

    def _pop_longest(self) -> list[int]:
        """The longest stretch that is owned; the last one of several. Stretches only get shorter, so old entries come too early."""
        while True:
            _, start, stop, stretch = heapq.heappop(self._longest)
            if stretch[0] == stretch[1]:
                continue
            if (stretch[0], stretch[1]) == (-start, -stop):
                return stretch
            self._note(stretch)

    def _length(self, stretch: list[int]) -> float:
        return self._until[stretch[1]] - self._until[stretch[0]]


class Returned:
    """Items that failed or whose worker was lost, by the workers on which they failed.

    *Suspects* were being computed when their worker was lost: each is sent alone, so that one which kills workers is found.
    """

    def __init__(self) -> None:
        self._where: dict[int, tuple[str, ...]] = {}
        self._by_history: dict[tuple[str, ...], dict[int, None]] = {}
        self._suspects: dict[int, tuple[str, ...]] = {}

    def __len__(self) -> int:
        return len(self._where) + len(self._suspects)

    def add(self, item: int, failed_on: tuple[str, ...], suspect: bool) -> None:
        """Puts an item back; it should not go to the workers in `failed_on`."""
        if suspect:
            self._suspects[item] = failed_on
        else:
            self._where[item] = failed_on
            self._by_history.setdefault(failed_on, {})[item] = None

    def discard(self, item: int) -> None:
        """Takes an item out whose result has come after all."""
        self._suspects.pop(item, None)
        failed_on = self._where.pop(item, None)
        if failed_on is not None:
            bucket = self._by_history[failed_on]
            del bucket[item]
            if not bucket:
                del self._by_history[failed_on]

    def take_suspect(self, eligible: Eligible) -> int | None:
        """The first suspect that may go to the worker."""
        item = next((item for item, failed_on in self._suspects.items() if eligible(item, failed_on)), None)
        if item is not None:
            del self._suspects[item]
        return item

    def take(
        self, eligible: Eligible, cost: np.ndarray, seconds: float, most: int, alike: bool = True
    ) -> tuple[int, ...]:
        """Other items that may go to the worker, with one history, of about so many predicted seconds.

        `alike` says that of items with one history all are eligible or none.
        """
        for failed_on, bucket in self._by_history.items():
            taken: list[int] = []
            for item in bucket:
                if (not alike or not taken) and not eligible(item, failed_on):
                    if alike:
                        break
                    continue
                seconds -= float(cost[item])
                if len(taken) == most or (taken and seconds < 0):
                    break
                taken.append(item)
            if taken:
                for item in taken:
                    self.discard(item)
                return tuple(taken)
        return ()
