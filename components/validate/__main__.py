"""The command of the validate step."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from components.validate import validate
from core.cli import Out, ParamsFile, run
from core.params import read_params


def main(
    raw: Annotated[Path, typer.Argument(help="Output of ingest.")],
    out: Out = Path("artifacts/validation"),
    params: ParamsFile = Path("params.yaml"),
) -> None:
    """Validate a raw cohort with a Great Expectations suite; Data Docs are written in any case."""
    summary = validate(raw, read_params(params).validate_, out)
    sites = ", ".join(f"{site} {counts['paired']} + {counts['unpaired']}" for site, counts in summary.sites.items())
    print(
        f"{summary.images} images valid: {summary.paired} with a mask, {summary.unpaired} without ({sites}); "
        f"{summary.expectations} expectations met, Data Docs in {summary.docs}"
    )


if __name__ == "__main__":
    run(main)
