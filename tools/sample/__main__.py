"""``python -m tools.sample OUT``: make a synthetic cohort in the publishers' layouts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from core.cli import run
from tools.sample import make_sample


def main(
    out: Annotated[Path, typer.Argument(help="The folder to make; an earlier sample there is replaced.")],
    montgomery: Annotated[int, typer.Option(help="X-rays in the Montgomery layout.")] = 44,
    shenzhen: Annotated[int, typer.Option(help="X-rays in the Shenzhen layout; every eleventh has no mask.")] = 66,
    count: Annotated[
        int | None, typer.Option(min=5, help="X-rays of both layouts, 2 to 3; in place of the two options above.")
    ] = None,
    patients: Annotated[
        int | None, typer.Option(help="Patients of each layout, who then have several X-rays; much faster.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the random generator.")] = 0,
    scale: Annotated[float, typer.Option(help="Scale; 12.5 gives the publishers' 4020 x 4892 pixels.")] = 1.0,
) -> None:
    """Make synthetic chest X-rays with lung masks, the same ones for the same seed."""
    if count is not None:
        montgomery = count * 2 // 5
        shenzhen = count - montgomery
    make_sample(out, montgomery, shenzhen, seed, scale, patients)
    print(f"{out}: {montgomery} + {shenzhen} synthetic X-rays (Montgomery + Shenzhen layout)")


if __name__ == "__main__":
    run(main)
