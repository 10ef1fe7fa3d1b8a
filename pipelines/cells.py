"""The part of the graph for one cell: train and evaluate, in one pod or two, or evaluate in a loop over shards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kfp import dsl

from core.shard import Shard
from pipelines import components as steps
from pipelines.cluster import Cluster
from pipelines.prepare import Placed, Prepared


def train_and_score(
    step: Placed,
    training: Mapping[str, Any],
    prepared: Prepared,
    scoring: Any,
    cluster: Cluster | None,
    evaluate_shards: int,
) -> Any:
    """Add the steps of a cell to the graph, inside the loop over cells, and return the output ``evaluation``.

    Args:
        step: sets a task's title and settings.
        training: the arguments of train.
        prepared: the arrays, and the cohort with the masks at their stored size.
        scoring: section ``evaluate`` of ``params.yaml``, by reference.
        cluster: the cluster settings; None: the steps run locally.
        evaluate_shards: number of shards of evaluate; 1: no inner loop and no merge.
    """
    raw, arrays = prepared.raw, prepared.arrays
    if cluster and cluster.one_pod_per_cell:
        both = step(steps.train_and_evaluate(**training, raw=raw, scoring=scoring), "Train and evaluate")
        return both.outputs["evaluation"]
    model = step(steps.train(**training), "Train").outputs["model"]
    if evaluate_shards == 1:
        whole = step(steps.evaluate(model=model, arrays=arrays, raw=raw, params=scoring), "Evaluate")
        return whole.outputs["evaluation"]
    names = [str(shard) for shard in Shard.every(evaluate_shards)]
    limit = cluster.parallelism if cluster else None
    with dsl.ParallelFor(names, name="each shard of a cell", parallelism=limit) as shard:
        part = step(
            steps.evaluate_shard(shard=shard, model=model, arrays=arrays, raw=raw, params=scoring), "Evaluate a shard"
        )
    parts = dsl.Collected(part.outputs["part"])
    merged = step(
        steps.merge_evaluation(parts=parts, model=model, arrays=arrays, params=scoring), "Merge the evaluation"
    )
    return merged.outputs["evaluation"]
