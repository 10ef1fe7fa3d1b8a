"""``python -m components.promote``: put a registered version into production."""

from pathlib import Path
from typing import Annotated

import typer

from components import cli
from components.params import read_params
from components.promote import promote


def main(
    version: Annotated[int | None, typer.Option(min=1, help="Which version; without it, the challenger.")] = None,
    params: cli.ParamsFile = Path("params.yaml"),
) -> None:
    """Move the alias champion to a version whose evaluation is there."""
    promote(read_params(params).register_.model, version)


if __name__ == "__main__":
    cli.run(main)
