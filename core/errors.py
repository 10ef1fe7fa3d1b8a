"""The exception for errors that a user can fix."""

from __future__ import annotations

from collections.abc import Sequence


class UserError(Exception):
    """An error that the user can fix: shown without a traceback, exit code 1.

    Args:
        message: one line: the problem, the place and the fix.
        problems: one line per wrong file or value, if there are several.
    """

    def __init__(self, message: str, problems: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.problems = list(problems)

    def __str__(self) -> str:
        return "\n  ".join([super().__str__(), *self.problems])
