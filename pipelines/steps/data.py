"""The steps from parameters and a source to arrays and splits."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

from pipelines.artifacts import (
    Archive,
    Artifact,
    Dataset,
    Input,
    Markdown,
    Output,
)
from pipelines.tasks import cells_of, from_json, reference, section, to_json, whole

# Content of the arrays' archive; it includes the splits, so that later steps need one artifact less.
ARRAYS, SPLITS = "arrays", "splits"


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
    registry: str,
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
        registry: Section of params.yaml as JSON.
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
    raw: Input[Archive[Dataset]],
    params: str,
    checkpoints: str,
    validation: Output[Artifact],
    summary: Output[Markdown],
) -> None:
    """Validate the cohort with Great Expectations; a failed expectation stops the run and names the images.

    Args:
        raw: The raw cohort.
        params: Section validate of params.yaml as JSON.
        checkpoints: The checkpoints' place; if it is in S3, the Data Docs are copied there, also after a failure.
        validation: The result and the Data Docs.
        summary: Every expectation with its result.
    """
    from components.validate import RESULT, validate
    from core.params import ValidateParams
    from core.s3 import is_s3
    from pipelines.tasks import validation_table

    # Kubeflow does not upload artifacts of a failed step, and a path in its pod would be lost: publish only to S3.
    publish = checkpoints if is_s3(checkpoints) else ""
    validate(Path(raw.path), section(ValidateParams, params, "validate"), Path(validation.path), publish=publish)
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
