"""Finish an evaluation: write rows and files and log to MLflow, from the scores of one or several processes."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from components.evaluate.calibration import reliability_of
from components.evaluate.overlays import write_overlays
from components.evaluate.risk import risk_areas, risk_curves
from components.evaluate.rows import of_all, summarise, summary_figures
from components.evaluate.stream import SplitScores
from components.evaluate.work import Work
from core.cell import CASES, RELIABILITY, RISK, ROC, ROWS, SCORED, SPLIT, SUMMARY
from core.cohort import SPLITS
from core.files import write_folder, write_json
from core.results import ROW_METRICS, Row
from model.curves import roc_curve
from tracking.find import find_run
from tracking.store import answered, connect
from tracking.unsent import send_unsent

if TYPE_CHECKING:
    from mlflow import MlflowClient

ROC_POINTS = 201


def finish(work: Work, scored: Iterable[SplitScores], out: Path) -> list[Row]:
    """Summarise a cell's scores, write the output of evaluate, and log it to the cell's MLflow run.

    Args:
        work: the inputs.
        scored: the scores of each of ``work.splits``, in this order. They are consumed one by one, so an iterator need
            not hold all of them.
        out: output folder.

    Returns:
        The rows of ``rows.json``.

    Raises:
        UserError: an input changed during the evaluation, or MLflow cannot be reached.
    """
    client = connect()
    send_unsent(work.model)
    run_id = find_run(client, work.model)
    cases: list[pd.DataFrame] = []
    rows: list[Row] = []
    for name, found in zip(work.splits, scored, strict=True):  # the last split is test
        for kind, scores in found.scores.items():
            cases.append(scores.cases)
            rows += summarise(scores, work.cell, work.params.bootstrap, work.params.seed)
            print(f"{work.title}: {name}, {kind} masks: {_headline(rows)}", flush=True)
    original = found.scores["original"]
    tested = original.cases
    summary = summary_figures(rows)
    curves = risk_curves(tested)
    risk = risk_areas(curves)
    summary["test"]["original"] |= risk
    work.inputs.require_unchanged(work.title)
    with write_folder(out) as folder:
        write_json(folder / ROWS, rows)
        write_json(folder / SCORED, work.record())
        pd.concat(cases).to_csv(folder / CASES, index=False)
        write_json(folder / SUMMARY, summary)
        write_json(folder / SPLIT, {name: work.ids[name] for name in SPLITS})
        pd.DataFrame(roc_curve(original.histogram(tested), ROC_POINTS)).to_csv(folder / ROC, index=False)
        reliability_of(found.reliability).to_csv(folder / RELIABILITY, index=False)
        curves.to_csv(folder / RISK, index=False)
        write_overlays(folder, work.cohort, work.cohort.rows(work.ids["test"]), found.shown, tested)
    if run_id is None:
        print(f"evaluate: the run that trained {work.model} is not in this MLflow store; the figures are only in {out}")
    else:
        _log(client, run_id, out, rows, risk)
    return rows


def _log(client: MlflowClient, run_id: str, out: Path, rows: list[Row], risk: dict[str, float]) -> None:
    """Log the metrics and files of an evaluation to the cell's MLflow run."""
    from mlflow.entities import Metric

    figures = {
        f"{row['split']}.{row['masks']}.{name}": row[name]  # type: ignore[literal-required]
        for row in filter(of_all, rows)
        for name in ROW_METRICS
    }
    figures |= {f"test.original.{name}": value for name, value in risk.items()}
    now = int(time.time() * 1000)
    metrics = [Metric(name, value, now, 0) for name, value in figures.items() if value is not None]
    with answered(f"run {run_id}"):
        client.log_batch(run_id, metrics)  # all or none of them
        client.log_artifacts(run_id, str(out), "evaluation")


def _headline(rows: list[Row]) -> str:
    row = next(filter(of_all, reversed(rows)))
    low, high = row["dice_ci95"] or (float("nan"), float("nan"))
    return f"{row['n_images']} images, mean Dice {row['dice']:.4f} (95 % {low:.4f} to {high:.4f})"
