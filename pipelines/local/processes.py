"""Kubeflow tasks in local processes: kfp's SubprocessRunner with handling of interrupts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from pipelines.local.tasks import FAILED, Tasks, taken_over
from pipelines.local.view import View


class Processes(Tasks):
    """The processes of one run."""

    def __init__(self, last_words: Path, view: View) -> None:
        super().__init__(last_words, view)
        self._running: set[int] = set()

    def run(self, full_command: Sequence[str], env_vars: Mapping[str, str] | None = None) -> int:
        """Run a command, stream its output, and return its exit code."""
        if self.ended:
            return FAILED
        shown = self.view.task(full_command)
        with subprocess.Popen(
            full_command,
            env={**os.environ, **(env_vars or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            bufsize=1,
            start_new_session=True,  # Ctrl+C reaches only this process, which then stops the whole process group
        ) as process:
            self._running.add(process.pid)
            try:
                if self.ended:  # in the meantime
                    _signal(process.pid, signal.SIGINT)
                for line in process.stdout or ():
                    shown.line(line.removesuffix("\n"))
                code = process.wait()
            finally:
                # Wait before removing the pid: end() must not signal a reused pid.
                process.wait()
                self._running.discard(process.pid)
        shown.end(code)
        return self.judged(code, "process")

    def end(self) -> None:
        """Interrupt the running processes, or kill them on the second call; start no more."""
        number = signal.SIGKILL if self.ended else signal.SIGINT
        self.ended = True
        for pid in list(self._running):
            _signal(pid, number)


def _signal(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # already ended
        os.killpg(group, number)


@contextmanager
def interruptible(last_words: Path, view: View) -> Iterator[Processes]:
    """Make kfp's SubprocessRunner use :class:`Processes` inside the block; an interrupt ends the running processes.

    Args:
        last_words: a file for errors that a task cannot report itself, such as a kill by a signal.
        view: prints the tasks' progress.

    Raises:
        UserError: the installed kfp is not the patched version.
    """
    from kfp.local import status, subprocess_task_handler, task_handler_interface

    processes = Processes(last_words, view)

    class Handler(task_handler_interface.ITaskHandler):  # type: ignore[misc]
        """A task of kfp's SubprocessRunner, extended to container components, which kfp refuses."""

        def __init__(self, full_command: list[str], env_vars: Mapping[str, str] | None = None, **_: object) -> None:
            # Replace "python" at the start of the command by this interpreter.
            self._command, self._variables = [sys.executable, *full_command[1:]], env_vars

        def run(self) -> status.Status:
            """Run the task and return kfp's status."""
            return status.Status.FAILURE if processes.run(self._command, self._variables) else status.Status.SUCCESS

    with taken_over(subprocess_task_handler, "SubprocessTaskHandler", Handler, processes):
        yield processes
