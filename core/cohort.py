"""The cohort between steps: the manifest, the arrays and the splits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from core.errors import UserError
from core.files import read_json, sha256, write_file

MANIFEST = "manifest.csv"
COHORT = "cohort.json"  # name, description, synthetic; for one shard also `shard`, "i/N"
PASSED = "passed.json"  # in the output of validate, only after success; preprocess requires it

# One row per image. Unknown strings are empty, unknown numbers missing.
COLUMNS: dict[str, str] = {
    "id": "string",  # the publisher's file name without its extension: MCUCXR_0001_0
    "site": "string",  # montgomery, shenzhen
    "label": "string",  # normal, abnormal
    "image": "string",  # path below the cohort's folder
    "mask": "string",  # path below the cohort's folder; empty: the image has no mask
    "width": "Int64",  # pixels of the stored image
    "height": "Int64",
    "bit_depth": "Int64",  # of the stored file: 8 or 16
    "mask_width": "Int64",
    "mask_height": "Int64",
    "mask_binary": "boolean",  # no source mask has a value other than 0 and its maximum
    "lung_fraction": "Float64",  # share of the mask image that is lung, 0 to 1
    # Areas of the 16 largest 8-connected components as shares of the mask image, largest first, separated by
    # spaces: "0.1432 0.1288 3.8e-06". Empty if the mask is missing or empty. Validate counts the large ones.
    "component_fractions": "string",
    "image_sha256": "string",  # of the file's bytes
    "pixel_sha256": "string",  # of the decoded pixels: equal for two encodings of one image
    "mask_sha256": "string",  # of the combined mask's file
    "age": "Float64",  # years
    "sex": "string",  # F, M
    "reading": "string",  # the radiologist's finding
}


def write_manifest(folder: Path, rows: pd.DataFrame) -> None:
    """Write a cohort's manifest with exactly :data:`COLUMNS`, sorted by site and id."""
    write_lines(folder, rows[list(COLUMNS)].astype(COLUMNS))


def read_lines(folder: Path) -> pd.DataFrame:
    """Read a cohort's manifest as text, so that every number keeps its digits; raises as :func:`read_manifest`."""
    read_manifest(folder)
    return pd.read_csv(folder / MANIFEST, dtype="string", keep_default_na=False)[list(COLUMNS)]


def write_lines(folder: Path, rows: pd.DataFrame) -> None:
    """Write rows from :func:`read_lines`, of one or several manifests, sorted by site and id."""
    frame = rows.sort_values(["site", "id"])
    with write_file(folder / MANIFEST) as partial:
        frame.to_csv(partial, index=False)


def read_manifest(folder: Path) -> pd.DataFrame:
    """Read a cohort's manifest with the types of :data:`COLUMNS`; raises UserError if it is missing or invalid."""
    path = folder / MANIFEST
    try:
        frame = pd.read_csv(
            path, dtype=COLUMNS, keep_default_na=False, na_values={c: [""] for c, t in COLUMNS.items() if t != "string"}
        )
    except FileNotFoundError:
        raise UserError(f"{path}: not found; {folder} is not a cohort: run the ingest step first") from None
    except ValueError as error:
        raise UserError(f"{path}: not a manifest of this project ({error}); run the ingest step again") from error
    missing = [column for column in COLUMNS if column not in frame]
    if missing:
        raise UserError(f"{path}: columns missing: {', '.join(missing)}; run the ingest step again")
    return frame


def require_whole(folder: Path, record: str, merge: str) -> None:
    """Raise UserError if a step's output is a single shard; only shard runs and the merge may read it.

    Args:
        folder: output of ingest or preprocess.
        record: name of its JSON file; a shard has the key ``shard``.
        merge: the module of the merge, for the message.
    """
    if (folder / record).is_file() and (shard := read_json(folder / record).get("shard")):
        raise UserError(f"{folder}: only shard {shard} of a cohort; merge all of them with python -m {merge}")


def require_pass(validation: Path, raw: Path) -> None:
    """Raise UserError unless ``validation`` records a successful validation of the cohort in ``raw``."""
    if not (validation / PASSED).is_file():
        raise UserError(
            f"{validation}: {raw} has not passed validation; run the validate step and correct what it names"
        )
    if read_json(validation / PASSED).get("manifest_sha256") != sha256(raw / MANIFEST):
        raise UserError(f"{validation}: is of another cohort than {raw}; run the validate step again")


class Arrays:
    """The preprocessed cohort: memory-mapped arrays with one row per image, in the manifest's order.

    Attributes:
        manifest: the rows of the images with a mask, indexed 0 .. N-1.
        images: uint8 (N, size, size), grey, 0 to 255.
        masks: dict of uint8 (N, size, size), 0 or 1: ``original`` and ``dilated``.
        info: content of ``arrays.json`` from preprocess: ``size``, ``intensity_percentiles``, ``interpolation`` etc.
        card: the cohort's ``name``, ``synthetic`` and ``description``.

    Raises:
        UserError: a file is missing, damaged, or does not match the manifest; or the arrays are a single shard.
    """

    def __init__(self, folder: Path) -> None:
        require_whole(folder, "arrays.json", "components.preprocess.merge")
        self.manifest = read_manifest(folder).reset_index(drop=True)
        self.info: dict[str, Any] = read_json(folder / "arrays.json")
        self.card: dict[str, Any] = {key: self.info[key] for key in ("name", "synthetic", "description")}
        self.images = self._open(folder / "images.npy")
        self.masks = {name: self._open(folder / f"masks-{name}.npy") for name in ("original", "dilated")}

    def _open(self, path: Path) -> np.memmap[tuple[int, ...], np.dtype[np.uint8]]:
        try:
            array: np.memmap[tuple[int, ...], np.dtype[np.uint8]] = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be read ({error}); run the preprocess step again") from error
        if array.dtype != np.uint8 or array.ndim != 3 or len(array) != len(self.manifest):
            raise UserError(f"{path}: does not match its manifest; run the preprocess step again")
        return array

    def rows(self, ids: list[str]) -> np.ndarray:
        """Return the row numbers of ``ids``, int64, in their order; raises UserError on an unknown id."""
        numbers = pd.Series(self.manifest.index, index=self.manifest["id"]).reindex(ids)
        unknown = numbers.index[numbers.isna()]
        if len(unknown):
            raise UserError(
                f"the split names {len(unknown)} image(s) that the arrays lack, the first {unknown[0]}; "
                "run the preprocess step again"
            )
        rows: np.ndarray = numbers.to_numpy(np.int64)
        return rows


SPLITS = ("train", "validation", "test")


def read_split(path: Path, scenario: str | None = None) -> dict[str, list[str]]:
    """Read one scenario's split: the ids of its ``train``, ``validation`` and ``test`` images.

    Raises:
        UserError: the file is not a split, a part is empty, or it is the split of another scenario than ``scenario``.
    """
    split = read_json(path)
    if not isinstance(split, dict) or not all(isinstance(split.get(name), list) and split[name] for name in SPLITS):
        raise UserError(f"{path}: not a split with images for {', '.join(SPLITS)}; run the preprocess step again")
    if scenario is not None and split.get("scenario", scenario) != scenario:
        raise UserError(
            f"{path}: the split of scenario {split['scenario']}, not of {scenario}; pass its file with --split"
        )
    return {name: [str(image) for image in split[name]] for name in SPLITS}
