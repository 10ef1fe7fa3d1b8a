"""The output of a local run: one line when a task starts and when it ends; everything else goes into a log."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

from core.terminal import printable, seconds
from pipelines.tasks import CELL, SHARD
from pipelines.workflow import RUNNING, Row


class View:
    """The terminal and the log of one run.

    Args:
        log: the file for the output of kfp and the steps; None: the terminal.
    """

    def __init__(self, log: Path | None = None) -> None:
        self._log, self._terminal = log, sys.stdout

    def say(self, line: str) -> None:
        """Print a line on the terminal."""
        # Not print(): kfp replaces it by an indenting one, and parallel tasks would mix their lines.
        self._terminal.write(f"{line}\n")
        self._terminal.flush()

    @contextmanager
    def logged(self) -> Iterator[None]:
        """Redirect the process's prints to the log inside the block."""
        if self._log is None:
            yield
            return
        self.say(f"log      {self._log}")
        with self._log.open("w", buffering=1) as file, redirect_stdout(file), redirect_stderr(file):
            yield

    def task(self, command: Sequence[str]) -> TaskView:
        """Print that the task with this command starts, and return its view."""
        return TaskView(self, _name(command), self._log)


class TaskView:
    """The lines of one task."""

    def __init__(self, view: View, name: str, log: Path | None) -> None:
        self._view, self._name, self._log = view, name, log
        self._since, self._last, self._error = time.monotonic(), "", ""
        view.say(f"{name}: started")

    def line(self, text: str) -> None:
        """Print a line of the task's output, given without a newline, to the log."""
        print(text, flush=True)
        if text.startswith("error: "):
            self._error = text
        self._last = text.strip() or self._last

    def end(self, code: int) -> None:
        """Print the end of the task; for a failed task also its last error, else its last line or its exit code."""
        took = seconds(time.monotonic() - self._since)
        if code == 0:
            self._view.say(f"{self._name}: done, {took}")
            return
        where = f"; log: {self._log}" if self._log else ""
        why = printable(self._error or self._last or f"exit code {code}")
        self._view.say(f"{self._name}: failed after {took}: {why}{where}")


def _name(command: Sequence[str]) -> str:
    """Return a task's name as :attr:`Row.name` has it, such as ``evaluate-shard 2/4 defu_net mixed seed 0``."""
    match list(command):
        case [_, "-m", "pipelines.step", step, "--executor_input", text]:
            inputs = json.loads(text).get("inputs", {})
            values = inputs.get("parameterValues", {})
            models = inputs.get("artifacts", {}).get("model", {}).get("artifacts", [])  # input of evaluate
            cells = [*(each.get("metadata", {}).get(CELL) for each in models), values.get(CELL)]
            shard = values.get(SHARD, "")
            return Row(step.replace("_", "-"), next(filter(None, cells), ""), RUNNING, shard=shard).name
    return "task"
