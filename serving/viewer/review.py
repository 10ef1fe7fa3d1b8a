"""The review sheet of a prediction run, ``review.html``: every X-ray with its outlines, the worst first."""

from __future__ import annotations

import base64
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from core.files import write_file
from core.templating import environment
from serving.viewer import SCRIPTS, STYLES, TEMPLATES, read
from serving.viewer.about import About

if TYPE_CHECKING:
    from model.inference.package import Segmentation
    from serving.xray.reading import Xray

PAGE = "review.html"
# Maximum size of all embedded images in megabytes (10^6 bytes); above it the page loads them from separate files. A
# browser keeps embedded images in memory, and editors and mail refuse larger files.
EMBEDDED_MB = 25.0
FIELDS = (
    *("file", "status", "error", "kind", "height", "width", "spacing", "lungs", "left", "right", "symmetry"),
    *("uncertain", "expected_dice", "expected_dice_low", "flags", "note", "day", "device"),
)


def view_of(found: Segmentation, xray: Xray, percentiles: tuple[float, float]) -> dict[str, bytes]:
    """Return the sheet's files of an X-ray: ``picture``, a JPEG, and ``shapes``, JSON with outlines and thumbnail.

    Args:
        found: the prediction.
        xray: the X-ray.
        percentiles: percentiles of the grey values that become black and white.
    """
    from serving.viewer.shapes import jpeg, picture, shapes, thumbnail

    pixels = picture(xray, percentiles)
    about = {"shapes": asdict(shapes(found, xray)), "thumbnail": _data(thumbnail(pixels))}
    return {"picture": jpeg(pixels), "shapes": json.dumps(about).encode()}


def worst_first(row: Mapping[str, Any]) -> tuple[bool, bool, float, int, float]:
    """Return a row's sort key in the sheet.

    Failed X-rays come first, then X-rays without ``expected_dice``, then those with the lowest. Ties go to the X-ray
    with more flags, then to the one with the larger uncertain share.
    """
    expected = row.get("expected_dice")
    return (
        row["status"] == "ok",
        expected is not None,
        0.0 if expected is None else float(expected),
        -len(row.get("flags") or ()),
        -float(row.get("uncertain") or 0.0),
    )


def write_review(
    path: Path,
    about: About,
    entries: Sequence[tuple[Mapping[str, Any], Mapping[str, Path]]],
    embedded_mb: float = EMBEDDED_MB,
) -> None:
    """Write the sheet, one file that needs no network, atomically.

    Args:
        path: path of the sheet; its folder has the entries' files.
        about: facts of the model.
        entries: the X-rays in any order, each as its row of ``results.json`` and the paths of its files by kind,
            relative to the sheet's folder. ``picture`` is the enlarged image, ``shapes`` has the outlines and the
            thumbnail; the sheet links to the others.
        embedded_mb: the page embeds the enlarged images if their total is at most this many megabytes (10^6 bytes),
            else it loads them from the files.

    Raises:
        UserError: the disk is full, or the file cannot be written.
    """
    folder = path.parent
    ordered = sorted(entries, key=lambda entry: (*worst_first(entry[0]), entry[0]["file"]))
    size = sum(_size(folder / files["picture"]) for _, files in ordered if "picture" in files)
    embedded = size <= embedded_mb * 1e6
    shown = [_shown(row, files, folder, embedded) for row, files in ordered]
    document = {"about": asdict(about), "embedded": embedded, "xrays": shown}
    text = (
        environment(TEMPLATES, html=False)
        .get_template("review.html.j2")
        .render(
            styles="\n".join(map(read, (*STYLES, "review.css"))),
            scripts=[read(name) for name in (*SCRIPTS, "review.js")],
            document=_in_script(document),
        )
    )
    with write_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def _shown(row: Mapping[str, Any], files: Mapping[str, Path], folder: Path, embedded: bool) -> dict[str, Any]:
    shown = {name: row[name] for name in FIELDS if row.get(name) not in (None, "", [])}
    shown |= {"links": {kind: _address(path) for kind, path in files.items() if kind not in ("picture", "shapes")}}
    if "picture" not in files or "shapes" not in files:
        return shown
    try:
        view = json.loads((folder / files["shapes"]).read_bytes())
        data = (folder / files["picture"]).read_bytes() if embedded else b""
        return shown | {
            "shapes": view["shapes"],
            "thumbnail": view["thumbnail"],
            "picture": _data(data) if embedded else _address(files["picture"]),
        }
    except (OSError, ValueError, KeyError, TypeError):  # removed or changed since: show the row without an image
        return shown


def _size(path: Path) -> int:
    try:
        return math.ceil(path.stat().st_size / 3) * 4  # in base64
    except OSError:
        return 0


def _address(path: Path) -> str:
    """Return a relative path as a URL; a file's name may have any bytes."""
    return quote(os.fsencode(path.as_posix()))


def _data(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


def _in_script(value: Any) -> str:
    """Return JSON that cannot close a script element, whatever the files' names are."""
    return json.dumps(value, allow_nan=False).replace("<", "\\u003c")
