"""``python -m tools.pretrained``: make a pretrained package of a trained cell."""

from pathlib import Path
from typing import Annotated

import typer

from core import cli
from core.errors import UserError
from core.params import read_params
from tools.pretrained import make


def main(
    model: Annotated[Path, typer.Argument(help="Output of train.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The output folder; its name is the model's.")],
    licence: Annotated[str, typer.Option(help="Licence of the weights, in a few words.")],
    terms: Annotated[Path, typer.Option(help="A Markdown file with the terms.")],
    raw: Annotated[Path, typer.Option(help="Output of ingest.")] = Path("artifacts/raw"),
    arrays: Annotated[Path, typer.Option(help="Output of preprocess.")] = Path("artifacts/arrays"),
    splits: Annotated[Path, typer.Option(help="The folder of the frozen splits.")] = Path("artifacts/splits"),
    params: cli.ParamsFile = Path("params.yaml"),
) -> None:
    """Round a model's weights to float16, score them, and write an MLflow model of at most half the size."""
    try:
        text = terms.read_text()
    except (OSError, ValueError) as error:
        raise UserError(f"{terms}: cannot be read ({error}); give a Markdown file with the terms") from error
    print(make(model, raw, arrays, splits, read_params(params), out, licence, text))


if __name__ == "__main__":
    cli.run(main)
