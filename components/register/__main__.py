"""``python -m components.register``: register the best trained cell."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from components.register import register
from core import cli
from core.cell import Cell
from core.files import sha256, write_json
from core.params import read_params
from model.weights import WEIGHTS


def main(
    models: Annotated[Path, typer.Option(help="Outputs of train.")],
    evaluations: Annotated[Path, typer.Option(help="Outputs of evaluate.")],
    arrays: Annotated[Path, typer.Option(help="Output of preprocess.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The JSON file to write: the registered version.")],
    offered: Annotated[
        Path | None, typer.Option(help="A JSON file to write: the cell and its weights, independent of the registry.")
    ] = None,
    params: cli.ParamsFile = Path("params.yaml"),
) -> None:
    """Register the cell with the best validation Dice; register.challenger decides whether it becomes challenger."""
    version = register(models, evaluations, arrays, read_params(params), out)
    if offered is not None:
        cell = Cell(version.network, version.scenario, version.seed)
        write_json(offered, {**asdict(cell), "weights": sha256(models / cell.folder / WEIGHTS)})


if __name__ == "__main__":
    cli.run(main)
