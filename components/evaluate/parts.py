"""A shard's scores as files, at full precision, so that the merge gives the same bytes as one evaluation.

A part has ``part.json`` ({shard, cell, and the record of the inputs as in ``scored.json``}), and for each split
``<split>-<kind>.parquet`` with the cases against each kind of masks, and ``<split>.npz``:

- ``people-<kind>`` (G, 4) and ``histograms-<kind>`` int64 (G, 2, BINS): the pixels of each site, label, sex and age
  group;
- ``batches`` float64 (B, 3, bins): the sums of each batch for the reliability diagram; the order of addition
  determines the last digits of the total;
- ``positions`` int64 (M,), ``dice`` float64 (M,) and ``masks`` uint8 (M, S, S): the masks that may be drawn.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import pandas as pd

from components.evaluate.calibration import BINS
from components.evaluate.stream import SplitScores
from components.evaluate.work import Work
from core.errors import UserError
from core.files import read_json, write_folder, write_json
from core.inputs import differences
from core.shard import Shard, distinct, require_all
from model.curves import BINS as CLASSES

PART = "part.json"


def write_part(work: Work, shard: Shard, scored: Iterable[SplitScores], out: Path) -> int:
    """Write the scores of a shard, split after split, and return the number of its images.

    Args:
        work: the inputs.
        shard: the shard.
        scored: the scores of each of ``work.splits``, in that order.
        out: output folder; an earlier one is replaced.

    Raises:
        UserError: an input changed during the evaluation.
    """
    images = 0
    with write_folder(out) as folder:
        for name, found in zip(work.splits, scored, strict=True):
            count = _write_split(folder, name, found)
            print(f"{work.title}: {name}, shard {shard}: {count} images", flush=True)
            images += count
        work.inputs.require_unchanged(work.title)
        write_json(folder / PART, {"shard": str(shard), "cell": work.cell.folder.as_posix(), "inputs": work.record()})
    return images


def _write_split(folder: Path, name: str, found: SplitScores) -> int:
    kept = sorted(found.shown.masks)
    arrays: dict[str, Any] = {"positions": np.array(kept, np.int64)}
    arrays["dice"] = np.array([found.shown.masks[position][0] for position in kept], np.float64)
    arrays["masks"] = np.array([found.shown.masks[position][1] for position in kept], np.uint8)
    arrays["batches"] = np.array(found.batches, np.float64).reshape(-1, 3, BINS)
    for kind, scores in found.scores.items():
        scores.cases.to_parquet(folder / f"{name}-{kind}.parquet")
        people = list(scores.histograms)
        arrays[f"people-{kind}"] = np.array(people, np.str_).reshape(-1, 4)
        counts = np.array([scores.histograms[person] for person in people], np.int64)
        arrays[f"histograms-{kind}"] = counts.reshape(-1, 2, CLASSES)
    np.savez_compressed(folder / f"{name}.npz", **arrays)
    return len(scores.cases)


def require_parts(work: Work, parts: list[Path]) -> list[Path]:
    """Return the parts in the order of their shards.

    Raises:
        UserError: they are not the shards 1/N to N/N, or one was scored from other inputs or with other code.
    """
    infos = {folder: _info(folder) for folder in distinct(parts)}
    order = require_all({folder: info["shard"] for folder, info in infos.items()})
    for folder in order:
        if (cell := infos[folder]["cell"]) != work.cell.folder.as_posix():
            raise UserError(f"{folder}: scores of {cell}, not of {work.cell.folder}; give the shards of this cell")
        if changes := differences(infos[folder]["inputs"], work.record()):
            raise UserError(f"{folder}: scored from other inputs than those given; run this shard again", changes)
    return order


def _info(folder: Path) -> dict[str, Any]:
    info = read_json(folder / PART)
    if not isinstance(info, dict) or set(info) != {"shard", "cell", "inputs"} or not isinstance(info["inputs"], dict):
        raise UserError(f"{folder / PART}: not a part of an evaluation; run the evaluate step with --shard again")
    return info


def read_parts(work: Work, order: list[Path]) -> Iterator[SplitScores]:
    """Yield the scores of each split, accumulated over the parts in order; raises UserError if a part is damaged."""
    for name in work.splits:
        found = SplitScores.of(work.cohort, work.params, name, work.ids[name])
        for folder in order:
            try:
                _read_split(folder, name, found)
            except (OSError, ValueError, KeyError, BadZipFile, zlib.error) as error:
                raise UserError(f"{folder}: damaged ({error}); run this shard of evaluate again") from error
        for kind, scores in found.scores.items():
            if list(scores.cases.get("id", ())) != work.ids[name]:
                raise UserError(f"the parts lack images of {name} against {kind} masks; run evaluate's shards again")
        yield found


def _read_split(folder: Path, name: str, found: SplitScores) -> None:
    with np.load(folder / f"{name}.npz", allow_pickle=False) as arrays:
        for kind, scores in found.scores.items():
            people = [tuple(map(str, person)) for person in arrays[f"people-{kind}"]]
            histograms = dict(zip(people, arrays[f"histograms-{kind}"], strict=True))
            scores.extend(pd.read_parquet(folder / f"{name}-{kind}.parquet"), histograms)
        found.batches.extend(arrays["batches"])
        kept = zip(arrays["dice"].tolist(), arrays["masks"], strict=True)
        found.shown.extend(dict(zip(arrays["positions"].tolist(), kept, strict=True)))
