"""Real servers for tests: what their users need, and PostgreSQL; tests/services_fixtures.py starts the others."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest

from tools.services import Keys
from tools.services.checks import free_ports

KEYS = Keys("owner", "secret")
POSTGRES_USER = "nobody"  # PostgreSQL refuses to run as root

# What someone does with a tracking server, and what someone else finds there.
TRACK = """
import mlflow, pathlib
mlflow.set_experiment("tried")
with mlflow.start_run() as run:
    mlflow.log_params({"width": 0.125})
    mlflow.log_metrics({"dice": 0.5, "loss": float("nan")}, step=3)
    mlflow.set_tag("site", "montgomery")
    pathlib.Path("note.txt").write_text("kept")
    mlflow.log_artifact("note.txt", "notes")
print(run.info.run_id)
"""
LOOK = """
import mlflow, pathlib
client = mlflow.MlflowClient()
experiment = client.get_experiment_by_name("tried")
(run,) = client.search_runs([experiment.experiment_id], "tags.site = 'montgomery' and metrics.dice > 0.4")
path = mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path="notes/note.txt", dst_path="back")
print(run.info.run_id, run.info.status, run.data.params["width"], pathlib.Path(path).read_text())
"""


@dataclass(frozen=True)
class Bucket:
    """An empty bucket on the test's S3 server, and a client of its owner."""

    name: str
    client: Any

    def upload(self, folder: Path, prefix: str = "") -> None:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.client.put_object(
                    Bucket=self.name, Key=prefix + path.relative_to(folder).as_posix(), Body=path.read_bytes()
                )

    def names(self, prefix: str = "") -> list[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix)
        return sorted(item["Key"] for page in pages for item in page.get("Contents", []))


def s3_settings(endpoint: str, folder: Path) -> dict[str, str]:
    """The owner's environment, in which nothing else of S3 is known."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": KEYS.access,
        "AWS_SECRET_ACCESS_KEY": KEYS.secret,
        "AWS_DEFAULT_REGION": "us-east-1",
        **without_keys(folder),
    }


def without_keys(folder: Path) -> dict[str, str]:
    """What keeps boto3 from finding anyone's credentials on this machine."""
    return {
        "AWS_CONFIG_FILE": str(folder / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(folder / "none"),
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def new_bucket(endpoint: str) -> Bucket:
    keys = {"aws_access_key_id": KEYS.access, "aws_secret_access_key": KEYS.secret, "region_name": "us-east-1"}
    client = boto3.client("s3", endpoint_url=endpoint, **keys)
    name = f"test-{uuid.uuid4().hex[:12]}"
    client.create_bucket(Bucket=name)
    return Bucket(name, client)


def postgres_programs() -> Path:
    """The folder of PostgreSQL's programs; the test is skipped where there is none."""
    for folder in (Path(shutil.which("initdb") or "").resolve().parent, *Path("/usr/lib/postgresql").glob("*/bin")):
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    pytest.skip("PostgreSQL is not installed (Debian: postgresql)")


@contextmanager
def postgres() -> Iterator[str]:
    """Run a PostgreSQL with a database ``mlflow`` of a user with a password; yield its address for SQLAlchemy."""
    programs, port = postgres_programs(), free_ports(1)[0]
    user: dict[str, Any] = {}
    if os.geteuid() == 0:
        user = {"user": POSTGRES_USER, "group": "nogroup", "extra_groups": []}
    # Its user reaches nothing below pytest's own folders.
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    try:
        if user:
            shutil.chown(folder, user["user"], user["group"])
        password = folder / "password"
        password.write_text("a-secret")
        password.chmod(0o644)
        data = folder / "data"
        line = [programs / "initdb", "--pgdata", data, "--username=mlflow", "--auth=scram-sha-256", "--no-sync"]
        line += [f"--pwfile={password}", "--encoding=UTF8"]
        subprocess.run(line, check=True, capture_output=True, cwd=folder, **user)
        line = [programs / "postgres", "-D", data, "-h", "127.0.0.1", "-p", str(port), "-k", folder, "-F"]
        log = (folder / "log").open("wb")
        with log, subprocess.Popen(line, stdout=log, stderr=log, cwd=folder, **user) as server:
            try:
                yield _database(port, Path(log.name), server)
            finally:
                server.send_signal(signal.SIGINT)  # waits for no client, unlike SIGTERM
    finally:
        shutil.rmtree(folder)


def _database(port: int, log: Path, server: subprocess.Popen[bytes]) -> str:
    """Make the database as soon as the server takes connections."""
    import pg8000.native

    limit = time.monotonic() + 30
    while True:
        try:
            there = {"host": "127.0.0.1", "port": port, "user": "mlflow", "password": "a-secret"}
            connection = pg8000.native.Connection(database="postgres", **there)
            break
        except (pg8000.native.InterfaceError, pg8000.native.DatabaseError):
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < limit, log.read_text()
            time.sleep(0.1)
    connection.run("CREATE DATABASE mlflow")
    connection.close()
    return f"postgresql+pg8000://mlflow:a-secret@127.0.0.1:{port}/mlflow"


def environment(**settings: str) -> dict[str, str]:
    """This process's, without whatever leads to other services."""
    given = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "MLFLOW_", "S3_"))}
    given |= {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}
    return given | {"MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"} | settings


def python(code: str, folder: Path, environment: dict[str, str]) -> str:
    """Run Python code in a process of its own that must succeed; return what it printed."""
    line = [sys.executable, "-c", code]
    done = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
