"""What a service is started with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """Every choice of a service; the command's options, and their defaults.

    Attributes:
        model: ``models:/name@alias``, whose promotions are followed, ``models:/name/3``, or a package's folder.
        host: the address to listen at.
        port: the port to listen at; 0 takes a free one.
        reuse_port: share the port with another process, so that a new service can take over from an old one.
        engine: what computes: a key of ``model.inference.engines.ENGINES``, or ``auto``.
        threads: that the engine may compute with at most; None: those of :mod:`model.threads`.
        workers: threads that run batches.
        max_batch: images that are computed together at most; 1 is no batching.
        max_wait: seconds that the first image of a batch waits for others.
        max_queue: requests that are worked on or wait at most; the next is answered 503.
        max_mb: megabytes (10^6) that a request's body may have.
        max_mb_at_once: megabytes that all bodies being read may have together.
        max_megapixels: that one image may have.
        max_megapixels_at_once: that all images being worked on may have together: it bounds the memory.
        max_connections: that are open at a time; a request on the next is answered 503.
        header_timeout: seconds within which a request's headers must have come.
        body_timeout: seconds within which a request's body must have come, counted from its headers.
        request_timeout: seconds from a whole body to its answer.
        stop_timeout: seconds that a stopping service gives the requests that it has.
        poll: seconds from one look at the registry to the next.
        cache: the folder in which downloaded versions are kept.
    """

    model: str
    host: str = "127.0.0.1"
    port: int = 8080
    reuse_port: bool = False
    engine: str = "auto"
    threads: int | None = None
    workers: int = 1
    max_batch: int = 8
    max_wait: float = 0.005
    max_queue: int = 64
    max_mb: float = 64
    max_mb_at_once: float = 512
    max_megapixels: float = 40
    max_megapixels_at_once: float = 200
    max_connections: int = 1000
    header_timeout: float = 10
    body_timeout: float = 30
    request_timeout: float = 30
    stop_timeout: int = 60
    poll: float = 10
    cache: Path = Path("build/serve")
