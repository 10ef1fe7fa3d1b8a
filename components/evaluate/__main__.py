"""``python -m components.evaluate``: score one cell of the matrix."""

from pathlib import Path
from typing import Annotated

import typer

from components.evaluate import Work, evaluate, evaluate_shard
from core import cli
from core.cell import Cell
from core.params import EvaluateParams, read_params
from core.shard import Shard, ShardOption


def main(
    arrays: Annotated[Path, typer.Argument(help="The preprocessed cohort.")],
    raw: Annotated[Path, typer.Option(help="Output of ingest, for its masks at their original size.")],
    model: Annotated[Path, typer.Option(help="The cell's trained model: .../<network>/<scenario>/seed-<seed>.")],
    split: Annotated[Path, typer.Option(help="The scenario's frozen split.")],
    out: cli.Out,
    params: cli.ParamsFile = Path("params.yaml"),
    shard: ShardOption = "",
) -> None:
    """Score a trained network on the splits of the parameters, and draw overlays of test images.

    With --shard, score a part of the batches of each split; the merge writes the tables, curves and overlays.
    """

    def reread() -> EvaluateParams:
        return read_params(params).evaluate

    part = Shard.parse(shard) if shard else None
    work = Work(Cell.of(model), arrays, split, model, reread(), reread)
    if part:
        print(f"{out}: {evaluate_shard(work, raw, part, out)} images, shard {shard}")
    else:
        evaluate(work, raw, out)


if __name__ == "__main__":
    cli.run(main)
