"""``python -m components.evaluate``: score one cell of the matrix."""

from pathlib import Path
from typing import Annotated

import typer

from components.evaluate import evaluate
from core import cli
from core.cell import Cell
from core.params import EvaluateParams, read_params


def main(
    arrays: Annotated[Path, typer.Argument(help="The preprocessed cohort.")],
    raw: Annotated[Path, typer.Option(help="Output of ingest, for its masks at their original size.")],
    model: Annotated[Path, typer.Option(help="The cell's trained model: .../<network>/<scenario>/seed-<seed>.")],
    split: Annotated[Path, typer.Option(help="The scenario's frozen split.")],
    out: cli.Out,
    params: cli.ParamsFile = Path("params.yaml"),
) -> None:
    """Score a trained network on the splits of the parameters, and draw overlays of test images."""

    def reread() -> EvaluateParams:
        return read_params(params).evaluate

    evaluate(Cell.of(model), arrays, raw, split, model, reread(), out, reread)


if __name__ == "__main__":
    cli.run(main)
