"""S3 and MLflow on this machine, for a person: ``python -m tools.services``, or ``make services``.

SeaweedFS keeps the objects, MLflow's own server the runs and models; it passes artifacts on to S3, so that its clients
need no key of S3. The tests start both by the same functions, and ``compose.yaml`` runs the same commands.
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

DATA, ARTIFACTS = "data", "mlflow"  # the buckets: of people and steps, and of the MLflow server
LIBC, PR_SET_PDEATHSIG = ctypes.CDLL(None), 1  # of <sys/prctl.h>
# SeaweedFS is done in 2 seconds; now and then its admin part, which nobody uses here, holds it for 10.
START_SECONDS, STOP_SECONDS = 300, 30
# What SeaweedFS listens on besides S3 itself, for its own parts.
INNER_PORTS = (
    *("s3.port.grpc", "master.port", "master.port.grpc", "volume.port", "volume.port.grpc"),
    *("filer.port", "filer.port.grpc", "admin.port", "admin.port.grpc"),
)


@dataclass(frozen=True)
class Keys:
    """Credentials of S3. The defaults are for services that nobody but this machine's users can reach."""

    access: str = "laptop"
    secret: str = "laptop-only"  # noqa: S105

    @property
    def environment(self) -> dict[str, str]:
        """What boto3, DVC and SeaweedFS read."""
        return {"AWS_ACCESS_KEY_ID": self.access, "AWS_SECRET_ACCESS_KEY": self.secret}


@dataclass(frozen=True)
class Service:
    """A program that runs beside this one: its name, address, process and log."""

    name: str
    url: str
    process: subprocess.Popen[bytes]
    log: Path


def s3_command(program: str, folder: str, ip: str, bind: str, ports: Mapping[str, int]) -> list[str]:
    """Return the command of an S3 server with both buckets; it reads its one user's keys from the environment.

    Args:
        program: ``weed``.
        folder: where it keeps everything.
        ip: by which its parts call each other.
        bind: the address it listens on.
        ports: by SeaweedFS' own names; those not given are its defaults.
    """
    line = [program, "mini", f"-dir={folder}", f"-ip={ip}", f"-ip.bind={bind}", f"-bucket={DATA},{ARTIFACTS}"]
    line += ["-admin.ui=false", "-webdav=false", "-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false"]
    # By itself it sets a whole GiB of a large disk aside for each bucket, and refuses to write where that is not free.
    line.append("-master.volumeSizeLimitMB=128")
    return line + [f"-{name}={port}" for name, port in ports.items()]


def mlflow_command(program: str, bind: str, port: int, names: Sequence[str], workers: int) -> list[str]:
    """Return the command of a tracking server that keeps artifacts in S3; its environment names database and keys.

    Args:
        program: ``mlflow``.
        bind: the address it listens on.
        port: and the port.
        names: hosts under which clients may call it; it refuses others against DNS rebinding.
        workers: its processes.
    """
    line = [program, "server", "--host", bind, "--port", str(port), "--workers", str(workers)]
    line += ["--serve-artifacts", "--artifacts-destination", f"s3://{ARTIFACTS}"]
    return [*line, "--allowed-hosts", ",".join(f"{name}:*" for name in names)]


def mlflow_environment(database: str, endpoint: str, keys: Keys) -> dict[str, str]:
    """Return what the tracking server reads; the database's address may hold a password, so it is no argument."""
    given = {"MLFLOW_BACKEND_STORE_URI": database, "AWS_ENDPOINT_URL": endpoint, "AWS_DEFAULT_REGION": "us-east-1"}
    # Nothing here is an LLM's job, for which the server would start processes of its own.
    given |= {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    return given | keys.environment


@contextmanager
def s3(folder: Path, keys: Keys, port: int) -> Iterator[Service]:
    """Run an S3 server on the loopback address; its objects stay in ``folder/s3``.

    Raises:
        UserError: the program is missing, or it does not start.
    """
    data = folder / "s3"
    data.mkdir(parents=True, exist_ok=True)
    ports = {"s3.port": port} | dict(zip(INNER_PORTS, free_ports(len(INNER_PORTS)), strict=True))
    line = s3_command(find_program("weed"), str(data), HOST, HOST, ports)
    line.append("-volume.preStopSeconds=0")  # a pause for other servers to notice, of which there are none
    url = f"http://{HOST}:{port}"
    client = s3_client(url, keys)
    with _running("S3", url, line, keys.environment, folder, lambda: _has_buckets(client)) as service:
        yield service


@contextmanager
def mlflow(folder: Path, database: str, endpoint: str, keys: Keys, port: int) -> Iterator[Service]:
    """Run a tracking server on the loopback address that keeps its artifacts in the S3 server at ``endpoint``.

    Raises:
        UserError: the program is missing, or it does not start.
    """
    import httpx

    line = mlflow_command(find_program("mlflow"), HOST, port, (HOST, "localhost"), 1)
    url = f"http://{HOST}:{port}"

    def answers() -> bool:
        try:
            # A listing of artifacts goes through to S3.
            return httpx.get(f"{url}/api/2.0/mlflow-artifacts/artifacts", timeout=10, trust_env=False).is_success
        except httpx.TransportError:
            return False

    environment = mlflow_environment(database, endpoint, keys)
    with _running("MLflow", url, line, environment, folder, answers) as service:
        yield service


def s3_client(endpoint: str, keys: Keys) -> Any:
    """Return a client of the S3 server at ``endpoint`` that tries once and waits for seconds, not minutes."""
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
    """Raise a :class:`UserError` with the last line of its log once a service has ended."""
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
    """Run a command until it answers, then the block, then stop it and all that it started."""
    # Of this process's own settings none may lead the server elsewhere.
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
            start_new_session=True,  # a Ctrl+C is for us, who stop them in order
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
    """Have Linux end a server when the process that started it is killed, so that none stays behind."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Have a server end by itself, then end what is left of its group.

    What serves may be processes that ours started; with them the work is done. MLflow's launcher would go on for
    seconds, to tidy up a memory that is given back anyway.
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
    with suppress(ProcessLookupError):  # whatever of its group is left
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
