"""Messages between a pool and a process on the same machine: raw bytes and open files. Nothing is pickled."""

from __future__ import annotations

import enum
import os
import socket
import struct
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

_HEADER = struct.Struct("<BQQ")
_BUFFER_BYTES = 2**20
_JOINED_BYTES = 2**16  # up to here header and content are sent as one


class Kind(enum.IntEnum):
    """What a message is about."""

    TASK = enum.auto()
    PUT = enum.auto()
    DROP = enum.auto()
    READY = enum.auto()
    DONE = enum.auto()
    FAILED = enum.auto()


class Message(NamedTuple):
    """One that has arrived; whoever takes it closes the descriptor."""

    kind: Kind
    ticket: int
    payload: np.ndarray
    descriptor: int | None


class Channel:
    """One end of a pair of connected sockets.

    If the socket blocks, `send` returns when all is sent and `receive` ends with the connection. If it does not, what cannot
    be sent yet waits for `flush`, and `receive` gives what has arrived.

    Attributes:
        ended: the other end is gone, and everything that it sent was received.
    """

    def __init__(self, connection: socket.socket):
        self.ended = False
        self._socket = connection
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
        self._waiting: deque[tuple[memoryview, list[int]]] = deque()
        self._header = bytearray()
        self._descriptors: list[int] = []
        self._payload: np.ndarray | None = None
        self._filled = 0

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._socket.fileno()

    @property
    def has_waiting(self) -> bool:
        """Whether something could not be sent yet."""
        return bool(self._waiting)

    def send(self, kind: Kind, ticket: int = 0, payload: bytes = b"", descriptor: int | None = None) -> None:
        """Sends a message; the descriptor is closed afterwards. If the other end is gone nothing happens: `receive` tells."""
        header = _HEADER.pack(kind, ticket, len(payload))
        descriptors = [] if descriptor is None else [descriptor]
        if len(payload) <= _JOINED_BYTES:
            self._waiting.append((memoryview(header + payload), descriptors))
        else:
            self._waiting.append((memoryview(header), descriptors))
            self._waiting.append((memoryview(payload), []))
        self.flush()

    def flush(self) -> None:
        """Sends what waits, as far as that is possible now."""
        try:
            while self._waiting:
                content, descriptors = self._waiting[0]
                if descriptors:
                    sent = socket.send_fds(self._socket, [content], descriptors)
                    os.close(descriptors.pop())
                else:
                    sent = self._socket.send(content)
                if sent == len(content):
                    self._waiting.popleft()
                else:
                    self._waiting[0] = content[sent:], descriptors
        except BlockingIOError:
            pass
        except OSError:
            self._forget_waiting()

    def receive(self) -> Iterator[Message]:
        """Messages that have arrived."""
        while not self.ended:
            try:
                count = self._read()
            except BlockingIOError:
                return
            except OSError:
                count = 0
            if not count:
                self.ended = True
            elif self._payload is not None and self._filled == len(self._payload):
                kind, ticket, _ = _HEADER.unpack(self._header)
                descriptor = self._descriptors.pop() if self._descriptors else None
                message = Message(Kind(kind), ticket, self._payload, descriptor)
                self._header, self._payload, self._filled = bytearray(), None, 0
                yield message

    def _read(self) -> int:
        if self._payload is not None:
            count = self._socket.recv_into(self._payload.data[self._filled :])
            self._filled += count
            return count
        missing = _HEADER.size - len(self._header)
        found, descriptors, _, _ = socket.recv_fds(self._socket, missing, 1, socket.MSG_CMSG_CLOEXEC)
        self._header += found
        self._descriptors += descriptors
        if len(self._header) == _HEADER.size:
            self._payload = np.empty(_HEADER.unpack(self._header)[2], np.uint8)
        return len(found)

    def close(self) -> None:
        """Ends the connection."""
        self.ended = True
        self._forget_waiting()
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors.clear()
        self._socket.close()

    def _forget_waiting(self) -> None:
        for _, descriptors in self._waiting:
            for descriptor in descriptors:
                os.close(descriptor)
        self._waiting.clear()
