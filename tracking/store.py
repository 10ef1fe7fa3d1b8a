"""MLflow, as every step uses it: one run for each trained cell, from its first epoch to its registered version."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from filelock import FileLock

from core.errors import UserError
from core.masking import mask, mask_address
from tracking.local_store import ARTIFACTS, DATABASE, adopt, workspace

if TYPE_CHECKING:
    from mlflow import MlflowClient

LOCAL_STORE = "sqlite:///mlflow.db"
REGISTERED = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>[1-9][0-9]*))")
TRAINING = "training"  # the tag with the mark by which a training run finds its MLflow run
# A server with S3 behind it sends its clients to S3 directly, by the address that the server uses. A client that cannot
# reach this address would retry for minutes, so that all files go through the server.
DIRECT = ("MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD", "MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD")
MANAGED = ("databricks", "uc")  # Databricks' stores, whose addresses may be one word
RETRIES, TIMEOUT = "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"
# How often a request is repeated, with growing pauses, and how many seconds it may take: MLflow's own 7 and 120 let a
# server that hangs hold a step for a quarter of an hour. The first question is small, later ones carry models.
PATIENCE = {RETRIES: "3", TIMEOUT: "60"}
FIRST_TIMEOUT = 10
BAD_REQUEST = 400
NEVER = (BAD_REQUEST, 401, 403)  # what a server answers to settings that no waiting puts right


# The run of a step that a platform has started (Kubeflow's MLflow plugin). MLflow would log into it, and end it.
STEP_RUN = "MLFLOW_RUN_ID"


def store_name() -> str:
    """Return the store's address as it may be shown: without the password that it may hold."""
    if own_store() and workspace() == Path.cwd():
        return LOCAL_STORE
    return mask_address(store_address())


def store_address() -> str:
    """Return the address of the store that MLFLOW_TRACKING_URI names, else of the clone's own, by its full path.

    MLflow keeps one connection per address, even if the current folder changes.
    """
    own = f"sqlite:///{workspace() / DATABASE}"
    return own if own_store() else os.environ["MLFLOW_TRACKING_URI"]


def own_store() -> bool:
    """Return whether the store is the clone's own. MLflow sets MLFLOW_TRACKING_URI itself when a URI is set."""
    return os.environ.get("MLFLOW_TRACKING_URI") in (None, "", LOCAL_STORE, f"sqlite:///{workspace() / DATABASE}")


def has_store() -> bool:
    """Return whether MLFLOW_TRACKING_URI names a store, or the clone's own database exists."""
    return not own_store() or (workspace() / DATABASE).exists()


def first_line(error: BaseException) -> str:
    """Return an error's first line without passwords, its type where it says nothing."""
    line = (mask(str(error)).strip().splitlines() or [type(error).__name__])[0]
    # Of a connection that did not come about there is one reason, deep in three libraries' words.
    refused = re.search(r"Max retries exceeded .*\[Errno -?\d+\] ([\w ]+)", line)
    return f"cannot be reached ({refused[1]})" if refused else line


