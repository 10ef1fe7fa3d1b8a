"""Send the record of a training run to MLflow: everything that the MLflow run lacks, nothing twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.masking import mask
from core.terminal import say
from tracking.record import ARTIFACTS, HISTORY, RUNNING, SYSTEM, lines, read
from tracking.store import BAD_REQUEST, TRAINING, connect, make_experiment, store_name

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

AT_ONCE = 500  # metrics in one request
CONTEXT = "mlflow.data.context"  # MLflow's tag for the use of a data set


def send(folder: Path, went_through: Callable[[], object] = lambda: None) -> str:
    """Send everything that a record's MLflow run lacks, and return the run's id.

    The run's content is read from MLflow first. So nothing is lost or logged twice after a lost response, a kill, with
    a second sender, or if the address leads to another store.

    Args:
        folder: the record.
        went_through: called after each request.

    Raises:
        UserError, MlflowException, OSError, SQLAlchemyError: a request failed; the next call sends the rest.
    """
    from mlflow.exceptions import MlflowException

    about = read(folder)
    client = connect()
    run = _find(client, about)
    for request in _lacking(client, run, about, folder):
        try:
            request()
        except MlflowException as error:
            if error.get_http_status_code() != BAD_REQUEST:
                raise
            text = mask(str(error))
            _tell_once(f"warning: MLflow, {store_name()}: refuses a record, which is left out: {text}")
        went_through()
    return str(run.info.run_id)


def _find(client: MlflowClient, about: dict[str, Any]) -> Run:
    """Return the run with the record's mark, or create it; other runs are never changed."""
    experiment, mark = make_experiment(client, about["experiment"]), about["training"]
    marked = f"tags.{TRAINING} = '{mark}'"
    found = client.search_runs([experiment], marked)
    if not found:
        client.create_run(experiment, about["start_time"], about["tags"] | {TRAINING: mark}, about["name"])
        found = client.search_runs([experiment], marked)
    # A request whose response was lost may have created a run: of several, keep the one with most metrics.
    kept = max(found, key=lambda run: len(run.data.metrics))
    for other in found:
        if other is not kept and not other.data.metrics:
            client.delete_run(other.info.run_id)
    return kept


def _lacking(client: MlflowClient, run: Run, about: dict[str, Any], folder: Path) -> Iterator[Callable[[], object]]:
    """Yield the requests that log what a run lacks; its end time is last."""
    from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag

    has, run_id, status, end = run.data, run.info.run_id, about["status"], about["end_time"]
    log = partial(client.log_batch, run_id)
    if status == RUNNING != run.info.status:
        yield partial(client.update_run, run_id, RUNNING)
    if tags := [RunTag(name, value) for name, value in about["tags"].items() if has.tags.get(name) != value]:
        yield partial(log, tags=tags)
    if params := [Param(name, value) for name, value in about["params"].items() if name not in has.params]:
        yield partial(log, params=params)
    known = {tag.value for given in run.inputs.dataset_inputs for tag in given.tags}
    for context, values in about["datasets"].items():
        if context not in known:
            data = DatasetInput(Dataset(**values), [InputTag(CONTEXT, context)])
            yield partial(client.log_inputs, run_id, [data])
    last = {metric.key: metric.step for metric in has.to_proto().metrics}
    metrics = [
        Metric(name, value, line["time"], line["step"])
        for line in lines(folder / HISTORY) + lines(folder / SYSTEM)
        for name, value in line["values"].items()
        if line["step"] > last.get(name, -1)
    ]
    for first in range(0, len(metrics), AT_ONCE):
        yield partial(log, metrics=metrics[first : first + AT_ONCE])
    # A run with its end time already has the files.
    if status != RUNNING and (status, end) != (run.info.status, run.info.end_time):
        for file in sorted((folder / ARTIFACTS).glob("*")):
            yield partial(client.log_artifact, run_id, str(file), ARTIFACTS)
        yield partial(client.set_terminated, run_id, status, end)


def tell(message: str) -> None:
    """Print a message in one line on standard error."""
    say(" ".join(message.split()))


_tell_once = cache(tell)  # a refused record is refused again at every call
