"""Additions to kfp's local runners: an interrupt stops the tasks, and a killed task is reported.

After an interrupt, kfp 2.17.0 waits for all parallel tasks, including those not started yet.
"""

from __future__ import annotations

import builtins
import signal
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

from core.errors import UserError
from pipelines.local.view import View

KFP = "2.17.0"  # the patched version
SIGNALLED = 128  # a process killed by signal n has the shell's exit code 128 + n
FAILED = 1


class Tasks(ABC):
    """The tasks of one run.

    Args:
        last_words: a file for errors that a task cannot report itself.
        view: prints the tasks' progress.
    """

    def __init__(self, last_words: Path, view: View) -> None:
        self._last_words, self.view = last_words, view
        self.ended = False

    def tell(self, words: str) -> None:
        """Append a line to the file of errors."""
        with self._last_words.open("a") as file:
            file.write(f"{words}\n")

    def judged(self, code: int, what: str) -> int:
        """Return a task's exit code; report a task that was killed by a signal, except by :meth:`end`."""
        number = -code if code < 0 else code - SIGNALLED
        if number > 0 and not self.ended:
            self.tell(f"a task's {what} was ended by signal {number}: out of memory, or by hand")
        return code

    @abstractmethod
    def end(self) -> None:
        """Stop the running tasks and start no more."""


@contextmanager
def taken_over(module: ModuleType, name: str, run: Callable[..., Any], tasks: Tasks) -> Iterator[None]:
    """Replace kfp's task runner by ``run`` inside the block; SIGINT and SIGTERM stop the tasks.

    Call it only in the main thread, because it sets signal handlers.

    Args:
        module: kfp's module of the local runner.
        name: name of the function or class in ``module`` that runs a task.
        run: the replacement.
        tasks: the tasks that an interrupt stops.

    Raises:
        UserError: the installed kfp is not the patched version.
    """
    import kfp

    if kfp.__version__ != KFP:
        raise UserError(
            f"kfp {kfp.__version__}: its local runners are known, and mended here, in version {KFP} alone; "
            "`make setup` installs that one"
        )

    def interrupted(number: int, frame: FrameType | None) -> None:
        tasks.end()
        raise KeyboardInterrupt

    from kfp.local.orchestrator import task_spec_utils

    theirs, loop = getattr(module, name), task_spec_utils.create_parameter_loop_iteration_task_spec
    plain = builtins.print
    handlers = {number: signal.signal(number, interrupted) for number in (signal.SIGINT, signal.SIGTERM)}
    setattr(module, name, run)
    task_spec_utils.create_parameter_loop_iteration_task_spec = partial(_iteration, loop)
    try:
        yield
    finally:
        builtins.print = plain  # kfp's indenting print() may remain after parallel tasks
        setattr(module, name, theirs)
        task_spec_utils.create_parameter_loop_iteration_task_spec = loop
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _iteration(theirs: Callable[..., Any], loop: Any, item: Any, name: str) -> Any:
    """Return a loop's task for one item; corrects kfp, which also replaces outputs of other steps by the item."""
    made = theirs(loop, item, name)
    for parameter, given in loop.inputs.parameters.items():
        if given.HasField("task_output_parameter") and parameter != loop.parameter_iterator.items.input_parameter:
            made.inputs.parameters[parameter].CopyFrom(given)
    return made
