"""Settings of the service."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """The options of the command ``serve`` and their defaults.

    Attributes:
        model: ``models:/name@alias``, which follows promotions, ``models:/name/3``, or a package's folder.
        host: address to listen on.
        port: port to listen on; 0 takes a free one.
        allowed_hosts: names that the header Host may have, ``*`` for all; empty: the names of the address.
        api_key_file: file with one key per line; every request must have one of them. None: no key is required.
        tls_cert: PEM file of the certificate chain; None: plain HTTP.
        tls_key: PEM file of the certificate's private key.
        behind_proxy: a proxy authenticates and encrypts; all clients share its address.
        reuse_port: share the port with another process, so that a new service can replace a running one.
        engine: a key of ``model.inference.engines.ENGINES``, or ``auto``.
        threads: maximum number of threads of the engine; None: as set by :mod:`model.threads`.
        workers: number of threads that run batches.
        max_batch: maximum number of images in a batch; 1: no batching.
        max_wait: seconds that the first image of a batch waits for others.
        max_queue: maximum number of requests in flight, else 503.
        max_mb: maximum size of a file in megabytes (10^6 bytes).
        max_mb_at_once: maximum size of all bodies being read, in megabytes.
        max_mb_a_client: maximum size of all bodies being read from one address, in megabytes; ignored behind a proxy.
        max_megapixels: maximum size of one image, in megapixels.
        max_megapixels_at_once: maximum size of all images in flight, in megapixels; bounds the memory.
        max_connections: maximum number of open connections, else 503.
        header_timeout: seconds for a request's headers.
        body_timeout: seconds for a request's body, after its headers.
        stall_timeout: seconds that a body may pause.
        least_kb_a_second: minimum rate of a body after its first ``stall_timeout`` seconds, in kB/s.
        decode_timeout: seconds for decoding a file.
        request_timeout: seconds from the whole body to the response.
        stop_timeout: seconds for the accepted requests after a stop signal.
        poll: seconds between two polls of the registry.
        cache: folder of the downloaded versions.
        signatures: as for :func:`registry.seal.verify`.
        shadow: a second model, named as ``model``; its agreement with the first is counted. None: no second model.
        canary: percentage of requests that get the shadow's response, 0 to 100.
        canary_flags: the canary is withdrawn if its share of flagged masks exceeds the champion's by more, 0 to 1.
        canary_errors: the canary is withdrawn if it fails on a larger share of images, 0 to 1.
        record: file to which one line of findings is appended per prediction; None: no record.
    """

    model: str
    host: str = "127.0.0.1"
    port: int = 8080
    allowed_hosts: tuple[str, ...] = ()
    api_key_file: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    behind_proxy: bool = False
    reuse_port: bool = False
    engine: str = "auto"
    threads: int | None = None
    workers: int = 1
    max_batch: int = 8
    max_wait: float = 0.005
    max_queue: int = 64
    max_mb: float = 64
    max_mb_at_once: float = 512
    max_mb_a_client: float = 256
    max_megapixels: float = 40
    max_megapixels_at_once: float = 200
    max_connections: int = 1000
    header_timeout: float = 10
    body_timeout: float = 30
    stall_timeout: float = 5
    least_kb_a_second: float = 16
    decode_timeout: float = 15
    request_timeout: float = 30
    stop_timeout: int = 60
    poll: float = 10
    cache: Path = Path("build/serve")
    signatures: str = "auto"
    record: Path | None = None
    shadow: str | None = None
    canary: float = 0
    canary_flags: float = 0.05
    canary_errors: float = 0.01
