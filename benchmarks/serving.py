"""Throughput of the service, and a restart without lost requests: ``python -m benchmarks.serving --model FOLDER``.

Two services of the same model, with and without micro-batching, are measured alternately within one run: on a shared
machine only ratios are meaningful. Every client sends its next request after its response (closed loop). Clients and
services share the machine.
"""

from __future__ import annotations

import json
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Annotated, Any

import httpx
import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from core import cli
from core.errors import UserError
from core.files import write_json
from core.provenance import hardware
from serving.http.settings import Settings
from tools.services.checks import free_ports

WAYS = {"one by one": ("--max-batch", "1"), "micro-batches": ("--max-batch", str(Settings.max_batch))}
PATIENCE = 120.0  # seconds until a service must be ready


@dataclass
class Load:
    """The clients' results.

    Attributes:
        seconds: latency of each request with a response, from the first connection attempt to the last byte.
        statuses: number of responses by HTTP status.
        lost: number of requests that were sent but got no response.
        refused: number of refused connection attempts, which were retried.
    """

    seconds: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    lost: int = 0
    refused: int = 0


class Clients:
    """Clients that send requests until they are stopped; a refused connection is retried."""

    def __init__(self, url: str, image: bytes, number: int) -> None:
        self.url, self.image, self.load = url, image, Load()
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._pool = ThreadPoolExecutor(number)
        self._began = time.perf_counter()
        self._runs = [self._pool.submit(self._run) for _ in range(number)]

    def _run(self) -> None:
        with httpx.Client(timeout=60) as client:
            while not self._stop.is_set():
                self._ask(client)

    def _ask(self, client: httpx.Client) -> None:
        began = time.perf_counter()
        while True:
            try:
                answer = client.post(f"{self.url}/predict", content=self.image)
            except httpx.ConnectError:
                with self._lock:
                    self.load.refused += 1
                time.sleep(0.02)
                if self._stop.is_set():
                    return
                continue
            except httpx.TransportError:
                with self._lock:
                    self.load.lost += 1
                return
            with self._lock:
                self.load.seconds.append(time.perf_counter() - began)
                self.load.statuses[answer.status_code] += 1
            return

    def answered(self) -> int:
        """Return the number of responses so far."""
        with self._lock:
            return len(self.load.seconds)

    def end(self) -> tuple[Load, float]:
        """Wait for every client's response; return the results and the seconds for which clients sent requests."""
        self._stop.set()
        for run in self._runs:
            run.result()
        seconds = time.perf_counter() - self._began
        self._pool.shutdown()
        return self.load, seconds


@dataclass(frozen=True)
class Running:
    """A service in another process."""

    process: subprocess.Popen[bytes]
    port: int

    @property
    def url(self) -> str:
        """Return its address."""
        return f"http://127.0.0.1:{self.port}"

    def batches(self) -> tuple[float, float]:
        """Return the number of predicted images and of their batches."""
        lines = httpx.get(f"{self.url}/metrics", timeout=60).text.splitlines()
        found = dict(line.rsplit(" ", 1) for line in lines if line.startswith("defunet_batch_size_"))
        return float(found["defunet_batch_size_sum"]), float(found["defunet_batch_size_count"])

    def stop(self) -> int:
        """Send the stop signal and return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(Settings.stop_timeout + 30)


@contextmanager
def started(model: str, engine: str, port: int, *options: str, output: IO[bytes] | None = None) -> Iterator[Running]:
    """Start a service, wait until it is ready, and stop it at the end of the block.

    Args:
        model: as for ``defunet serve``.
        engine: as for ``defunet serve``.
        port: port to listen on.
        options: further options.
        output: file for what the service prints; None prints it.

    Raises:
        UserError: the service ends, or is not ready in time.
    """
    line = [sys.executable, "-m", "serving.http", "--model", model, "--engine", engine, "--port", str(port)]
    process = subprocess.Popen(
        [*line, "--log-level", "warning", "--max-queue", "512", *options], stdout=output, stderr=output
    )
    service = Running(process, port)
    try:
        # On a shared port another service may respond; this one listens only after its model is loaded.
        limit = time.monotonic() + PATIENCE
        while not listens(process.pid, port):
            _check(process, limit)
            time.sleep(0.05)
        while not is_ready(service):
            _check(process, limit)
            time.sleep(0.05)
        yield service
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def listens(pid: int, port: int) -> bool:
    """Return whether this process listens on a port, which may be shared."""
    import psutil

    return any(
        each.status == psutil.CONN_LISTEN and each.laddr.port == port
        for each in psutil.Process(pid).net_connections("tcp")
    )


def _check(process: subprocess.Popen[bytes], limit: float) -> None:
    if process.poll() is not None:
        raise UserError("the service did not begin; `defunet serve` with the same --model says why")
    if time.monotonic() > limit:
        raise UserError(f"the service was not ready after {PATIENCE:g} s; try again on a machine that does less")


def is_ready(service: Running) -> bool:
    """Return whether a service answers that it is ready."""
    try:
        return httpx.get(f"{service.url}/ready", timeout=10).status_code == 200
    except httpx.TransportError:
        return False


def measure(service: Running, image: bytes, clients: int, seconds: float) -> dict[str, Any]:
    """Send requests to a service for some seconds and return the figures."""
    images, batches = service.batches()
    asking = Clients(service.url, image, clients)
    time.sleep(seconds)
    load, took = asking.end()
    more_images, more_batches = service.batches()
    if load.lost or set(load.statuses) != {200}:
        raise UserError(f"a measurement with failures says nothing: {dict(load.statuses)}, {load.lost} lost")
    p50, p99 = np.percentile(load.seconds, [50, 99])
    return {
        "requests": len(load.seconds),
        "rate": len(load.seconds) / took,
        "p50": float(p50),
        "p99": float(p99),
        "batch": (more_images - images) / (more_batches - batches),
    }


def sweep(
    model: str, engine: str, image: bytes, concurrency: Sequence[int], seconds: float, rounds: int
) -> list[dict[str, Any]]:
    """Measure both services alternately, for every number of clients."""
    rows, ports = [], free_ports(2)
    with (
        started(model, engine, ports[0], *WAYS["one by one"]) as single,
        started(model, engine, ports[1], *WAYS["micro-batches"]) as batched,
    ):
        services = {"one by one": single, "micro-batches": batched}
        for service in services.values():
            measure(service, image, max(concurrency), 1)
        for clients in concurrency:
            found: dict[str, list[dict[str, Any]]] = {name: [] for name in services}
            for turn in range(rounds):
                for name in list(services)[:: 1 if turn % 2 else -1]:
                    found[name].append(measure(services[name], image, clients, seconds))
            rows.append({"clients": clients, "ways": found})
    return rows


def restart(model: str, engine: str, image: bytes, clients: int, seconds: float) -> dict[str, Any]:
    """Replace a service by a second one under load, and return the clients' results."""
    (port,) = free_ports(1)
    with started(model, engine, port, "--reuse-port") as old:
        asking = Clients(old.url, image, clients)
        time.sleep(seconds)
        with started(model, engine, port, "--reuse-port") as new:
            time.sleep(seconds)
            code = old.stop()
            at_stop = asking.answered()
            time.sleep(seconds)
            load, _ = asking.end()
            new_code = new.stop()
    return {
        "answered": len(load.seconds),
        "after_stop": len(load.seconds) - at_stop,
        "statuses": {str(status): count for status, count in sorted(load.statuses.items())},
        "lost": load.lost,
        "refused": load.refused,
        "exit_codes": [code, new_code],
    }


