"""The part of the graph from a source to arrays and splits: one task per step, or a loop over shards with merges."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from kfp import dsl

from core.shard import Shard
from pipelines import components as steps

Placed = Callable[..., dsl.PipelineTask]


@dataclass(frozen=True)
class Prepared:
    """The inputs of the cells.

    Attributes:
        raw: the masks at their stored size and the manifest; without shards also the images.
        arrays: images and masks as arrays of one size, and the splits.
    """

    raw: Any
    arrays: Any


def prepare(
    step: Placed, planned: dsl.PipelineTask, given: Mapping[str, Any], shards: int, parallelism: int | None
) -> Prepared:
    """Add the steps up to the arrays to the graph.

    Args:
        step: sets a task's title and settings.
        planned: the task of plan.
        given: the pipeline's parameters ``source``, ``data_md5``, ``git_commit``, ``image_digest``, ``checkpoints``,
            ``ingest``, ``validate`` and ``preprocess``.
        shards: number of shards of ingest and preprocess; 1: no loop and no merges.
        parallelism: maximum number of parallel shards; None: no limit.
    """
    origin = {key: given[key] for key in ("source", "data_md5", "git_commit", "image_digest")}
    scenarios = planned.outputs["scenarios"]
    if shards == 1:
        cohort = step(steps.ingest(params=given["ingest"], **origin).after(planned), "Ingest the cohort")
        raw = cohort.outputs["raw"]
        preprocessed = step(
            steps.preprocess(
                raw=raw,
                validation=_validated(step, raw, given),
                params=given["preprocess"],
                scenarios=scenarios,
            ),
            "Preprocess, freeze the splits",
        )
        return Prepared(raw, preprocessed.outputs["arrays"])
    names = [str(shard) for shard in Shard.every(shards)]
    with dsl.ParallelFor(names, name="each shard", parallelism=parallelism) as shard:
        part = step(steps.ingest_shard(shard=shard, params=given["ingest"], **origin).after(planned), "Ingest a shard")
        sized = step(
            steps.preprocess_shard(shard=shard, raw=part.outputs["raw"], params=given["preprocess"]),
            "Preprocess a shard",
        )
    cohort = step(steps.merge_cohort(parts=dsl.Collected(part.outputs["raw"])), "Merge the cohort")
    preprocessed = step(
        steps.merge_arrays(
            parts=dsl.Collected(sized.outputs["arrays"]),
            cohort=cohort.outputs["cohort"],
            validation=_validated(step, cohort.outputs["raw"], given),
            params=given["preprocess"],
            scenarios=scenarios,
        ),
        "Merge the arrays, freeze the splits",
    )
    return Prepared(cohort.outputs["masks"], preprocessed.outputs["arrays"])


def _validated(step: Placed, raw: Any, given: Mapping[str, Any]) -> Any:
    task = steps.validate(raw=raw, params=given["validate"], checkpoints=given["checkpoints"])
    return step(task, "Validate the cohort").outputs["validation"]
