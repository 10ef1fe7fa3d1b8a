"""The MLflow store that all steps use: its address, the client, and readable errors."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from filelock import FileLock

from core.errors import UserError
from core.masking import mask, mask_address
from tracking.local_store import ARTIFACTS, DATABASE, adopt, workspace

if TYPE_CHECKING:
    from mlflow import MlflowClient

LOCAL_STORE = "sqlite:///mlflow.db"
REGISTERED = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>[1-9][0-9]*))")
TRAINING = "training"  # tag with the mark that links an MLflow run to its training run
# An MLflow server with artifacts in S3 sends clients to S3 directly, at the address that the server uses. A client that
# cannot reach it would retry for minutes. So all files go through the server.
DIRECT = ("MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD", "MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD")
MANAGED = ("databricks", "uc")  # Databricks' stores, whose address may have no scheme
RETRIES, TIMEOUT = "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"
# Retries of a request, with growing pauses, and its timeout in seconds. With MLflow's defaults, 7 and 120, a server
# that hangs blocks a step for a quarter of an hour. The first request is small; later ones upload models.
PATIENCE = {RETRIES: "3", TIMEOUT: "60"}
FIRST_TIMEOUT = 10
BAD_REQUEST = 400
NEVER = (BAD_REQUEST, 401, 403)  # HTTP status codes for wrong settings, which retries do not fix


# Run of a step, started by a platform (Kubeflow's MLflow plugin). MLflow would log into it, and end it.
STEP_RUN = "MLFLOW_RUN_ID"


def store_name() -> str:
    """Return the store's address for display, without a password."""
    if own_store() and workspace() == Path.cwd():
        return LOCAL_STORE
    return mask_address(store_address())


def store_address() -> str:
    """Return the address in MLFLOW_TRACKING_URI, else the local store's, with its absolute path.

    The path is absolute because MLflow keeps one connection per address, even if the current folder changes.
    """
    own = f"sqlite:///{workspace() / DATABASE}"
    return own if own_store() else os.environ["MLFLOW_TRACKING_URI"]


def own_store() -> bool:
    """Return whether the clone's local store is used; MLflow itself sets MLFLOW_TRACKING_URI to its address."""
    return os.environ.get("MLFLOW_TRACKING_URI") in (None, "", LOCAL_STORE, f"sqlite:///{workspace() / DATABASE}")


def has_store() -> bool:
    """Return whether MLFLOW_TRACKING_URI names a store, or the clone's local database exists."""
    return not own_store() or (workspace() / DATABASE).exists()


def first_line(error: BaseException) -> str:
    """Return an error's first line without passwords; the error's type if it has no message."""
    line = (mask(str(error)).strip().splitlines() or [type(error).__name__])[0]
    # A failed connection has one cause, nested in the messages of three libraries.
    refused = re.search(r"Max retries exceeded .*\[Errno -?\d+\] ([\w ]+)", line)
    return f"cannot be reached ({refused[1]})" if refused else line


def connect(experiment: str | None = None, *, existing: bool = False) -> MlflowClient:
    """Return a client of the store in MLFLOW_TRACKING_URI, else of the local database.

    The connection is checked with retries, within a minute. MLflow reads its limits only from the environment
    (MLFLOW_HTTP_REQUEST_MAX_RETRIES, MLFLOW_HTTP_REQUEST_TIMEOUT), so the first call sets those that are unset to
    :data:`PATIENCE` for this process.

    Args:
        experiment: experiment to make active; it is created if it does not exist. None: no experiment.
        existing: True raises UserError if the local database does not exist; otherwise MLflow creates it.

    Raises:
        UserError: the address is invalid, or the store cannot be reached.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.pop(STEP_RUN, None)  # each step sets the run that it logs to
    for name in DIRECT:
        os.environ.setdefault(name, "false")
    timeout = None if TIMEOUT in os.environ else FIRST_TIMEOUT
    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)
    import mlflow
    from sqlalchemy.exc import SQLAlchemyError

    # MLflow's info messages on tables and threads would hide the steps' own lines; warnings remain.
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # one line for each attempt
    uri = store_address()
    # A store named by its absolute path is not adopted.
    named = os.environ.get("MLFLOW_TRACKING_URI") not in (None, "", LOCAL_STORE)
    if "://" not in uri and not uri.startswith(MANAGED) and "MLFLOW_ALLOW_FILE_STORE" not in os.environ:
        raise UserError(
            f"MLflow, {uri}: not an address; set MLFLOW_TRACKING_URI=http://host:5000 or sqlite:///mlflow.db"
        )
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
    """Check the connection to the store; ``timeout`` is in seconds for a server, None: as in the environment."""
    if not uri.startswith(("http://", "https://")):
        client.search_experiments(max_results=1)
        return
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request_safe

    # MlflowClient has no argument for the timeout.
    where, what = get_default_host_creds(uri), {"max_results": 1}
    http_request_safe(where, "/api/2.0/mlflow/experiments/search", "POST", json=what, timeout=timeout)


def make_experiment(client: MlflowClient, title: str, **tags: str) -> str:
    """Return an experiment's id; create it if needed, for a local store with its artifacts next to the database.

    By default MLflow stores artifacts in the current folder, which DVC deletes after ``dvc exp run --temp``. A server
    chooses the place of its artifacts itself.
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
    return str(client.get_experiment_by_name(title).experiment_id)  # another step created it at the same time


def _database_file(uri: str) -> Path | None:
    """Return the file of an SQLite database; None for a server or an address without a plain file."""
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
    """Hold a lock while MLflow creates the tables of an SQLite database: two processes at once would conflict."""
    lock = None if file is None else file.with_name(f".{file.name}.lock")
    if file is None or lock is None or (file.exists() and not lock.exists()):
        yield
        return
    with FileLock(lock):
        yield
        lock.unlink(missing_ok=True)  # the tables exist now, for processes that wait for the lock and for later ones


def is_local() -> bool:
    """Return whether the store is an SQLite file and not a server."""
    return store_name().startswith(LOCAL_STORE.partition(":")[0])


def reason(error: BaseException) -> str:
    """Return the cause of an error in one line, without passwords."""
    return first_line(error.__cause__ or error)


def is_lasting(error: BaseException) -> bool:
    """Return whether an error is a wrong setting, which retries do not fix, and not a server that is down."""
    from mlflow.exceptions import MlflowException

    cause = error.__cause__ or error
    if is_local():
        return "database is locked" not in str(cause)
    return isinstance(cause, MlflowException) and cause.get_http_status_code() in NEVER


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn an MlflowException inside the block into a :class:`UserError` that names ``what``, a store or a model."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        missing = error.error_code == "RESOURCE_DOES_NOT_EXIST"
        check = "the name, the version and MLFLOW_TRACKING_URI" if missing else "MLFLOW_TRACKING_URI and the server"
        raise UserError(f"MLflow, {what}: {first_line(error)}; check {check}, then run again") from error


@contextmanager
def answered(what: str) -> Iterator[None]:
    """Turn MLflow's errors inside the block, also those of file transfers, into a :class:`UserError`."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        with explained(what):
            yield
    except (OSError, Boto3Error, BotoCoreError, ClientError) as error:
        here = getattr(error, "filename", None)  # a local file, so the server is not at fault
        check = here or "MLFLOW_TRACKING_URI, the server and the store behind it"
        raise UserError(f"MLflow, {what}: {first_line(error)}; check {check}, then run again") from error
