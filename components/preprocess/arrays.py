"""The arrays of preprocess: images and masks of one size, memory-mapped, with their record ``arrays.json``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from core.cohort import COHORT, MANIFEST, read_manifest, write_manifest
from core.errors import UserError
from core.files import read_json, sha256, write_json
from core.images import ImageError, read_image, read_mask
from core.parallel import cores, parallel
from core.params import PreprocessParams
from model.preprocessing import REFERENCE_SIZE, dilate, kernel_size, resize_mask, standardise

ARRAYS = ("images", "masks-original", "masks-dilated")
INFO = "arrays.json"


def paired(raw: Path) -> pd.DataFrame:
    """Return the rows of a cohort's images with a mask, in the order of the arrays."""
    everything = read_manifest(raw)
    return everything[everything["mask"] != ""].sort_values(["site", "id"]).reset_index(drop=True)


def write_arrays(raw: Path, manifest: pd.DataFrame, folder: Path, params: PreprocessParams) -> None:
    """Fill the three arrays in threads; raises a UserError that lists all unusable images."""
    shape = (len(manifest), params.size, params.size)
    images, originals, dilateds = (reserve(folder / f"{name}.npy", shape) for name in ARRAYS)
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


def reserve(path: Path, shape: tuple[int, int, int]) -> np.memmap[Any, np.dtype[np.uint8]]:
    """Return a new memory-mapped uint8 array with its disk space allocated.

    Writing to a mapped page on a full disk kills the process with SIGBUS. Allocating first raises OSError instead.
    """
    array: np.memmap[Any, np.dtype[np.uint8]] = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    with path.open("rb+") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def _pixels(image: npt.NDArray[Any]) -> str:
    return f"{image.shape[1]} x {image.shape[0]} pixels"


def parameters(params: PreprocessParams) -> dict[str, Any]:
    """Return the parameters of the arrays, as in ``arrays.json``."""
    return {
        "size": params.size,
        "interpolation": params.interpolation,
        "intensity_percentiles": list(params.intensity_percentiles),
        "dilation": params.dilation,
    }


def write_record(folder: Path, raw: Path, manifest: pd.DataFrame, params: PreprocessParams) -> None:
    """Write the manifest of the arrays and ``arrays.json``: the cohort, counts, and the parameters.

    Args:
        folder: folder of the arrays.
        raw: the whole cohort; its manifest and ``cohort.json`` suffice.
        manifest: the rows of the arrays.
        params: section ``preprocess`` of ``params.yaml``.
    """
    write_manifest(folder, manifest)
    cohort = read_json(raw / COHORT)
    counts: dict[str, dict[str, int]] = {}
    for (site, label), rows in manifest.groupby(["site", "label"]):
        counts.setdefault(str(site), {})[str(label)] = len(rows)
    info = {
        **{key: cohort[key] for key in ("name", "synthetic", "description", "sites")},
        "data_md5": cohort.get("data_md5"),
        "manifest_sha256": sha256(raw / MANIFEST),
        "images": len(manifest),
        "counts": counts,
        **parameters(params),
        "splits": {str(name): share for name, share in params.splits.items()},
        "seed": params.seed,
        "kernel": kernel_size(params.dilation, REFERENCE_SIZE),
    }
    write_json(folder / INFO, info)
