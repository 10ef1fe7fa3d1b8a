"""Accuracy of expected Dice and of its lower bound, from the stored rows of studies.

    python -m benchmarks.expected_dice results/512px results/128px-noise

Each cell is calibrated on its validation images, from its training sites, and measured on its test images.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from components.register.quality import fit_quality
from core import cli
from core.cell import CASES, Cell
from core.errors import UserError
from core.terminal import table


def main(
    studies: Annotated[list[Path], typer.Argument(help="Folders of results/.")],
    network: Annotated[str, typer.Option()] = "defu_net",
) -> None:
    """Print error, rank correlation, detection of poor masks and coverage for each cell."""
    columns = ["calibrated on", "tested on", "mean error", "Spearman", "below .9", "AUROC", "above the bound"]
    title = "Expected Dice against the Dice at the stored size, test images, original masks"
    shown = table(title, ["study", "scenario", "seed"], columns)
    for study in studies:
        found = sorted(path.parent for path in (study / network).glob(f"*/seed-*/{CASES}"))
        if not found:
            raise UserError(f"{study}: no cells of {network}; name a folder of results/")
        for folder in found:
            cell = Cell.of(folder)
            quality, holds = fit_quality(folder, "original", flip=True)
            row = holds["all"]
            figures = (f"{row[name]:.3f}" if row[name] is not None else "-" for name in ("spearman", "auroc"))
            spearman, auroc = figures
            shown.add_row(
                study.name, cell.scenario, str(cell.seed), str(quality.images), str(row["images"]),
                f"{row['mean_error']:.4f}", spearman, str(row["poor"]), auroc, f"{row['coverage']:.1%}",
            )  # fmt: skip
    Console(width=140).print(shown)


if __name__ == "__main__":
    cli.run(main)
