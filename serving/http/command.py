"""The command ``serve``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from model.inference.engines import ENGINES
from serving.http import serve as run_service
from serving.http.settings import Settings

_D = Settings(model="")  # for its defaults


def serve(
    model: Annotated[
        str | None,
        typer.Option(
            envvar="DEFUNET_MODEL",
            help="models:/NAME@ALIAS (followed), models:/NAME/3, a package's folder, pretrained or pretrained/NAME. "
            "Default: the champion of params.yaml's register.model, else pretrained.",
        ),
    ] = None,
    host: Annotated[str, typer.Option(envvar="DEFUNET_HOST", help="The address to listen on.")] = _D.host,
    port: Annotated[
        int, typer.Option(envvar="DEFUNET_PORT", min=0, max=65535, help="The port; 0 takes a free one.")
    ] = _D.port,
    allowed_hosts: Annotated[
        list[str] | None,
        typer.Option(help="A name that the header Host may have, * for all; repeatable. Default: those of --host."),
    ] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            envvar="DEFUNET_API_KEY_FILE", help="A file with one key a line; every request must send one of them."
        ),
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="PEM file of the certificate chain.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM file of the certificate's private key.")] = None,
    behind_proxy: Annotated[
        bool,
        typer.Option(
            "--behind-proxy", help="A proxy authenticates and encrypts: listen beyond this machine without key and TLS."
        ),
    ] = _D.behind_proxy,
    reuse_port: Annotated[
        bool, typer.Option("--reuse-port", help="Share the port, so that a new service can take over from an old one.")
    ] = _D.reuse_port,
    engine: Annotated[
        str, typer.Option(help="auto, openvino-bf16, openvino, onnxruntime, torch or compile.")
    ] = _D.engine,
    threads: Annotated[int | None, typer.Option(min=1, help="Maximum threads of the engine.")] = _D.threads,
    workers: Annotated[int, typer.Option(min=1, help="Threads that run batches.")] = _D.workers,
    max_batch: Annotated[int, typer.Option(min=1, help="Maximum images in a batch; 1: no batching.")] = (_D.max_batch),
    max_wait: Annotated[float, typer.Option(min=0, help="Seconds that a batch waits for more images.")] = _D.max_wait,
    max_queue: Annotated[int, typer.Option(min=1, help="Maximum requests in flight, else 503.")] = (_D.max_queue),
    max_mb: Annotated[float, typer.Option(min=0.001, help="Maximum megabytes of a file, else 413.")] = _D.max_mb,
    max_mb_at_once: Annotated[float, typer.Option(min=0.001, help="Maximum megabytes of all files in transfer.")] = (
        _D.max_mb_at_once
    ),
    max_mb_a_client: Annotated[
        float, typer.Option(min=0.001, help="Maximum megabytes of all files from one address.")
    ] = (_D.max_mb_a_client),
    max_megapixels: Annotated[float, typer.Option(min=0.001, help="Maximum of one image, else 413.")] = (
        _D.max_megapixels
    ),
    max_megapixels_at_once: Annotated[float, typer.Option(min=0.001, help="Maximum of all images in flight.")] = (
        _D.max_megapixels_at_once
    ),
    max_connections: Annotated[
        int, typer.Option(min=1, help="Maximum open connections, else 503.")
    ] = _D.max_connections,
    header_timeout: Annotated[float, typer.Option(min=0.1, help="Seconds for a request's headers.")] = (
        _D.header_timeout
    ),
    body_timeout: Annotated[float, typer.Option(min=0.1, help="Seconds for a request's body, else 408.")] = (
        _D.body_timeout
    ),
    stall_timeout: Annotated[float, typer.Option(min=0.1, help="Seconds that a body may pause, else 408.")] = (
        _D.stall_timeout
    ),
    least_kb_a_second: Annotated[float, typer.Option(min=0, help="Least rate of a body in kB/s, else 408.")] = (
        _D.least_kb_a_second
    ),
    decode_timeout: Annotated[float, typer.Option(min=0.1, help="Seconds for decoding a file, else 504.")] = (
        _D.decode_timeout
    ),
    request_timeout: Annotated[float, typer.Option(min=0.1, help="Seconds from body to answer, else 504.")] = (
        _D.request_timeout
    ),
    stop_timeout: Annotated[int, typer.Option(min=1, help="Seconds for accepted requests after SIGTERM.")] = (
        _D.stop_timeout
    ),
    poll: Annotated[float, typer.Option(min=0.1, help="Seconds between two polls of the registry.")] = _D.poll,
    cache: Annotated[Path, typer.Option(envvar="DEFUNET_CACHE", help="The folder of downloaded versions.")] = _D.cache,
    signatures: Annotated[
        Literal["auto", "require", "warn", "off"] | None,
        typer.Option(help="Whether the package must be signed. Default: as params.yaml says."),
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option(
            envvar="DEFUNET_RECORD",
            help="A .jsonl file to which the findings of each prediction are appended, without picture or name, for "
            "defunet drift.",
        ),
    ] = _D.record,
    shadow: Annotated[
        str | None,
        typer.Option(
            envvar="DEFUNET_SHADOW",
            help="A second model, such as the challenger, named as for --model. Both answer; the first one's answer "
            "goes out, and their agreement is counted.",
        ),
    ] = _D.shadow,
    canary: Annotated[
        float,
        typer.Option(min=0, max=100, help="Percent of the pictures that get the answer of --shadow."),
    ] = _D.canary,
    canary_flags: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="The canary is taken back if its share of flagged pictures exceeds the champion's by more.",
        ),
    ] = _D.canary_flags,
    canary_errors: Annotated[
        float, typer.Option(min=0, max=1, help="The canary is taken back if it fails on a larger share of pictures.")
    ] = _D.canary_errors,
    log_level: Annotated[Literal["debug", "info", "warning", "error"], typer.Option(help="Level of the log.")] = "info",
) -> None:
    """Segment X-rays over HTTP, with a page to look at them; follows promotions without a restart."""
    if engine not in ("auto", *ENGINES):
        raise typer.BadParameter(f"no engine {engine!r}; there are auto, {', '.join(ENGINES)}", param_hint="--engine")
    if canary and shadow is None:
        raise typer.BadParameter("names no model: add --shadow models:/NAME@challenger", param_hint="--canary")
    given = {name: value for name, value in locals().items() if name != "log_level"}
    given["allowed_hosts"] = tuple(allowed_hosts or ())
    from registry import signatures as configured
    from registry.pretrained import model_or_default, named

    given["shadow"] = shadow if shadow is None else named(shadow)
    given |= {"model": model_or_default(model), "signatures": signatures or configured()}
    run_service(Settings(**given), log_level)
