"""The steps as Kubeflow runs them: each calls its step's function on the artifacts of a task.

:mod:`pipelines.step` runs them in a pod, and :mod:`pipelines.components` declares them to Kubeflow by their signatures
and docstrings. Each imports what it needs itself, since a pod runs one of them.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

from core.cell import ROC, SUMMARY, Cell
from core.files import read_json, write_json
from pipelines.archives import unpack
from pipelines.artifacts import (
    HTML,
    Archive,
    Artifact,
    ClassificationMetrics,
    Dataset,
    Input,
    Markdown,
    Metrics,
    Model,
    Output,
    Status,
)
from pipelines.tasks import CELL, cells_of, from_json, in_processes, reference, section, to_json, whole

# What the arrays' archive holds: the splits as well, so that every later step takes one artifact less.
ARRAYS, SPLITS = "arrays", "splits"
# What gather leaves: the cells in the order of the matrix, and a folder a cell of each kind.
CELLS, EVALUATIONS, MODELS = "cells.json", "evaluations", "models"


class Plan(NamedTuple):
    """Outputs of :func:`plan`; Kubeflow's local runner can loop only over one of the name ``Output``."""

    Output: list[str]
    scenarios: str
    training: str
    scoring: str
    experiment: str
    params: str


def plan(
    ingest: str,
    validate: str,
    preprocess: str,
    scenarios: str,
    matrix: str,
    train: str,
    evaluate: str,
    register: str,
    promotion: str,
    git_commit: str = "",
    image_digest: str = "",
) -> Plan:
    """Validate all parameters before any other step, and list the cells: every network, scenario and seed.

    Args:
        ingest: Section of params.yaml as JSON.
        validate: Section of params.yaml as JSON.
        preprocess: Section of params.yaml as JSON.
        scenarios: Section of params.yaml as JSON.
        matrix: Section of params.yaml as JSON.
        train: Section of params.yaml as JSON.
        evaluate: Section of params.yaml as JSON.
        register: Section of params.yaml as JSON.
        promotion: Section of params.yaml as JSON.
        git_commit: Part of the cache key: other code runs again.
        image_digest: Part of the cache key: another image under the same name runs again.

    Returns:
        Output: The cells, each as network/scenario/seed-n.
        scenarios: The scenarios of the matrix, as JSON.
        training: Section train by reference (:func:`pipelines.tasks.reference`), since every cell carries it.
        scoring: Section evaluate by reference.
        experiment: The MLflow experiment.
        params: All sections, as JSON.
    """
    parts = {name: text for name, text in locals().items() if name not in ("git_commit", "image_digest")}
    params = whole(parts)
    chosen = {name: params.scenarios[name].model_dump(mode="json") for name in params.matrix.scenarios}
    sections = {name: from_json(text, name) for name, text in parts.items()}
    return Plan(
        cells_of(params.matrix),
        to_json(chosen),
        reference(train, "train"),
        reference(evaluate, "evaluate"),
        params.register_.experiment,
        to_json(sections),
    )


def ingest(
    source: str,
    params: str,
    data_md5: str,
    raw: Output[Archive[Dataset]],
    git_commit: str = "",
    image_digest: str = "",
) -> None:
    """Read a cohort in its publishers' layouts and write images, masks and a manifest.

    Args:
        source: A folder, a ZIP file or s3://bucket/prefix.
        params: Section ingest of params.yaml as JSON.
        data_md5: MD5 of the cohort. Part of the cache key: other data run again.
        raw: The raw cohort.
        git_commit: Part of the cache key: other code runs again.
        image_digest: Part of the cache key: another image under the same name runs again.
    """
    from components.ingest import ingest
    from core.params import IngestParams

    result = ingest(source, section(IngestParams, params, "ingest"), Path(raw.path), data_md5)
    images = {f"images {site}": count.images for site, count in result.sites.items()}
    raw.metadata.update({"cohort": result.name, "synthetic": result.synthetic, **images})


def validate(
    raw: Input[Archive[Dataset]], params: str, validation: Output[Artifact], summary: Output[Markdown]
) -> None:
    """Validate the cohort with Great Expectations; a failed expectation stops the run and names the images.

    Args:
        raw: The raw cohort.
        params: Section validate of params.yaml as JSON.
        validation: The result and the Data Docs.
        summary: Every expectation with its result.
    """
    from components.validate import RESULT, validate
    from core.params import ValidateParams
    from pipelines.tasks import validation_table

    validate(Path(raw.path), section(ValidateParams, params, "validate"), Path(validation.path))
    Path(summary.path).write_text(validation_table(Path(validation.path) / RESULT))


