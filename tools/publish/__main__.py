"""``python -m tools.publish``: write the pages of results from the stored rows."""

from pathlib import Path
from typing import Annotated

import typer

from core import cli
from tools.publish import publish


def main(
    results: Annotated[Path, typer.Argument(help="The folder of the studies.")] = Path("results"),
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The main page; full tables are in a folder of the same name.")
    ] = Path("docs/results.md"),
) -> None:
    """Write docs/results.md, its figures and docs/results/STUDY.md with all tables, from the rows in results/."""
    names = publish(results, out)
    print(f"{out}: {', '.join(names)}")


if __name__ == "__main__":
    cli.run(main)
