"""Settings of the service, and the options of the command ``serve``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer


@dataclass(frozen=True)
class Settings:
    """The options of the command ``serve``.

    A megabyte is 10^6 bytes. ``max_mb_a_client`` is ignored behind a proxy, and ``least_kb_a_second`` during the first
    ``stall_timeout`` seconds of a body. ``allowed_hosts`` without a name allows the names of the address.
    """

    model: Annotated[
        str,
        typer.Option(
            envvar="DEFUNET_MODEL",
            show_default=False,
            help="models:/NAME@ALIAS (followed), models:/NAME/3, a package's folder, pretrained or pretrained/NAME. "
            "Default: the champion of params.yaml's register.model, else pretrained.",
        ),
    ] = ""
    host: Annotated[str, typer.Option(envvar="DEFUNET_HOST", help="The address to listen on.")] = "127.0.0.1"
    port: Annotated[
        int, typer.Option(envvar="DEFUNET_PORT", min=0, max=65535, help="The port; 0 takes a free one.")
    ] = 8080
    allowed_hosts: Annotated[
        list[str] | None,
        typer.Option(help="A name that the header Host may have, * for all; repeatable. Default: those of --host."),
    ] = None
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            envvar="DEFUNET_API_KEY_FILE", help="A file with one key a line; every request must send one of them."
        ),
    ] = None
    tls_cert: Annotated[Path | None, typer.Option(help="PEM file of the certificate chain.")] = None
    tls_key: Annotated[Path | None, typer.Option(help="PEM file of the certificate's private key.")] = None
    behind_proxy: Annotated[
        bool,
        typer.Option(
            "--behind-proxy", help="A proxy authenticates and encrypts: listen beyond this machine without key and TLS."
        ),
    ] = False
    reuse_port: Annotated[
        bool, typer.Option("--reuse-port", help="Share the port, so that a new service can take over from an old one.")
    ] = False
    engine: Annotated[str, typer.Option(help="auto, openvino-bf16, openvino, onnxruntime, torch or compile.")] = "auto"
    threads: Annotated[int | None, typer.Option(min=1, help="Maximum threads of the engine.")] = None
    workers: Annotated[int, typer.Option(min=1, help="Threads that run batches.")] = 1
    max_batch: Annotated[int, typer.Option(min=1, help="Maximum images in a batch; 1: no batching.")] = 8
    max_wait: Annotated[float, typer.Option(min=0, help="Seconds that a batch waits for more images.")] = 0.005
    max_queue: Annotated[int, typer.Option(min=1, help="Maximum requests in flight, else 503.")] = 64
    max_mb: Annotated[float, typer.Option(min=0.001, help="Maximum megabytes of a file, else 413.")] = 64
    max_mb_at_once: Annotated[float, typer.Option(min=0.001, help="Maximum megabytes of all files in transfer.")] = 512
    max_mb_a_client: Annotated[
        float, typer.Option(min=0.001, help="Maximum megabytes of all files from one address.")
    ] = 256
    max_megapixels: Annotated[float, typer.Option(min=0.001, help="Maximum of one image, else 413.")] = 40
    max_megapixels_at_once: Annotated[float, typer.Option(min=0.001, help="Maximum of all images in flight.")] = 200
    max_connections: Annotated[int, typer.Option(min=1, help="Maximum open connections, else 503.")] = 1000
    header_timeout: Annotated[float, typer.Option(min=0.1, help="Seconds for a request's headers.")] = 10
    body_timeout: Annotated[float, typer.Option(min=0.1, help="Seconds for a request's body, else 408.")] = 30
    stall_timeout: Annotated[float, typer.Option(min=0.1, help="Seconds that a body may pause, else 408.")] = 5
    least_kb_a_second: Annotated[float, typer.Option(min=0, help="Least rate of a body in kB/s, else 408.")] = 16
    decode_timeout: Annotated[float, typer.Option(min=0.1, help="Seconds for decoding a file, else 504.")] = 15
    request_timeout: Annotated[float, typer.Option(min=0.1, help="Seconds from body to answer, else 504.")] = 30
    stop_timeout: Annotated[int, typer.Option(min=1, help="Seconds for accepted requests after SIGTERM.")] = 60
    poll: Annotated[float, typer.Option(min=0.1, help="Seconds between two polls of the registry.")] = 10
    cache: Annotated[Path, typer.Option(envvar="DEFUNET_CACHE", help="The folder of downloaded versions.")] = Path(
        "build/serve"
    )
    signatures: Annotated[
        Literal["auto", "require", "warn", "off"] | None,
        typer.Option(help="Whether the package must be signed. Default: as params.yaml says."),
    ] = None
    record: Annotated[
        Path | None,
        typer.Option(
            envvar="DEFUNET_RECORD",
            help="A .jsonl file to which the findings of each prediction are appended, without image or name, for "
            "defunet drift.",
        ),
    ] = None
    shadow: Annotated[
        str | None,
        typer.Option(
            envvar="DEFUNET_SHADOW",
            help="A second model, such as the challenger, named as for --model. Both answer; the first one's answer "
            "goes out, and their agreement is counted.",
        ),
    ] = None
    canary: Annotated[
        float,
        typer.Option(min=0, max=100, help="Percent of the X-rays that get the answer of --shadow."),
    ] = 0
    canary_flags: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="The canary is taken back if its share of flagged X-rays exceeds the champion's by more.",
        ),
    ] = 0.05
    canary_errors: Annotated[
        float, typer.Option(min=0, max=1, help="The canary is taken back if it fails on a larger share of X-rays.")
    ] = 0.01
    log_level: Annotated[Literal["debug", "info", "warning", "error"], typer.Option(help="Level of the log.")] = "info"
