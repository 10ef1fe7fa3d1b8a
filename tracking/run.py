"""The MLflow run of a training run: values are written to a record, which is sent to MLflow (docs/tracking.md)."""

from __future__ import annotations

import os
import shutil
import uuid
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from core.cell import HISTORY as HISTORY_CSV
from core.cell import RUN, Cell
from core.errors import UserError
from core.files import write_json
from core.inputs import flat
from core.provenance import git_state
from model.weights import CONFIG
from tracking.background import BackgroundSender
from tracking.record import (
    ABOUT,
    ARTIFACTS,
    FINISHED,
    FOLDERS,
    HISTORY,
    KEPT,
    RUNNING,
    SYSTEM,
    append,
    lines,
    now,
    read,
)
from tracking.send import tell
from tracking.store import RETRIES, STEP_RUN, TIMEOUT, reason, store_name
from tracking.system import SystemMetrics
from tracking.unsent import command

if TYPE_CHECKING:
    from core.cohort import Arrays


def describe(
    cell: Cell, experiment: str, config: dict[str, Any], fingerprint: str, cohort: Arrays, splits: dict[str, list[str]]
) -> dict[str, Any]:
    """Return the initial content of a record: experiment, name, fingerprint, tags, parameters and data sets.

    If a platform has started an MLflow run for the step (MLFLOW_RUN_ID), it becomes the parent run.

    Args:
        cell: the cell, which names the run.
        experiment: name of the MLflow experiment.
        config: the parameters to log.
        fingerprint: identifies the training run; an unfinished run with the same fingerprint is resumed.
        cohort: the arrays; their manifest's rows become MLflow data sets, recorded by digest.
        splits: image ids of each data set by its name.
    """
    import mlflow.data
    from mlflow.data.code_dataset_source import CodeDatasetSource
    from mlflow.tracking.context.registry import resolve_tags
    from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

    (commit, dirty), data = git_state(), cohort.info.get("data_md5")
    tags = {
        "network": cell.network,
        "scenario": cell.scenario,
        "seed": cell.seed,
        "synthetic": config["cohort"]["synthetic"],
        "fingerprint": fingerprint,
        "git.commit": commit or "unknown",
        "git.dirty": dirty,
        "data.md5": data or "not pinned",
    }
    if parent := os.environ.get(STEP_RUN):
        tags[MLFLOW_PARENT_RUN_ID] = parent
    source = CodeDatasetSource({"manifest.sha256": cohort.info["manifest_sha256"], "data.md5": data or ""})
    datasets = {}
    for name, ids in splits.items():
        rows = cohort.manifest.iloc[cohort.rows(ids)][["id", "site", "label", "pixel_sha256", "mask_sha256"]]
        frame = rows.reset_index(drop=True).astype(object)
        title = f"{cohort.card['name']} {name}"[:500]
        datasets[name] = mlflow.data.from_pandas(frame, source=source, name=title).to_dict()
    return {
        "experiment": experiment,
        "name": f"{cell.network} {cell.scenario} seed {cell.seed}",
        "fingerprint": fingerprint,
        "tags": {name: str(value) for name, value in (resolve_tags() | tags).items()},
        "params": {name: str(value) for name, value in flat(config).items() if not name.startswith("cohort.")},
        "datasets": datasets,
    }


