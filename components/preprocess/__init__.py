"""The preprocess step: arrays of one size, and the splits of every scenario, from a validated cohort."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd

from components.preprocess.arrays import INFO, paired, parameters, write_arrays, write_record
from components.preprocess.splits import freeze, scenario_splits
from core.cohort import COHORT, SPLITS, require_pass, require_whole, write_manifest
from core.errors import UserError
from core.files import read_json, write_file, write_folder, write_json
from core.params import PreprocessParams, Scenario
from core.shard import Shard
from model.preprocessing import REFERENCE_SIZE, kernel_size

FROZEN = "frozen.csv"  # id, site, label, split: the frozen split for all scenarios without a fold


@dataclass(frozen=True)
class PreprocessSummary:
    """Counts and sizes of the output of preprocess."""

    images: int
    size: int  # pixels
    kernel: int  # side in pixels of a 512-pixel image; 1 is no dilation
    splits: dict[str, dict[str, int]]  # number of images by scenario and split

    def lines(self, out: Path) -> str:
        """Return the counts as text, for arrays in ``out``."""
        first = f"{self.images} images of {self.size} x {self.size} pixels in {out}"
        counts = (
            f"{name}: {', '.join(f'{count} {split}' for split, count in each.items())}"
            for name, each in self.splits.items()
        )
        return "\n".join([first, *counts])


def preprocess(
    raw: Path,
    validation: Path,
    params: PreprocessParams,
    scenarios: dict[str, Scenario],
    out: Path,
    splits: Path,
    fill: Callable[[pd.DataFrame, Path], None] | None = None,
) -> PreprocessSummary:
    """Write a cohort's images and masks as arrays, and each scenario's split; images without a mask are omitted.

    ``out`` has ``images.npy``, ``masks-original.npy`` and ``masks-dilated.npy`` (uint8, (N, size, size)),
    ``manifest.csv`` and ``arrays.json``, for :class:`core.cohort.Arrays`. ``splits`` has one ``<scenario>.json`` per
    scenario and ``frozen.csv``. The same cohort and parameters give the same bytes.

    Args:
        raw: output of ingest.
        validation: output of validate for the same cohort.
        params: size, interpolation, dilation, shares and seed.
        scenarios: the scenarios to write splits for.
        out: output folder of the arrays; an earlier one is replaced.
        splits: output folder of the splits; an earlier one is replaced.
        fill: writes the arrays of a manifest's rows to a folder; None: from the files of ``raw``.

    Raises:
        UserError: the cohort has not passed validation in its current state, files cannot be read or do not match (all
            are listed), a split would be empty, or the disk is full.
    """
    require_whole(raw, COHORT, "components.ingest.merge")
    require_pass(validation, raw)
    fill = fill or partial(write_arrays, raw, params=params)
    manifest = paired(raw)
    shares = {str(split): share for split, share in params.splits.items()}
    frozen = freeze(manifest, shares, params.seed)
    chosen = scenario_splits(manifest, frozen, scenarios, shares, params.seed)
    with write_folder(splits) as split_folder, write_folder(out) as array_folder:
        fill(manifest, array_folder)
        write_record(array_folder, raw, manifest, params)
        table = manifest[["id", "site", "label"]].assign(split=manifest["id"].map(lambda image: frozen[image]))
        with write_file(split_folder / FROZEN) as unfinished:
            table.to_csv(unfinished, index=False)
        for name, scenario in scenarios.items():
            sites = {"train": scenario.train, "test": scenario.test}
            write_json(split_folder / f"{name}.json", {"scenario": name, "sites": sites, **chosen[name]})
    counts = {name: {split: len(chosen[name][split]) for split in SPLITS} for name in scenarios}
    return PreprocessSummary(len(manifest), params.size, kernel_size(params.dilation, REFERENCE_SIZE), counts)


def preprocess_shard(raw: Path, params: PreprocessParams, shard: Shard, out: Path) -> int:
    """Write the arrays of a shard's images, for :func:`components.preprocess.merge.merge`.

    ``out`` has the files of :func:`preprocess` for these rows. Its ``arrays.json`` has {shard, size, interpolation,
    intensity_percentiles, dilation}. The merge writes the splits, which need the whole cohort, and checks the
    validation.

    Args:
        raw: output of ingest for the whole cohort or for this shard.
        params: size, interpolation, dilation.
        shard: the shard.
        out: output folder of the arrays; an earlier one is replaced.

    Returns:
        The number of images; a shard may have none.

    Raises:
        UserError: ``raw`` is another shard, files cannot be read or do not match (all are listed), or the disk is full.
    """
    manifest = paired(raw)
    held = read_json(raw / COHORT).get("shard", "")
    if held and held != str(shard):
        raise UserError(f"{raw}: shard {held} of a cohort, not {shard}; give that shard or the whole cohort")
    # A Series, because an empty list would select columns.
    here = [shard.has(site, identity) for site, identity in zip(manifest["site"], manifest["id"], strict=True)]
    manifest = manifest[pd.Series(here, dtype=bool)].reset_index(drop=True)
    with write_folder(out) as folder:
        write_arrays(raw, manifest, folder, params)
        write_manifest(folder, manifest)
        write_json(folder / INFO, {"shard": str(shard), **parameters(params)})
    return len(manifest)