def preprocess(
    raw: Input[Archive[Dataset]],
    validation: Input[Artifact],
    params: str,
    scenarios: str,
    arrays: Output[Archive[Dataset]],
    splits: Output[Archive[Dataset]],
) -> None:
    """Resize images and masks to one size, and write the train, validation and test splits.

    Args:
        raw: The raw cohort.
        validation: Output of validate for the same cohort.
        params: Section preprocess of params.yaml as JSON.
        scenarios: The scenarios of this run as JSON.
        arrays: Images and masks as arrays of one size, and the splits.
        splits: One split per scenario.
    """
    from components.preprocess import preprocess
    from core.params import PreprocessParams, Scenario

    choices = section(PreprocessParams, params, "preprocess")
    chosen = {name: Scenario(**values) for name, values in from_json(scenarios, "scenarios").items()}
    paths = (Path(raw.path), Path(validation.path))
    result = preprocess(*paths, choices, chosen, Path(arrays.path) / ARRAYS, Path(splits.path))
    shutil.copytree(splits.path, Path(arrays.path) / SPLITS)
    arrays.metadata.update({"images": result.images, "size": result.size, "dilation kernel": result.kernel})
    splits.metadata.update({f"{name} {split}": n for name, part in result.splits.items() for split, n in part.items()})


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
    import pandas as pd

    from components.evaluate import evaluate
    from core.params import EvaluateParams

    name = model.metadata[CELL]
    cell, out = Cell.of(Path(name)), Path(evaluation.path) / EVALUATIONS / name
    split = Path(arrays.path) / SPLITS / f"{cell.scenario}.json"
    choices = section(EvaluateParams, params, "evaluate")
    evaluate(cell, Path(arrays.path) / ARRAYS, Path(raw.path), split, Path(model.path), choices, out)
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
        evaluations: Outputs of evaluate, one per cell.
        gathered: All models and evaluations.
    """
    from core.params import Matrix

    out, cells = Path(gathered.path), cells_of(section(Matrix, matrix, "matrix"))
    for evaluation in evaluations:
        unpack(Path(evaluation.path), out)
    write_json(out / CELLS, cells)
    gathered.metadata["cells"] = len(cells)


def report(
    gathered: Input[Archive[Artifact]],
    arrays: Input[Archive[Dataset]],
    params: str,
    folder: Output[Artifact],
    page: Output[HTML],
    tables: Output[Markdown],
) -> None:
    """Report all evaluations next to the paper's results: tables, figures, curves, overlays.

    Args:
        gathered: All models and evaluations.
        arrays: Images and masks as arrays of one size, and the splits.
        params: Section evaluate of params.yaml as JSON, with the settings of the comparison of networks.
        folder: results.json, comparisons.json, results.md, index.html and the plots' points.
        page: The report as one self-contained page.
        tables: The tables as Markdown.
    """
    from components.report import MARKDOWN, PAGE, report
    from core.params import EvaluateParams

    out, tree = Path(folder.path), Path(gathered.path)
    choices = section(EvaluateParams, params, "evaluate")
    which = [Cell.of(Path(cell)) for cell in read_json(tree / CELLS)]
    where = (tree / EVALUATIONS, tree / MODELS, Path(arrays.path) / ARRAYS, Path(arrays.path) / SPLITS, out)
    report(*where, which, resamples=choices.bootstrap, seed=choices.seed)
    shutil.copyfile(out / PAGE, page.path)
    shutil.copyfile(out / MARKDOWN, tables.path)


def register(
    gathered: Input[Archive[Artifact]], arrays: Input[Archive[Dataset]], params: str, version: Output[Artifact]
) -> None:
    """Register the best cell as a version in the MLflow model registry with the alias challenger.

    Args:
        gathered: All models and evaluations.
        arrays: Images and masks as arrays of one size, for the input example.
        params: All sections of params.yaml as JSON.
        version: The registered version as JSON.
    """
    from dataclasses import asdict

    from components.register import register
    from core.params import check

    tree = Path(gathered.path)
    choices = check(from_json(params, "params"), "pipeline parameters")
    done = register(tree / MODELS, tree / EVALUATIONS, Path(arrays.path) / ARRAYS, choices, Path(version.path))
    version.metadata.update(asdict(done))


def promote(
    version: Input[Artifact],
    arrays: Input[Archive[Dataset]],
    params: str,
    wanted: bool,
    champion: Output[Markdown],
) -> None:
    """Give the registered version the alias champion if ``wanted`` is set and it passes the gate.

    Args:
        version: Output of register.
        arrays: Images and masks as arrays of one size, for the comparison with the champion.
        params: All sections of params.yaml as JSON.
        wanted: False does not change the champion.
        champion: Every rule of the gate with its figures, and the action.
    """
    from functools import partial

    from components.promote import promote
    from core.params import check
    from pipelines.tasks import promoted

    choices = check(from_json(params, "params"), "pipeline parameters")
    gate = partial(
        promote, choices, Path(arrays.path) / ARRAYS, Path(arrays.path) / SPLITS, reason="last step of the pipeline"
    )
    page = promoted(Path(version.path), gate if wanted else None)
    Path(champion.path).write_text(page)


def outcome(status: Status, source: str, data_md5: str, git_commit: str, summary: Output[Markdown]) -> None:
    """Report how the run ended, also if it failed.

    Args:
        status: Final status of the other steps together.
        source: Address of the cohort.
        data_md5: MD5 of the cohort.
        git_commit: Commit of the code.
        summary: Final status of the run, with its data and code.
    """
    from pipelines.outcome import ended

    line, text = ended(status, {"source": source, "data": data_md5, "code": git_commit})
    print(line)
    Path(summary.path).write_text(text)
