"""ASGI middleware: metrics, logging, security headers, and draining of unread bodies."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, MutableMapping
from typing import Any

from starlette.responses import JSONResponse

from serving.http.guard import Guard
from serving.http.logs import say
from serving.http.metrics import Metrics

Message = MutableMapping[str, Any]

# Pages load only from this service, and images that the page creates from a response (blobs).
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
PROBES = ("/health", "/ready", "/metrics")  # polled every few seconds; logged at level info only on failure
# After the response the rest of the body is read and discarded, so that the client can read the response. Limits in
# seconds and bytes.
LINGER, LINGER_BYTES = 3.0, 256_000_000


class Middleware:
    """The outermost ASGI application.

    Args:
        app: the inner ASGI application.
        metrics: the metrics to update.
        guard: refuses requests before the application sees them.
        stopping: returns whether the service is stopping; each response then closes its connection.
    """

    def __init__(self, app: Any, metrics: Metrics, guard: Guard, stopping: Callable[[], bool]) -> None:
        self.app, self.metrics, self.guard, self.stopping = app, metrics, guard, stopping

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refusal = self.guard.refusal(scope)
        passing = _Passing(scope, receive, send, lambda: self.stopping() or bool(refusal and refusal.close))
        began = time.perf_counter()
        app = JSONResponse({"detail": refusal.detail}, refusal.status, refusal.headers) if refusal else self.app
        try:
            await app(scope, passing.receive, passing.send)
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
    """Wraps ``receive`` and ``send`` of one request."""

    def __init__(self, scope: Message, receive: Any, send: Any, closing: Callable[[], bool]) -> None:
        headers = dict(scope["headers"])
        self._receive, self._send, self._closing = receive, send, closing
        self.unread = b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"
        self.status, self.bytes_in = 499, 0  # 499: the client disconnected before the response

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
            if self.unread or self._closing():
                headers.append((b"connection", b"close"))
            await self._send({**message, "headers": headers})
        elif self.unread and message["type"] == "http.response.body" and not message.get("more_body"):
            # Closing the connection while the client still sends would reset it and lose the response.
            await self._send({**message, "more_body": True})
            await self._drain()
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        else:
            await self._send(message)

    async def _drain(self) -> None:
        most = self.bytes_in + LINGER_BYTES
        try:
            async with asyncio.timeout(LINGER):
                while self.unread and self.bytes_in < most:
                    await self.receive()
        except TimeoutError:
            return
