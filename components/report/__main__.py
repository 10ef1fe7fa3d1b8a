"""``python -m components.report --evaluations evaluations --models models --arrays ... --splits ... --out reports``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from components.report import PAGE, report
from core.cell import Cell
from core.cli import Out, ParamsFile, run
from core.errors import UserError
from core.params import read_params


def parse_cell(text: str) -> Cell:
    """Parse ``network/scenario/seed``; the seed is ``0`` or ``seed-0``. Raises UserError on other text."""
    parts = text.strip("/").split("/")
    if len(parts) != 3 or not all(parts) or not parts[2].removeprefix("seed-").isdecimal():
        raise UserError(f"--cell {text}: not a cell; write network/scenario/seed, for example defu_net/mixed/0")
    return Cell(parts[0], parts[1], int(parts[2].removeprefix("seed-")))


def main(
    evaluations: Annotated[Path, typer.Option(help="Output of evaluate.")] = Path("evaluations"),
    models: Annotated[Path, typer.Option(help="Output of train.")] = Path("models"),
    arrays: Annotated[Path, typer.Option(help="Output of preprocess.")] = Path("artifacts/arrays"),
    splits: Annotated[Path, typer.Option(help="The frozen splits.")] = Path("artifacts/splits"),
    out: Out = Path("reports"),
    params: ParamsFile = Path("params.yaml"),
    cell: Annotated[
        list[str] | None, typer.Option(help="network/scenario/seed, repeatable; without it, the matrix of --params.")
    ] = None,
    mixed: Annotated[bool, typer.Option(help="Accept cells with different parameters, data or code.")] = False,
) -> None:
    """Write the tables and figures of a run: results.json, comparisons.json, results.md and one self-contained page."""
    choices = read_params(params)
    if cell:
        cells = [parse_cell(text) for text in cell]
    else:
        matrix = choices.matrix
        cells = Cell.every(matrix.networks, matrix.scenarios, matrix.seeds)
    sampling = choices.evaluate
    rows = report(
        evaluations, models, arrays, splits, out, cells, resamples=sampling.bootstrap, seed=sampling.seed, mixed=mixed
    )
    print(f"{out / PAGE}: {len(cells)} cell(s), {len(rows)} rows")


if __name__ == "__main__":
    run(main)
