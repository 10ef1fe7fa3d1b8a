"""What every request passes on its way in and out: counting, logging, security headers, and bodies nobody reads."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, MutableMapping
from typing import Any

from serving.http.logs import say
from serving.http.metrics import Metrics

Message = MutableMapping[str, Any]

# Nothing on a page may come from anywhere else; pictures that the page makes of an answer are blobs.
SECURITY = {
    "content-security-policy": "default-src 'self'; img-src 'self' blob:; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
PROBES = ("/health", "/ready", "/metrics")  # asked every few seconds, and worth a line only when they fail
# So many seconds and bytes that a client sends after its answer are thrown away, so that it can read the answer.
LINGER, LINGER_BYTES = 2.0, 32_000_000


class Middleware:
    """The outermost ASGI application.

    Args:
        app: what answers.
        metrics: what is counted.
        stopping: whether the service is stopping: each answer then closes its connection.
    """

    def __init__(self, app: Any, metrics: Metrics, stopping: Callable[[], bool]) -> None:
        self.app, self.metrics, self.stopping = app, metrics, stopping

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        passing = _Passing(scope, receive, send, self.stopping)
        began = time.perf_counter()
        try:
            await self.app(scope, passing.receive, passing.send)
        finally:
            seconds = time.perf_counter() - began
            route = getattr(scope.get("route"), "path", "other")
            self.metrics.requests.labels(route, str(passing.status)).inc()
            self.metrics.seconds.labels(route).observe(seconds)
            quiet = route in PROBES and passing.status < 400
            say(
                "request",
                logging.DEBUG if quiet else logging.INFO,
                method=scope["method"] if scope["method"].isalpha() else "?",
                route=route,
                status=passing.status,
                ms=round(1000 * seconds, 1),
                bytes_in=passing.bytes_in,
                **scope.get("state", {}).get("said", {}),
            )


class _Passing:
    """One request and its answer."""

    def __init__(self, scope: Message, receive: Any, send: Any, stopping: Callable[[], bool]) -> None:
        headers = dict(scope["headers"])
        self._receive, self._send, self._stopping = receive, send, stopping
        self.unread = b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"
        self.status, self.bytes_in = 499, 0  # 499: the client went away before its answer

    async def receive(self) -> Message:
        message: Message = await self._receive()
        if message["type"] == "http.request":
            self.bytes_in += len(message.get("body", b""))
            self.unread = self.unread and bool(message.get("more_body"))
        else:
            self.unread = False
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [pair for pair in message.get("headers", []) if pair[0].lower().decode() not in SECURITY]
            headers += [(name.encode(), value.encode()) for name, value in SECURITY.items()]
            if self.unread or self._stopping():
                headers.append((b"connection", b"close"))
            await self._send({**message, "headers": headers})
        elif self.unread and message["type"] == "http.response.body" and not message.get("more_body"):
            # A connection that is closed while its client still sends is reset, and the answer lost with it.
            await self._send({**message, "more_body": True})
            await self._throw_away()
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        else:
            await self._send(message)

    async def _throw_away(self) -> None:
        most = self.bytes_in + LINGER_BYTES
        try:
            async with asyncio.timeout(LINGER):
                while self.unread and self.bytes_in < most:
                    await self.receive()
        except TimeoutError:
            return
