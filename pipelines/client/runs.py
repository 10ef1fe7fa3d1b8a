"""Typed runs and schedules, from the responses of Kubeflow's API."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

SUCCEEDED, FAILED, CANCELED, SKIPPED = "SUCCEEDED", "FAILED", "CANCELED", "SKIPPED"
ENDED = (SUCCEEDED, FAILED, CANCELED, SKIPPED)
# Argo's internal nodes, which are not steps: drivers, containers and groups of steps.
INTERNAL = re.compile(r"^(root|executor.*|.*-driver|iteration-.*|.*(for-loop|exit-handler|condition)-\d+.*)$")


@dataclass(frozen=True)
class Task:
    """A task of a run; times are None and texts empty if the API does not have them."""

    key: str
    name: str
    state: str
    started: datetime | None
    ended: datetime | None
    error: str
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class Run:
    """A run with its tasks, in order of start time."""

    id: str
    name: str
    state: str
    created: datetime | None
    ended: datetime | None
    error: str
    tasks: tuple[Task, ...]


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
    """Convert a run of kfp's client."""
    titles = _titles(found.pipeline_spec or {})
    details = (found.run_details and found.run_details.task_details) or ()
    tasks = [
        Task(
            each.task_id or each.display_name,
            titles.get(each.display_name, each.display_name),
            each.state or "PENDING",
            _time(each.start_time),
            _time(each.end_time),
            (each.error and each.error.message) or "",
            tuple(filter(None, [each.pod_name, *(child.pod_name for child in each.child_tasks or ())])),
        )
        for each in details
        if each.display_name and not INTERNAL.match(each.display_name)
    ]
    tasks.sort(key=lambda task: task.started or datetime.max.replace(tzinfo=UTC))
    error = (found.error and found.error.message) or ""
    state = found.state or "PENDING"
    return Run(
        found.run_id, found.display_name, state, _time(found.created_at), _time(found.finished_at), error, tuple(tasks)
    )


def _titles(spec: dict[str, Any]) -> dict[str, str]:
    """Return the display names of all tasks by their names in Argo."""
    pipeline = spec.get("pipeline_spec", spec)
    graphs = [pipeline.get("root", {}), *pipeline.get("components", {}).values()]
    tasks = [task for graph in graphs for task in graph.get("dag", {}).get("tasks", {}).items()]
    return {name: about.get("taskInfo", {}).get("name", name) for name, about in tasks}


def _time(moment: datetime | None) -> datetime | None:
    """Return a time, or None for the API's placeholder, the year 1970."""
    return None if moment is None or moment.year <= 1970 else moment


def schedule_of(found: Any) -> Schedule:
    """Convert a recurring run of kfp's client."""
    cron = (found.trigger and found.trigger.cron_schedule and found.trigger.cron_schedule.cron) or ""
    return Schedule(
        found.recurring_run_id,
        found.display_name,
        cron,
        found.status or "",
        int(found.max_concurrency or 1),
        not found.no_catchup,
    )
