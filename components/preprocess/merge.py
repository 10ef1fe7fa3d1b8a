"""``python -m components.preprocess.merge PART... --cohort artifacts/raw``: arrays and splits from shards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import numpy as np
import pandas as pd
import typer

from components.preprocess import PreprocessSummary, preprocess
from components.preprocess.arrays import ARRAYS, INFO, paired, parameters, reserve
from core.cli import Out, ParamsFile, run
from core.cohort import COHORT, MANIFEST, read_manifest, require_whole
from core.errors import UserError
from core.files import read_json
from core.inputs import differences
from core.params import PreprocessParams, Scenario, read_params
from core.shard import Shard, distinct, number_of, require_all

PICTURE = ["site", "id", "image_sha256", "mask_sha256"]  # columns that identify the image and mask of a row


def merge(
    parts: Sequence[Path],
    cohort: Path,
    validation: Path,
    params: PreprocessParams,
    scenarios: dict[str, Scenario],
    out: Path,
    splits: Path,
) -> PreprocessSummary:
    """Merge the shards of preprocess into the arrays and splits that it writes without shards.

    Rows are copied one at a time, so that memory does not grow with the cohort.

    Args:
        parts: outputs of :func:`components.preprocess.preprocess_shard`, one for each shard, in any order.
        cohort: the whole raw cohort; ``manifest.csv`` and ``cohort.json`` suffice.
        validation: output of validate for the same cohort.
        params: section ``preprocess`` of ``params.yaml``; the parts must have the same parameters.
        scenarios: the scenarios to write splits for.
        out: output folder of the arrays; an earlier one is replaced.
        splits: output folder of the splits; an earlier one is replaced.

    Raises:
        UserError: the cohort has not passed validation in its current state; the parts are not the shards 1/N to N/N,
            have other images or parameters, or are damaged; a split would be empty; or the disk is full.
    """
    require_whole(cohort, COHORT, "components.ingest.merge")
    infos = {folder: _info(folder) for folder in distinct(parts)}
    order = require_all({folder: str(info.get("shard", "")) for folder, info in infos.items()})
    for folder in order:
        given = {key: value for key, value in infos[folder].items() if key != "shard"}
        if changes := differences(given, parameters(params)):
            raise UserError(f"{folder}: made with other parameters ({'; '.join(changes)}); run this shard again")
    owners = _owners(paired(cohort), order, [Shard.parse(infos[folder]["shard"]) for folder in order], cohort)
    fill = partial(_fill, order=order, owners=owners, size=params.size)
    return preprocess(cohort, validation, params, scenarios, out, splits, fill)


def _info(folder: Path) -> dict[str, Any]:
    info = read_json(folder / INFO)
    if not isinstance(info, dict):
        raise UserError(f"{folder / INFO}: not an output of the preprocess step; run it again")
    return info


def _owners(manifest: pd.DataFrame, order: list[Path], shards: list[Shard], cohort: Path) -> list[int]:
    """Return the index in ``order`` of the part with each row; raises UserError if a part has other rows."""
    of = shards[0].of
    owners = np.array(
        [number_of(site, identity, of) - 1 for site, identity in zip(manifest["site"], manifest["id"], strict=True)]
    )
    for number, (folder, shard) in enumerate(zip(order, shards, strict=True)):
        mine, theirs = manifest.loc[owners == number, PICTURE], read_manifest(folder)[PICTURE]
        if mine.to_numpy().tolist() != theirs.to_numpy().tolist():
            raise UserError(
                f"{folder / MANIFEST}: not the pictures of shard {shard} in {cohort} ({len(theirs)} rows, expected "
                f"{len(mine)}); run this shard again"
            )
    return [int(number) for number in owners]


def _fill(manifest: pd.DataFrame, folder: Path, order: list[Path], owners: list[int], size: int) -> None:
    """Write the three arrays, each row from its part; the rows of a part are in the order of the whole cohort."""
    for name in ARRAYS:
        target = folder / f"{name}.npy"
        offset = reserve(target, (len(manifest), size, size)).offset
        with ExitStack() as stack:
            counts = np.bincount(owners, minlength=len(order))
            sources = [
                stack.enter_context(_rows(part / f"{name}.npy", (int(count), size, size)))
                for part, count in zip(order, counts, strict=True)
            ]
            file = stack.enter_context(target.open("rb+"))
            file.seek(offset)
            for number in owners:
                file.write(sources[number].read(size * size))


@contextmanager
def _rows(path: Path, shape: tuple[int, int, int]) -> Iterator[BinaryIO]:
    """Open a part's array at its first row; raises UserError if it is not a whole uint8 array of this shape."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); run this shard again") from error
    if array.dtype != np.uint8 or array.shape != shape or not isinstance(array, np.memmap):
        raise UserError(f"{path}: does not match its manifest; run this shard again")
    offset = array.offset
    del array
    with path.open("rb") as file:
        file.seek(offset)
        yield file


def main(
    parts: Annotated[list[Path], typer.Argument(help="Outputs of preprocess --shard, one for each shard.")],
    cohort: Annotated[Path, typer.Option(help="The whole raw cohort; manifest.csv and cohort.json suffice.")] = Path(
        "artifacts/raw"
    ),
    validation: Annotated[Path, typer.Option(help="Output of validate for this cohort.")] = Path(
        "artifacts/validation"
    ),
    params: ParamsFile = Path("params.yaml"),
    out: Out = Path("artifacts/arrays"),
    splits: Annotated[Path, typer.Option(help="The folder of the splits.")] = Path("artifacts/splits"),
) -> None:
    """Merge the shards of preprocess into the arrays and splits that it writes without shards."""
    choices = read_params(params)
    scenarios = {name: choices.scenarios[name] for name in choices.matrix.scenarios}
    print(merge(parts, cohort, validation, choices.preprocess, scenarios, out, splits).lines(out))


if __name__ == "__main__":
    run(main)
