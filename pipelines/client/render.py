"""Runs as text: the table of steps, and one sentence that says what happened and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from core.terminal import seconds
from pipelines.client.runs import ENDED, GONE, Run
from pipelines.cluster import settings_of
from pipelines.workflow import CACHED, CANCELED, DONE, FAILED, PENDING, RETRYING, RUNNING, SUCCEEDED, Row

SILENT = 6  # hours without a change of a pod after which the workflow may have been deleted
UNKNOWN = "this server has no v1beta1 API: cells, attempts, nodes and reasons are unknown"


def now() -> datetime:
    """Return the current time in UTC."""
    return datetime.now(UTC)


def duration(started: datetime | None, ended: datetime | None) -> str:
    """Return the time from start to end (None: now), such as ``1 h 02 min``; empty without a start."""
    if started is None:
        return ""
    return seconds(((ended or now()) - started).total_seconds())


def moment(time_: datetime | None) -> str:
    """Return a time as text in UTC, to the second."""
    return time_.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S") if time_ else ""


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as text with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def first_line(text: str) -> str:
    """Return the first line of a text."""
    return text.strip().partition("\n")[0]


def shortened(text: str, limit: int = 100) -> str:
    """Return the first line of a text, cut after ``limit`` characters."""
    line = first_line(text)
    return line if len(line) <= limit else f"{line[:limit]}..."


def cells_done(run: Run) -> tuple[int, int]:
    """Return the number of cells whose steps are all done, and the number of all cells."""
    states: dict[str, list[str]] = {}
    for row in run.rows:
        if row.cell:
            states.setdefault(row.cell, []).append(row.state)
    return sum(all(state in DONE for state in those) for those in states.values()), len(states)


def line_of(row: Row) -> tuple[str, str, str, str, str, str]:
    """Return a step's columns: name, state, attempt, time, Kubernetes node, reason."""
    attempt, node = str(len(row.attempts) or ""), row.attempts[-1].node if row.attempts else ""
    return row.name, row.state, attempt, duration(row.started, row.ended), node, shortened(row.reason)


def render_run(run: Run) -> str:
    """Return a run as text: a heading, one line for each step, and the sentence of :func:`outcome`."""
    head = [f"run      {run.id}", f"name     {run.name}", f"state    {run.state}", f"created  {moment(run.created)}"]
    head.append(f"time     {duration(run.created, run.ended)}")
    if run.error:
        head.append(f"error    {run.error}")
    parts = ["\n".join(head)]
    if run.detailed:
        parts.append(columns([("step", "state", "attempt", "time", "node", "reason"), *map(line_of, run.rows)]))
    elif run.rows:
        parts.append(columns([("step", "state"), *((row.name, row.state) for row in run.rows)]))
        parts.append(UNKNOWN)
    parts += [f"{row.name}: {row.reason}" for row in run.rows if shortened(row.reason) != row.reason]
    return "\n\n".join([*parts, outcome(run)])


def outcome(run: Run) -> str:
    """Return one sentence: what happened, and what to do."""
    done, cells = cells_done(run)
    if run.state == SUCCEEDED:
        cached = sum(row.state == CACHED for row in run.rows)
        taken = f", {cached} of {len(run.rows)} steps from the cache" if cached else ""
        return f"succeeded: {done} of {cells} cells{taken}"
    if run.state == CANCELED:
        return f"cancelled after {done} of {cells} cells: `defunet retry {run.id}` continues from the checkpoints"
    if run.state == FAILED:
        return _why_failed(run)
    if run.state == GONE:
        return (
            f"its workflow {run.workflow} was deleted before it ended, and Kubeflow will call the run RUNNING for "
            f"good: `defunet retry {run.id}` starts it again, or submit a new run"
        )
    if run.state in ENDED:
        return f"ended as {run.state}"
    return _where_it_stands(run, done, cells)


def _why_failed(run: Run) -> str:
    failed = [row for row in run.rows if row.state == FAILED]
    if not failed:
        return f"failed, and the server does not say why: `defunet logs {run.id}` may have it"
    row, more = failed[0], len(failed) - 1
    others = f" (and {more} more step{'s' * (more > 1)})" if more else ""
    if not run.detailed:
        return f"failed: {row.name}{others}: `defunet logs {run.id}` may have the reason"
    why = shortened(row.reason, 200)
    if "OOMKilled" in why:
        advice = f"raise steps.{settings_of(row.step)[0]}.memory.limit in pipelines/cluster.yaml and submit again"
    elif "pod deleted" in why:
        advice = f"`defunet retry {run.id}` continues from the last checkpoint"
    else:
        advice = f"`defunet logs {run.id}` prints its log; correct it, then `defunet retry {run.id}`"
    return f"failed: {row.name}{others}: {why}; {advice}"


def _where_it_stands(run: Run, done: int, cells: int) -> str:
    active = [row for row in run.rows if row.state in (RUNNING, RETRYING)]
    waiting = [row for row in run.rows if row.state == PENDING]
    words = [f"{done} of {cells} cells done"]
    words += [f"{row.name} {'runs' if row.state == RUNNING else 'is tried again'}" for row in active[:3]]
    words += [f"and {len(active) - 3} more"] if len(active) > 3 else []
    words += [f"{row.name} {_waits(row)}" for row in waiting[:3]]
    silent = not waiting and not run.confirmed
    if silent and run.changed and (now() - run.changed).total_seconds() > SILENT * 3600:
        where = f"kubectl get workflow -n {run.namespace or 'kubeflow'} {run.workflow}"
        words.append(f"no pod has changed for {duration(run.changed, None)}; its workflow may be gone: {where}")
    return f"{run.state.lower()}: " + "; ".join(words)


def _waits(row: Row) -> str:
    why = shortened(row.reason) or "the server gives no reason"
    return why if why.startswith("waits in queue") else f"waits: {why}"
