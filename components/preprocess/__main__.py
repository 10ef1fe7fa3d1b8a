"""The command of the preprocess step."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from components.preprocess import preprocess, preprocess_shard
from core.cli import Out, ParamsFile, run
from core.params import read_params
from core.shard import Shard, ShardOption

ARRAYS = Path("artifacts/arrays")


def main(
    raw: Annotated[Path, typer.Argument(help="Output of ingest.")],
    validation: Annotated[Path, typer.Option(help="Output of validate for this cohort.")] = Path(
        "artifacts/validation"
    ),
    params: ParamsFile = Path("params.yaml"),
    out: Out = ARRAYS,
    splits: Annotated[Path, typer.Option(help="The folder of the splits; none with --shard.")] = Path(
        "artifacts/splits"
    ),
    shard: ShardOption = "",
) -> None:
    """Write a validated cohort as arrays of one size, and the split of every scenario in the matrix.

    With --shard, write only the arrays of one part; the merge checks the validation and writes the splits.
    """
    choices = read_params(params)
    if part := Shard.option(shard, out, ARRAYS):
        images, size = preprocess_shard(raw, choices.preprocess, part, out), choices.preprocess.size
        print(f"{images} images of {size} x {size} pixels in {out}, shard {shard}")
        return
    scenarios = {name: choices.scenarios[name] for name in choices.matrix.scenarios}
    print(preprocess(raw, validation, choices.preprocess, scenarios, out, splits).lines(out))


if __name__ == "__main__":
    run(main)
