"""The evaluate step: score a trained cell on its splits, against original and dilated masks, at two sizes."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from components.evaluate.calibration import reliability_of
from components.evaluate.overlays import write_overlays
from components.evaluate.risk import risk_areas, risk_curves
from components.evaluate.rows import of_all, summarise, summary_figures
from components.evaluate.stored import StoredMasks
from components.evaluate.stream import score_split
from core.cell import CASES, PROVENANCE, RELIABILITY, RISK, ROC, ROWS, SCORED, SPLIT, SUMMARY, Cell
from core.cohort import SPLITS, Arrays, read_split
from core.errors import UserError
from core.files import read_json, write_folder, write_json
from core.inputs import Inputs, read_record
from core.params import EvaluateParams
from core.results import ROW_METRICS, Row
from model.curves import roc_curve
from model.weights import CONFIG
from tracking.find import find_run
from tracking.store import answered, connect
from tracking.unsent import send_unsent

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from model.inference.input_config import InputConfig

ROC_POINTS = 201
# The code that determines the results, as in dvc.yaml.
CODE = (
    "components/evaluate",
    "model/inference/engine.py",
    "model/inference/input_config.py",
    "model/inference/postprocessing.py",
    "model/inference/predictor.py",
    "model/networks",
    "model/curves.py",
    "model/inputs.py",
    "model/metrics.py",
    "model/preprocessing.py",
    "model/selective.py",
    "model/surface.py",
    "model/weights.py",
    "core/cell.py",
    "core/cohort.py",
    "core/images.py",
    "core/png.py",
    "core/results.py",
)


def evaluate(
    cell: Cell,
    arrays: Path,
    raw: Path,
    split: Path,
    model: Path,
    params: EvaluateParams,
    out: Path,
    reread: Callable[[], EvaluateParams] | None = None,
) -> list[Row]:
    """Score a cell and write its rows, cases, curves and overlays; ``docs/evaluation.md`` defines the metrics.

    Images are processed in batches; per image only one row of metrics stays in memory.

    Args:
        cell: network, scenario and seed.
        arrays: output of preprocess.
        raw: output of ingest, for the masks at their original size.
        split: the scenario's split, ``<scenario>.json``.
        model: output of train.
        params: section ``evaluate`` of ``params.yaml``.
        out: output folder for ``rows.json``, ``cases.csv``, ``metrics.json``, ``split.json``, ``scored.json``,
            ``roc.csv``, ``reliability.csv``, ``risk_coverage.csv``, ``overlays.json`` and ``overlays/``.
        reread: reads ``params`` again from its file, to detect an edit during the evaluation.

    Returns:
        The rows of ``rows.json``: one per split, group of images, kind of masks and reduction.

    Raises:
        UserError: model or data are missing or do not match, the weights, arrays or split differ from the record of
            training, an input changed during the evaluation, or MLflow cannot be reached.
    """
    import torch

    from model.inference.predictor import Predictor

    cohort, ids = Arrays(arrays), read_split(split, cell.scenario)
    stored = StoredMasks(raw, cohort, arrays, params)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.allow_tf32 = False  # figures do not depend on the machine (docs/training.md, On a GPU)
    try:
        predictor = Predictor.load(model, device)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{model}: not a trained model ({error}); run the train step again") from error
    _check_belongs(cell, model, predictor.input_config, arrays, cohort.info)
    inputs = _inputs(model, arrays, split, params, reread)
    client = connect()
    send_unsent(model)
    run_id = find_run(client, model)
    cases: list[pd.DataFrame] = []
    rows: list[Row] = []
    for name in (name for name in SPLITS if name in params.splits):  # the last of them is test
        found = score_split(predictor, model, cohort, stored, name, ids[name])
        for kind, scores in found.scores.items():
            cases.append(scores.cases)
            rows += summarise(scores, cell, params.bootstrap, params.seed)
            print(f"evaluate {cell.folder}: {name}, {kind} masks: {_headline(rows)}", flush=True)
    original = found.scores["original"]
    tested = original.cases
    summary = summary_figures(rows)
    summary["test"]["original"] |= risk_areas(tested)
    inputs.require_unchanged(f"evaluate {cell.folder}")
    with write_folder(out) as folder:
        write_json(folder / ROWS, rows)
        write_json(folder / SCORED, inputs.record(str(cohort.info["manifest_sha256"])))
        pd.concat(cases).to_csv(folder / CASES, index=False)
        write_json(folder / SUMMARY, summary)
        write_json(folder / SPLIT, {name: ids[name] for name in SPLITS})
        pd.DataFrame(roc_curve(original.histogram(tested), ROC_POINTS)).to_csv(folder / ROC, index=False)
        reliability_of(found.reliability).to_csv(folder / RELIABILITY, index=False)
        risk_curves(tested).to_csv(folder / RISK, index=False)
        write_overlays(folder, cohort, cohort.rows(ids["test"]), found.shown, tested)
    if run_id is None:
        print(f"evaluate: the run that trained {model} is not in this MLflow store; the figures are only in {out}")
    else:
        _log(client, run_id, out, rows, risk_areas(tested))
    return rows


def _inputs(
    model: Path, arrays: Path, split: Path, params: EvaluateParams, reread: Callable[[], EvaluateParams] | None
) -> Inputs:
    """Return the inputs of the evaluation, after a check against the record of training.

    Raises:
        UserError: the weights, arrays or split differ from ``provenance.json``.
    """
    from model.weights import WEIGHTS

    trained = read_record(model / PROVENANCE, "train")
    files = {"weights": model / WEIGHTS, "config": model / CONFIG, "split": split}
    files |= {name: arrays / f"{name}.npy" for name in ("images", "masks-original", "masks-dilated")}
    inputs = Inputs(files, CODE, params, reread)
    recorded = {"weights": trained["weights"], "split": trained["files"]["split"], "images": trained["files"]["images"]}
    for name, digest in recorded.items():
        if inputs.files[name] != digest:
            raise UserError(
                f"{files[name]}: not what the training in {model} recorded (sha256 {inputs.files[name][:12]}, recorded "
                f"{digest[:12]}); run `dvc checkout`, or the train step again"
            )
    return inputs


def _check_belongs(cell: Cell, model: Path, trained: InputConfig, arrays: Path, info: dict[str, Any]) -> None:
    config = read_json(model / CONFIG)
    if (held := Cell(config["network"], config["scenario"], config["seed"])) != cell:
        raise UserError(f"{model}: has the model of {held.folder}, not of {cell.folder}; run the train step again")
    if difference := trained.difference(info):
        raise UserError(f"{model}, {arrays}: {difference}; run the train step again")


def _log(client: MlflowClient, run_id: str, out: Path, rows: list[Row], risk: dict[str, float]) -> None:
    """Log the metrics and files of an evaluation to the MLflow run of the training."""
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
