"""A proxy in front of a real HTTP server that answers, slows, cuts and spoils as a test asks it to."""

from __future__ import annotations

import http.client
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

FOR_EVER = float("inf")


@dataclass
class Fault:
    """What goes wrong with requests of these methods whose path has ``path`` in it, so many ``times``.

    Attributes:
        kind: ``500`` or another status as the answer; ``reset`` the connection in place of one; ``cut`` the body in the
            middle; ``short``: cut it and say that this is its length; ``spoil`` one byte of it; ``slow``: wait
            ``seconds`` first.
        seen: how often it has happened.
    """

    kind: str
    methods: tuple[str, ...] = ("GET",)
    path: str = ""
    times: float = FOR_EVER
    seconds: float = 0.0
    seen: int = 0


class Proxy(ThreadingHTTPServer):
    """Passes on what no fault is about, byte by byte: S3's signatures hold."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, target: str) -> None:
        self.host, self.faults, self.lock = target.removeprefix("http://"), list[Fault](), threading.Lock()
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_: Any) -> None:
        """A broken connection is what this server is for."""

    def fault(self, method: str, path: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if method in fault.methods and fault.path in path and fault.seen < fault.times:
                    fault.seen += 1
                    return fault
        return None


@contextmanager
def proxy(target: str) -> Iterator[Proxy]:
    """Run a proxy for a server's URL."""
    with Proxy(target) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


class _Handler(BaseHTTPRequestHandler):
    server: Proxy
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Nothing."""

    def _pass_on(self) -> None:
        body = self._body()
        fault = self.server.fault(self.command, self.path)
        kind = fault.kind if fault else ""
        if fault and kind == "slow":
            time.sleep(fault.seconds)
        if kind == "reset":
            # Closed with nothing lingering, a socket sends RST.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()
            return
        if kind.isdecimal():
            self._answer(int(kind), [("Content-Type", "application/xml")], b"" if self.command == "HEAD" else ERROR)
            return
        upstream = http.client.HTTPConnection(self.server.host, timeout=60)
        upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in ("transfer-encoding", "content-length", "expect", "connection"):
                upstream.putheader(name, value)
        if body is not None:
            upstream.putheader("Content-Length", str(len(body)))
        upstream.endheaders(body)
        response = upstream.getresponse()
        data = response.read()
        upstream.close()
        dropped = ("transfer-encoding", "connection") if self.command == "HEAD" else DROPPED
        headers = [(name, value) for name, value in response.getheaders() if name.lower() not in dropped]
        if self.command == "HEAD":
            self._answer(response.status, headers, b"", length=False)
        elif kind == "cut":
            self._answer(response.status, headers, data[: len(data) // 2], of=len(data))
            self.close_connection = True
        elif kind == "short":
            self._answer(response.status, headers, data[: len(data) // 2])
        elif kind == "spoil":
            spoilt = bytearray(data)
            spoilt[len(spoilt) // 2] ^= 1
            self._answer(response.status, headers, bytes(spoilt))
        else:
            self._answer(response.status, headers, data)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_PATCH = _pass_on  # noqa: N815

    def _body(self) -> bytes | None:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            chunks = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return b"".join(chunks)
        length = self.headers.get("Content-Length")
        return None if length is None else self.rfile.read(int(length))

    def _answer(
        self, status: int, headers: list[tuple[str, str]], data: bytes, of: int | None = None, length: bool = True
    ) -> None:
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        if length:
            self.send_header("Content-Length", str(len(data) if of is None else of))
        self.end_headers()
        self.wfile.write(data)


ERROR = b"<?xml version='1.0'?><Error><Code>InternalError</Code><Message>We lost it.</Message></Error>"
DROPPED = ("transfer-encoding", "connection", "content-length")
