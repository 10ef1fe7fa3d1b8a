"""The MLflow run of one training, taken up again when the training is."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from components.files import write_json
from components.provenance import data_md5, git_state
from components.results import CONFIG, HISTORY, RUN, Cell
from components.tracking import connect, flat

if TYPE_CHECKING:
    from components.cohort import Arrays

SYSTEM_METRICS_SECONDS = 5


class TrackedRun:
    """An MLflow run that ends as FINISHED, FAILED or, interrupted, KILLED; a resumed training goes on in its own.

    Args:
        cell: names the run.
        experiment: MLflow's experiment.
        config: what is logged as parameters.
        fingerprint: of the training; the run is taken up again only by a training with the same one.
        checkpoints: where the run's id is kept beside the training's state.
    """

    def __init__(
        self, cell: Cell, experiment: str, config: dict[str, Any], fingerprint: str, checkpoints: Path
    ) -> None:
        self.cell, self.experiment, self.config, self.fingerprint = cell, experiment, config, fingerprint
        self.note = checkpoints / "mlflow.json"
        self.run_id = ""

    def __enter__(self) -> Self:
        """Start the run, or the unfinished one of a killed training again."""
        self.client = connect(self.experiment)
        import mlflow

        mlflow.set_system_metrics_sampling_interval(SYSTEM_METRICS_SECONDS)
        commit, dirty = git_state()
        unfinished = self._unfinished_run()
        name = f"{self.cell.network} {self.cell.scenario} seed {self.cell.seed}"
        run = mlflow.start_run(run_id=unfinished, run_name=None if unfinished else name, log_system_metrics=True)
        self.run_id = run.info.run_id
        write_json(self.note, {"fingerprint": self.fingerprint, "run_id": self.run_id})
        tags = {
            "network": self.cell.network,
            "scenario": self.cell.scenario,
            "seed": self.cell.seed,
            "synthetic": self.config["cohort"]["synthetic"],
            "fingerprint": self.fingerprint,
            "git.commit": commit or "unknown",
            "git.dirty": dirty,
            "data.md5": data_md5() or "not pinned",
        }
        mlflow.set_tags(tags)
        if unfinished is None:
            mlflow.log_params({k: v for k, v in flat(self.config).items() if not k.startswith("cohort.")})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the run with the state that the training ended in."""
        import mlflow

        status = "FINISHED" if kind is None else "KILLED" if issubclass(kind, KeyboardInterrupt) else "FAILED"
        mlflow.end_run(status)

    def _unfinished_run(self) -> str | None:
        if not self.note.exists():
            return None
        note = json.loads(self.note.read_text())
        if note["fingerprint"] != self.fingerprint:
            return None
        runs = {run.info.run_id: run for run in self._runs()}
        run = runs.get(note["run_id"])
        return run.info.run_id if run is not None and run.info.status != "FINISHED" else None

    def _runs(self) -> list[Any]:
        experiment = self.client.get_experiment_by_name(self.experiment)
        return list(self.client.search_runs([experiment.experiment_id], f"tags.fingerprint = '{self.fingerprint}'"))

    def log_data(self, cohort: Arrays, splits: dict[str, list[str]]) -> None:
        """Log the manifest's rows of each split as MLflow data sets, by digest, with the cohort's name."""
        import mlflow
        import mlflow.data
        from mlflow.data.code_dataset_source import CodeDatasetSource

        for name, ids in splits.items():
            rows = cohort.manifest.iloc[cohort.rows(ids)][["id", "site", "label", "pixel_sha256", "mask_sha256"]]
            frame = rows.reset_index(drop=True).astype(object)
            source = CodeDatasetSource(
                {"manifest.sha256": cohort.info["manifest_sha256"], "data.md5": data_md5() or ""}
            )
            data = mlflow.data.from_pandas(frame, source=source, name=f"{cohort.card['name']} {name}"[:500])
            mlflow.log_input(data, context=name)

    def log_epoch(self, row: dict[str, float]) -> None:
        """Log one row of the history as metrics; its step is the epoch, from 1."""
        import mlflow

        mlflow.log_metrics({k: v for k, v in row.items() if k != "epoch"}, step=int(row["epoch"]))

    def finish(self, out: Path, history: list[dict[str, float]], best: dict[str, float]) -> None:
        """Log the epochs that a kill kept from being logged, the best epoch's figures, and ``out``'s small files."""
        import mlflow

        logged = {metric.step for metric in self.client.get_metric_history(self.run_id, "train_loss")}
        for row in history:
            if int(row["epoch"]) not in logged:
                self.log_epoch(row)
        mlflow.log_metrics({"best_epoch": best["epoch"], "best_validation_dice": best["validation_dice"]})
        for name in (CONFIG, HISTORY, RUN):
            mlflow.log_artifact(str(out / name), "training")
