"""The MLflow run of one training, taken up again when the training is.

Everything is written to a journal beside the training's state first and sent from there, so that neither a server that
is down nor one that hangs ends or holds up a training (``tracking``).
"""

from __future__ import annotations

import uuid
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from core.cell import HISTORY, RUN, Cell
from core.errors import UserError
from core.provenance import data_md5, git_state
from model.weights import CONFIG
from tracking.background import REQUESTS, Courier
from tracking.journal import ARTIFACT, DATA, EPOCH, FINISHED, LIVE, PARAMS, RUNNING, STATUS, SYSTEM, TAGS, Journal
from tracking.leftovers import command
from tracking.sender import reason, tell
from tracking.store import TRAINING, flat, patience, store_name
from tracking.system import Watch

if TYPE_CHECKING:
    from core.cohort import Arrays


class TrackedRun:
    """An MLflow run that ends as FINISHED, FAILED or, interrupted, KILLED; a resumed training goes on in its own.

    Args:
        cell: names the run.
        experiment: MLflow's experiment.
        config: what is logged as parameters.
        fingerprint: of the training; the run is taken up again only by a training with the same one.
        checkpoints: where the journal is kept, beside the training's state.
        remote: ``s3://bucket/prefix`` that gets a copy of both; empty: none does.
    """

    def __init__(
        self, cell: Cell, experiment: str, config: dict[str, Any], fingerprint: str, checkpoints: Path, remote: str = ""
    ) -> None:
        self.cell, self.experiment, self.config, self.fingerprint = cell, experiment, config, fingerprint
        self.checkpoints, self.place = checkpoints, remote or str(checkpoints)

    def __enter__(self) -> Self:
        """Start the run, or the unfinished one of a killed training again.

        Raises:
            UserError: what MLFLOW_TRACKING_URI says can never work. A server that is down is no error.
        """
        with ExitStack() as limits:
            limits.enter_context(patience(REQUESTS))
            self.journal, resumed = self._open()
            self.journal.add(STATUS, status=RUNNING)
            self._describe()
            self.courier = Courier(self.journal)
            try:
                self.courier.start()
            except UserError:
                if not resumed:
                    self.journal.path.unlink()
                raise
            self._limits = limits.pop_all()
        measured = [record["step"] for record in self.journal.records if record["kind"] == SYSTEM]
        self._watch = Watch(self._log_system, max(measured, default=-1) + 1)
        self._watch.start()
        return self

    @property
    def record(self) -> dict[str, str | None]:
        """What ``run.json`` says of the tracking: the run, its mark, and where records lie if they were not sent."""
        run_id = self.courier.sender.run_id or None
        mark, left = self.journal.run[TRAINING], str(self.journal.left)
        return {"mlflow_run_id": run_id, "mlflow_training": mark, "mlflow_records": left}

    def _open(self) -> tuple[Journal, bool]:
        """Return this training's journal and whether an earlier attempt has begun it."""
        path = self.checkpoints / LIVE
        if path.exists():
            try:
                journal = Journal(path)
            except UserError as error:
                tell(f"warning: {error}; it was given another name, and a new run begins")
                path.rename(path.with_name(f"{LIVE}.damaged-{uuid.uuid4().hex[:8]}"))
            else:
                if journal.run["fingerprint"] == self.fingerprint and not journal.finished:
                    return journal, True
                journal.lay_aside()
        from mlflow.tracking.context.registry import resolve_tags

        run = {
            # On disk before MLflow's run exists and in it from its first moment, so that no kill orphans one.
            TRAINING: uuid.uuid4().hex,
            "fingerprint": self.fingerprint,
            "experiment": self.experiment,
            "name": f"{self.cell.network} {self.cell.scenario} seed {self.cell.seed}",
            "tags": resolve_tags(),
        }
        return Journal.begin(path, **run), False

    def _describe(self) -> None:
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
        self.journal.add(TAGS, values=tags)
        params = {name: value for name, value in flat(self.config).items() if not name.startswith("cohort.")}
        if not self.journal.has(PARAMS, "values", params):
            self.journal.add(PARAMS, values=params)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the run with the state that the training ended in; what cannot be sent is kept, and said how to send."""
        self._watch.stop()
        status = FINISHED if kind is None else "KILLED" if issubclass(kind, KeyboardInterrupt) else "FAILED"
        try:
            self.journal.add(STATUS, status=status)
            sent = self.courier.finish()
        finally:
            self._limits.close()
        if kind is None:
            self.journal.lay_aside()
        if not sent:
            trouble = self.courier.trouble
            tell(
                f"warning: MLflow, {store_name()}: {reason(trouble) if trouble else 'too slow'}; what was not sent is "
                f"kept in {self.journal.path}: to send it when the server is back, run {command(self.place)}"
            )

    def log_data(self, cohort: Arrays, splits: dict[str, list[str]]) -> None:
        """Log the manifest's rows of each split as MLflow data sets, by digest, with the cohort's name."""
        import mlflow.data
        from mlflow.data.code_dataset_source import CodeDatasetSource

        for name, ids in splits.items():
            if self.journal.has(DATA, "context", name):
                continue
            rows = cohort.manifest.iloc[cohort.rows(ids)][["id", "site", "label", "pixel_sha256", "mask_sha256"]]
            frame = rows.reset_index(drop=True).astype(object)
            source = CodeDatasetSource(
                {"manifest.sha256": cohort.info["manifest_sha256"], "data.md5": data_md5() or ""}
            )
            data = mlflow.data.from_pandas(frame, source=source, name=f"{cohort.card['name']} {name}"[:500])
            self._add(DATA, context=name, values=data.to_dict())

    def log_epoch(self, row: dict[str, float]) -> None:
        """Log one row of the history as metrics; its step is the epoch, from 1, and each is logged once."""
        step = int(row["epoch"])
        if not self.journal.has(EPOCH, "step", step):
            self._add(EPOCH, values={name: value for name, value in row.items() if name != "epoch"}, step=step)

    def _log_system(self, figures: dict[str, float], number: int) -> None:
        self._add(SYSTEM, values=figures, step=number)

    def finish(self, out: Path, history: list[dict[str, float]], best: dict[str, float]) -> None:
        """Log the epochs that a kill kept from being logged, the best epoch's figures, and ``out``'s small files."""
        for row in history:
            self.log_epoch(row)
        if not self.journal.has(EPOCH, "step", 0):
            values = {"best_epoch": best["epoch"], "best_validation_dice": best["validation_dice"]}
            for size in {int(row["size"]) for row in history}:
                spent = sum(row["seconds"] for row in history if row["size"] == size)
                values[f"training_seconds_{size}px"] = round(spent, 3)
            self._add(EPOCH, values=values, step=0)
        for name in (CONFIG, HISTORY, RUN):
            self._add(ARTIFACT, file=f"training/{name}", text=(out / name).read_text())

    def _add(self, kind: str, **values: Any) -> None:
        self.journal.add(kind, **values)
        self.courier.wake()
