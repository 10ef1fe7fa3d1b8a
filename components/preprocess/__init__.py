"""Preprocess: from a validated cohort to arrays of one size, and to the frozen splits of every scenario."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from components.preprocess.splits import freeze, scenario_splits
from core.cohort import COHORT, MANIFEST, SPLITS, read_manifest, require_pass, write_manifest
from core.errors import UserError
from core.files import read_json, sha256, write_file, write_folder, write_json
from core.images import ImageError, read_image, read_mask
from core.parallel import cores, parallel
from core.params import PreprocessParams, Scenario
from model.preprocessing import REFERENCE_SIZE, dilate, kernel_size, resize_mask, standardise

FROZEN = "frozen.csv"  # id, site, label, split: what the split of every scenario without a fold is taken from
ARRAYS = ("images", "masks-original", "masks-dilated")


@dataclass(frozen=True)
class PreprocessSummary:
    """What preprocess wrote."""

    images: int
    size: int  # pixels
    kernel: int  # side for a 512-pixel image, pixels; 1 dilates nothing
    splits: dict[str, dict[str, int]]  # images of each scenario's train, validation and test


def preprocess(
    raw: Path,
    validation: Path,
    params: PreprocessParams,
    scenarios: dict[str, Scenario],
    out: Path,
    splits: Path,
) -> PreprocessSummary:
    """Write a cohort's images and masks as arrays, and each scenario's split; unpaired images are left out.

    ``out`` gets ``images.npy``, ``masks-original.npy`` and ``masks-dilated.npy`` (uint8, (N, size, size)),
    ``manifest.csv`` and ``arrays.json``: what :class:`core.cohort.Arrays` reads. ``splits`` gets one
    ``<scenario>.json`` each and ``frozen.csv``. The same cohort and parameters give the same bytes.

    Args:
        raw: the cohort as ingest left it.
        validation: what validate left for this very cohort.
        params: size, interpolation, dilation, shares and seed.
        scenarios: those to write splits for.
        out: the folder of the arrays; an earlier one is replaced.
        splits: the folder of the splits; an earlier one is replaced.

    Raises:
        UserError: the cohort has not passed validation as it is now, files cannot be read or do not fit (all are
            listed), a scenario cannot be filled, or the disk is full.
    """
    require_pass(validation, raw)
    everything = read_manifest(raw)
    manifest = everything[everything["mask"] != ""].sort_values(["site", "id"]).reset_index(drop=True)
    shares = {str(split): share for split, share in params.splits.items()}
    frozen = freeze(manifest, shares, params.seed)
    chosen = scenario_splits(manifest, frozen, scenarios, shares, params.seed)
    with write_folder(splits) as split_folder, write_folder(out) as array_folder:
        _write_arrays(raw, manifest, params, array_folder)
        write_manifest(array_folder, manifest)
        write_json(array_folder / "arrays.json", _info(raw, manifest, params))
        table = manifest[["id", "site", "label"]].assign(split=manifest["id"].map(lambda image: frozen[image]))
        with write_file(split_folder / FROZEN) as partial:
            table.to_csv(partial, index=False)
        for name, scenario in scenarios.items():
            sites = {"train": scenario.train, "test": scenario.test}
            write_json(split_folder / f"{name}.json", {"scenario": name, "sites": sites, **chosen[name]})
    counts = {name: {split: len(chosen[name][split]) for split in SPLITS} for name in scenarios}
    return PreprocessSummary(len(manifest), params.size, kernel_size(params.dilation, REFERENCE_SIZE), counts)


def _write_arrays(raw: Path, manifest: pd.DataFrame, params: PreprocessParams, folder: Path) -> None:
    """Fill the three arrays in threads; all images that cannot be used are listed in one :class:`UserError`."""
    shape = (len(manifest), params.size, params.size)
    images, originals, dilateds = (_reserve(folder / f"{name}.npy", shape) for name in ARRAYS)
    low, high = params.intensity_percentiles
    names: dict[str, list[str]] = {kind: manifest[kind].tolist() for kind in ("image", "mask")}

    def fill(row: int) -> str | None:
        image_path, mask_path = raw / names["image"][row], raw / names["mask"][row]
        try:
            image, mask = read_image(image_path), read_mask(mask_path)
        except ImageError as error:
            return str(error)
        if image.shape != mask.shape:
            return f"{mask_path}: {_pixels(mask)}, but its image has {_pixels(image)}; run ingest and validate again"
        images[row] = standardise(image, params.size, params.interpolation, (low, high))
        originals[row] = resize_mask(mask, params.size)
        dilateds[row] = resize_mask(dilate(mask, params.dilation), params.size)
        return None

    problems = [problem for problem in parallel(fill, range(len(manifest)), cores(), "preprocess") if problem]
    if problems:
        raise UserError(f"{raw}: {len(problems)} image(s) cannot be used", problems)
    for array in (images, originals, dilateds):
        array.flush()


def _reserve(path: Path, shape: tuple[int, int, int]) -> np.memmap[Any, np.dtype[np.uint8]]:
    """Return a new memory-mapped uint8 array whose room on the disk is taken already.

    A page of a mapping that finds the disk full kills the process with SIGBUS; reserving all of it first raises OSError
    while something can still be said and cleaned up.
    """
    array: np.memmap[Any, np.dtype[np.uint8]] = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    with path.open("rb+") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def _pixels(image: npt.NDArray[Any]) -> str:
    return f"{image.shape[1]} x {image.shape[0]} pixels"


def _info(raw: Path, manifest: pd.DataFrame, params: PreprocessParams) -> dict[str, Any]:
    """Return what ``arrays.json`` says: whose pictures these are, and how they were brought to one size."""
    cohort = read_json(raw / COHORT)
    counts: dict[str, dict[str, int]] = {}
    for (site, label), rows in manifest.groupby(["site", "label"]):
        counts.setdefault(str(site), {})[str(label)] = len(rows)
    return {
        **{key: cohort[key] for key in ("name", "synthetic", "description", "sites")},
        "data_md5": cohort.get("data_md5"),
        "manifest_sha256": sha256(raw / MANIFEST),
        "images": len(manifest),
        "counts": counts,
        "size": params.size,
        "interpolation": params.interpolation,
        "intensity_percentiles": list(params.intensity_percentiles),
        "dilation": params.dilation,
        "splits": {str(name): share for name, share in params.splits.items()},
        "seed": params.seed,
        "kernel": kernel_size(params.dilation, REFERENCE_SIZE),
    }
