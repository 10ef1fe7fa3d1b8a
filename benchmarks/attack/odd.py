"""Undamaged files with unusual content. One run of ``predict`` reads all of them; each must get a row."""

from __future__ import annotations

import gzip
import io
import json
import struct
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydicom import DataElement, Dataset
from pydicom.datadict import tag_for_keyword
from pydicom.sequence import Sequence

from benchmarks.attack.corpus import SECRET, SIDE, dataset, picture, saved
from benchmarks.attack.counts import READ, REFUSED, Counts
from core.images import SIGNATURE as PNG
from model.inference.golden import draw

# DICOM attributes that predict reads or copies to a SEG.
KEYWORDS = (
    *("PixelSpacing", "ImagerPixelSpacing", "PatientOrientation", "Rows", "Columns", "BitsAllocated", "BitsStored"),
    *("HighBit", "PixelRepresentation", "SamplesPerPixel", "PhotometricInterpretation", "RescaleSlope"),
    *("RescaleIntercept", "WindowCenter", "WindowWidth", "VOILUTFunction", "ModalityLUTSequence", "VOILUTSequence"),
    *("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID", "FrameOfReferenceUID"),
    *("OperatorsName", "PatientName", "Modality", "ViewPosition", "PixelData", "NumberOfFrames"),
    *("PlanarConfiguration", "PresentationLUTShape", "PixelPaddingValue"),
)
# VRs that most of these attributes may not have, with a value each.
VALUES: tuple[tuple[str, Any], ...] = (
    *(("US", 7), ("US", [1, 2, 3]), ("SV", -1), ("FD", float("nan")), ("OB", b"\1\2"), ("SQ", Sequence([Dataset()]))),
    *(("LO", ""), ("UT", "[red]\x1b[31m\n" + "x" * 5000), ("PN", "A^B\\C^D")),
)
MODES = {
    "PNG": ("1", "L", "LA", "P", "I;16", "RGB", "RGBA"),
    "TIFF": ("1", "L", "LA", "P", "I;16", "RGB", "RGBA", "CMYK", "F", "I"),
    "JPEG": ("L", "RGB", "CMYK"),
}
SHAPES = ((1, 1), (1, 300), (300, 1), (2, 2), (5, 7), (4000, 6))
EXIF_ORIENTATION = 274
OTHERS = ("GIF", "BMP", "WEBP", "ICO", "PPM", "TGA", "JPEG2000")
NAMES = ("=1+1", "-o", "@x", "[red]x", "a\nb", "a\x1b[31mb", "n" * 200, "\udcff", "patient's", "x.dcm.png")
SECONDS = 600.0  # timeout of the whole run


def odd_files() -> dict[str, bytes]:
    """Return files by name: DICOMs with wrong types and values, images of many kinds, and files that are no images."""
    made = dict(_dicoms())
    made |= dict(_pictures())
    made |= dict(_no_pictures())
    plain = picture(draw(SIDE), "PNG")
    return made | {f"{name}.png": plain for name in NAMES}


def _dicoms() -> Iterator[tuple[str, bytes]]:
    for keyword in KEYWORDS:
        tag = tag_for_keyword(keyword)
        assert tag is not None
        for number, (vr, value) in enumerate(VALUES):
            made = dataset(draw(SIDE))
            made[tag] = DataElement(tag, vr, value)
            yield f"{keyword}-{number}-{vr}.dcm", saved(made)
        made = dataset(draw(SIDE))
        if keyword in made:
            del made[keyword]
            yield f"{keyword}-absent.dcm", saved(made)
    for depth in (10, 150):
        made, inner = dataset(draw(SIDE)), Dataset()
        for _ in range(depth):
            outer = Dataset()
            outer.RequestAttributesSequence = Sequence([inner])
            inner = outer
        made.RequestAttributesSequence = Sequence([inner])
        yield f"nested-{depth}.dcm", saved(made)
    for value in ("1e200", "1000000", "0", "-1", "1e-9"):
        made = dataset(draw(SIDE))
        made.PixelSpacing = [value, value]
        yield f"spacing-{value}.dcm", saved(made)


