"""``python -m components.promote``: promote a registered version to champion."""

from pathlib import Path
from typing import Annotated

import typer

from components.promote import promote
from core import cli
from core.errors import UserError
from core.params import read_params


def main(
    version: Annotated[int | None, typer.Option(min=1, help="Version number. Default: the challenger.")] = None,
    arrays: Annotated[Path, typer.Option(help="The preprocessed cohort to compare on.")] = Path("artifacts/arrays"),
    splits: Annotated[Path, typer.Option(help="The folder of the frozen splits.")] = Path("artifacts/splits"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Compare and print; change nothing.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Promote even if the gate is not passed.")] = False,
    reason: Annotated[str, typer.Option(help="The reason, for the history; required by --force.")] = "",
    wide: cli.Wide = False,
    params: cli.ParamsFile = Path("params.yaml"),
) -> None:
    """Make a version champion if it passes the gate of section promotion.

    Exit code 0: passed, forced or champion already; 1: not passed, or an error, and the champion is unchanged.
    """
    choices = read_params(params)
    done = promote(choices, arrays, splits, version, dry_run=dry_run, force=force, reason=reason, wide=wide)
    if done.passed is False and not force:
        raise UserError(done.line)


if __name__ == "__main__":
    cli.run(main)
