"""A small sample taken through ingest, validate and preprocess in one run, and functions that do it in shards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from components.ingest import ingest
from components.preprocess import preprocess, preprocess_shard
from components.preprocess.merge import merge as merge_arrays
from components.validate import validate
from core.params import IngestParams, PreprocessParams
from core.shard import Shard
from tests.components.tiny_cohort import SCENARIOS, preprocess_params, validate_params
from tools.sample import make_sample

if TYPE_CHECKING:
    from tests.workers import Once

PARAMS = IngestParams(max_megapixels=60)


@pytest.fixture(scope="session")
def place(once: Once) -> Path:
    """A sample of 18 X-rays in ``data``, and all that one run makes of it, to ``arrays`` and ``splits``."""

    def make(folder: Path) -> None:
        make_sample(folder / "data", montgomery=6, shenzhen=12, scale=0.3)
        ingest(str(folder / "data"), PARAMS, folder / "raw")
        validate(folder / "raw", validate_params(), folder / "validation")
        where = (folder / "raw", folder / "validation")
        preprocess(*where, preprocess_params(), SCENARIOS, folder / "arrays", folder / "splits")

    return once("place", make)


def shards(source: Path | str, folder: Path, of: int) -> list[Path]:
    """Ingest every shard, and return the parts in another order than the shards'."""
    for shard in Shard.every(of):
        ingest(str(source), PARAMS, folder / f"raw-{shard.number}", shard=shard)
    return [folder / f"raw-{shard.number}" for shard in reversed(Shard.every(of))]


def arrays_of(raws: list[Path], folder: Path, of: int, **changes: Any) -> list[Path]:
    for shard, raw in zip(Shard.every(of), raws, strict=True):
        preprocess_shard(raw, preprocess_params(**changes), shard, folder / f"arrays-{shard.number}")
    return [folder / f"arrays-{shard.number}" for shard in reversed(Shard.every(of))]


def merged_arrays(parts: list[Path], place: Path, out: Path, params: PreprocessParams | None = None) -> None:
    where = (place / "raw", place / "validation")
    merge_arrays(parts, *where, params or preprocess_params(), SCENARIOS, out / "arrays", out / "splits")


@pytest.fixture
def parts(place: Path, tmp_path: Path) -> list[Path]:
    """Three shards of the raw cohort, 3/3 first."""
    return shards(place / "data", tmp_path, 3)


def record(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
