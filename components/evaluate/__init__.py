"""The evaluate step: score a trained cell on its splits, against original and dilated masks, at two sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from components.evaluate.finish import finish
from components.evaluate.parts import write_part
from components.evaluate.stored import StoredMasks
from components.evaluate.stream import SplitScores, score_split
from components.evaluate.work import CODE, Work
from core.cell import Cell
from core.cohort import Arrays, read_split
from core.errors import UserError
from core.params import EvaluateParams
from core.results import Row
from core.shard import Shard

__all__ = ["CODE", "evaluate", "evaluate_shard"]


def evaluate(
    cell: Cell,
    arrays: Path,
    raw: Path,
    split: Path,
    model: Path,
    params: EvaluateParams,
    out: Path,
    reread: Callable[[], EvaluateParams] | None = None,
) -> list[Row]:
    """Score a cell and write its rows, cases, curves and overlays; ``docs/evaluation.md`` defines the metrics.

    Images are processed in batches; only one row of metrics per image stays in memory.

    Args:
        cell: network, scenario and seed.
        arrays: output of preprocess.
        raw: output of ingest, for the masks at their original size.
        split: the scenario's split, ``<scenario>.json``.
        model: output of train.
        params: section ``evaluate`` of ``params.yaml``.
        out: output folder for ``rows.json``, ``cases.csv``, ``metrics.json``, ``split.json``, ``scored.json``,
            ``roc.csv``, ``reliability.csv``, ``risk_coverage.csv``, ``overlays.json`` and ``overlays/``.
        reread: reads ``params`` again from its file, to detect an edit during the evaluation.

    Returns:
        The rows of ``rows.json``: one per split, group of images, kind of masks and reduction.

    Raises:
        UserError: model or data are missing or do not match, the weights, arrays or split differ from the record of
            training, an input changed during the evaluation, or MLflow cannot be reached.
    """
    work, scored = _begin(cell, arrays, raw, split, model, params, reread)
    return finish(work, scored, out)


def evaluate_shard(
    cell: Cell,
    arrays: Path,
    raw: Path,
    split: Path,
    model: Path,
    params: EvaluateParams,
    shard: Shard,
    out: Path,
    reread: Callable[[], EvaluateParams] | None = None,
) -> int:
    """Score one shard of the batches of each split, for :func:`components.evaluate.merge.merge`.

    Args:
        cell: this and the other common arguments are as for :func:`evaluate`.
        arrays: output of preprocess.
        raw: output of ingest.
        split: the scenario's split.
        model: output of train.
        params: section ``evaluate`` of ``params.yaml``.
        shard: the shard. It has whole batches, so that batches are the same as without shards.
        out: output folder (:mod:`components.evaluate.parts`).
        reread: reads ``params`` again from its file.

    Returns:
        The number of images scored; a shard may have none.

    Raises:
        UserError: as :func:`evaluate` does, except that MLflow is not used.
    """
    work, scored = _begin(cell, arrays, raw, split, model, params, reread, shard)
    return write_part(work, shard, scored, out)


def _begin(
    cell: Cell,
    arrays: Path,
    raw: Path,
    split: Path,
    model: Path,
    params: EvaluateParams,
    reread: Callable[[], EvaluateParams] | None,
    shard: Shard | None = None,
) -> tuple[Work, Iterator[SplitScores]]:
    """Check the inputs and load the network; return the inputs, and an iterator that scores split after split."""
    import torch

    from model.inference.predictor import Predictor

    opened = cohort, ids = Arrays(arrays), read_split(split, cell.scenario)
    stored = StoredMasks(raw, cohort, arrays, params)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.allow_tf32 = False  # results do not depend on the machine (docs/training.md, On a GPU)
    try:
        predictor = Predictor.load(model, device)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{model}: not a trained model ({error}); run the train step again") from error
    work = Work.of(cell, arrays, split, model, params, reread, opened, predictor.input_config)
    return work, (score_split(predictor, model, cohort, stored, name, ids[name], shard) for name in work.splits)
