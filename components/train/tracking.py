"""The MLflow run of one training, taken up again when the training is."""

from __future__ import annotations

import uuid
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from components.files import read_json, write_json
from components.provenance import data_md5, git_state
from components.results import CONFIG, HISTORY, RUN, Cell
from components.tracking import connect, flat

if TYPE_CHECKING:
    from components.cohort import Arrays

SYSTEM_METRICS_SECONDS = 5
NOTE = "mlflow.json"  # beside the training's state
TRAINING = "training"  # the tag by which a killed training finds its run again


class TrackedRun:
    """An MLflow run that ends as FINISHED, FAILED or, interrupted, KILLED; a resumed training goes on in its own.

    Args:
        cell: names the run.
        experiment: MLflow's experiment.
        config: what is logged as parameters.
        fingerprint: of the training; the run is taken up again only by a training with the same one.
        checkpoints: where the training's mark is kept beside its state.
    """

    def __init__(
        self, cell: Cell, experiment: str, config: dict[str, Any], fingerprint: str, checkpoints: Path
    ) -> None:
        self.cell, self.experiment, self.config, self.fingerprint = cell, experiment, config, fingerprint
        self.note = checkpoints / NOTE
        self.run_id = ""
        self.logged: set[int] = set()

    def __enter__(self) -> Self:
        """Start the run, or the unfinished one of a killed training again."""
        self.client = connect(self.experiment)
        import mlflow

        mlflow.set_system_metrics_sampling_interval(SYSTEM_METRICS_SECONDS)
        # The mark is on disk before the run exists and in the run from its first moment, so that no kill orphans one.
        mark = self._mark()
        unfinished = self._unfinished_run(mark)
        name = None if unfinished else f"{self.cell.network} {self.cell.scenario} seed {self.cell.seed}"
        run = mlflow.start_run(run_id=unfinished, run_name=name, tags={TRAINING: mark}, log_system_metrics=True)
        self.run_id = run.info.run_id
        try:
            self._describe()
        except BaseException:
            mlflow.end_run("FAILED")
            raise
        return self

    def _describe(self) -> None:
        import mlflow

        commit, dirty = git_state()
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
        mlflow.log_params({k: v for k, v in flat(self.config).items() if not k.startswith("cohort.")})
        self.logged = {metric.step for metric in self.client.get_metric_history(self.run_id, "train_loss")}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the run with the state that the training ended in."""
        import mlflow

        status = "FINISHED" if kind is None else "KILLED" if issubclass(kind, KeyboardInterrupt) else "FAILED"
        mlflow.end_run(status)
        if kind is None:
            self.note.unlink()

    def _mark(self) -> str:
        if self.note.exists():
            note = read_json(self.note)
            if note.get("fingerprint") == self.fingerprint and TRAINING in note:
                return str(note[TRAINING])
        mark = uuid.uuid4().hex
        write_json(self.note, {"fingerprint": self.fingerprint, TRAINING: mark})
        return mark

    def _unfinished_run(self, mark: str) -> str | None:
        experiment = self.client.get_experiment_by_name(self.experiment)
        runs = self.client.search_runs([experiment.experiment_id], f"tags.{TRAINING} = '{mark}'")
        return next((run.info.run_id for run in runs if run.info.status != "FINISHED"), None)

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
        """Log one row of the history as metrics; its step is the epoch, from 1, and each is logged once."""
        import mlflow

        step = int(row["epoch"])
        if step not in self.logged:
            mlflow.log_metrics({k: v for k, v in row.items() if k != "epoch"}, step=step)
            self.logged.add(step)

    def finish(self, out: Path, history: list[dict[str, float]], best: dict[str, float]) -> None:
        """Log the epochs that a kill kept from being logged, the best epoch's figures, and ``out``'s small files."""
        import mlflow

        for row in history:
            self.log_epoch(row)
        mlflow.log_metrics({"best_epoch": best["epoch"], "best_validation_dice": best["validation_dice"]})
        for name in (CONFIG, HISTORY, RUN):
            mlflow.log_artifact(str(out / name), "training")
