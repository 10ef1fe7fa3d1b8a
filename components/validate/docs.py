"""Great Expectations' Data Docs: make them readable offline, remove unused files, and copy them."""

from __future__ import annotations

import mimetypes
import re
import shutil
from pathlib import Path

from core.errors import UserError
from core.files import write_folder
from core.s3 import FAILURES, explain, is_s3, make_client, split_url
from core.terminal import say

INDEX = "index.html"


def link_plainly(docs: Path) -> None:
    """Add plain links to the Data Docs' start page, because its own list loads scripts from the network."""
    index = docs / INDEX
    (page,) = docs.glob("validations/**/*.html")
    links = (
        f'<p style="padding: 1em">Read without a network: <a href="{page.relative_to(docs)}">the result</a>, '
        '<a href="expectations/cohort.html">what is expected</a></p>'
    )
    head, body, rest = index.read_text().partition("<body>")
    if not body:
        raise RuntimeError(f"{index}: Great Expectations wrote a page without a body")
    index.write_text(head + body + links + rest)


def remove_unlinked(docs: Path) -> None:
    """Remove the files in ``static`` that no page links: 4 MB of fonts and animations."""
    linked = {
        (page.parent / link).resolve()
        for page in docs.rglob("*.html")
        for link in re.findall(r'(?:href|src)="([^"#?:]+)"', page.read_text())
    }
    for path in sorted((docs / "static").rglob("*"), reverse=True):
        if path.is_file() and path.resolve() not in linked:
            path.unlink()
        elif path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def copy(docs: Path, place: str, name: str) -> str:
    """Copy the Data Docs to ``<place>/validation-<name>`` and return the address of their start page.

    A copy that fails is one line on standard error, because it must not hide the result of the validation.

    Args:
        docs: folder of the Data Docs.
        place: a folder or ``s3://bucket/prefix``.
        name: last part of the new folder's name.

    Returns:
        The address, empty if the copy failed.
    """
    target = f"{place.rstrip('/')}/validation-{name}"
    try:
        if is_s3(place):
            bucket, prefix = split_url(target)
            client = make_client(1)
            for path in (path for path in docs.rglob("*") if path.is_file()):
                # With a content type, a browser shows the page instead of downloading it.
                kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
                key = f"{prefix}/{path.relative_to(docs)}"
                client.put_object(Bucket=bucket, Key=key, Body=path.read_bytes(), ContentType=kind)
        else:
            with write_folder(Path(target)) as partial:
                shutil.copytree(docs, partial, dirs_exist_ok=True)
    except FAILURES as error:
        say(f"note: the Data Docs could not be copied: {explain(error, target)}")
        return ""
    except (UserError, OSError) as error:
        say(f"note: the Data Docs could not be copied: {error}")
        return ""
    return f"{target}/{INDEX}"
