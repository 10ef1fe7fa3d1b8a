"""MLflow, as every step uses it: one run for each trained cell, from its first epoch to its registered version."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.errors import UserError
from components.files import read_json
from components.results import RUN

if TYPE_CHECKING:
    from mlflow import MlflowClient

LOCAL_STORE = "sqlite:///mlflow.db"


def connect(experiment: str | None = None) -> MlflowClient:
    """Return a client of the store that MLFLOW_TRACKING_URI names, else the local database.

    Args:
        experiment: made the active one, and created where it does not exist.

    Raises:
        UserError: the store cannot be reached.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import mlflow
    from sqlalchemy.exc import SQLAlchemyError

    # Its notes on tables it creates and threads it starts drown the steps' own lines; warnings stay.
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    uri = os.environ.get("MLFLOW_TRACKING_URI") or LOCAL_STORE
    mlflow.set_tracking_uri(uri)
    try:
        with explained(uri):
            if experiment is not None:
                mlflow.set_experiment(experiment)
            return mlflow.MlflowClient()
    except (OSError, SQLAlchemyError) as error:
        first_line = str(error).splitlines()[0]
        raise UserError(f"MLflow, {uri}: {first_line}; check MLFLOW_TRACKING_URI, then run again") from error


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn MLflow's own errors inside the block into a :class:`UserError` that names the store or the model."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        first_line = str(error).splitlines()[0]
        missing = error.error_code == "RESOURCE_DOES_NOT_EXIST"
        check = "the name, the version and MLFLOW_TRACKING_URI" if missing else "MLFLOW_TRACKING_URI and the server"
        raise UserError(f"MLflow, {what}: {first_line}; check {check}, then run again") from error


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested parameters as MLflow shows them: ``augmentation.rotation`` and so on."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            result |= flat(value, f"{prefix}{key}.")
        else:
            result[f"{prefix}{key}"] = value
    return result


def find_run(client: MlflowClient, folder: Path) -> str | None:
    """Return the id of the run that trained the model in ``folder``, None where this store does not know it.

    A model that came from a DVC remote, or out of a container, may have been tracked elsewhere.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode

    run_id = str(read_json(folder / RUN)["mlflow_run_id"])
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
            raise UserError(f"MLflow: {str(error).splitlines()[0]}; check MLFLOW_TRACKING_URI and run again") from error
        return None
    # A run that someone has deleted takes nothing more.
    return run_id if run.info.lifecycle_stage == "active" else None
