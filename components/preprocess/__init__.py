"""The preprocess step: arrays of one size, and the splits of every scenario, from a validated cohort."""

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

FROZEN = "frozen.csv"  # id, site, label, split: the frozen split, for every scenario without a fold
ARRAYS = ("images", "masks-original", "masks-dilated")


@dataclass(frozen=True)
class PreprocessSummary:
    """Counts and sizes of the output of preprocess."""

    images: int
    size: int  # pixels
    kernel: int  # side in pixels of a 512-pixel image; 1 is no dilation
    splits: dict[str, dict[str, int]]  # number of images by scenario and split


def preprocess(
    raw: Path,
    validation: Path,
    params: PreprocessParams,
    scenarios: dict[str, Scenario],
    out: Path,
    splits: Path,
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

    Raises:
        UserError: the cohort has not passed validation in its current state, files cannot be read or do not match (all
            are listed), a split would be empty, or the disk is full.
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
    """Fill the three arrays in threads; raises a UserError that lists all unusable images."""
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
    """Return a new memory-mapped uint8 array with its disk space allocated.

    Writing to a mapped page on a full disk kills the process with SIGBUS. Allocating first raises OSError instead.
    """
    array: np.memmap[Any, np.dtype[np.uint8]] = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    with path.open("rb+") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def _pixels(image: npt.NDArray[Any]) -> str:
    return f"{image.shape[1]} x {image.shape[0]} pixels"


def _info(raw: Path, manifest: pd.DataFrame, params: PreprocessParams) -> dict[str, Any]:
    """Return the content of ``arrays.json``: the cohort, counts, and the parameters of the arrays."""
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
