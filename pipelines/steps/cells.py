"""The steps of each cell, and gather, which collects the results of all cells."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from core.cell import ROC, SUMMARY, Cell
from core.files import read_json, write_json
from pipelines.archives import unpack
from pipelines.artifacts import (
    Archive,
    Artifact,
    ClassificationMetrics,
    Dataset,
    Input,
    Metrics,
    Model,
    Output,
)
from pipelines.steps.data import ARRAYS, SPLITS
from pipelines.tasks import CELL, cells_of, in_processes, section

if TYPE_CHECKING:
    from components.evaluate import Work

# Outputs of gather: the list of cells in the matrix's order, and one folder per cell of each kind.
CELLS, EVALUATIONS, MODELS = "cells.json", "evaluations", "models"


def train(
    cell: str,
    arrays: Input[Archive[Dataset]],
    params: str,
    experiment: str,
    checkpoints: str,
    model: Output[Model],
    training: Output[Metrics],
) -> None:
    """Train one network in one scenario with one seed, in TRAIN_PROCESSES processes.

    Args:
        cell: network/scenario/seed-n.
        arrays: Images and masks as arrays of one size, and the splits.
        params: Section train of params.yaml as JSON, or by reference.
        experiment: The MLflow experiment.
        checkpoints: A folder on a volume or s3://bucket/prefix for the checkpoints of all cells, so that another
            attempt can resume. Empty writes them next to the model, where another attempt does not find them.
        model: Weights, configuration and history.
        training: The best epoch and its validation Dice.
    """
    from components.train import train
    from components.train.checkpoints import places
    from model.training.recipe import TrainParams

    which = Cell.of(Path(cell))
    beside = Path(model.path).with_name("checkpoints")
    states, remote = places(checkpoints or str(beside), which, beside)
    choices = section(TrainParams, params, "train")
    split = Path(arrays.path) / SPLITS / f"{which.scenario}.json"
    result = in_processes(
        train, which, Path(arrays.path) / ARRAYS, split, choices, experiment, Path(model.path), states, remote
    )
    framework = {"framework": "PyTorch"}
    model.metadata.update(
        framework | {CELL: cell, "network": which.network, "scenario": which.scenario, "seed": which.seed}
    )
    training.metadata[CELL] = cell
    training.log_metric("validation dice", result.validation_dice)
    training.log_metric("epochs", result.epochs)
    training.log_metric("best epoch", result.best_epoch)


def evaluate(
    model: Input[Model],
    arrays: Input[Archive[Dataset]],
    raw: Input[Archive[Dataset]],
    params: str,
    evaluation: Output[Archive[Artifact]],
    test: Output[Metrics],
    roc: Output[ClassificationMetrics],
) -> None:
    """Score a trained network on its splits, against original and dilated masks, at two sizes.

    Args:
        model: Output of train.
        arrays: Images and masks as arrays of one size, and the splits.
        raw: The cohort with the masks at their original size.
        params: Section evaluate of params.yaml as JSON, or by reference.
        evaluation: Rows of every table, one row per image, overlays; and the model, so that the later steps take one
            artifact a cell: their number is limited by the bytes of one argument.
        test: Metrics of the test split, means over images.
        roc: The ROC curve of the test split's pixels.
    """
    from components.evaluate import evaluate

    work = work_of(model, arrays, params)
    evaluate(work, Path(raw.path), Path(evaluation.path) / EVALUATIONS / work.cell.folder)
    present(model, evaluation, test, roc)


def work_of(model: Artifact, arrays: Artifact, params: str) -> Work:
    """Return the inputs of an evaluation, from the artifacts and the section ``evaluate`` that a task is given."""
    from components.evaluate import Work
    from core.params import EvaluateParams

    cell = Cell.of(Path(model.metadata[CELL]))
    split = Path(arrays.path) / SPLITS / f"{cell.scenario}.json"
    choices = section(EvaluateParams, params, "evaluate")
    return Work(cell, Path(arrays.path) / ARRAYS, split, Path(model.path), choices)


def present(model: Artifact, evaluation: Artifact, test: Metrics, roc: ClassificationMetrics) -> None:
    """Complete the outputs of an evaluation that lies in ``evaluation``: the model's copy, the metrics, the curve."""
    import pandas as pd

    name = model.metadata[CELL]
    out = Path(evaluation.path) / EVALUATIONS / name
    shutil.copytree(model.path, Path(evaluation.path) / MODELS / name)
    test.metadata[CELL] = name
    for masks, figures in read_json(out / SUMMARY)["test"].items():
        for metric, value in figures.items():
            if value is not None:
                test.log_metric(f"{metric}, {masks} masks", value)
    curve = pd.read_csv(out / ROC)
    roc.log_roc_curve(curve["fpr"].tolist(), curve["tpr"].tolist(), curve["threshold"].tolist())


def train_and_evaluate(
    cell: str,
    arrays: Input[Archive[Dataset]],
    raw: Input[Archive[Dataset]],
    params: str,
    scoring: str,
    experiment: str,
    checkpoints: str,
    model: Output[Model],
    training: Output[Metrics],
    evaluation: Output[Archive[Artifact]],
    test: Output[Metrics],
    roc: Output[ClassificationMetrics],
) -> None:
    """Train one network in one scenario with one seed and score it, in one pod.

    Args:
        cell: network/scenario/seed-n.
        arrays: Images and masks as arrays of one size, and the splits.
        raw: The cohort with the masks at their original size.
        params: Section train of params.yaml as JSON, or by reference.
        scoring: Section evaluate of params.yaml as JSON, or by reference.
        experiment: The MLflow experiment.
        checkpoints: As for train.
        model: Weights, configuration and history.
        training: The best epoch and its validation Dice.
        evaluation: As of evaluate.
        test: Metrics of the test split, means over images.
        roc: The ROC curve of the test split's pixels.
    """
    train(cell, arrays, params, experiment, checkpoints, model, training)
    evaluate(model, arrays, raw, scoring, evaluation, test, roc)


def gather(matrix: str, evaluations: Input[list[Artifact]], gathered: Output[Archive[Artifact]]) -> None:
    """Put the evaluations and models of all cells into one artifact for the later steps.

    Args:
        matrix: Section of params.yaml as JSON: the order of the cells.
        evaluations: Outputs of evaluate or merge_evaluation, one per cell.
        gathered: All models and evaluations.
    """
    from core.params import Matrix

    out, cells = Path(gathered.path), cells_of(section(Matrix, matrix, "matrix"))
    for evaluation in evaluations:
        unpack(Path(evaluation.path), out)
    write_json(out / CELLS, cells)
    gathered.metadata["cells"] = len(cells)
