"""Sending a journal's records to MLflow: each once, with the time at which it was written."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from core.errors import UserError
from tracking.journal import ARTIFACT, DATA, EPOCH, PARAMS, RUNNING, STATUS, SYSTEM, TAGS, Journal
from tracking.store import LOCAL_STORE, TRAINING, connect, first_line, store_name, without_password

if TYPE_CHECKING:
    from mlflow import MlflowClient

METRICS = (EPOCH, SYSTEM)
AT_ONCE = 50  # records of metrics in one request; MLflow itself splits more than 1000 values
BAD_REQUEST, NOT_FOUND = 400, 404
NEVER = (BAD_REQUEST, 401, 403)  # what an HTTP server answers to settings that no waiting puts right


class Sender:
    """Sends one journal, in as many attempts as it takes; another run of the store is never touched.

    MLflow's run is the one that bears the training's mark, else a new one, so that a request whose answer got lost,
    or a whole journal, may be sent again.
    """

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.run_id = ""
        self._client: MlflowClient | None = None
        self._steps: dict[str, set[int]] = {}  # by metric, the epochs that the run had before it was taken up
        self._taken_up = self._refused = False

    def send(self) -> None:
        """Send all that has not been sent.

        Raises:
            UserError, MlflowException, OSError, SQLAlchemyError: not all could be sent; the rest waits.
        """
        from mlflow.exceptions import MlflowException

        try:
            client = self._client or self._open()
            while pending := self.journal.pending:
                count = next((i for i, record in enumerate(pending) if record["kind"] not in METRICS), len(pending))
                batch = pending[: min(max(count, 1), AT_ONCE)]
                try:
                    self._send(client, batch)
                except MlflowException as error:
                    if error.get_http_status_code() != BAD_REQUEST:
                        raise
                    self._tell_refusal(batch[0], error)
                self.journal.acknowledge(self.run_id, self.journal.sent + len(batch))
        except MlflowException as error:
            if error.get_http_status_code() == NOT_FOUND:  # another database behind the same address
                self._client = None
            raise

    def _open(self) -> MlflowClient:
        """Find the training's run, or start it."""
        run = self.journal.run
        client = connect(run["experiment"])
        experiment = client.get_experiment_by_name(run["experiment"]).experiment_id
        mark = f"tags.{TRAINING} = '{run['training']}'"
        found = client.search_runs([experiment], mark)
        if not found:
            client.create_run(experiment, run["time"], run["tags"] | {TRAINING: run["training"]}, run["name"])
            found = client.search_runs([experiment], mark)
            self._taken_up = len(found) > 1
        else:
            self._taken_up = True
        # An answer may be lost and its run made all the same: of several the one that has records is kept.
        kept = max(found, key=lambda run: (run.info.run_id == self.journal.run_id, len(run.data.metrics)))
        for other in found:
            if other is not kept and not other.data.metrics:
                client.delete_run(other.info.run_id)
        self.run_id = kept.info.run_id
        if self.journal.run_id != self.run_id:
            self.journal.acknowledge(self.run_id, 0)
        self._client = client
        return client

    def _send(self, client: MlflowClient, batch: list[dict[str, Any]]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag

        first, run_id = batch[0], self.run_id
        kind, values = first["kind"], first.get("values", {})
        if kind in METRICS:
            metrics = [
                Metric(name, value, record["time"], record["step"])
                for record in batch
                if not self._has(client, record)
                for name, value in record["values"].items()
            ]
            client.log_batch(run_id, metrics=metrics)
        elif kind == PARAMS:
            client.log_batch(run_id, params=[Param(name, str(value)) for name, value in values.items()])
        elif kind == TAGS:
            client.log_batch(run_id, tags=[RunTag(name, str(value)) for name, value in values.items()])
        elif kind == DATA:
            context = InputTag("mlflow.data.context", first["context"])
            client.log_inputs(run_id, [DatasetInput(Dataset(**values), [context])])
        elif kind == ARTIFACT:
            client.log_text(run_id, first["text"], first["file"])
        elif kind == STATUS and first["status"] == RUNNING:
            # A new run is running from its start, and a request that a slow server answers too late would undo the end.
            if self._taken_up:
                client.update_run(run_id, RUNNING)
        elif kind == STATUS:
            client.set_terminated(run_id, first["status"], first["time"])
        else:
            raise UserError(f"{self.journal.path}: a record of unknown kind {kind!r}; a newer version wrote it")

    def _has(self, client: MlflowClient, record: dict[str, Any]) -> bool:
        """Tell whether a run that was taken up has an epoch already: learnt again, it is logged once."""
        if not self._taken_up or record["kind"] != EPOCH:
            return False
        name = next(iter(record["values"]))
        if name not in self._steps:
            self._steps[name] = {metric.step for metric in client.get_metric_history(self.run_id, name)}
        return record["step"] in self._steps[name]

    def _tell_refusal(self, record: dict[str, Any], error: Exception) -> None:
        if not self._refused:
            self._refused = True
            text = without_password(str(error))
            tell(f"warning: MLflow, {store_name()}: refuses a record ({record['kind']}), which is left out: {text}")


def tell(message: str) -> None:
    """Print one line beside the training's own."""
    print(" ".join(message.split()), file=sys.stderr, flush=True)


def reason(error: BaseException) -> str:
    """Return what lies behind an error, in one line and without passwords."""
    return first_line(error.__cause__ or error)


def is_local() -> bool:
    """Tell a database file from a server."""
    return store_name().startswith(LOCAL_STORE.partition(":")[0])


def is_lasting(error: BaseException) -> bool:
    """Tell a mistake in the settings, which no waiting puts right, from a server that is down."""
    from mlflow.exceptions import MlflowException

    cause = error.__cause__ or error
    if is_local():
        return "database is locked" not in str(cause)
    return isinstance(cause, MlflowException) and cause.get_http_status_code() in NEVER
