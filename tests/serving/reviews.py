"""A cohort, predictions of its X-rays, and the commands of a review."""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from typer.testing import CliRunner

from core.images import encode, read_mask
from defunet.__main__ import app
from serving.predict.outputs import opened
from tests.cohorts import lungs, put, write_cohort, xray
from tests.conftest import ROOT, files
from tests.serving.dicoms import dicom

MODEL = {"name": "lung-segmentation", "version": "7", "weights_sha256": "ab" * 32, "source": "x", "engine": "torch"}
SHAPE = {"name": "shape", "reason": "the smaller lung has 40.0% of the larger one's area; in training 60.0% to 99.0%"}
INTENSITY = {"name": "intensity", "reason": "20.0% of the pixels have grey values 0 to 15; in training 1.0% to 2.0%"}
TURNED = {"name": "turned", "reason": "it is upside down"}
MONTGOMERY, SHENZHEN = "MontgomerySet/CXR_png/", "ChinaSet_AllFiles/CXR_png/"
# Flags by the X-ray's name.
ROWS: dict[str, list[dict[str, str]]] = {
    f"{MONTGOMERY}MCUCXR_0001_1.png": [SHAPE],
    f"{MONTGOMERY}MCUCXR_0002_0.png": [],
    f"{SHENZHEN}CHNCXR_0001_1.png": [INTENSITY, SHAPE],
    f"{SHENZHEN}CHNCXR_0003_1.png": [SHAPE],  # the cohort has no mask of it
    "ward/chest.dcm": [SHAPE],  # nor this X-ray
}


@dataclass(frozen=True)
class Desk:
    """A folder with ``cohort/``, ``ward/chest.dcm``, and ``lungs/`` as ``predict`` leaves it.

    Every proposed mask has only the patient's right lung, a little smaller.
    """

    root: Path

    def call(self, *words: object, code: int = 0) -> str:
        """Run a command and return what it printed."""
        done = CliRunner().invoke(app, [*map(str, words)], catch_exceptions=False)
        assert done.exit_code == code, done.output
        assert ("\nerror: " in f"\n{done.stderr}") == (code == 1), done.stderr
        return done.output

    def export(self, *words: object, code: int = 0) -> str:
        where = ("--inputs", self.root / "cohort", "-o", self.root / "review")
        return self.call("review", "export", self.root / "lungs", *where, *words, code=code)

    def take(self, *words: object, code: int = 0) -> str:
        """Import into ``new/``."""
        where = ("--cohort", self.root / "cohort", "--out", self.root / "new", "--by", "A. Reader")
        return self.call(
            "review", "import", self.root / "review", *where, "--params", self.root / "params.yaml", *words, code=code
        )

    @property
    def manifest(self) -> dict[str, dict[str, Any]]:
        """The manifest's pictures by the name of their file."""
        pictures = json.loads((self.root / "review/manifest.json").read_text())["pictures"]
        return {picture["file"].rpartition("/")[2]: picture for picture in pictures}

    def place(self, name: str, folder: str = "labels/final") -> Path:
        return self.root / "review" / folder / f"{self.manifest[name]['id']}.png"

    def correct(self, name: str, mask: np.ndarray | None = None) -> np.ndarray:
        """Save the mask of both lungs, or another, as the correction; return it as 0 and 1."""
        size = self.manifest[name]["height"], self.manifest[name]["width"]
        put(self.place(name), lungs(*size) if mask is None else mask)
        return read_mask(self.place(name))

    def record(self, cohort: str = "new") -> list[dict[str, Any]]:
        return list(json.loads((self.root / cohort / "corrections.json").read_text()))

    def files(self, name: str) -> dict[str, bytes]:
        return files(self.root / name)


def desk(root: Path) -> Desk:
    """Make a desk."""
    cohort = write_cohort(root / "cohort", montgomery=2, shenzhen=3)
    (cohort / "ward").mkdir()
    for name in ROWS:
        if name.endswith(".dcm"):
            (cohort / name).write_bytes(dicom(xray(90, 70, 9, np.uint16), StudyID=name))
    (root / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    with opened(root / "lungs", MODEL, overwrite=False, resume=False) as results:
        for name, flags in ROWS.items():
            size = _size(name)
            proposed = lungs(*size, "right")
            proposed[: size[0] // 3] = 0
            digest = sha256((cohort / name).read_bytes()).hexdigest()
            mask = results.write("mask", name, encode(proposed))
            row = {"file": name, "status": "ok", "error": "", "sha256": digest, "kind": "png", "flags": flags}
            results.add(row | {"mask": mask})
        results.add({"file": "broken.png", "status": "failed", "error": "broken.png: damaged", "sha256": "0" * 64})
    return Desk(root)


def _size(name: str) -> tuple[int, int]:
    """Return height and width of an X-ray of :func:`tests.cohorts.write_cohort`, and of the DICOM."""
    if name.endswith(".dcm"):
        return 90, 70
    return (72, 72) if "CHNCXR" in name else ((96, 80) if name.endswith("1_1.png") else (80, 96))
