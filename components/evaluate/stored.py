"""Score at each image's stored size, at which its mask was drawn and predictions are used."""

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
TOLERANCES = {"nsd2": 2.0, "nsd4": 4.0}  # pixels of a 512-pixel image


class StoredMasks:
    """The masks of a cohort at their original size.

    Args:
        raw: output of ingest.
        cohort: the arrays of the same cohort.
        arrays: folder of the arrays, for messages.
        params: parameters of the post-processing.

    Raises:
        UserError: ``raw`` is not a cohort, or not the cohort of the arrays.
    """

    def __init__(self, raw: Path, cohort: Arrays, arrays: Path, params: EvaluateParams) -> None:
        if not (raw / MANIFEST).is_file():
            raise UserError(f"{raw / MANIFEST}: not found; {raw} is not a cohort: run the ingest step first")
        if sha256(raw / MANIFEST) != cohort.info.get("manifest_sha256"):
            raise UserError(f"{raw}: not the cohort that {arrays} was made from; run the preprocess step again")
        self.raw, self.params = raw, params
        self.paths = [raw / str(name) for name in cohort.manifest["mask"]]
        self.dilation = int(cohort.info["dilation"])

    def score(self, row: int, probabilities: np.ndarray) -> dict[str, dict[str, float]]:
        """Resize one image's probabilities to its stored size, post-process them to a mask and score it.

        Args:
            row: row number of the image in the arrays.
            probabilities: float32 (S, S), 0 to 1.

        Returns:
            {kind of masks: {metric: value}} with the metrics of :data:`STORED`, distances in stored pixels. The dilated
            mask is the stored mask, dilated as in preprocess.

        Raises:
            ImageError: the mask cannot be read.
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
