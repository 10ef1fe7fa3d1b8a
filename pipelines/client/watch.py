"""Show the progress of a run in a terminal or a log, and wait until it ends."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from core.terminal import seconds
from pipelines.client import render
from pipelines.client.render import cells_done, line_of, shortened
from pipelines.client.runs import ENDED, Run
from pipelines.workflow import CACHED, CANCELED, FAILED, NOT_RUN, NOT_STARTED, PENDING, RUNNING, SUCCEEDED, Row

# The exit codes of --wait; 0 is success, 1 a user error, 2 a usage error.
CODES = {SUCCEEDED: 0, CANCELED: 4}
FAILURE, TIMED_OUT, PENDING_TOO_LONG = 3, 5, 6
COLOURS = {SUCCEEDED: "green", CACHED: "green", FAILED: "red", CANCELED: "yellow", PENDING: "yellow", RUNNING: "cyan"}
LONG_PENDING = 60.0  # seconds after which a waiting pod is reported with its reason


class Lines:
    """Prints one line for every change of a step: for logs."""

    def __init__(self, console: Console) -> None:
        self._console, self._seen, self._done = console, dict[str, tuple[str, ...]](), 0

    def show(self, run: Run) -> None:
        """Print the steps that changed since the last call, and the cells that were completed."""
        for row in run.rows:
            # Every pod waits for some seconds; print the reason only if the wait is long.
            why = shortened(row.reason, 200) if row.state != PENDING or pending_seconds(row) > LONG_PENDING else ""
            attempt = f"attempt {len(row.attempts)}" if len(row.attempts) > 1 else ""
            waits = f"for {seconds(pending_seconds(row))}" if row.state == PENDING and why else ""
            words = (row.state, row.name, attempt, waits and "waits", why)
            silent = row.state in (NOT_STARTED, NOT_RUN) and row.name not in self._seen
            if self._seen.get(row.name) != words and not silent:
                details = " ".join(filter(None, [attempt, waits]))
                self._print(row.state, row.name + f", {details}" * bool(details) + f": {why}" * bool(why))
                self._seen[row.name] = words
        done, cells = cells_done(run)
        if done > self._done:
            self._done = done
            self._print("", progress_words(run, done, cells))
        if self._seen.get("") != (run.state,):
            self._seen[""] = (run.state,)
            self._print(run.state, "run")

    def _print(self, state: str, text: str) -> None:
        now = render.now().strftime("%H:%M:%S")
        self._console.print(Text(f"{now}  {state:<11} {text}"), soft_wrap=True)

    def close(self) -> None:
        """Do nothing."""


class Board:
    """Shows a table and a progress bar of cells, updated in place: for terminals."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, auto_refresh=False)
        self._live.start()

    def show(self, run: Run) -> None:
        """Redraw the table of all steps."""
        table = Table(title=Text(f"{run.name}: {run.state}"), title_justify="left", box=None)
        for head in ("step", "state", "attempt", "time", "node", "reason"):
            table.add_column(head, overflow="fold", no_wrap=head == "state")
        for row in run.rows:
            name, state, *others = line_of(row)
            table.add_row(Text(name), Text(state, COLOURS.get(state, "")), *map(Text, others))
        done, cells = cells_done(run)
        bar = ProgressBar(total=max(cells, 1), completed=done, width=40)
        self._live.update(Group(table, bar, Text(progress_words(run, done, cells))), refresh=True)

    def close(self) -> None:
        """Stop the live display; the last state stays on the screen."""
        self._live.stop()


View = Lines | Board


def view() -> View:
    """Return a Board if standard error is a terminal, else Lines; standard output has only results."""
    console = Console(stderr=True)
    return Board(console) if console.is_terminal else Lines(console)


def progress_words(run: Run, done: int, cells: int) -> str:
    """Return text with the cells done and the estimated time for the others, from the rate so far."""
    words = f"{done} of {cells} cells done"
    starts = [row.started for row in run.rows if row.cell and row.started]
    if not done or done == cells or not starts:
        return words
    ends = [row.ended for row in run.rows if row.cell and row.ended]
    last = max(ends, default=render.now())
    return f"{words}, about {seconds((last - min(starts)).total_seconds() / done * (cells - done))} left"


def pending_seconds(row: Row) -> float:
    """Return the seconds for which the last pod of a step has been pending; 0 if it is not pending."""
    if row.state != PENDING or not row.attempts or row.attempts[-1].started is None:
        return 0
    return (render.now() - row.attempts[-1].started).total_seconds()


def pending_too_long(run: Run, limit: float | None) -> Row | None:
    """Return the first step whose pod has been pending for more than ``limit`` seconds, or None."""
    return next((row for row in run.rows if limit is not None and pending_seconds(row) > limit), None)


def wait(
    get: Callable[[], Run], shown: View, every: float, limit: float | None, pending_limit: float | None = None
) -> Run:
    """Poll and show a run until it ends or reaches a time limit; return its last state.

    Args:
        get: fetches the run.
        shown: shows it.
        every: polling interval in seconds.
        limit: time limit in seconds; None: no limit.
        pending_limit: maximum seconds that a pod may be pending; None: no limit.
    """
    end = None if limit is None else time.monotonic() + limit
    try:
        while True:
            run = get()
            shown.show(run)
            remaining = every if end is None else end - time.monotonic()
            if run.state in ENDED or remaining <= 0 or pending_too_long(run, pending_limit):
                return run
            time.sleep(min(every, remaining))
    finally:
        shown.close()


def code(run: Run, pending_limit: float | None = None) -> int:
    """Return the exit code for the state of a run after :func:`wait`."""
    if run.state in ENDED:
        return CODES.get(run.state, FAILURE)
    return PENDING_TOO_LONG if pending_too_long(run, pending_limit) else TIMED_OUT
