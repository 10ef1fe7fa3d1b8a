"""Score one trained cell on all its splits, against original and dilated masks."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from components.cohort import Arrays, read_split
from components.errors import UserError
from components.evaluate.calibration import reliability
from components.evaluate.overlays import write_overlays
from components.evaluate.rows import score_cases, summarise, summary_figures
from components.files import read_json, write_folder, write_json
from components.params import EvaluateParams
from components.results import CASES, CONFIG, RELIABILITY, ROC, ROWS, SUMMARY, Cell, Row
from components.tracking import connect, explained, find_run
from model.postprocessing import to_masks

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from model.predictor import InputConfig

ROC_POINTS = 201


def evaluate(cell: Cell, arrays: Path, split: Path, model: Path, params: EvaluateParams, out: Path) -> list[Row]:
    """Score a cell and leave its rows, one line an image, the ROC and reliability curves and overlays.

    Args:
        cell: which network, scenario and seed.
        arrays: the preprocessed cohort.
        split: the scenario's frozen split, ``<scenario>.json``.
        model: the folder that training left.
        params: how to score.
        out: the folder to write: ``rows.json``, ``cases.csv``, ``metrics.json``, ``roc.csv``,
            ``reliability.csv``, ``overlays.json`` and ``overlays/``.

    Returns:
        The rows of ``rows.json``: for every split, site, label, kind of masks and reduction.

    Raises:
        UserError: the model or the data are missing or do not belong together, or MLflow cannot be reached.
    """
    import torch

    from model.predictor import Predictor

    cohort, ids = Arrays(arrays), read_split(split, cell.scenario)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        predictor = Predictor.load(model, device)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{model}: not a trained model ({error}); run the train step again") from error
    _check_belongs(cell, model, predictor.input_config, arrays, cohort.info)
    client = connect()
    run_id = find_run(client, model)
    cases: list[pd.DataFrame] = []
    rows: list[Row] = []
    test: dict[str, Any] = {}
    for name, names in ids.items():
        order = cohort.rows(names)
        probabilities = predictor.probabilities(cohort.images[order], params.batch_size, flip=params.flip)
        predicted = to_masks(probabilities, params.threshold, params.largest_components)
        for kind, masks in cohort.masks.items():
            frame = score_cases(cohort.manifest.iloc[order], name, kind, probabilities, predicted, masks[order])
            cases.append(frame)
            rows += summarise(frame, cell, probabilities, masks[order], params.bootstrap, params.seed)
            print(f"evaluate {cell.folder}: {name}, {kind} masks: {_headline(rows)}", flush=True)
        if name == "test":
            test = {
                "order": order,
                "probabilities": probabilities,
                "predicted": predicted,
                "cases": cases[-len(cohort.masks)],
            }
    with write_folder(out) as folder:
        write_json(folder / ROWS, rows)
        pd.concat(cases).to_csv(folder / CASES, index=False)
        write_json(folder / SUMMARY, summary_figures(rows))
        truth = cohort.masks["original"][test["order"]]
        _roc(test["probabilities"], truth).to_csv(folder / ROC, index=False)
        reliability(test["probabilities"], truth).to_csv(folder / RELIABILITY, index=False)
        write_overlays(folder, cohort, test["order"], test["predicted"], test["cases"], params)
    if run_id is None:
        print(f"evaluate: the run that trained {model} is not in this MLflow store; the figures are in {out} alone")
    else:
        _log(client, run_id, out, rows)
    return rows


def _check_belongs(cell: Cell, model: Path, trained: InputConfig, arrays: Path, info: dict[str, Any]) -> None:
    config = read_json(model / CONFIG)
    if (held := Cell(config["network"], config["scenario"], config["seed"])) != cell:
        raise UserError(f"{model}: holds the model of {held.folder}, not of {cell.folder}; run the train step again")
    for name, value in asdict(trained).items():
        if value != (given := tuple(info[name]) if isinstance(info[name], list) else info[name]):
            raise UserError(f"{model}: trained with {name} {value}, but {arrays} has {given}; run the train step again")


def _log(client: MlflowClient, run_id: str, out: Path, rows: list[Row]) -> None:
    """Add the figures and files of an evaluation to the MLflow run that trained the model."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    metrics = [
        Metric(f"{split}.{kind}.{name}", value, now, 0)
        for split, kinds in summary_figures(rows).items()
        for kind, figures in kinds.items()
        for name, value in figures.items()
        if value is not None
    ]
    with explained(f"run {run_id}"):
        client.log_batch(run_id, metrics)  # all or none of them
        client.log_artifacts(run_id, str(out), "evaluation")


def _headline(rows: list[Row]) -> str:
    row = next(r for r in reversed(rows) if (r["site"], r["label"], r["reduction"]) == ("all", "all", "per_image"))
    low, high = row["dice_ci95"] or (float("nan"), float("nan"))
    return f"{row['n_images']} images, mean Dice {row['dice']:.4f} (95 % {low:.4f} to {high:.4f})"


def _roc(probabilities: np.ndarray, masks: np.ndarray) -> pd.DataFrame:
    """Return the ROC curve of all pixels at evenly spaced false positive rates, few enough to plot.

    Columns: ``fpr`` and ``tpr``, 0 to 1, and ``threshold``, the probability at about which they are reached.
    """
    from sklearn.metrics import roc_curve

    fpr, tpr, thresholds = roc_curve(masks.ravel(), probabilities.ravel())
    at = np.linspace(0, 1, ROC_POINTS)
    # The curve starts at a threshold of infinity, where no pixel is lung; no probability is above 1.
    threshold = np.interp(at, fpr, np.minimum(thresholds, 1.0))
    return pd.DataFrame({"fpr": at, "tpr": np.interp(at, fpr, tpr), "threshold": threshold})
