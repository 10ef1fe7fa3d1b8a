"""Segment X-rays over HTTP with the model of a registry alias."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from serving.http.settings import Settings


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; then answer all accepted requests and return.

    ``/health`` answers while the model loads, ``/ready`` answers 200 when it is loaded. With ``reuse_port`` the port
    is opened only after the model is loaded.

    Args:
        settings: see :class:`Settings`.

    Raises:
        UserError: the model does not exist or cannot be loaded; the address cannot be bound; or it is reachable from
            other machines without key and TLS.
    """
    import os

    # Report an unreachable registry within seconds; MLflow's default retries take minutes.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")

    from registry.fetch import located
    from serving.http.app import make_app
    from serving.http.guard import make_guard
    from serving.http.logs import configure, say
    from serving.http.server import listen, make_server, prepare_process
    from serving.http.service import Service
    from serving.xray import sandbox

    guard = make_guard(settings)
    for model in filter(None, (settings.model, settings.shadow)):
        located(model)
    configure(settings.log_level)
    service = Service(settings)
    failed: list[BaseException] = []
    if settings.reuse_port:
        # A ready service may share the port: this one must not get requests before its model is loaded.
        service.loader.first()
    sock = listen(settings)
    server = make_server(make_app(service, guard), settings, service.stop)

    def load() -> None:
        try:
            if service.loader.model is None:
                service.loader.first()
            service.loader.start()
            if service.shadow:
                service.shadow.start()
        except BaseException as error:
            failed.append(error)
            server.should_exit = True

    prepare_process(settings.max_connections)
    address, port = sock.getsockname()[:2]
    shown = f"[{address}]" if ":" in address else address
    scheme = "https" if settings.tls_cert else "http"
    say("listening", address=f"{scheme}://{shown}:{port}", host=address, port=port, model=settings.model)
    if not sandbox.available():
        say("decoders without a seccomp filter: this kernel has none", 30)
    threading.Thread(target=load, name="load", daemon=True).start()
    server.run(sockets=[sock])
    service.close()
    if failed:
        raise failed[0]
    say("stopped")
