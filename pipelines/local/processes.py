"""Kubeflow tasks in processes of this machine: kfp's SubprocessRunner, which an interrupt can end."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from pipelines.local.tasks import FAILED, Tasks, taken_over


class Processes(Tasks):
    """The processes of one run."""

    def __init__(self, last_words: Path) -> None:
        super().__init__(last_words)
        self._running: set[int] = set()

    def run(self, full_command: Sequence[str], env_vars: Mapping[str, str] | None = None) -> int:
        """Run a command, print what it says as it says it, and return its exit code.

        In the place of ``kfp.local.subprocess_task_handler.run_local_subprocess``.
        """
        if self.ended:
            return FAILED
        with subprocess.Popen(
            full_command,
            env={**os.environ, **(env_vars or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            bufsize=1,
            start_new_session=True,  # a Ctrl+C is for us, who end it with all that it has started
        ) as process:
            self._running.add(process.pid)
            try:
                if self.ended:  # in the meantime
                    _signal(process.pid, signal.SIGINT)
                for line in process.stdout or ():
                    print(line, end="", flush=True)
                print("\n", flush=True)
                code = process.wait()
            finally:
                # Waited for before the number is forgotten: nobody else may have it while end() can come.
                process.wait()
                self._running.discard(process.pid)
        return self.judged(code, "process")

    def end(self) -> None:
        """Interrupt what runs, or kill it if that was done before, and start nothing more."""
        number = signal.SIGKILL if self.ended else signal.SIGINT
        self.ended = True
        for pid in list(self._running):
            _signal(pid, number)


def _signal(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # ended by itself
        os.killpg(group, number)


@contextmanager
def interruptible(last_words: Path) -> Iterator[Processes]:
    """Let kfp's SubprocessRunner use :class:`Processes` inside the block; an interrupt ends what runs in them.

    Args:
        last_words: a file that gets a line for what no task can say itself: something killed it.

    Raises:
        UserError: this is another kfp than the one whose function is replaced.
    """
    from kfp.local import subprocess_task_handler

    processes = Processes(last_words)
    with taken_over(subprocess_task_handler, "run_local_subprocess", processes.run, processes):
        yield processes
