"""Typed runs and schedules, from the responses of Kubeflow's API."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from pipelines.shape import IN_CELL, IN_CELL_AND_SHARD, IN_SHARD, Shape, steps_of
from pipelines.workflow import (
    CANCELED,
    FAILED,
    NOT_RUN,
    NOT_STARTED,
    PENDING,
    RUNNING,
    SUCCEEDED,
    Row,
    rows_of,
)

SKIPPED, CANCELING = "SKIPPED", "CANCELING"
GONE = "GONE"  # its workflow was deleted before it ended; Kubeflow reports RUNNING forever
ENDED = (SUCCEEDED, FAILED, CANCELED, SKIPPED, GONE)
QUEUE = "kueue.x-k8s.io/queue-name"  # the label by which Kueue finds a pod's queue


@dataclass(frozen=True)
class Run:
    """A run of the pipeline.

    Attributes:
        state: Kubeflow's state, except CANCELED for a cancelled run, which Kubeflow reports as FAILED.
        rows: its steps in the graph's order; empty in a list of runs.
        detailed: whether the rows come from the Argo Workflow; if not, cells, attempts, nodes and reasons are unknown.
        workflow: name of the Argo Workflow; empty if not detailed.
        queue: the Kueue queue of its pods; empty if there is none.
        confirmed: whether Kubernetes has confirmed that the workflow exists.
    """

    id: str
    name: str
    state: str
    created: datetime | None
    ended: datetime | None
    error: str = ""
    rows: tuple[Row, ...] = ()
    detailed: bool = False
    workflow: str = ""
    namespace: str = ""
    queue: str = ""
    confirmed: bool = False

    @property
    def changed(self) -> datetime | None:
        """The last start or end of a pod; ``created`` if there is none."""
        times = [time for row in self.rows for each in row.attempts for time in (each.started, each.ended) if time]
        return max(times, default=self.created)


@dataclass(frozen=True)
class Schedule:
    """A recurring run."""

    id: str
    name: str
    cron: str
    status: str
    max_concurrency: int
    catch_up: bool


def run_of(found: Any) -> Run:
    """Convert a run from kfp's client, without its steps."""
    history = [each.state for each in found.state_history or ()]
    state = found.state or PENDING
    if state == FAILED and CANCELING in history[_last(history, RUNNING) :]:
        state = CANCELED  # Kubeflow never writes CANCELED
    error = (found.error and found.error.message) or ""
    return Run(found.run_id, found.display_name, state, _time(found.created_at), _time(found.finished_at), error)


def with_workflow(run: Run, found: Any, manifest: dict[str, Any]) -> Run | None:
    """Return the run with its steps from the Argo Workflow; None if the server omitted the nodes.

    Args:
        run: the run.
        found: the run from kfp's client.
        manifest: ``pipeline_runtime.workflow_manifest`` of the v1beta1 API.
    """
    about, spec = manifest["metadata"], manifest.get("spec") or {}
    # The history may lack CANCELING; a cancelled workflow has a deadline of 0.
    if run.state == FAILED and spec.get("activeDeadlineSeconds") == 0:
        run = replace(run, state=CANCELED)
    given = (found.runtime_config and found.runtime_config.parameters) or {}
    rows = rows_of(manifest, Shape.of(given, _spec(found)), run.state in ENDED, run.state == CANCELED)
    if rows is None:
        return None
    where = {"workflow": about["name"], "namespace": about.get("namespace", ""), "queue": _queue(found)}
    return replace(run, rows=tuple(rows), detailed=True, **where)


def with_tasks(run: Run, found: Any) -> Run:
    """Return the run with its steps from the v2beta1 API: their states, without cells and reasons."""
    details = (found.run_details and found.run_details.task_details) or ()
    missing = NOT_RUN if run.state in ENDED else NOT_STARTED
    steps = steps_of({task.display_name for task in details})
    known = sorted((task for task in details if task.display_name in steps), key=lambda task: task.task_id)
    in_shards = (*IN_SHARD, IN_CELL_AND_SHARD)
    rows = [
        Row(
            step,
            f"cell {number}, not known which" if step in IN_CELL and step not in in_shards else "",
            task.state or missing,
            shard=f"{number}, not known which" if step in in_shards else "",
        )
        for step in steps
        for number, task in enumerate((task for task in known if task.display_name == step), 1)
    ]
    return replace(run, rows=tuple(rows))


def _spec(found: Any) -> dict[str, Any]:
    spec = found.pipeline_spec if isinstance(found.pipeline_spec, dict) else {}
    inner = spec.get("pipeline_spec", spec)
    return inner if isinstance(inner, dict) else {}


def _queue(found: Any) -> str:
    """Return the Kueue queue in the compiled pipeline's pod labels; empty if there is none."""
    match = re.search(rf'"{re.escape(QUEUE)}": "([^"]+)"', json.dumps(found.pipeline_spec or {}))
    return match[1] if match else ""


def _last(history: list[str], state: str) -> int:
    return max((number for number, each in enumerate(history) if each == state), default=0)


def _time(moment: datetime | None) -> datetime | None:
    """Return a time, or None for the API's placeholders, the years 1 and 1970."""
    return None if moment is None or moment.year <= 1970 else moment


def schedule_of(found: Any) -> Schedule:
    """Convert a recurring run from kfp's client."""
    cron = (found.trigger and found.trigger.cron_schedule and found.trigger.cron_schedule.cron) or ""
    return Schedule(
        found.recurring_run_id,
        found.display_name,
        cron,
        found.status or "",
        int(found.max_concurrency or 1),
        not found.no_catchup,
    )
