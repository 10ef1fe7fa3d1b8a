"""Scoring at the size at which each picture is stored: where its mask was drawn, and where predictions are used."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from core.cohort import MANIFEST, Arrays
from core.errors import UserError
from core.files import sha256
from core.images import read_mask
from core.params import EvaluateParams
from model.inference.postprocessing import at_size
from model.metrics import confusion, overlap_metrics
from model.preprocessing import dilate
from model.surface import gap, tolerance_at

STORED = ("stored_dice", "stored_hd95", "stored_assd", "nsd2", "nsd4")
TOLERANCES = {"nsd2": 2.0, "nsd4": 4.0}  # pixels of a 512-pixel picture


class StoredMasks:
    """The masks of a cohort as ingest left them.

    Args:
        raw: the cohort as ingest left it.
        cohort: the arrays that preprocess made of it.
        arrays: where these lie, for messages.
        params: how masks are made of probabilities.

    Raises:
        UserError: ``raw`` is no cohort, or not the one that the arrays were made of.
    """

    def __init__(self, raw: Path, cohort: Arrays, arrays: Path, params: EvaluateParams) -> None:
        if not (raw / MANIFEST).is_file():
            raise UserError(f"{raw / MANIFEST}: not found; {raw} is not a cohort: run the ingest step first")
        if sha256(raw / MANIFEST) != cohort.info.get("manifest_sha256"):
            raise UserError(f"{raw}: not the cohort that {arrays} was made of; run the preprocess step again")
        self.raw, self.params = raw, params
        self.paths = [raw / str(name) for name in cohort.manifest["mask"]]
        self.dilation = int(cohort.info["dilation"])

    def score(self, row: int, probabilities: np.ndarray) -> dict[str, dict[str, float]]:
        """Bring one image's probabilities to its stored size, draw its mask there and score it.

        Args:
            row: of the image in the arrays.
            probabilities: float32 (S, S), 0 to 1.

        Returns:
            {kind of masks: {metric: figure}}, the metrics of :data:`STORED`, distances in stored pixels. The dilated
            mask is the stored one dilated, as preprocess dilates it.

        Raises:
            ImageError: the mask cannot be read (a :class:`UserError`).
        """
        truth = read_mask(self.paths[row])
        predicted = self.params.to_masks(at_size(probabilities, truth.shape)[None])[0]
        return {
            "original": _figures(predicted, truth),
            "dilated": _figures(predicted, dilate(truth, self.dilation)),
        }


def _figures(predicted: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    apart = gap(predicted, mask)
    return {
        "stored_dice": float(overlap_metrics(confusion(predicted[None], mask[None]))["dice"][0]),
        "stored_hd95": apart.hd95(),
        "stored_assd": apart.assd(),
        **{name: apart.nsd(tolerance_at(pixels, mask.shape)) for name, pixels in TOLERANCES.items()},
    }
