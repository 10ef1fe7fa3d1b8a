"""The MLflow registry, read: versions, who is champion and since when, and where each version comes from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from components.errors import UserError
from components.tracking import explained

if TYPE_CHECKING:
    from rich.console import Console

CHAMPION = "champion"
CHALLENGER = "challenger"
WIDTH = 200  # characters of a table that no terminal bounds


def wide_console() -> Console:
    """Return a console as wide as the terminal, and wide enough for whole tables where there is none."""
    from rich.console import Console

    return Console(highlight=False, width=None if Console().is_terminal else WIDTH)


@contextmanager
def answered(what: str) -> Iterator[None]:
    """Turn MLflow's errors inside the block, those of its file transfers too, into a :class:`UserError`."""
    try:
        with explained(what):
            yield
    except OSError as error:
        first_line = (str(error) or type(error).__name__).splitlines()[0]
        told = f"MLflow, {what}: {first_line}; check MLFLOW_TRACKING_URI and the server, then run again"
        raise UserError(told) from error
