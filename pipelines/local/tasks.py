"""What kfp's local runners lack, whatever a task runs in: an interrupt that ends it, and a word on how it was ended.

kfp 2.17.0 waits for parallel tasks after an interrupt, those that are still to come included.
"""

from __future__ import annotations

import signal
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

from core.errors import UserError

KFP = "2.17.0"  # whose functions are replaced
SIGNALLED = 128  # a process that a signal has ended exits, as its shell says, with this and the signal's number
FAILED = 1


class Tasks(ABC):
    """The tasks of one run.

    Args:
        last_words: a file that gets a line for what no task can say itself.
    """

    def __init__(self, last_words: Path) -> None:
        self._last_words = last_words
        self.ended = False

    def tell(self, words: str) -> None:
        """Add a line to the last words."""
        with self._last_words.open("a") as file:
            file.write(f"{words}\n")

    def judged(self, code: int, what: str) -> int:
        """Return a task's exit code; tell of one that was ended by a signal, and not by :meth:`end`."""
        number = -code if code < 0 else code - SIGNALLED
        if number > 0 and not self.ended:
            self.tell(f"a task's {what} was ended by signal {number}: out of memory, or by hand")
        return code

    @abstractmethod
    def end(self) -> None:
        """End what runs and start nothing more."""


@contextmanager
def taken_over(module: ModuleType, name: str, run: Callable[..., Any], tasks: Tasks) -> Iterator[None]:
    """Let kfp run tasks by ``run`` inside the block; an interrupt, or SIGTERM, ends them.

    In the main thread alone, since signals are handled.

    Args:
        module: of kfp's local runner.
        name: of its function that runs a task.
        run: called in its place.
        tasks: what an interrupt ends.

    Raises:
        UserError: this is another kfp than the one whose function is replaced.
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

    theirs = getattr(module, name)
    handlers = {number: signal.signal(number, interrupted) for number in (signal.SIGINT, signal.SIGTERM)}
    setattr(module, name, run)
    try:
        yield
    finally:
        setattr(module, name, theirs)
        for number, handler in handlers.items():
            signal.signal(number, handler)
