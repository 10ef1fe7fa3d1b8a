"""The viewer of predictions, shared by the service's page and the review sheet of ``predict``."""

from __future__ import annotations

from pathlib import Path

TEMPLATES = Path(__file__).parent / "templates"
# Classic scripts: a page opened as a file cannot import modules.
SCRIPTS = ("findings.js", "outlines.js", "viewer.js")
STYLES = ("theme.css", "viewer.css")


def read(name: str) -> str:
    """Return the text of one of the viewer's files."""
    return (TEMPLATES / name).read_text(encoding="utf-8")
