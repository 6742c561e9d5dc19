"""What a Ray actor of the pool runs. Imports no Ray: the pool makes an actor class of it."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

import dqk
from dqk._task import run_task
from dqk.cluster.base import Arrays
from dqk.cluster.resources import own_gpu
from dqk.errors import cause


class RayWorker:
    """Arrays, and tasks: as many compute at once as there are slots.

    Ray repeats a call whose answer it did not get, and calls may overtake each other. So `share_node`, `put` and `drop` are
    orders, numbered from 0: each is obeyed once and in its turn. They have a thread of their own, and `stay` has another one.
    """

    def __init__(self, slots: int, has_gpu: bool = False) -> None:
        self._has_gpu = has_gpu
        self._gate = threading.BoundedSemaphore(slots)
        self._arrays: dict[str, Arrays] = {}
        self._obeyed = 0  # number of orders
        self._early: dict[int, Callable[[], object]] = {}  # orders whose turn has not come
        self._changed = threading.Condition()

    def hello(self) -> dict[str, Any]:
        """Who this worker is. The first call: it returns when the process runs and could import dqk."""
        return {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "version": dqk.__version__,
            "gpu": own_gpu() if self._has_gpu else None,
        }

    def share_node(self, order: int, workers: int) -> None:
        """Says how many workers of the pool use this machine's memory."""
        self._obey(order, lambda: os.environ.update(DQK_NODE_WORKERS=str(workers)))

    def put(self, order: int, digest: str, arrays: Arrays) -> None:
        """Keeps arrays; they lie in the memory that all workers of the node share."""
        self._obey(order, lambda: self._arrays.update({digest: arrays}))

    def drop(self, order: int, digest: str) -> None:
        """Forgets arrays."""
        self._obey(order, lambda: self._arrays.pop(digest, None))

    def _obey(self, order: int, act: Callable[[], object]) -> None:
        with self._changed:
            if order >= self._obeyed:
                self._early[order] = act
            while self._obeyed in self._early:
                self._early.pop(self._obeyed)()
                self._obeyed += 1
            self._changed.notify_all()

    def run(self, orders: int, task: bytes) -> np.ndarray | str:
        """Runs a task once so many orders are obeyed.

        Returns:
            The result as uint8, which the driver reads out of shared memory; or the cause of the failure.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._obeyed >= orders)
            arrays = dict(self._arrays)
        try:
            return np.frombuffer(run_task(task, arrays, self._gate), np.uint8)
        except BaseException as error:  # the worker lives on, whatever a task raises
            return cause(error)

    def stay(self) -> None:
        """Never returns: the driver holds this call to hear of the worker's end even when it has nothing to do."""
        threading.Event().wait()
