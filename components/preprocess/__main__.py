"""The command of the preprocess step."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from components.preprocess import preprocess
from core.cli import Out, ParamsFile, run
from core.params import read_params


def main(
    raw: Annotated[Path, typer.Argument(help="Output of ingest.")],
    validation: Annotated[Path, typer.Option(help="Output of validate for this cohort.")] = Path(
        "artifacts/validation"
    ),
    params: ParamsFile = Path("params.yaml"),
    out: Out = Path("artifacts/arrays"),
    splits: Annotated[Path, typer.Option(help="The folder of the splits.")] = Path("artifacts/splits"),
) -> None:
    """Write a validated cohort as arrays of one size, and the split of every scenario in the matrix."""
    choices = read_params(params)
    scenarios = {name: choices.scenarios[name] for name in choices.matrix.scenarios}
    summary = preprocess(raw, validation, choices.preprocess, scenarios, out, splits)
    print(f"{summary.images} images of {summary.size} x {summary.size} pixels in {out}")
    for name, counts in summary.splits.items():
        print(f"{name}: {', '.join(f'{count} {split}' for split, count in counts.items())}")


if __name__ == "__main__":
    run(main)
