"""``python -m components.evaluate.merge PART... --model MODEL``: one evaluation from the shards of evaluate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from components.evaluate.finish import finish
from components.evaluate.parts import read_parts, require_parts
from components.evaluate.work import Work
from core import cli
from core.cell import Cell
from core.params import EvaluateParams, read_params
from core.results import Row


def merge(work: Work, parts: Sequence[Path], out: Path) -> list[Row]:
    """Merge the shards of an evaluation into the files that evaluate writes without shards, and log it to MLflow.

    Args:
        work: the cell and its inputs.
        parts: outputs of :func:`components.evaluate.evaluate_shard`, one for each shard, in any order.
        out: output folder, as in :func:`components.evaluate.evaluate`.

    Returns:
        The rows of ``rows.json``.

    Raises:
        UserError: the parts are not the shards 1/N to N/N; one was scored from other weights, arrays, split or
            parameters, or with other code, or is damaged; or MLflow cannot be reached.
    """
    return finish(work, read_parts(work, require_parts(work, list(parts))), out)


def main(
    parts: Annotated[list[Path], typer.Argument(help="Outputs of evaluate --shard, one for each shard.")],
    arrays: Annotated[Path, typer.Option(help="The preprocessed cohort.")],
    model: Annotated[Path, typer.Option(help="The cell's trained model: .../<network>/<scenario>/seed-<seed>.")],
    split: Annotated[Path, typer.Option(help="The scenario's frozen split.")],
    out: cli.Out,
    params: cli.ParamsFile = Path("params.yaml"),
) -> None:
    """Merge the shards of an evaluation into the folder that evaluate writes without shards."""

    def reread() -> EvaluateParams:
        return read_params(params).evaluate

    merge(Work(Cell.of(model), arrays, split, model, reread(), reread), parts, out)


if __name__ == "__main__":
    cli.run(main)
