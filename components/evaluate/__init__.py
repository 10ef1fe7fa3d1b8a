"""The evaluate step: score a trained cell on its splits, against original and dilated masks, at two sizes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from components.evaluate.finish import finish
from components.evaluate.parts import write_part
from components.evaluate.stored import StoredMasks
from components.evaluate.stream import SplitScores, score_split
from components.evaluate.work import CODE, Work
from core.errors import UserError
from core.results import Row
from core.shard import Shard

__all__ = ["CODE", "Work", "evaluate", "evaluate_shard"]


def evaluate(work: Work, raw: Path, out: Path) -> list[Row]:
    """Score a cell and write its rows, cases, curves and overlays; ``docs/evaluation.md`` defines the metrics.

    Images are processed in batches; only one row of metrics per image stays in memory.

    Args:
        work: the cell and its inputs.
        raw: output of ingest, for the masks at their original size.
        out: output folder for ``rows.json``, ``cases.csv``, ``metrics.json``, ``split.json``, ``scored.json``,
            ``roc.csv``, ``reliability.csv``, ``risk_coverage.csv``, ``overlays.json`` and ``overlays/``.

    Returns:
        The rows of ``rows.json``: one per split, group of images, kind of masks and reduction.

    Raises:
        UserError: model or data are missing or do not match, the weights, arrays or split differ from the record of
            training, an input changed during the evaluation, or MLflow cannot be reached.
    """
    return finish(work, _scored(work, raw), out)


def evaluate_shard(work: Work, raw: Path, shard: Shard, out: Path) -> int:
    """Score one shard of the batches of each split, for :func:`components.evaluate.merge.merge`.

    Args:
        work: the cell and its inputs.
        raw: output of ingest.
        shard: the shard. It has whole batches, so that batches are the same as without shards.
        out: output folder (:mod:`components.evaluate.parts`).

    Returns:
        The number of images scored; a shard may have none.

    Raises:
        UserError: as :func:`evaluate` does, except that MLflow is not used.
    """
    return write_part(work, shard, _scored(work, raw, shard), out)


def _scored(work: Work, raw: Path, shard: Shard | None = None) -> Iterator[SplitScores]:
    """Check the inputs and load the network; return an iterator that scores split after split."""
    import torch

    from model.inference.predictor import Predictor

    work.ids  # noqa: B018 - a missing split is reported first
    stored = StoredMasks(raw, work.cohort, work.arrays, work.params)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.allow_tf32 = False  # results do not depend on the machine (docs/training.md, On a GPU)
    try:
        predictor = Predictor.load(work.model, device)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{work.model}: not a trained model ({error}); run the train step again") from error
    work.inputs  # noqa: B018 - the digests are taken before the evaluation
    if difference := predictor.input_config.difference(work.cohort.info):
        raise UserError(f"{work.model}, {work.arrays}: {difference}; run the train step again")
    return (score_split(work, predictor, stored, name, shard) for name in work.splits)
