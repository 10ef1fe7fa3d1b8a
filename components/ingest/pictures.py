"""Copy one X-ray and its mask to the raw cohort, with checks, hashes and measurements."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from components.ingest.layouts import Case
from components.ingest.readings import Reading, decode_text
from components.ingest.source import File, Source, join
from core.errors import UserError
from core.images import MOST_BYTES_A_PIXEL, decode, encode, foreground, is_binary, pixel_sha256

MOST_COMPONENTS = 16  # limit of the list in the manifest; validate refuses masks with more than a few
MOST_READING = 1 << 20  # bytes: a reading is a few lines


class Store:
    """Writes cases to the raw cohort, one call per case; thread-safe.

    Args:
        called: the source's name in messages.
        source: the files of the source.
        out: the cohort's folder, for ``images/<site>`` and ``masks/<site>``.
        max_pixels: larger images and masks are refused before they are decoded.
    """

    def __init__(self, called: str, source: Source, out: Path, max_pixels: int) -> None:
        self.called, self.source, self.out, self.max_pixels = called, source, out, max_pixels

    def __call__(self, case: Case) -> tuple[dict[str, Any] | None, list[str]]:
        """Write one X-ray and its mask.

        Returns:
            The manifest's row, or None if a file of the case is unusable; and one line for each such file.

        Raises:
            OSError: writing failed.
        """
        problems: list[str] = []
        row: dict[str, Any] = {"id": case.id, "site": case.layout.site, "label": case.label}
        row |= self._image(case, problems) | self._mask(case, problems) | self._reading(case, problems)
        return (None if problems else row), problems

    def _read(self, name: str, limit: int, problems: list[str]) -> bytes | None:
        """Return a file's bytes; None, and a line in ``problems``, if it is unreadable or larger than ``limit``."""
        file: File = self.source.files[name]
        called = join(self.called, name)
        try:
            if file.size > limit:
                raise UserError(f"{called}: {file.size / 1e6:.0f} MB, more than any such file may have; remove it")
            return file.read()
        except OSError as error:
            problems.append(
                f"{called}: cannot be read ({error.strerror or error}); change its permissions, or remove it"
            )
        except UserError as error:
            problems.append(str(error))
        return None

    def _picture(self, name: str, problems: list[str]) -> tuple[bytes, np.ndarray, int] | None:
        """Return an image's bytes, its pixels, uint8 or uint16 (H, W), and its bit depth; None if it is unusable."""
        # Size of the largest PNG with max_pixels: incompressible pixels, filter bytes and metadata.
        data = self._read(name, self.max_pixels * (MOST_BYTES_A_PIXEL + 1) + (1 << 20), problems)
        if data is None:
            return None
        try:
            pixels, header = decode(data, join(self.called, name), self.max_pixels)
        except UserError as error:
            problems.append(str(error))
            return None
        return data, pixels, header.bit_depth

    def _image(self, case: Case, problems: list[str]) -> dict[str, Any]:
        picture = self._picture(case.image, problems)
        if picture is None:
            return {}
        data, pixels, bit_depth = picture
        place = self._write("images", case, data)
        height, width = pixels.shape
        return {
            "image": place,
            "width": width,
            "height": height,
            "bit_depth": bit_depth,
            "image_sha256": hashlib.sha256(data).hexdigest(),
            "pixel_sha256": pixel_sha256(pixels),
        }

    def _mask(self, case: Case, problems: list[str]) -> dict[str, Any]:
        if not case.masks:
            unknown = ("mask_width", "mask_height", "mask_binary", "lung_fraction")
            return dict.fromkeys(unknown) | {"mask": "", "component_fractions": "", "mask_sha256": ""}
        pictures = [picture[1] for name in case.masks if (picture := self._picture(name, problems))]
        if len(pictures) < len(case.masks):
            return {}
        if len({pixels.shape for pixels in pictures}) > 1:
            sizes = ", ".join(f"{width} x {height}" for height, width in (pixels.shape for pixels in pictures))
            problems.append(
                f"{join(self.called, case.masks[0])}: it and its other half differ in size ({sizes}) and cannot be "
                "united; replace the wrong one"
            )
            return {}
        united = np.bitwise_or.reduce([foreground(pixels) for pixels in pictures])
        data = encode(united * np.uint8(255))
        height, width = united.shape
        return {
            "mask": self._write("masks", case, data),
            "mask_width": width,
            "mask_height": height,
            "mask_binary": all(is_binary(pixels) for pixels in pictures),
            "lung_fraction": cv2.countNonZero(united) / united.size,
            "component_fractions": component_fractions(united),
            "mask_sha256": hashlib.sha256(data).hexdigest(),
        }

    def _reading(self, case: Case, problems: list[str]) -> dict[str, Any]:
        data = self._read(case.reading, MOST_READING, problems) if case.reading else None
        reading = Reading() if data is None else case.layout.read(decode_text(data))
        return {"age": reading.age, "sex": reading.sex, "reading": reading.text}

    def _write(self, folder: str, case: Case, data: bytes) -> str:
        place = place_of(folder, case.layout.site, case.id)
        path = self.out / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return place


def place_of(folder: str, site: str, identity: str) -> str:
    """Return the path of an image or mask below the cohort's folder; ``folder`` is ``images`` or ``masks``."""
    return f"{folder}/{site}/{identity}.png"


def component_fractions(mask: np.ndarray) -> str:
    """Return the areas of a mask's largest 8-connected components as shares of the image.

    Args:
        mask: uint8 (H, W) of 0 and 1.

    Returns:
        At most :data:`MOST_COMPONENTS` numbers, largest first, with six significant digits, separated by spaces.
    """
    _, _, statistics, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    areas = sorted(statistics[1:, cv2.CC_STAT_AREA].tolist(), reverse=True)
    return " ".join(f"{area / mask.size:.6g}" for area in areas[:MOST_COMPONENTS])