def _pictures() -> Iterator[tuple[str, bytes]]:
    grey = Image.fromarray(draw(SIDE))
    for kind, modes in MODES.items():
        for mode in modes:
            yield f"mode-{mode.replace(';', '')}.{kind.lower()}", picture(grey.convert(mode), kind)
        for rows, columns in SHAPES:
            pixels = np.arange(rows * columns, dtype=np.uint32).astype(np.uint8).reshape(rows, columns)
            yield f"shape-{rows}-{columns}.{kind.lower()}", picture(pixels, kind)
        for turn in range(10):
            exif = Image.Exif()
            exif[EXIF_ORIENTATION] = turn
            yield f"exif-{turn}.{kind.lower()}", picture(grey, kind, exif=exif)
    yield "animated.png", picture(grey, "PNG", save_all=True, append_images=[grey.rotate(90)])
    yield "pages.tiff", picture(grey, "TIFF", save_all=True, append_images=[grey.rotate(90)])
    for name, value in (("nan", np.nan), ("infinite", np.inf), ("negative", -1e30)):
        yield f"{name}.tiff", picture(np.full((SIDE, SIDE), value, np.float32), "TIFF")
    for level in (0, 255):
        yield f"blank-{level}.png", picture(np.full((SIDE, SIDE), level, np.uint8), "PNG")
    yield from _bombs(picture(grey, "PNG"), picture(grey, "JPEG", progressive=True), picture(grey, "TIFF"))


def _bombs(png: bytes, jpeg: bytes, tiff: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield small files that need much memory or time."""
    huge = struct.pack(">II", 60_000, 60_000)
    head = b"IHDR" + huge + png[24:29]
    yield "huge.png", png[:12] + head + struct.pack(">I", zlib.crc32(head)) + png[33:]
    at = jpeg.index(b"\xff\xc2")
    yield "huge.jpg", jpeg[: at + 5] + struct.pack(">HH", 65_000, 65_000) + jpeg[at + 9 :]
    yield "huge.tiff", tiff.replace(struct.pack("<HHII", 256, 4, 1, SIDE), struct.pack("<HHII", 256, 4, 1, 2**31))
    text = b"zTXt" + b"Comment\0\0" + zlib.compress(bytes(200_000_000))
    chunk = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
    yield "text.png", png[:33] + chunk + png[33:]
    yield "scans.jpg", jpeg[:-2] + 3000 * jpeg[jpeg.rindex(b"\xff\xda") : -2] + jpeg[-2:]
    yield "trailing.jpg", jpeg[:-2] + bytes(1000) + jpeg[-2:]
    yield "half.jpg", jpeg[: len(jpeg) // 2]


def _no_pictures() -> Iterator[tuple[str, bytes]]:
    grey = Image.fromarray(draw(SIDE)).convert("RGB")
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("x.png", picture(grey, "PNG"))
    contents = {
        **{kind: picture(grey, kind) for kind in OTHERS},
        **{"empty": b"", "byte": b"\0", "text": SECRET.encode() * 20, "html": b"<script>alert(1)</script>"},
        **{"zip": archive.getvalue(), "gzip": gzip.compress(picture(grey, "PNG")), "pdf": b"%PDF-1.7\n%%EOF"},
        **{"zeros": bytes(100_000), "signature": PNG, "preamble": bytes(128) + b"DICM"},
    }
    for name, content in contents.items():
        for suffix in ("png", "dcm"):
            yield f"{name}.{suffix}", content


def odd(package: Path) -> Counts:
    """Run ``predict`` once on all unusual files and a valid image; count the rows.

    A file fails if it has no row, if its error has several lines or quotes it, or if it ends the run.
    """
    counts, files = Counts(), odd_files() | {"sound.png": picture(draw(SIDE), "PNG")}
    with tempfile.TemporaryDirectory() as scratch:
        ward, out = Path(scratch, "ward"), Path(scratch, "out")
        ward.mkdir()
        for name, content in files.items():
            (ward / name).write_bytes(content)
        line = [sys.executable, "-m", "defunet", "predict", str(ward), "--model", str(package), "--out", str(out)]
        done = subprocess.run(line, capture_output=True, timeout=SECONDS, check=False)
        said = (done.stdout + done.stderr).decode(errors="replace")
        rows: list[dict[str, Any]] = []
        if (out / "results.json").exists():
            rows = json.loads((out / "results.json").read_text(errors="surrogateescape"))["results"]
    found = {str(row["file"]): row for row in rows}
    for name in files:
        counts.add(_judged(found.get(name)))
    if "Traceback" in said or SECRET in said or "\x1b" in said:
        counts.add("a traceback, an escape sequence or a file's content on the terminal")
    if found.get("sound.png", {}).get("status") != "ok":
        counts.add("the sound picture is lost")
    return counts


def _judged(row: dict[str, Any] | None) -> str:
    if row is None:
        return "no row"
    if row["status"] == "ok":
        return READ
    reason = str(row.get("error", ""))
    return REFUSED if reason and "\n" not in reason and SECRET not in reason else "an unclear reason"
