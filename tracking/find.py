"""Find the MLflow run of a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import UserError
from core.runs import read_run
from tracking.store import TRAINING, first_line

if TYPE_CHECKING:
    from mlflow import MlflowClient


def find_run(client: MlflowClient, folder: Path) -> str | None:
    """Return the id of the MLflow run that trained the model in ``folder``; None if this store does not have it.

    A model from a DVC remote has no record of its run (:func:`core.runs.read_run`), and a model from a container may
    have been tracked in another store. If the server was down during training, the run was created later
    (:func:`tracking.unsent.send_unsent`) and is found by its mark.

    Raises:
        UserError: the store does not answer.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode

    record = read_run(folder)
    if not record:
        return None
    try:
        if record["mlflow_run_id"] is None:
            return _find_marked(client, record["mlflow_training"])
        run_id = str(record["mlflow_run_id"])
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
            raise UserError(f"MLflow: {first_line(error)}; check MLFLOW_TRACKING_URI and run again") from error
        return None
    # A deleted run accepts no more data.
    return run_id if run.info.lifecycle_stage == "active" else None


def _find_marked(client: MlflowClient, mark: str) -> str | None:
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiments, f"tags.{TRAINING} = '{mark}'", max_results=1)
    return str(runs[0].info.run_id) if runs else None
