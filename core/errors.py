"""The one exception that a user is meant to see."""

from __future__ import annotations

from collections.abc import Sequence


class UserError(Exception):
    """Something that whoever runs the step can put right: shown without a traceback, exit code 1.

    Args:
        message: one line: what is wrong, where, and what to do about it.
        problems: one line per offending file or value, when there are several; all are shown at once.
    """

    def __init__(self, message: str, problems: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.problems = list(problems)

    def __str__(self) -> str:
        return "\n  ".join([super().__str__(), *self.problems])
