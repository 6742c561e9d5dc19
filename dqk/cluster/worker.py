"""A worker process of a `ProcessPool`: `python -m dqk.cluster.worker DESCRIPTOR SLOTS PARENT`.

It reads tasks from a socket and runs them, and ends when the other end is gone. The user's main module is never imported.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from dqk._task import run_task
from dqk.cluster.base import Arrays
from dqk.cluster.channel import Channel, Kind
from dqk.cluster.mapped import map_arrays
from dqk.errors import cause

_PR_SET_PDEATHSIG = 1


class _Server:
    def __init__(self, channel: Channel, slots: int):
        self._channel = channel
        self._sending = threading.Lock()
        self._threads = ThreadPoolExecutor(2 * slots, thread_name_prefix="dqk")
        self._gate = threading.BoundedSemaphore(slots)
        self._arrays: dict[str, Arrays] = {}

    def serve(self) -> None:
        """Returns when the driver is gone."""
        self._channel.send(Kind.READY)
        for message in self._channel.receive():
            if message.kind is Kind.TASK:
                self._threads.submit(self._run, message.ticket, message.payload)
                continue
            digest = message.payload.tobytes().decode()
            # A new dictionary each time, since tasks that run look into the old one.
            arrays = {key: value for key, value in self._arrays.items() if key != digest}
            if message.descriptor is not None:
                arrays[digest] = map_arrays(message.descriptor)
                os.close(message.descriptor)
            self._arrays = arrays

    def _run(self, ticket: int, task: np.ndarray) -> None:
        try:
            result = run_task(task.tobytes(), self._arrays, self._gate)
            with self._sending:
                self._channel.send(Kind.DONE, ticket, result)
        except BaseException as error:
            with self._sending:
                self._channel.send(Kind.FAILED, ticket, cause(error).encode(errors="replace"))


def main(descriptor: int, slots: int, parent: int) -> None:
    """Serves one driver.

    Args:
        descriptor: of the connected socket.
        slots: tasks at once.
        parent: process whose death ends this one, even if this one is stopped; 0 to notice the closed socket only.
    """
    for number in (
        signal.SIGINT,
        signal.SIGTERM,
    ):  # sent to a whole job; what becomes of workers is the driver's decision
        signal.signal(number, signal.SIG_IGN)
    if parent:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            return
    os.set_inheritable(descriptor, False)
    _Server(Channel(socket.socket(fileno=descriptor)), slots).serve()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
    os._exit(0)  # tasks that run are of no use to anybody