class TrackedRun:
    """The MLflow run of a training run. It ends as FINISHED, FAILED or, if interrupted, KILLED; a resume continues it.

    Args:
        about: result of :func:`describe`.
        checkpoints: folder of the checkpoint and of the record.
        remote: ``s3://bucket/prefix`` with a copy of both, for messages; empty: no copy.
    """

    def __init__(self, about: dict[str, Any], checkpoints: Path, remote: str = "") -> None:
        # The mark is on disk before the MLflow run is created, so that a kill leaves no run without a record.
        self._about = {"training": uuid.uuid4().hex, "start_time": now(), **about}
        self._checkpoints, self._place = checkpoints, remote or str(checkpoints)

    def __enter__(self) -> Self:
        """Start a run, or resume the unfinished one of a killed training run.

        Raises:
            UserError: the address or the credentials are wrong. A server that is down is not an error.
        """
        # MLflow's client reads its limits only from the environment. The background sender does its own retries.
        os.environ.setdefault(RETRIES, "0")
        os.environ.setdefault(TIMEOUT, "10")
        earlier = self._earlier()
        self.folder = self._checkpoints / FOLDERS.replace("*", self._about["training"])
        self._log_status(RUNNING, None)
        self._steps = {line["step"] for line in lines(self.folder / HISTORY)}
        self._sender = BackgroundSender(self.folder, [folder for folder in earlier if folder != self.folder])
        try:
            self._sender.start()
        except UserError:
            if self.folder not in earlier:
                shutil.rmtree(self.folder, ignore_errors=True)
            raise
        self._system = SystemMetrics(self.folder / SYSTEM, self._about["start_time"])
        self._system.start()
        return self

    def _earlier(self) -> list[Path]:
        """Return the unsent records of earlier training runs; adopt the mark of the one that this run resumes."""
        found = []
        for folder in sorted(self._checkpoints.glob(FOLDERS)):
            if not (folder / ABOUT).exists():  # a kill interrupted its removal
                shutil.rmtree(folder, ignore_errors=True)
                continue
            try:
                about = read(folder)
            except UserError as error:
                tell(f"warning: {error}")
                continue
            found.append(folder)
            # A finished run whose record is not marked as kept was killed while it sent the last data.
            unfinished = about["status"] != FINISHED or not about.get(KEPT)
            if about["fingerprint"] == self._about["fingerprint"] and unfinished:
                self._about |= {name: about[name] for name in ("training", "start_time")}
        return found + self._left_by_others()

    def _left_by_others(self) -> list[Path]:
        """Return the unsent records of the cell's other training runs that have finished; others may still run."""
        found = []
        for folder in sorted(self._checkpoints.parent.glob(f"*/{FOLDERS}")):
            if folder.parent != self._checkpoints:
                with suppress(UserError):  # damaged, or just sent and removed; its own training run reports it
                    about = read(folder)
                    found += [folder] if about["status"] == FINISHED and about.get(KEPT) else []
        return found

    @property
    def record(self) -> dict[str, str | None]:
        """The tracking fields of ``run.json``: MLflow run id, mark, and the record's folder (removed once sent)."""
        run_id, mark = self._sender.run_id, self._about["training"]
        return {"mlflow_run_id": run_id, "mlflow_training": mark, "mlflow_records": str(self.folder)}

    def log_epoch(self, row: dict[str, float]) -> None:
        """Log one row of the history as metrics. The step is the epoch, from 1; each epoch is logged once."""
        self._log(int(row["epoch"]), {name: value for name, value in row.items() if name != "epoch"})

    def finish(self, out: Path, history: list[dict[str, float]], best: dict[str, float]) -> None:
        """Log the best epoch, the training seconds by image size, and the small files of ``out`` as artifacts."""
        values = {"best_epoch": best["epoch"], "best_validation_dice": best["validation_dice"]}
        for size in {int(row["size"]) for row in history}:
            spent = sum(row["seconds"] for row in history if row["size"] == size)
            values[f"training_seconds_{size}px"] = round(spent, 3)
        self._log(0, values)
        (self.folder / ARTIFACTS).mkdir(exist_ok=True)
        for name in (CONFIG, HISTORY_CSV, RUN):
            shutil.copy(out / name, self.folder / ARTIFACTS)

    def _log(self, step: int, values: dict[str, float]) -> None:
        if step not in self._steps:
            append(self.folder / HISTORY, step, values)
            self._steps.add(step)
            self._sender.wake()

    def _log_status(self, status: str, end_time: int | None, kept: bool = False) -> None:
        write_json(self.folder / ABOUT, self._about | {"status": status, "end_time": end_time, KEPT: kept})

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the run with the training run's status; if data is unsent, print the command that sends it."""
        self._system.stop()
        status = FINISHED if kind is None else "KILLED" if issubclass(kind, KeyboardInterrupt) else "FAILED"
        end = now()
        self._log_status(status, end)
        if not self._sender.finish():
            self._log_status(status, end, kept=True)
            why = reason(self._sender.trouble) if self._sender.trouble else "too slow"
            tell(
                f"warning: MLflow, {store_name()}: {why}; what was not sent is kept in {self.folder}: to send it when "
                f"the server is back, run {command(self._place)}"
            )
        elif kind is None:
            shutil.rmtree(self.folder, ignore_errors=True)
