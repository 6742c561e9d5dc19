"""In front of the interface: who asks, how much they send, and the faults that a profile injects. Plain ASGI."""

from __future__ import annotations

import hashlib
import hmac
import json
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from dqk.qpu.profile import Failures

_OPEN_PATHS = {"/", "/status", "/health", "/metrics", "/openapi.json"}
_Send = Callable[[dict[str, Any]], Awaitable[None]]
_Receive = Callable[[], Awaitable[dict[str, Any]]]


def owners_of(tokens: Iterable[str]) -> dict[str, str]:
    """For each token the name under which its jobs are kept, which does not give it away."""
    return {token: hashlib.sha256(b"dqk-qpu-owner:" + token.encode()).hexdigest() for token in tokens}


class Gate:
    """Lets requests through to an application.

    Args:
        app: the application; it finds `owner` in the state of a request.
        owners: for each token the owner; empty to let everybody in as the same one.
        max_body_bytes: of a request.
        failures: to inject.

    Attributes:
        answers: how often each HTTP status was answered.
    """

    def __init__(self, app: Any, owners: dict[str, str], max_body_bytes: int, failures: Failures):
        self._app, self._max_body_bytes, self._failures = app, max_body_bytes, failures
        self._owners = [(token.encode(), owner) for token, owner in owners.items()]
        self._chance = random.Random(failures.seed + 1)
        self.answers: Counter[int] = Counter()

    async def __call__(self, scope: dict[str, Any], receive: _Receive, send: _Send) -> None:
        """Serves a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if scope["path"] not in _OPEN_PATHS:
            owner = self._owner(headers.get(b"authorization", b""))
            if owner is None:
                await self._refuse(
                    send, 401, "unauthorised", "the token is missing or not known", b"www-authenticate", b"Bearer"
                )
                return
            scope.setdefault("state", {})["owner"] = owner
            if self._chance.random() < self._failures.refused:
                await self._refuse(send, 503, "refused", "the service is busy (injected)", b"retry-after", b"0.1")
                return
        length = headers.get(b"content-length", b"0")
        body = None
        if not length.isdigit() or int(length) <= self._max_body_bytes:
            body = await self._body(receive)
        if body is None:
            text = f"the request is larger than {self._max_body_bytes} bytes; send fewer rows"
            await self._refuse(send, 413, "too_large", text, b"connection", b"close")
            return
        lost = scope["path"] not in _OPEN_PATHS and self._chance.random() < self._failures.lost
        await self._app(scope, _replay(body, receive), self._nothing if lost else self._counting(send))
        if lost:
            await self._refuse(send, 504, "lost", "the answer was lost (injected)", b"retry-after", b"0.1")

    def _owner(self, authorization: bytes) -> str | None:
        """Whose token it is; takes as long whichever it is."""
        if not self._owners:
            return "everybody"
        scheme, _, given = authorization.partition(b" ")
        found = None
        for token, owner in self._owners:
            if hmac.compare_digest(token, given.strip()):
                found = owner
        return found if scheme.lower() == b"bearer" else None

    async def _body(self, receive: _Receive) -> bytes | None:
        """The whole body; None if it is too large."""
        parts, size, more = [], 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                break
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            more = message.get("more_body", False)
            if size > self._max_body_bytes:
                return None
        return b"".join(parts)

    def _counting(self, send: _Send) -> _Send:
        async def counted(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                self.answers[message["status"]] += 1
            await send(message)

        return counted

    async def _nothing(self, message: dict[str, Any]) -> None:
        pass

    async def _refuse(self, send: _Send, status: int, code: str, text: str, name: bytes, value: bytes) -> None:
        body = json.dumps({"error": code, "message": text}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), (name, value)]
        self.answers[status] += 1
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _replay(body: bytes, receive: _Receive) -> _Receive:
    """Gives a body that was read already, then what comes after it."""
    given = False

    async def replayed() -> dict[str, Any]:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed
