"""Templates: the one way in which pages and Markdown are filled in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment


def environment(folder: Path, *, html: bool) -> Environment:
    """Return what reads the templates of a folder; a name that is not given is an error and no empty place.

    Args:
        folder: of the templates.
        html: whether what is put in is escaped; Markdown is not.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(folder),
        autoescape=html,  # noqa: S701  off for Markdown alone
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
