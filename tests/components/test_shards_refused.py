"""Parts of a cohort that do not belong together are refused, each in one line, and nothing is written."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from components.ingest import ingest
from components.ingest.merge import merge as merge_cohort
from components.preprocess import preprocess, preprocess_shard
from components.validate import validate
from core.cohort import MANIFEST, Arrays, read_manifest
from core.errors import UserError
from core.shard import Shard
from tests.components.sharded import PARAMS, arrays_of, merged_arrays, record, shards
from tests.components.tiny_cohort import SCENARIOS, preprocess_params, publish, validate_params
from tools.sample import make_sample


def refusal(parts: list[Path], tmp_path: Path) -> str:
    with pytest.raises(UserError) as caught:
        merge_cohort(parts, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_missing_duplicate_and_foreign_parts_are_refused(parts: list[Path], place: Path, tmp_path: Path) -> None:
    three, two, one = parts
    assert refusal([one, two], tmp_path) == "1 of 3 shards are missing: 3/3; run them, then merge"
    assert refusal([one, two, three, two], tmp_path) == f"{two}: named twice; give each shard once"
    again = Path(shutil.copytree(two, tmp_path / "again"))
    assert refusal([one, two, three, again], tmp_path) == f"{again}: shard 2/3, as {two} is too; give each shard once"
    assert "not a part that a step wrote with --shard" in refusal([one, two, place / "raw"], tmp_path)
    assert "cohort.json: not found" in refusal([one, two, tmp_path / "nothing"], tmp_path)
    other = shards(place / "data", tmp_path / "other", 2)
    assert "give parts of one number" in refusal([one, two, other[0]], tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "elsewhere"}, "of another cohort than {one}, its source differs; give the shards of one source"),
        ({"data_md5": "0123"}, "of another cohort than {one}, its data_md5 differs; give the shards of one source"),
        ({"name": "other"}, "of another cohort than {one}, its name differs; give the shards of one source"),
        ({"synthetic": False}, "of another cohort than {one}, its synthetic differs; give the shards of one source"),
        (
            {"listing_sha256": "0123"},
            "the files of its source differ from those that {one} saw; run its shard, or all, again",
        ),
    ],
)
def test_parts_of_other_cohorts_are_refused(
    changes: dict[str, Any], message: str, parts: list[Path], tmp_path: Path
) -> None:
    three, two, one = parts
    record(two / "cohort.json", **changes)
    assert refusal([three, two, one], tmp_path) == f"{two}: {message.format(one=one)}"


def test_damaged_parts_are_refused(parts: list[Path], tmp_path: Path) -> None:
    three, two, _ = parts
    manifest = read_manifest(two)
    picture = two / manifest["image"][0]
    picture.rename(tmp_path / "away.png")
    assert refusal(parts, tmp_path) == f"{picture}: not found, but in its part's manifest; run its shard again"
    (tmp_path / "away.png").rename(picture)
    text = (two / MANIFEST).read_text()
    (two / MANIFEST).write_text(text.replace("images/", "../images/"))
    assert "has its files at another place" in refusal(parts, tmp_path)
    (two / MANIFEST).write_text(text)
    # A part whose record names another shard than it is.
    shutil.rmtree(three)
    shutil.copytree(two, three)
    record(three / "cohort.json", shard="3/3")
    assert f"{manifest['id'][0]} is not of shard 3/3" in refusal(parts, tmp_path)
    (two / "cohort.json").write_text("[]")
    assert "not an output of the ingest step" in refusal(parts, tmp_path)


def test_an_id_of_two_parts_is_refused(tmp_path: Path) -> None:
    # The layouts give every site ids of its own; a further one may not.
    source = publish(tmp_path / "data", montgomery=1, shenzhen=0)
    (whole,) = shards(source, tmp_path, 1)
    shards_of = {shard: shard.has("montgomery", "MCUCXR_0001_1") for shard in Shard.every(2)}
    here = next(shard for shard, has in shards_of.items() if has)
    there = next(shard for shard, has in shards_of.items() if not has)
    site = next(name for name in map(str, range(99)) if there.has(name, "MCUCXR_0001_1"))
    for shard, name in ((here, "montgomery"), (there, site)):
        folder = Path(shutil.copytree(whole, tmp_path / f"part-{shard.number}"))
        record(folder / "cohort.json", shard=str(shard))
        text = (folder / MANIFEST).read_text()
        (folder / MANIFEST).write_text(text.replace("montgomery", name))
        if name != "montgomery":
            for kind in ("images", "masks"):
                (folder / kind / "montgomery").rename(folder / kind / name)
    parts = [tmp_path / "part-1", tmp_path / "part-2"]
    assert "MCUCXR_0001_1 is in" in refusal(parts, tmp_path)


def test_a_shard_is_no_cohort(parts: list[Path], place: Path, tmp_path: Path) -> None:
    part = parts[0]
    for step in (
        lambda: validate(part, validate_params(), tmp_path / "validation"),
        lambda: preprocess(part, place / "validation", preprocess_params(), SCENARIOS, tmp_path / "a", tmp_path / "s"),
    ):
        with pytest.raises(UserError) as caught:
            step()
        assert str(caught.value) == (
            f"{part}: only shard 3/3 of a cohort; merge all of them with python -m components.ingest.merge"
        )
    preprocess_shard(part, preprocess_params(), Shard.parse("3/3"), tmp_path / "arrays")
    with pytest.raises(UserError, match=r"only shard 3/3 .* python -m components.preprocess.merge"):
        Arrays(tmp_path / "arrays")
    with pytest.raises(UserError, match=r"shard 3/3 of a cohort, not 1/3; give that shard or the whole cohort"):
        preprocess_shard(part, preprocess_params(), Shard.parse("1/3"), tmp_path / "arrays")


def refused_arrays(parts: list[Path], place: Path, tmp_path: Path) -> str:
    with pytest.raises(UserError) as caught:
        merged_arrays(parts, place, tmp_path / "merged")
    assert not [path for path in (tmp_path / "merged").glob("*") if path.is_dir()]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_arrays_that_do_not_belong_together_are_refused(place: Path, tmp_path: Path) -> None:
    two, one = parts = arrays_of([place / "raw"] * 2, tmp_path, 2)
    assert refused_arrays([one], place, tmp_path) == "1 of 2 shards are missing: 2/2; run them, then merge"
    assert "not a part" in refused_arrays([one, place / "arrays"], place, tmp_path)
    record(two / "arrays.json", dilation=7)
    assert refused_arrays(parts, place, tmp_path) == (
        f"{two}: made with other parameters (dilation: 7 -> 48); run this shard again"
    )
    record(two / "arrays.json", dilation=48)
    with (two / "masks-original.npy").open("rb+") as file:
        file.truncate(300)
    assert f"{two / 'masks-original.npy'}: cannot be read" in refused_arrays(parts, place, tmp_path)
    shutil.copy(place / "arrays/images.npy", two / "masks-original.npy")
    assert "does not match its manifest" in refused_arrays(parts, place, tmp_path)
    (two / "arrays.json").write_text("[]")
    assert "not an output of the preprocess step" in refused_arrays(parts, place, tmp_path)


def test_arrays_of_other_pictures_are_refused(place: Path, tmp_path: Path) -> None:
    make_sample(tmp_path / "data", montgomery=6, shenzhen=12, scale=0.3, seed=1)
    ingest(str(tmp_path / "data"), PARAMS, tmp_path / "raw")
    parts = arrays_of([place / "raw", tmp_path / "raw"], tmp_path, 2)
    message = refused_arrays(parts, place, tmp_path)
    assert message.startswith(f"{tmp_path / 'arrays-2' / MANIFEST}: not the pictures of shard 2/2 in {place / 'raw'}")


def test_nothing_is_merged_from_a_cohort_that_has_not_passed(place: Path, tmp_path: Path) -> None:
    parts = arrays_of([place / "raw"] * 2, tmp_path, 2)
    shutil.copytree(place / "raw", tmp_path / "raw")
    (tmp_path / "validation").mkdir()
    assert "has not passed validation" in refused_arrays(parts, tmp_path, tmp_path)
    (tmp_path / "validation/passed.json").write_text('{"manifest_sha256": "0123"}')
    assert "is of another cohort than" in refused_arrays(parts, tmp_path, tmp_path)
    shutil.copy(place / "validation/passed.json", tmp_path / "validation")
    merged_arrays(parts, tmp_path, tmp_path)
