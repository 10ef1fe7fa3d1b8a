"""uvicorn with timeouts for slow clients and a graceful stop that answers every accepted request."""

from __future__ import annotations

import asyncio
import resource
import signal
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import h11
from uvicorn import Config, Server
from uvicorn.protocols.http.h11_impl import H11Protocol

from core.errors import UserError

if TYPE_CHECKING:
    from serving.http.settings import Settings

MAX_HEADERS = 16 * 1024  # bytes
QUIET = 0.5  # seconds that a stopping service waits for requests in flight on open connections
UNREAD = 30.0  # seconds that a client may take to read the rest of its response before the connection is aborted
SLOW = b'{"detail":"the request\'s headers did not come in time"}'
SLOW_ANSWER = (
    b"HTTP/1.1 408 Request Timeout\r\ncontent-type: application/json\r\nconnection: close\r\n"
    b"content-length: %d\r\n\r\n%b" % (len(SLOW), SLOW)
)


def protocol(header_timeout: float) -> type[H11Protocol]:
    """Return uvicorn's HTTP protocol class with a timeout, in seconds, for a request's headers."""

    class Bounded(H11Protocol):
        _slow: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:
                self._unwatch()
            elif self._slow is None:
                self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            self._unwatch()
            super().connection_lost(exc)

        def send_400_response(self, msg: str) -> None:
            if self.cycle is not None and not self.cycle.response_complete:
                # This is the response to a body that broke the protocol; the application must not send a second one.
                self.cycle.disconnected = True
                self.cycle.message_event.set()
                if self.cycle.response_started:
                    self.transport.close()
                    return
            super().send_400_response(msg)

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self.transport.is_closing():
                self.loop.call_later(UNREAD, self.transport.abort)

        def timeout_keep_alive_handler(self) -> None:
            super().timeout_keep_alive_handler()
            self.loop.call_later(UNREAD, self.transport.abort)

        def _watch(self) -> None:
            self._slow = self.loop.call_later(header_timeout, self._too_slow)

        def _unwatch(self) -> None:
            if self._slow is not None:
                self._slow.cancel()
                self._slow = None

        def _too_slow(self) -> None:
            if not self.transport.is_closing():
                if self.conn.trailing_data[0] or self.conn.their_state is not h11.IDLE:
                    self.transport.write(SLOW_ANSWER)
                self.transport.close()

    return Bounded


class StoppableServer(Server):
    """A server that answers all connections accepted by it or by the kernel before it stops."""

    on_stop: Callable[[], None]

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting, answer the accepted requests, and shut down."""
        self.on_stop()
        waiting = [connection for sock in sockets or [] for connection in _accept_all(sock)]
        for server in self.servers:
            server.close()
        loop = asyncio.get_running_loop()
        for connection in waiting:
            await loop.connect_accepted_socket(self._connection, connection, ssl=self.config.ssl)
        await asyncio.sleep(QUIET)
        await super().shutdown(sockets)

    def _connection(self) -> asyncio.Protocol:
        made: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return made


def _accept_all(sock: socket.socket) -> list[socket.socket]:
    """Accept and return the connections in the kernel's queue; closing the socket would reset them."""
    found: list[socket.socket] = []
    while True:
        try:
            connection, _ = sock.accept()
        except (BlockingIOError, OSError):
            return found
        connection.setblocking(False)
        found.append(connection)


def listen(settings: Settings) -> socket.socket:
    """Return a socket bound to the address; it accepts connections when the server starts.

    Raises:
        UserError: the address is in use, unknown, or not an address of this machine.
    """
    host, port = settings.host, settings.port
    try:
        family, kind, number, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, number)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if settings.reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(address)
    except OSError as error:
        raise UserError(f"{host}:{port}: cannot listen ({error.strerror}); choose another --host or --port") from error
    sock.setblocking(False)
    return sock


def make_server(app: Any, settings: Settings, on_stop: Callable[[], None]) -> StoppableServer:
    """Return the server of an ASGI application; ``on_stop`` is called at the start of its shutdown."""
    config = Config(
        app,
        http=protocol(settings.header_timeout),
        loop="asyncio",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=settings.max_connections,
        h11_max_incomplete_event_size=MAX_HEADERS,
        timeout_graceful_shutdown=settings.stop_timeout,
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=settings.tls_key,
    )
    try:
        config.load()
    except OSError as error:  # ssl.SSLError is a subclass
        raise UserError(f"{settings.tls_cert}, {settings.tls_key}: no certificate and key ({error})") from None
    server = StoppableServer(config)
    server.on_stop = on_stop
    return server


def prepare_process(max_connections: int) -> None:
    """Raise the limit on open files for ``max_connections``, and ignore SIGTERM and SIGINT outside of uvicorn.

    After a graceful stop uvicorn raises the signal again, which would kill the process.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max_connections + 256
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
