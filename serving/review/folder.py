"""The folder of a review: files for labelling tools, and a manifest against which the import checks them.

``<id>.png`` is the X-ray for display and ``labels/original/<id>.png`` its proposed mask; corrected masks are expected
as ``labels/final/<id>.png``. This is the layout of MONAI Label's local datastore. ``xrays/<id>.png`` is the X-ray at
its full bit depth, for the cohort.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from core.errors import UserError
from core.files import read_json, write_json

MANIFEST, WORKSHEET = "manifest.json", "review.csv"
XRAYS, PROPOSED, CORRECTED = Path("xrays"), Path("labels/original"), Path("labels/final")
TASKS, CONFIG = Path("label-studio/tasks.json"), Path("label-studio/config.xml")
COLUMNS = ("picture", "file", "flags", "reasons", "label")  # of the worksheet


class Model(BaseModel):
    """The model that proposed the masks, as in ``results.json``."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    name: str
    version: str
    weights_sha256: str


class Picture(BaseModel):
    """One X-ray of a review.

    Attributes:
        id: name in the folder: 16 hexadecimal digits of the source file's SHA-256.
        file: name of the source file, as in ``results.json``.
        sha256: SHA-256 of the source file.
        xray_sha256: SHA-256 of ``xrays/<id>.png``; equals ``sha256`` if the source file was copied unchanged.
        mask_sha256: SHA-256 of the proposed mask's file.
        height: height in pixels.
        width: width in pixels.
        flags: names of the quality flags.
        reasons: reasons of the flags.
        label: ``normal`` or ``abnormal`` if the file's name says so, else empty.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    file: str
    sha256: str
    xray_sha256: str
    mask_sha256: str
    height: int
    width: int
    flags: list[str]
    reasons: list[str]
    label: str

    @property
    def png(self) -> str:
        """Name of the X-ray's files in each folder."""
        return f"{self.id}.png"


class Review(BaseModel):
    """The manifest of a review."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Model
    pictures: list[Picture]

    def write(self, folder: Path) -> None:
        """Write the manifest into a folder."""
        write_json(folder / MANIFEST, self.model_dump())

    @classmethod
    def read(cls, folder: Path) -> Review:
        """Read a folder's manifest.

        Raises:
            UserError: the manifest is missing or was not written by this program.
        """
        path = folder / MANIFEST
        if not path.is_file():
            raise UserError(f"{path}: not found; give the folder that `defunet review export` wrote")
        try:
            return cls.model_validate(read_json(path))
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise UserError(f"{path}: not the manifest of a review ({place}: {first['msg']}); export again") from None
