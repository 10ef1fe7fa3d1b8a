"""The steps as Kubeflow runs them: each function runs one step on the artifacts of a task.

:mod:`pipelines.step` runs them in a pod, and :mod:`pipelines.components` declares them to Kubeflow by their signatures
and docstrings. Each function imports its own dependencies, because a pod runs only one of them.
"""

from pipelines.steps.cells import evaluate, gather, train, train_and_evaluate
from pipelines.steps.data import ingest, plan, preprocess, validate
from pipelines.steps.results import outcome, promote, register, report
from pipelines.steps.shards import (
    evaluate_shard,
    ingest_shard,
    merge_arrays,
    merge_cohort,
    merge_evaluation,
    preprocess_shard,
)

__all__ = [
    "evaluate",
    "evaluate_shard",
    "gather",
    "ingest",
    "ingest_shard",
    "merge_arrays",
    "merge_cohort",
    "merge_evaluation",
    "outcome",
    "plan",
    "preprocess",
    "preprocess_shard",
    "promote",
    "register",
    "report",
    "train",
    "train_and_evaluate",
    "validate",
]
