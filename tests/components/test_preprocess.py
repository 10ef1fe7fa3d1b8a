"""Arrays hold what the pictures show, and nothing is written from a cohort that has not passed."""

from __future__ import annotations

import filecmp
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from components.preprocess import PreprocessSummary, preprocess
from components.validate import validate
from core.cohort import MANIFEST, SPLITS, Arrays, read_manifest, read_split, write_manifest
from core.errors import UserError
from core.files import exclusive
from core.images import read_image, read_mask
from core.params import Scenario, read_params
from model.preprocessing import dilate, resize_mask, standardise
from tests.components.tiny_cohort import (
    PREPROCESS,
    SCENARIOS,
    ellipse,
    preprocess_params,
    publish,
    raw_cohort,
    save,
    validate_params,
)

ROOT = Path(__file__).parents[2]
MIXED = SCENARIOS["mixed"]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cohort in ``raw`` that has passed in ``validation``."""
    folder = tmp_path_factory.mktemp("sound")
    raw = raw_cohort(publish(folder / "source"), folder / "raw")
    validate(raw, validate_params(), folder / "validation")
    return folder


@pytest.fixture
def work(sound: Path, tmp_path: Path) -> Path:
    """A copy of ``sound`` that a test may damage."""
    return Path(shutil.copytree(sound, tmp_path / "work"))


def run(work: Path, scenarios: dict[str, Scenario] | None = None, **changes: Any) -> PreprocessSummary:
    return preprocess(
        work / "raw",
        work / "validation",
        preprocess_params(**changes),
        SCENARIOS if scenarios is None else scenarios,
        work / "arrays",
        work / "splits",
    )


def command(work: Path, params: Path) -> list[str]:
    line = [sys.executable, "-m", "components.preprocess", str(work / "raw"), "--params", str(params)]
    folders = {"--validation": "validation", "--out": "arrays", "--splits": "splits"}
    return line + [part for option, name in folders.items() for part in (option, str(work / name))]


def params_file(path: Path, scenarios: list[str]) -> Path:
    """Write the shipped parameters with another ``preprocess`` section and matrix (JSON is YAML)."""
    values = read_params(ROOT / "params.yaml").model_dump(mode="json", by_alias=True)
    values["matrix"]["scenarios"] = scenarios
    path.write_text(json.dumps(values | {"preprocess": PREPROCESS}))
    return path


def left(work: Path) -> list[str]:
    return sorted(path.name for path in work.iterdir() if path.suffix != ".lock")


# The arrays


def test_the_command_writes_what_the_later_steps_read(work: Path) -> None:
    ran = subprocess.run(
        command(work, params_file(work / "params.yaml", ["mixed", "shenzhen-to-montgomery"])),
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == [
        f"14 images of 32 x 32 pixels in {work}/arrays",
        "mixed: 7 train, 4 validation, 3 test",
        "shenzhen-to-montgomery: 4 train, 2 validation, 8 test",
    ]
    assert ran.stderr.splitlines()[-1].startswith("preprocess: 14 of 14")
    assert sorted(path.name for path in (work / "splits").iterdir()) == [
        "frozen.csv",
        "mixed.json",
        "shenzhen-to-montgomery.json",
    ]
    arrays = Arrays(work / "arrays")
    for name in ("mixed", "shenzhen-to-montgomery"):
        for ids in read_split(work / "splits" / f"{name}.json").values():
            assert list(arrays.manifest["id"][arrays.rows(ids)]) == ids


def test_every_row_is_its_picture_and_its_masks(work: Path) -> None:
    summary = run(work)
    assert (summary.images, summary.size, summary.kernel) == (14, 32, 47)
    arrays = Arrays(work / "arrays")
    assert arrays.images.shape == (14, 32, 32)
    for row, case in arrays.manifest.iterrows():
        image, mask = read_image(work / "raw" / case["image"]), read_mask(work / "raw" / case["mask"])
        original = resize_mask(mask, 32)
        np.testing.assert_array_equal(arrays.images[row], standardise(image, 32, "area", (0.5, 99.5)))
        np.testing.assert_array_equal(arrays.masks["original"][row], original)
        np.testing.assert_array_equal(arrays.masks["dilated"][row], resize_mask(dilate(mask, 48), 32))
        assert arrays.masks["dilated"][row].sum() > original.sum() > 0
        # Lungs are dark in these pictures, so image and mask of one row belong together.
        assert arrays.images[row][original == 1].mean() + 50 < arrays.images[row][original == 0].mean()


def test_images_without_a_mask_are_left_out(work: Path) -> None:
    run(work)
    kept = set(Arrays(work / "arrays").manifest["id"])
    raw = read_manifest(work / "raw")
    assert set(raw["id"]) - kept == {"CHNCXR_0007_1", "CHNCXR_0008_0"}


def test_arrays_say_how_they_were_made(work: Path) -> None:
    run(work, interpolation="lanczos", seed=3)
    info = Arrays(work / "arrays").info
    cohort = json.loads((work / "raw" / "cohort.json").read_text())
    assert info == {
        "name": "source",
        "synthetic": False,
        "description": "",
        "sites": cohort["sites"],
        "data_md5": None,
        "manifest_sha256": info["manifest_sha256"],
        "images": 14,
        "counts": {"montgomery": {"abnormal": 4, "normal": 4}, "shenzhen": {"abnormal": 3, "normal": 3}},
        "size": 32,
        "interpolation": "lanczos",
        "intensity_percentiles": [0.5, 99.5],
        "dilation": 48,
        "kernel": 47,
        "splits": {"train": 0.5, "validation": 0.25, "test": 0.25},
        "seed": 3,
    }


def test_the_same_cohort_gives_the_same_bytes(work: Path) -> None:
    run(work)
    (work / "first").mkdir()
    for name in ("arrays", "splits"):
        (work / name).rename(work / "first" / name)
    run(work)
    for name in ("arrays", "splits"):
        files = sorted(path.name for path in (work / name).iterdir())
        assert files == sorted(path.name for path in (work / "first" / name).iterdir())
        assert filecmp.cmpfiles(work / name, work / "first" / name, files, shallow=False) == (files, [], [])


def test_a_change_of_interpolation_changes_only_the_images(work: Path) -> None:
    run(work)
    before = {path.name: path.read_bytes() for path in (work / "arrays").glob("*.npy")}
    run(work, interpolation="cubic")
    changed = {name for name, data in before.items() if (work / "arrays" / name).read_bytes() != data}
    assert changed == {"images.npy"}


# What is refused


def test_a_cohort_that_was_not_validated_is_refused(work: Path) -> None:
    shutil.rmtree(work / "validation")
    with pytest.raises(UserError, match="has not passed validation; run the validate step"):
        run(work)
    assert left(work) == ["raw", "source"]


def test_a_cohort_that_failed_validation_is_refused(work: Path) -> None:
    with pytest.raises(UserError, match="expectations failed"):
        validate(work / "raw", validate_params(bit_depths=[8]), work / "validation")
    with pytest.raises(UserError, match="has not passed validation"):
        run(work)


def test_a_cohort_that_changed_since_is_refused_by_the_command(work: Path) -> None:
    manifest = read_manifest(work / "raw")
    write_manifest(work / "raw", manifest.iloc[1:])
    ran = subprocess.run(
        command(work, params_file(work / "params.yaml", ["mixed"])), capture_output=True, text=True, cwd=ROOT
    )
    assert ran.returncode == 1
    assert ran.stderr == (
        f"error: {work}/validation: is of another cohort than {work}/raw; run the validate step again\n"
    )
    assert "arrays" not in left(work)


def test_every_file_that_went_bad_since_is_listed_and_earlier_output_stays(work: Path) -> None:
    run(work)
    before = {path: path.read_bytes() for name in ("arrays", "splits") for path in (work / name).iterdir()}
    raw = work / "raw"
    save(raw / "masks" / "montgomery" / "MCUCXR_0001_1.png", ellipse(60, 80, 0.3))
    cut = raw / "images" / "shenzhen" / "CHNCXR_0001_1.png"
    cut.write_bytes(cut.read_bytes()[:-100])
    (raw / "images" / "shenzhen" / "CHNCXR_0002_0.png").unlink()
    with pytest.raises(UserError, match=r"3 image\(s\) cannot be used") as failure:
        run(work)
    assert failure.value.problems[0] == (
        f"{raw}/masks/montgomery/MCUCXR_0001_1.png: 80 x 60 pixels, but its image has 80 x 64 pixels; "
        "run ingest and validate again"
    )
    assert "CHNCXR_0001_1.png: truncated" in failure.value.problems[1]
    assert "CHNCXR_0002_0.png: cannot be read (No such file or directory)" in failure.value.problems[2]
    assert before == {path: path.read_bytes() for name in ("arrays", "splits") for path in (work / name).iterdir()}
    assert left(work) == ["arrays", "raw", "source", "splits", "validation"]


def test_a_full_disk_is_told_before_the_arrays_are_filled(work: Path) -> None:
    """Pages of a mapped file that find no room would kill the process without a word."""
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not installed, so no small disk can be made")
    disk = work / "disk"
    disk.mkdir()
    line = command(work, params_file(work / "params.yaml", ["mixed"]))
    line = [part.replace(f"{work}/arrays", f"{disk}/arrays") for part in line]
    script = f'mount -t tmpfs -o size=40k tmpfs "{disk}" || exit 99; "$@"; echo "rc $?"; ls -A "{disk}"'
    ran = subprocess.run(["unshare", "-Urm", "sh", "-c", script, "sh", *line], capture_output=True, text=True, cwd=ROOT)
    if ran.returncode == 99 or "unshare failed" in ran.stderr:
        pytest.skip(f"no small disk can be mounted here: {ran.stderr.strip()}")
    assert ran.stderr.startswith(f"error: {disk}/arrays: the disk is full (No space left on device)")
    assert ran.stdout.splitlines() == ["rc 1", ".arrays.lock"]
    assert "splits" not in left(work)


@pytest.mark.parametrize("busy", ["arrays", "splits"])
def test_a_second_run_at_once_is_refused(work: Path, busy: str) -> None:
    with exclusive(work / busy), pytest.raises(UserError, match=f"{busy}: another run is writing here"):
        run(work)
    assert left(work) == ["raw", "source", "validation"]


def test_scenarios_that_the_cohort_cannot_fill_are_all_named(work: Path) -> None:
    scenarios = {"paris": Scenario(train=["paris"], test=["lyon"]), "mixed": MIXED}
    with pytest.raises(UserError) as failure:
        run(work, scenarios, splits={"train": 0.98, "validation": 0.01, "test": 0.01})
    assert failure.value.problems == [
        "paris: the cohort has no image with a mask of lyon, paris",
        "mixed: no images for validation, test; its sites need more images with masks, or larger shares under "
        "preprocess.splits",
    ]
    assert "matrix.scenarios" in str(failure.value)
    assert left(work) == ["raw", "source", "validation"]


def test_one_site_is_enough_for_the_scenarios_that_need_no_other(tmp_path: Path) -> None:
    raw = raw_cohort(publish(tmp_path / "source", montgomery=0, shenzhen=8), tmp_path / "raw")
    validate(raw, validate_params(), tmp_path / "validation")
    summary = run(tmp_path, {"shenzhen": Scenario(train=["shenzhen"], test=["shenzhen"])})
    assert sum(summary.splits["shenzhen"].values()) == 6
    with pytest.raises(UserError, match="too few images for these scenarios"):
        run(tmp_path)


def test_a_cohort_without_any_mask_is_refused(tmp_path: Path) -> None:
    raw = raw_cohort(publish(tmp_path / "source", montgomery=0, shenzhen=4, unpaired=4), tmp_path / "raw")
    validate(raw, validate_params(), tmp_path / "validation")
    with pytest.raises(UserError) as failure:
        run(tmp_path, {"mixed": MIXED})
    assert failure.value.problems == ["mixed: the cohort has no image with a mask of montgomery, shenzhen"]


def test_scenarios_are_taken_from_the_frozen_table(work: Path) -> None:
    run(work)
    table = pd.read_csv(work / "splits" / "frozen.csv")
    assert list(table.columns) == ["id", "site", "label", "split"]
    frozen = dict(zip(table["id"], table["split"], strict=True))
    written = json.loads((work / "splits" / "mixed.json").read_text())
    assert {image: name for name in SPLITS for image in written[name]} == frozen
    assert written["scenario"] == "mixed"
    assert written["sites"] == {"train": MIXED.train, "test": MIXED.test}


@pytest.mark.full
@pytest.mark.skipif("CXR_DATA" not in os.environ, reason="CXR_DATA does not name the 704 X-rays of the paper")
def test_the_papers_x_rays_are_split_as_in_the_paper(tmp_path: Path) -> None:
    params = read_params(ROOT / "params.yaml")
    raw = raw_cohort(Path(os.environ["CXR_DATA"]), tmp_path / "raw")
    validate(raw, params.validate_, tmp_path / "validation")
    summary = preprocess(
        raw,
        tmp_path / "validation",
        params.preprocess,
        params.scenarios,
        tmp_path / "arrays",
        tmp_path / "splits",
    )
    assert (raw / MANIFEST).is_file()
    assert summary.splits["mixed"] == {"train": 528, "validation": 76, "test": 100}
    assert summary.splits["montgomery-to-shenzhen"]["test"] == 566
    assert summary.splits["shenzhen-to-montgomery"]["test"] == 138
