"""The steps of a sharded graph: ingest, preprocess and evaluate of one shard, and the merges."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from pipelines.archives import unpack
from pipelines.artifacts import Archive, Artifact, ClassificationMetrics, Dataset, Input, Metrics, Model, Output
from pipelines.steps.cells import EVALUATIONS, present, work_of
from pipelines.steps.data import ARRAYS, SPLITS
from pipelines.tasks import CELL, from_json, section


def ingest_shard(
    shard: str,
    source: str,
    params: str,
    data_md5: str,
    raw: Output[Archive[Dataset]],
    git_commit: str = "",
    image_digest: str = "",
) -> None:
    """Read one shard of a cohort in its publishers' layouts.

    Args:
        shard: Which of how many, as i/N.
        source: A folder, a ZIP file or s3://bucket/prefix.
        params: Section ingest of params.yaml as JSON.
        data_md5: MD5 of the cohort. Part of the cache key: other data run again.
        raw: Images, masks and manifest of the shard.
        git_commit: Part of the cache key: other code runs again.
        image_digest: Part of the cache key: another image under the same name runs again.
    """
    from components.ingest import ingest
    from core.params import IngestParams
    from core.shard import Shard

    choices = section(IngestParams, params, "ingest")
    result = ingest(source, choices, Path(raw.path), data_md5, Shard.parse(shard))
    images = {f"images {site}": count.images for site, count in result.sites.items()}
    raw.metadata.update({"cohort": result.name, "synthetic": result.synthetic, "shard": shard, **images})


def preprocess_shard(shard: str, raw: Input[Archive[Dataset]], params: str, arrays: Output[Archive[Dataset]]) -> None:
    """Resize the images and masks of one shard to one size.

    Args:
        shard: Which of how many, as i/N.
        raw: Output of ingest_shard for the same shard.
        params: Section preprocess of params.yaml as JSON.
        arrays: Images and masks of the shard as arrays of one size.
    """
    from components.preprocess import preprocess_shard
    from core.params import PreprocessParams
    from core.shard import Shard

    choices = section(PreprocessParams, params, "preprocess")
    images = preprocess_shard(Path(raw.path), choices, Shard.parse(shard), Path(arrays.path))
    arrays.metadata.update({"images": images, "size": choices.size, "shard": shard})


def merge_cohort(
    parts: Input[list[Dataset]],
    raw: Output[Archive[Dataset]],
    masks: Output[Archive[Dataset]],
    cohort: Output[Archive[Dataset]],
) -> None:
    """Merge the shards of a cohort.

    Args:
        parts: Outputs of ingest_shard, one for each shard.
        raw: The raw cohort.
        masks: The masks, the manifest and the record of the cohort, which are all that evaluate reads of it.
        cohort: The manifest and the record alone, for merge_arrays.
    """
    from components.ingest.merge import link, merge
    from core.cohort import COHORT, MANIFEST

    out = Path(raw.path)
    result = merge(_unpacked(parts, out.with_name("parts")), out)
    records = [MANIFEST, COHORT]
    pictures = [path.relative_to(out).as_posix() for path in out.glob("masks/*/*")]
    for folder, names in ((masks.path, records + pictures), (cohort.path, records)):
        for name in names:
            link(out / name, Path(folder) / name)
    images = {f"images {site}": count.images for site, count in result.sites.items()}
    raw.metadata.update({"cohort": result.name, "synthetic": result.synthetic, **images})


def merge_arrays(
    parts: Input[list[Dataset]],
    cohort: Input[Archive[Dataset]],
    validation: Input[Artifact],
    params: str,
    scenarios: str,
    arrays: Output[Archive[Dataset]],
    splits: Output[Archive[Dataset]],
) -> None:
    """Merge the arrays of all shards, and write the train, validation and test splits.

    Args:
        parts: Outputs of preprocess_shard, one for each shard.
        cohort: The manifest and the record of the whole cohort.
        validation: Output of validate for the whole cohort.
        params: Section preprocess of params.yaml as JSON.
        scenarios: The scenarios of this run as JSON.
        arrays: Images and masks as arrays of one size, and the splits.
        splits: One split per scenario.
    """
    from components.preprocess.merge import merge
    from core.params import PreprocessParams, Scenario

    choices = section(PreprocessParams, params, "preprocess")
    chosen = {name: Scenario(**values) for name, values in from_json(scenarios, "scenarios").items()}
    out = Path(arrays.path)
    where = (_unpacked(parts, out.with_name("parts")), Path(cohort.path), Path(validation.path))
    result = merge(*where, choices, chosen, out / ARRAYS, Path(splits.path))
    shutil.copytree(splits.path, out / SPLITS)
    arrays.metadata.update({"images": result.images, "size": result.size, "dilation kernel": result.kernel})
    splits.metadata.update({f"{name} {split}": n for name, part in result.splits.items() for split, n in part.items()})


def evaluate_shard(
    shard: str,
    model: Input[Model],
    arrays: Input[Archive[Dataset]],
    raw: Input[Archive[Dataset]],
    params: str,
    part: Output[Archive[Artifact]],
) -> None:
    """Score a trained network on one shard of the batches of its splits.

    Args:
        shard: Which of how many, as i/N.
        model: Output of train.
        arrays: Images and masks as arrays of one size, and the splits.
        raw: The cohort with the masks at their original size.
        params: Section evaluate of params.yaml as JSON, or by reference.
        part: The scores of the shard, for merge_evaluation.
    """
    from components.evaluate import evaluate_shard
    from core.shard import Shard

    images = evaluate_shard(work_of(model, arrays, params), Path(raw.path), Shard.parse(shard), Path(part.path))
    part.metadata.update({CELL: model.metadata[CELL], "images": images, "shard": shard})


def merge_evaluation(
    parts: Input[list[Artifact]],
    model: Input[Model],
    arrays: Input[Archive[Dataset]],
    params: str,
    evaluation: Output[Archive[Artifact]],
    test: Output[Metrics],
    roc: Output[ClassificationMetrics],
) -> None:
    """Merge the shards of an evaluation, and log it to MLflow.

    Args:
        parts: Outputs of evaluate_shard, one for each shard.
        model: Output of train.
        arrays: Images and masks as arrays of one size, and the splits.
        params: Section evaluate of params.yaml as JSON, or by reference.
        evaluation: As of evaluate.
        test: Metrics of the test split, means over images.
        roc: The ROC curve of the test split's pixels.
    """
    from components.evaluate.merge import merge

    work, out = work_of(model, arrays, params), Path(evaluation.path)
    merge(work, _unpacked(parts, out.with_name("parts")), out / EVALUATIONS / work.cell.folder)
    present(model, evaluation, test, roc)


def _unpacked(parts: Sequence[Artifact], folder: Path) -> list[Path]:
    """Unpack the archives of all shards below ``folder``, and delete this pod's own copies of them."""
    folders = []
    for number, part in enumerate(parts, 1):
        folders.append(folder / str(number))
        unpack(Path(part.path), folders[-1])
        if "://" in part.uri:
            Path(part.path).unlink()
    return folders
