"""``python -m components.ingest SOURCE --params params.yaml --out artifacts/raw``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from components.ingest import ingest
from core.cli import Out, ParamsFile, run
from core.params import read_params
from core.shard import Shard, ShardOption

RAW = Path("artifacts/raw")


def main(
    source: Annotated[str, typer.Argument(help="A folder, a ZIP file or s3://bucket/prefix in a publisher's layout.")],
    params: ParamsFile = Path("params.yaml"),
    out: Out = RAW,
    shard: ShardOption = "",
) -> None:
    """Read a cohort in its publishers' layouts and write the raw cohort, or one shard of it."""
    result = ingest(source, read_params(params).ingest, out, shard=Shard.option(shard, out, RAW))
    for site, count in result.sites.items():
        print(f"{site}: {count.images} X-rays, {count.masks} with a mask, {count.unpaired} without")
    if result.ignored:
        print(f"{len(result.ignored)} other file(s) ignored, for example {result.ignored[0]}")
    part = f", shard {shard}" if shard else ""
    print(f"{out}: {result.name}{' (synthetic)' if result.synthetic else ''}{part}")


if __name__ == "__main__":
    run(main)
