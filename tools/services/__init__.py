"""Local S3 and MLflow servers: ``python -m tools.services``, or ``make services``.

SeaweedFS stores objects; the MLflow server stores runs and models. It proxies artifacts to S3, so that its clients need
no S3 keys. Tests use the same functions, and ``compose.yaml`` runs the same commands.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import UserError
from tools.services.checks import HOST, find_program, free_ports

DATA, ARTIFACTS = "data", "mlflow"  # the buckets: for users and steps, and for the MLflow server
LIBC, PR_SET_PDEATHSIG = ctypes.CDLL(None), 1  # from <sys/prctl.h>
# SeaweedFS stops in 2 seconds; sometimes its admin component, which is not used here, needs 10.
START_SECONDS, STOP_SECONDS = 300, 30
# SeaweedFS' internal ports.
INNER_PORTS = (
    *("s3.port.grpc", "master.port", "master.port.grpc", "volume.port", "volume.port.grpc"),
    *("filer.port", "filer.port.grpc", "admin.port", "admin.port.grpc"),
)


@dataclass(frozen=True)
class Keys:
    """S3 credentials; the defaults are only for services that listen on the loopback address."""

    access: str = "laptop"
    secret: str = "laptop-only"  # noqa: S105

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables for boto3, DVC and SeaweedFS."""
        return {"AWS_ACCESS_KEY_ID": self.access, "AWS_SECRET_ACCESS_KEY": self.secret}


@dataclass(frozen=True)
class Service:
    """A running server: its name, address, process and log."""

    name: str
    url: str
    process: subprocess.Popen[bytes]
    log: Path


def s3_command(program: str, folder: str, ip: str, bind: str, ports: Mapping[str, int]) -> list[str]:
    """Return the command of an S3 server with both buckets; the server reads its user's keys from the environment.

    Args:
        program: path of ``weed``.
        folder: data folder.
        ip: address for its internal connections.
        bind: address to listen on.
        ports: ports by SeaweedFS' option names; missing ones have its defaults.
    """
    line = [program, "mini", f"-dir={folder}", f"-ip={ip}", f"-ip.bind={bind}", f"-bucket={DATA},{ARTIFACTS}"]
    line += ["-admin.ui=false", "-webdav=false", "-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false"]
    # By default SeaweedFS reserves a GiB per bucket on a large disk, and refuses writes without that space.
    line.append("-master.volumeSizeLimitMB=128")
    return line + [f"-{name}={port}" for name, port in ports.items()]


def mlflow_command(program: str, bind: str, port: int, names: Sequence[str], workers: int) -> list[str]:
    """Return the command of a tracking server with artifacts in S3; database and keys are in its environment.

    Args:
        program: path of ``mlflow``.
        bind: address to listen on.
        port: port to listen on.
        names: allowed host names; others are refused, against DNS rebinding.
        workers: number of worker processes.
    """
    line = [program, "server", "--host", bind, "--port", str(port), "--workers", str(workers)]
    line += ["--serve-artifacts", "--artifacts-destination", f"s3://{ARTIFACTS}"]
    return [*line, "--allowed-hosts", ",".join(f"{name}:*" for name in names)]


def mlflow_environment(database: str, endpoint: str, keys: Keys) -> dict[str, str]:
    """Return the tracking server's environment, which has the database URI because that may have a password."""
    given = {"MLFLOW_BACKEND_STORE_URI": database, "AWS_ENDPOINT_URL": endpoint, "AWS_DEFAULT_REGION": "us-east-1"}
    # Else the server starts extra processes for LLM jobs.
    given |= {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    return given | keys.environment


@contextmanager
def s3(folder: Path, keys: Keys, port: int) -> Iterator[Service]:
    """Run an S3 server on the loopback address; its data persist in ``folder/s3``.

    Raises:
        UserError: the program is missing, or the server does not start.
    """
    data = folder / "s3"
    data.mkdir(parents=True, exist_ok=True)
    ports = {"s3.port": port} | dict(zip(INNER_PORTS, free_ports(len(INNER_PORTS)), strict=True))
    line = s3_command(find_program("weed"), str(data), HOST, HOST, ports)
    line.append("-volume.preStopSeconds=0")  # no other servers need to notice the stop
    url = f"http://{HOST}:{port}"
    client = s3_client(url, keys)
    with _running("S3", url, line, keys.environment, folder, lambda: _has_buckets(client)) as service:
        yield service


@contextmanager
def mlflow(folder: Path, database: str, endpoint: str, keys: Keys, port: int) -> Iterator[Service]:
    """Run a tracking server on the loopback address with artifacts in the S3 server at ``endpoint``.

    Raises:
        UserError: the program is missing, or the server does not start.
    """
    import httpx

    line = mlflow_command(find_program("mlflow"), HOST, port, (HOST, "localhost"), 1)
    url = f"http://{HOST}:{port}"

    def answers() -> bool:
        try:
            # Listing artifacts also tests the connection to S3.
            return httpx.get(f"{url}/api/2.0/mlflow-artifacts/artifacts", timeout=10, trust_env=False).is_success
        except httpx.TransportError:
            return False

    environment = mlflow_environment(database, endpoint, keys)
    with _running("MLflow", url, line, environment, folder, answers) as service:
        yield service


def s3_client(endpoint: str, keys: Keys) -> Any:
    """Return a client of the S3 server at ``endpoint`` without retries and with short timeouts."""
    import boto3
    from botocore.config import Config

    config = Config(retries={"total_max_attempts": 1}, connect_timeout=2, read_timeout=10)
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=keys.access,
        aws_secret_access_key=keys.secret,
        region_name="us-east-1",
        config=config,
    )


def check_alive(service: Service) -> None:
    """Raise UserError with the last line of the log if a service has ended."""
    code = service.process.poll()
    if code is not None:
        lines = service.log.read_text(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")
        raise UserError(f"{service.name}: ended with code {code}: {last[:300]}; see {service.log}")


def _has_buckets(client: Any) -> bool:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        for name in (DATA, ARTIFACTS):
            client.head_bucket(Bucket=name)
    except (BotoCoreError, ClientError):
        return False
    return True


@contextmanager
def _running(
    name: str, url: str, line: list[str], environment: dict[str, str], folder: Path, answers: Callable[[], bool]
) -> Iterator[Service]:
    """Start a server, wait until it responds, run the block, then stop the server and its children."""
    # Settings of this process must not redirect the server.
    others = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "MLFLOW_", "S3_"))}
    log = folder / f"{name.lower()}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            line,
            cwd=folder,
            env=others | environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl+C reaches only this process, which stops the servers in order
            preexec_fn=_end_with_parent if sys.platform == "linux" else None,
        )
    service = Service(name, url, process, log)
    try:
        limit = time.monotonic() + START_SECONDS
        while not answers():
            check_alive(service)
            if time.monotonic() > limit:
                raise UserError(f"{name}: does not answer at {url} after {START_SECONDS} s; see {log}")
            time.sleep(0.1)
        yield service
    finally:
        _stop(process)


def _end_with_parent() -> None:
    """Make Linux signal this process when its parent is killed."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Terminate a server, then kill the rest of its process group.

    The serving processes may be children of the started process; the work is done when they have ended. MLflow's
    launcher would need seconds more to free memory.
    """
    import psutil

    serving: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):
        serving = psutil.Process(process.pid).children(recursive=True)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    if serving:
        psutil.wait_procs(serving, STOP_SECONDS)
    else:
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
    with suppress(ProcessLookupError):  # the rest of its process group
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
