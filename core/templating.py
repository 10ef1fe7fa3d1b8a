"""The Jinja environment for pages and Markdown."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment


def environment(folder: Path, *, html: bool) -> Environment:
    """Return the Jinja environment of a folder of templates; an undefined variable raises an error.

    Args:
        folder: the folder of the templates.
        html: True escapes values for HTML; False is for Markdown.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(folder),
        autoescape=html,  # noqa: S701  off only for Markdown
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
