"""``python -m tools.services``: run S3 and MLflow until Ctrl+C."""

from __future__ import annotations

import shlex
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from filelock import FileLock, Timeout

from core import cli
from core.errors import UserError
from core.files import explain_unwritable
from tools.services import ARTIFACTS, DATA, Keys, Service, check_alive, mlflow, s3
from tools.services.checks import check_database, check_port

S3_PORT, MLFLOW_PORT = 8333, 5000


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main(
    folder: Annotated[Path, typer.Option(help="The folder of objects, database and logs.")] = Path("services"),
    s3_port: Annotated[int, typer.Option(min=1, max=65535, help="Port of S3.")] = S3_PORT,
    mlflow_port: Annotated[int, typer.Option(min=1, max=65535, help="Port of MLflow.")] = MLFLOW_PORT,
    database: Annotated[
        str | None,
        typer.Option(
            envvar="MLFLOW_BACKEND_STORE_URI",
            show_envvar=True,
            help="Database of MLflow, e.g. postgresql+pg8000://user:password@host/name; default: SQLite in the folder.",
        ),
    ] = None,
    access_key: Annotated[str, typer.Option(envvar="S3_ACCESS_KEY_ID", help="Access key of S3.")] = Keys.access,
    secret_key: Annotated[str, typer.Option(envvar="S3_SECRET_ACCESS_KEY", help="Secret key of S3.")] = Keys.secret,
) -> None:
    """Start S3 and MLflow on this machine, print how to use them, and stop both on Ctrl+C; their data remain."""
    signal.signal(signal.SIGTERM, _interrupt)
    folder = folder.resolve()
    keys = Keys(access_key, secret_key)
    try:
        for name, port, option in (("S3", s3_port, "--s3-port"), ("MLflow", mlflow_port, "--mlflow-port")):
            check_port(name, port, option)
        if database:
            check_database(database)
        with explain_unwritable(folder):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / ".gitignore").write_text("*\n")
        database = database or f"sqlite:///{folder / 'mlflow.db'}"
        with (
            FileLock(folder / ".lock", timeout=0),
            s3(folder, keys, s3_port) as objects,
            mlflow(folder, database, objects.url, keys, mlflow_port) as tracking,
        ):
            _explain(folder, keys, objects, tracking)
            _watch(objects, tracking)
    except Timeout:
        raise UserError(f"{folder}: services run there already; stop them, or choose another --folder") from None
    except KeyboardInterrupt:
        print(f"stopped; their data are in {folder}")


def _explain(folder: Path, keys: Keys, objects: Service, tracking: Service) -> None:
    settings = {"AWS_ENDPOINT_URL": objects.url} | keys.environment | {"MLFLOW_TRACKING_URI": tracking.url}
    exports = "\n".join(f"export {name}={shlex.quote(value)}" for name, value in settings.items())
    print(
        f"""S3 (buckets {DATA}, {ARTIFACTS}) and MLflow are ready; logs: {objects.log}, {tracking.log}
In another shell:

{exports}

The cohort that data.dvc pins to S3, and back on another machine:

dvc remote add --local --default services s3://{DATA}/dvc
dvc push
dvc pull

MLflow's pages: {tracking.url}
Ctrl+C stops both.""",
        flush=True,
    )


def _watch(*services: Service) -> None:
    """Wait for Ctrl+C, then ignore further ones while the servers stop."""
    try:
        while True:
            for service in services:
                check_alive(service)
            time.sleep(0.5)
    except KeyboardInterrupt:
        print("stopping both, which may take some seconds ...", flush=True)
        raise
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)


if __name__ == "__main__":
    cli.run(main)
