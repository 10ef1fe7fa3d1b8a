"""Show runs in a terminal or a log, and wait until they end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Protocol

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pipelines.client.runs import CANCELED, ENDED, FAILED, SUCCEEDED, Run, Task

# The exit codes of --wait; 0 is success, 1 a user error, 2 a usage error.
CODES = {SUCCEEDED: 0, CANCELED: 4}
FAILURE, TIMED_OUT = 3, 5
COLOURS = {SUCCEEDED: "green", FAILED: "red", CANCELED: "yellow", "RUNNING": "cyan"}


class View(Protocol):
    """Shows the progress of a run."""

    def show(self, run: Run) -> None:
        """Show the current state."""

    def close(self) -> None:
        """Stop; the last state stays on the screen."""


class Lines:
    """One line for every change of state: for logs."""

    def __init__(self, console: Console) -> None:
        self._console, self._seen = console, dict[str, str]()

    def show(self, run: Run) -> None:
        """Print the states that changed since the last call."""
        names = numbered(run.tasks)
        for key, name, state in [
            *((task.key, names[task.key], task.state) for task in run.tasks),
            ("", "run", run.state),
        ]:
            if self._seen.get(key) != state:
                self._seen[key] = state
                now = datetime.now(UTC).strftime("%H:%M:%S")
                self._console.print(Text(f"{now}  {state:<10} {name}"), soft_wrap=True)

    def close(self) -> None:
        """Do nothing."""


class Board:
    """A table that is updated in place: for terminals."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, auto_refresh=False)
        self._live.start()

    def show(self, run: Run) -> None:
        """Redraw the table of all tasks."""
        table = Table(title=Text(f"{run.name}: {run.state}"), title_justify="left", box=None)
        for head in ("task", "state", "time"):
            table.add_column(head)
        names = numbered(run.tasks)
        for task in run.tasks:
            table.add_row(names[task.key], Text(task.state, COLOURS.get(task.state, "")), duration(task))
        self._live.update(table, refresh=True)

    def close(self) -> None:
        """Stop the live display."""
        self._live.stop()


def view() -> View:
    """Return a table if standard error is a terminal, else lines; standard output has only results."""
    console = Console(stderr=True)
    return Board(console) if console.is_terminal else Lines(console)


def wait(get: Callable[[], Run], shown: View, every: float, limit: float | None) -> Run:
    """Poll and show a run until it ends or the time limit is over, and return its last state.

    Args:
        get: fetches the run.
        shown: shows it.
        every: polling interval in seconds.
        limit: time limit in seconds; None: none.
    """
    end = None if limit is None else time.monotonic() + limit
    try:
        while True:
            run = get()
            shown.show(run)
            remaining = every if end is None else end - time.monotonic()
            if run.state in ENDED or remaining <= 0:
                return run
            time.sleep(min(every, remaining))
    finally:
        shown.close()


def code(run: Run) -> int:
    """Return the exit code for the state of a run after :func:`wait`."""
    return CODES.get(run.state, FAILURE if run.state in ENDED else TIMED_OUT)


def numbered(tasks: Iterable[Task]) -> dict[str, str]:
    """Return the tasks' names by key; repeated names, from a loop, get a number."""
    keys: dict[str, list[str]] = {}
    for task in tasks:
        keys.setdefault(task.name, []).append(task.key)
    return {
        key: name if len(same) == 1 else f"{name} ({number})"
        for name, same in keys.items()
        for number, key in enumerate(same, 1)
    }


def duration(span: Run | Task) -> str:
    """Return the duration of a run or task until its end or now, for example ``1 h 02 min``."""
    start = span.created if isinstance(span, Run) else span.started
    if start is None:
        return ""
    seconds = max(0, round(((span.ended or datetime.now(UTC)) - start).total_seconds()))
    if seconds < 60:
        return f"{seconds} s"
    minutes, seconds = divmod(seconds, 60)
    return f"{minutes} min {seconds:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def moment(time_: datetime | None) -> str:
    """Return a time in UTC, to the second."""
    return time_.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S") if time_ else ""


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as text with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def render_run(run: Run) -> str:
    """Return a run and its tasks as text."""
    names = numbered(run.tasks)
    rows = [("task", "state", "time"), *((names[task.key], task.state, duration(task)) for task in run.tasks)]
    head = [f"run      {run.id}", f"name     {run.name}", f"state    {run.state}", f"created  {moment(run.created)}"]
    errors = [
        f"error    {text}" for text in (run.error, *(f"{t.name}: {t.error}" for t in run.tasks if t.error)) if text
    ]
    return "\n".join([*head, f"time     {duration(run)}", *errors, *(["", columns(rows)] if run.tasks else [])])
