"""``python -m components.register``: offer the best trained cell for production."""

from pathlib import Path
from typing import Annotated

import typer

from components import cli
from components.params import read_params
from components.register import register


def main(
    models: Annotated[Path, typer.Option(help="The folder of all cells' models.")],
    evaluations: Annotated[Path, typer.Option(help="The folder of all cells' evaluations.")],
    arrays: Annotated[Path, typer.Option(help="The preprocessed cohort that the cells were trained on.")],
    out: Annotated[Path, typer.Option(help="The JSON file to write: the registered version.")],
    params: cli.ParamsFile = Path("params.yaml"),
) -> None:
    """Register the cell with the best validation Dice in the MLflow registry and name it challenger."""
    register(models, evaluations, arrays, read_params(params), out)


if __name__ == "__main__":
    cli.run(main)