def connect(experiment: str | None = None, *, existing: bool = False) -> MlflowClient:
    """Return a client of the store that MLFLOW_TRACKING_URI names, else the local database.

    Args:
        experiment: made the active one, and created where it does not exist.
        existing: refuse a local database that is not there, which MLflow would create: who reads needs what is in it.

    A server is asked whether it is there: repeatedly, with pauses, and within a minute. The environment's
    MLFLOW_HTTP_REQUEST_MAX_RETRIES and MLFLOW_HTTP_REQUEST_TIMEOUT hold where they are set; MLflow reads nothing else,
    so the first call sets them for the process (:data:`PATIENCE`).

    Raises:
        UserError: the store cannot be reached.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.pop(STEP_RUN, None)  # each step names the run that it logs to
    for name in DIRECT:
        os.environ.setdefault(name, "false")
    timeout = None if TIMEOUT in os.environ else FIRST_TIMEOUT
    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)
    import mlflow
    from sqlalchemy.exc import SQLAlchemyError

    # Its notes on tables it creates and threads it starts drown the steps' own lines; warnings stay.
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # one line for each attempt
    uri = store_address()
    # A store that is named by its full path is taken as it is.
    named = os.environ.get("MLFLOW_TRACKING_URI") not in (None, "", LOCAL_STORE)
    if "://" not in uri and not uri.startswith(MANAGED) and "MLFLOW_ALLOW_FILE_STORE" not in os.environ:
        raise UserError(f"MLflow, {uri}: no address; say MLFLOW_TRACKING_URI=http://host:5000 or sqlite:///mlflow.db")
    mlflow.set_tracking_uri(uri)
    file = _database_file(uri)
    if existing and file is not None and not file.exists():
        told = f"MLflow, {store_name()}: there is no store here"
        raise UserError(f"{told}; run in the project's folder after `make run`, or set MLFLOW_TRACKING_URI")
    try:
        if not named and (note := adopt(workspace())):
            print(note, file=sys.stderr)
        with explained(store_name()):
            with _alone_with_new(file):
                client = mlflow.MlflowClient()
                _ask(client, uri, timeout)
            if experiment is not None:
                make_experiment(client, experiment)
                mlflow.set_experiment(experiment)
    except (OSError, SQLAlchemyError) as error:
        told = f"MLflow, {store_name()}: {first_line(error)}; check MLFLOW_TRACKING_URI, then run again"
        raise UserError(told) from error
    return client


def _ask(client: MlflowClient, uri: str, timeout: int | None) -> None:
    """Ask the store whether it is there, a server for ``timeout`` seconds (None: as the environment says)."""
    if not uri.startswith(("http://", "https://")):
        client.search_experiments(max_results=1)
        return
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request_safe

    # The client itself has no argument for the time.
    where, what = get_default_host_creds(uri), {"max_results": 1}
    http_request_safe(where, "/api/2.0/mlflow/experiments/search", "POST", json=what, timeout=timeout)


def make_experiment(client: MlflowClient, title: str, **tags: str) -> str:
    """Return an experiment's id; create it if needed, with its artifacts next to the clone's own database.

    MLflow would put them into the present folder, which an experiment of DVC's does not outlive. A server decides
    itself.
    """
    from mlflow.exceptions import MlflowException

    if (found := client.get_experiment_by_name(title)) is not None:
        return str(found.experiment_id)
    place = str(workspace() / ARTIFACTS / quote(title, safe=" ")) if own_store() else None
    try:
        return str(client.create_experiment(title, artifact_location=place, tags=tags))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    return str(client.get_experiment_by_name(title).experiment_id)  # made by another step at the same moment


def _database_file(uri: str) -> Path | None:
    """Return the file of an SQLite database; None for a server, and for an address that names no plain file."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    if not uri.startswith("sqlite"):
        return None
    try:
        name = make_url(uri).database
    except (ArgumentError, ValueError):
        return None
    return Path(name) if name and not name.startswith((":", "file:")) else None


@contextmanager
def _alone_with_new(file: Path | None) -> Iterator[None]:
    """Hold a lock while MLflow creates the tables of an SQLite database: of two processes at once, one would fail."""
    lock = None if file is None else file.with_name(f".{file.name}.lock")
    if file is None or lock is None or (file.exists() and not lock.exists()):
        yield
        return
    with FileLock(lock):
        yield
        lock.unlink(missing_ok=True)  # the tables are there: who waits for the lock, and who comes later, finds them


def is_local() -> bool:
    """Tell a database file from a server."""
    return store_name().startswith(LOCAL_STORE.partition(":")[0])


def reason(error: BaseException) -> str:
    """Return the cause of an error in one line, without passwords."""
    return first_line(error.__cause__ or error)


def is_lasting(error: BaseException) -> bool:
    """Tell a mistake in the settings, which no waiting puts right, from a server that is down."""
    from mlflow.exceptions import MlflowException

    cause = error.__cause__ or error
    if is_local():
        return "database is locked" not in str(cause)
    return isinstance(cause, MlflowException) and cause.get_http_status_code() in NEVER


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn MLflow's own errors inside the block into a :class:`UserError` that names the store or the model."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        missing = error.error_code == "RESOURCE_DOES_NOT_EXIST"
        check = "the name, the version and MLFLOW_TRACKING_URI" if missing else "MLFLOW_TRACKING_URI and the server"
        raise UserError(f"MLflow, {what}: {first_line(error)}; check {check}, then run again") from error


@contextmanager
def answered(what: str) -> Iterator[None]:
    """Turn MLflow's errors inside the block, those of its file transfers too, into a :class:`UserError`."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        with explained(what):
            yield
    except (OSError, Boto3Error, BotoCoreError, ClientError) as error:
        here = getattr(error, "filename", None)  # a file of this machine, which is no server's fault
        check = here or "MLFLOW_TRACKING_URI, the server and the store behind it"
        raise UserError(f"MLflow, {what}: {first_line(error)}; check {check}, then run again") from error


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested parameters as MLflow shows them: ``augmentation.rotation`` and so on."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            result |= flat(value, f"{prefix}{key}.")
        else:
            result[f"{prefix}{key}"] = value
    return result
