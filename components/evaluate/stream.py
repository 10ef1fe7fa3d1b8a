"""Predict and score a split, or a shard of it, batch by batch; only the masks of overlays stay in memory."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from components.evaluate.calibration import BINS, reliability_sums
from components.evaluate.overlays import Shown
from components.evaluate.scores import Scores
from components.evaluate.stored import STORED, StoredMasks
from components.evaluate.work import Work
from core.cohort import Arrays
from core.errors import UserError
from core.parallel import cores
from core.params import EvaluateParams
from core.shard import Shard
from model.inference.engine import batches
from model.metrics import agreement

if TYPE_CHECKING:
    from model.inference.predictor import Predictor


@dataclass(frozen=True)
class SplitScores:
    """The accumulated results of a split.

    Attributes:
        scores: scores by kind of masks.
        shown: the masks for overlays.
        batches: the sums of each batch against original masks, in order
            (:func:`components.evaluate.calibration.reliability_sums`).
    """

    scores: dict[str, Scores]
    shown: Shown
    batches: list[np.ndarray] = field(default_factory=list)

    @classmethod
    def of(cls, cohort: Arrays, params: EvaluateParams, name: str, ids: list[str]) -> SplitScores:
        """Return empty results for the split ``name`` with the images ``ids``."""
        shown = Shown.of(cohort.manifest.iloc[cohort.rows(ids)], params.worst, params.figure_images)
        return cls({kind: Scores(name, kind) for kind in cohort.masks}, shown)

    @property
    def reliability(self) -> np.ndarray:
        """The sums over all pixels, float64 (3, bins), added in order, because the order determines the last digits."""
        total = np.zeros((3, BINS))
        for sums in self.batches:
            total += sums
        return total


def score_split(
    work: Work, predictor: Predictor, stored: StoredMasks, name: str, shard: Shard | None = None
) -> SplitScores:
    """Predict and score the images of one split.

    Args:
        work: the cell and its inputs.
        predictor: the trained network.
        stored: the masks at their stored size.
        name: name of the split.
        shard: score only this shard's batches; batches are the same as without shards.

    Raises:
        UserError: the network returns NaN or infinity, or a stored mask cannot be read.
    """
    order = work.cohort.rows(work.ids[name])
    found = SplitScores.of(work.cohort, work.params, name, work.ids[name])
    parts = list(batches(len(order), work.params.batch_size))
    with ThreadPoolExecutor(cores()) as pool:  # decoding and resizing release the GIL
        for number in shard.range_of(len(parts)) if shard else range(len(parts)):
            part = parts[number]
            _score_batch(found, pool, work, predictor, stored, order[part], part.start)
    return found


def _score_batch(
    found: SplitScores,
    pool: ThreadPoolExecutor,
    work: Work,
    predictor: Predictor,
    stored: StoredMasks,
    rows: np.ndarray,
    start: int,
) -> None:
    params, cohort = work.params, work.cohort
    plain, mirrored = predictor.both_ways(cohort.images[rows])
    probabilities = (plain + mirrored) / np.float32(2) if params.flip else plain
    if not np.isfinite(probabilities).all():
        raise UserError(f"{work.model}: the network returns NaN or infinity; run the train step again")
    predicted = params.to_masks(probabilities)
    agreed = agreement(plain >= params.threshold, mirrored >= params.threshold)
    at_own_size = list(pool.map(stored.score, rows, probabilities))
    for kind, scores in found.scores.items():
        masks = cohort.masks[kind][rows]
        more = {name: np.array([figures[kind][name] for figures in at_own_size]) for name in STORED}
        scores.add(cohort.manifest.iloc[rows], probabilities, predicted, masks, {**more, "mirror_agreement": agreed})
        if kind == "original":
            found.batches.append(reliability_sums(probabilities, masks))
            dice = scores.newest["dice"].to_numpy(np.float64)
            found.shown.offer(start, dice, predicted)