def show(figures: dict[str, Any]) -> None:
    """Print the figures as tables."""
    console = Console()
    table = Table(title="Requests a second and latency, medians over rounds", title_justify="left")
    for name in ("clients", "way", "requests/s", "p50, ms", "p99, ms", "images a batch"):
        table.add_column(name, justify="left" if name == "way" else "right")
    for row in figures["sweep"]:
        for way, rounds in row["ways"].items():
            middle = {key: statistics.median(each[key] for each in rounds) for key in ("rate", "p50", "p99", "batch")}
            cells = (f"{middle['rate']:.1f}", f"{1e3 * middle['p50']:.0f}", f"{1e3 * middle['p99']:.0f}")
            table.add_row(str(row["clients"]), way, *cells, f"{middle['batch']:.2f}")
    console.print(table)
    told = figures["restart"]
    console.print(
        f"Restart under load: {told['answered']} answers {json.dumps(told['statuses'])}, {told['after_stop']} after "
        f"the old service was told to stop; {told['lost']} requests lost, {told['refused']} connections refused and "
        f"tried again; exit codes {told['exit_codes']}"
    )


def main(
    model: Annotated[str, typer.Option(help="A model package's folder, or models:/NAME@ALIAS.")],
    image: Annotated[Path, typer.Option(help="The X-ray that is sent.")] = Path(
        "samples/ChinaSet_AllFiles/CXR_png/CHNCXR_0001_0.png"
    ),
    concurrency: Annotated[list[int], typer.Option(min=1, help="Clients at a time; may be repeated.")] = [1, 4, 16],  # noqa: B006
    seconds: Annotated[float, typer.Option(min=0.1, help="Of each measurement.")] = 10,
    rounds: Annotated[int, typer.Option(min=1, help="Of both services in turns.")] = 3,
    engine: Annotated[str, typer.Option(help="auto, openvino, onnxruntime, torch or compile.")] = "auto",
    out: Annotated[Path, typer.Option("--out", "-o", help="The JSON file to write.")] = Path("build/serving.json"),
) -> None:
    """Measure requests a second, p50 and p99 with and without micro-batching, and a restart under load."""
    if not image.is_file():
        raise UserError(f"{image}: not found; pass --image")
    data = image.read_bytes()
    figures: dict[str, Any] = {
        "machine": hardware(),
        "sweep": sweep(model, engine, data, concurrency, seconds, rounds),
        "restart": restart(model, engine, data, max(concurrency), seconds),
    }
    write_json(out, figures)
    show(figures)
    if figures["restart"]["lost"]:
        raise UserError(f"{figures['restart']['lost']} requests were lost in the restart")


if __name__ == "__main__":
    cli.run(main)
