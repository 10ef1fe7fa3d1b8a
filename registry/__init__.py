"""The MLflow registry, read: versions, who is champion and since when, and where each version comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tracking.store import answered

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["CHALLENGER", "CHAMPION", "WIDTH", "answered", "wide_console"]

CHAMPION = "champion"
CHALLENGER = "challenger"
WIDTH = 200  # characters of a table that no terminal bounds


def wide_console() -> Console:
    """Return a console as wide as the terminal, and wide enough for whole tables where there is none."""
    from rich.console import Console

    return Console(highlight=False, width=None if Console().is_terminal else WIDTH)
