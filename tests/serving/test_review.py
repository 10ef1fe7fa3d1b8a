"""``review export`` and ``review import``: flagged pictures become work, and corrected masks a cohort."""

from __future__ import annotations

import csv
import json
import shutil
import stat
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from components.ingest import ingest
from components.validate import validate
from core.images import encode, read_image, read_mask
from core.params import read_params
from serving.review import cohort as writing
from serving.review.label_studio import KIND
from serving.review.polygons import to_mask
from tests.cohorts import lungs, put
from tests.serving.reviews import MONTGOMERY, ROWS, SHENZHEN, TURNED, Desk, desk

M1, C1, C3, DICOM = "MCUCXR_0001_1.png", "CHNCXR_0001_1.png", "CHNCXR_0003_1.png", "chest.dcm"


@pytest.fixture
def at(tmp_path: Path) -> Desk:
    return desk(tmp_path)


@pytest.fixture
def exported(at: Desk) -> Desk:
    at.export()
    return at


def label(at: Desk, name: str, given: str) -> None:
    """Fill in a label, as a spreadsheet would."""
    path = at.root / "review/review.csv"
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        if row["file"].endswith(name):
            row["label"] = given
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)


def ingested(at: Desk, cohort: str, out: str) -> pd.DataFrame:
    """Ingest a cohort and return its manifest by id."""
    ingest(str(at.root / cohort), read_params(at.root / "params.yaml").ingest, at.root / out, "")
    return pd.read_csv(at.root / out / "manifest.csv").set_index("id")


def validated(at: Desk, raw: str) -> None:
    """Validate an ingested cohort as the pipeline does, with the site that an import may add."""
    bounds = read_params(at.root / "params.yaml").validate_
    validate(
        at.root / raw, bounds.model_copy(update={"sites": [*bounds.sites, writing.SITE]}), at.root / f"{raw}-checked"
    )


def test_flagged_pictures_are_exported_with_masks_and_reasons(at: Desk) -> None:
    assert "4 of 6 X-rays, 1 failed" in at.export()

    assert set(at.manifest) == {M1, C1, C3, DICOM}
    for name, picture in at.manifest.items():
        source = at.root / "cohort" / picture["file"]
        assert picture["sha256"] == sha256(source.read_bytes()).hexdigest()
        shown, stored, proposed = (read_image(at.place(name, folder)) for folder in (".", "xrays", "labels/original"))
        assert shown.dtype == np.uint8
        assert (shown.min(), shown.max()) == (0, 255)
        assert shown.shape == stored.shape == proposed.shape == (picture["height"], picture["width"])
        assert set(np.unique(proposed)) == {0, 1}  # labelling tools take the value as the number of the label
        assert sha256(at.place(name, "xrays").read_bytes()).hexdigest() == picture["xray_sha256"]
        assert not at.place(name).exists()
        # Dark where the X-ray is dark: nothing is flipped on the way.
        both = lungs(*shown.shape) > 0
        assert shown[both].mean() + 50 < shown[~both].mean()
        if name != DICOM:
            assert at.place(name, "xrays").read_bytes() == source.read_bytes()
    assert read_image(at.place(DICOM, "xrays")).dtype == np.uint16  # the cohort gets all grey values
    assert b"Doe" not in at.place(DICOM, "xrays").read_bytes()
    with (at.root / "review/review.csv").open(newline="") as file:
        rows = {row["file"].rpartition("/")[2]: row for row in csv.DictReader(file)}
    assert rows[C1]["flags"] == "intensity shape"
    assert rows[C1]["reasons"].startswith("20.0% of the pixels")
    assert (rows[C1]["label"], rows[DICOM]["label"]) == ("abnormal", "")
    assert stat.S_IMODE((at.root / "review").stat().st_mode) == 0o700  # patients' pictures


@pytest.mark.parametrize(
    ("options", "count"),
    [
        (["--all"], 5),
        (["--flag", "intensity"], 1),
        (["--file", "*MCUCXR*"], 2),
        (["--file", "*MCUCXR*", "--flag", "shape"], 1),
    ],
)
def test_which_pictures_are_exported(at: Desk, options: list[str], count: int) -> None:
    assert f"\n{count} of 6 X-rays" in at.export(*options)
    assert len(at.manifest) == count


def test_a_name_that_no_xray_has_is_refused(at: Desk) -> None:
    told = at.export("--file", "*MCUCXR*", "--file", "*typo*", code=1)
    assert "no X-ray is named *typo*; give names as in the column file" in told
    assert not (at.root / "review").exists()


def test_nothing_is_written_without_a_flagged_picture(at: Desk) -> None:
    assert at.export("--flag", "spacing").startswith("none of 6 X-rays matches")
    assert not (at.root / "review").exists()
    assert "no flag 'shapes'" in at.export("--flag", "shapes", code=2)


def test_changed_and_missing_files_are_named_and_nothing_is_written(at: Desk) -> None:
    put(at.root / "cohort" / MONTGOMERY / M1, lungs(96, 80))
    (at.root / "lungs/masks" / SHENZHEN / C1).unlink()
    (at.root / "cohort" / SHENZHEN / C3).unlink()

    told = at.export(code=1)

    assert "3 X-ray(s) cannot be exported" in told
    for name, why in ((M1, "another SHA-256"), (C1, "cannot be read"), (C3, "cannot be read")):
        assert any(name in line and why in line for line in told.splitlines()), told
    assert not (at.root / "review").exists()


def test_a_wrong_folder_of_inputs_is_one_line_with_three_names(at: Desk) -> None:
    (at.root / "cohort").rename(at.root / "elsewhere")
    (at.root / "cohort").mkdir()
    (told,) = [line for line in at.export("--all", code=1).splitlines() if "cohort" in line]
    assert told.startswith(f"error: {at.root / 'cohort'}: has none of the 5 X-rays (")
    assert told.count(".png") == 3
    assert told.endswith(", ...); give their folder with --inputs")
    assert not (at.root / "review").exists()


def test_a_review_is_never_overwritten(exported: Desk) -> None:
    exported.correct(M1)
    before = exported.files("review")
    assert "may hold corrections" in exported.export(code=1)
    assert exported.files("review") == before


def test_results_that_are_not_finished_are_refused(at: Desk) -> None:
    (at.root / "lungs/.results.jsonl").write_text("")
    assert "--resume" in at.export(code=1)
    (at.root / "lungs/.results.jsonl").unlink()
    (at.root / "lungs/results.json").write_text('{"results": [{"file": "a"}]}')
    assert "not the results of" in at.export(code=1)


def test_corrected_masks_replace_those_of_the_cohort(exported: Desk) -> None:
    at = exported
    old = at.files("cohort")
    corrected = {name: at.correct(name, lungs(*size)) for name, size in ((M1, (96, 80)), (C1, (72, 72)))}
    corrected[C1] = at.correct(C1, np.roll(lungs(72, 72), 2, axis=1))
    corrected[M1] = at.correct(M1, np.roll(lungs(96, 80), 2, axis=0).astype(np.uint16) * 257)
    corrected[C3] = at.correct(C3)  # had none

    told = at.take()

    assert "3 corrected, 0 accepted; not imported: 0 left as proposed, 1 without a corrected mask" in told
    assert "masks of 3 of its X-rays replaced, 0 X-rays added" in told
    assert at.files("cohort") == old
    new = at.files("new")
    halves = [f"MontgomerySet/ManualMask/{side}Mask/{M1}" for side in ("left", "right")]
    masks = {*halves, *(f"ChinaSet_AllFiles/mask/{name[:-4]}_mask.png" for name in (C1, C3))}
    assert {name for name in old if new.get(name) != old[name]} == masks & old.keys()
    assert {name for name in new.keys() - old.keys() if not name.startswith("corrections")} == masks - old.keys()
    frame = ingested(at, "new", "raw")
    for name, mask in corrected.items():
        assert np.array_equal(read_mask(at.root / "raw" / frame.loc[name[:-4], "mask"]), mask)
    left = read_mask(at.root / "new" / halves[0])
    assert left[:, 40:].any()  # the patient's left is on the picture's right
    assert not left[:, :40].any()
    # Who corrected what, and what was there before.
    record = {entry["id"]: entry for entry in at.record()}
    assert {entry["by"] for entry in record.values()} == {"A. Reader"}
    assert record["MCUCXR_0001_1"]["action"] == "corrected"
    assert record["MCUCXR_0001_1"]["model"]["weights_sha256"] == "ab" * 32
    assert [new[name] for name in record["MCUCXR_0001_1"]["replaced"]] == [old[name] for name in halves]
    assert 0.8 < record["MCUCXR_0001_1"]["dice_with_replaced"] < 1
    assert record["CHNCXR_0003_1"]["replaced"] == []
    assert record["CHNCXR_0003_1"]["dice_with_replaced"] is None


@pytest.mark.slow  # Great Expectations
def test_another_x_ray_is_added_and_then_known(exported: Desk) -> None:
    at = exported
    at.correct(DICOM)
    assert "without a label" in at.take(code=1)
    label(at, DICOM, "Abnormal")

    told = at.take()

    assert "0 of its X-rays replaced, 1 X-ray added" in told
    assert "add reviewed to validate.sites" in told
    assert "train and test of scenarios.mixed" in told
    frame = ingested(at, "new", "raw")
    (row,) = (row for _, row in frame[frame["site"] == "reviewed"].iterrows())
    assert (row["label"], row["bit_depth"]) == ("abnormal", 16)
    assert row["image_sha256"] == at.manifest[DICOM]["xray_sha256"]
    # The same DICOM once more: its mask is replaced, and no second X-ray is added.
    corrected = at.correct(DICOM, np.roll(lungs(90, 70), 3, axis=0))
    words = ("--cohort", at.root / "new", "--by", "B. Reader", "--params", at.root / "params.yaml")
    assert "masks of 1 of its X-rays replaced, 0 X-rays added" in at.call(
        "review", "import", at.root / "review", *words
    )
    frame = ingested(at, "new", "raw-again")
    assert np.array_equal(read_mask(at.root / "raw-again" / frame.loc[row.name, "mask"]), corrected)
    assert [entry["by"] for entry in at.record()] == ["A. Reader", "B. Reader"]
    validated(at, "raw-again")


def test_every_bad_mask_is_named_and_nothing_is_changed(at: Desk) -> None:
    at.export("--all")
    at.correct(M1, lungs(80, 96))  # the size of another
    three = lungs(80, 96)
    three[:2] = 128
    at.correct("MCUCXR_0002_0.png", three)
    at.correct(C1, np.zeros((72, 72), np.uint8))
    at.correct(C3, np.full((72, 72), 255, np.uint8))
    at.place(DICOM).write_bytes(b"no picture")
    (at.root / "review/labels/final/lungs.nii.gz").write_bytes(b"\x1f\x8b")
    before = at.files(".")

    told = at.take(code=1)

    assert "6 mask(s) cannot be imported" in told
    reasons = {
        M1: "96 x 80 pixels, its X-ray has 80 x 96",
        "MCUCXR_0002_0.png": "more than two values",
        C1: "is empty",
        C3: "covers 100.0% of the image",
        DICOM: "not a PNG",
        "lungs.nii.gz": "not a mask of this review",
    }
    for name, why in reasons.items():
        assert any(name in line and why in line for line in told.splitlines()), (name, told)
    assert at.files(".") == before


@pytest.mark.parametrize("folder", ["xrays", "labels/original"])
def test_a_changed_review_is_refused(exported: Desk, folder: str) -> None:
    exported.correct(M1)
    exported.place(M1, folder).write_bytes(encode(lungs(96, 80)))
    assert "changed since the export" in exported.take(code=1)
    assert not (exported.root / "new").exists()


def test_masks_with_too_many_parts_are_refused(exported: Desk) -> None:
    mask = lungs(96, 80)
    mask[44:52] = 0  # each lung in two
    exported.correct(M1, mask)
    assert "has 4 large parts; validate.components allows 1 to 2" in exported.take(code=1)


def test_a_new_x_ray_must_be_upright(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ROWS, "ward/chest.dcm", [TURNED])
    at = desk(tmp_path)
    at.export()
    at.correct(DICOM)
    label(at, DICOM, "normal")
    assert "flagged turned" in at.take(code=1)


def test_two_dicoms_of_the_same_picture_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ROWS, "ward/again.dcm", ROWS["ward/chest.dcm"])
    at = desk(tmp_path)
    at.export()
    for name in (DICOM, "again.dcm"):
        at.correct(name)
        label(at, name, "normal")
    assert "the same X-ray as ward/again.dcm" in at.take(code=1)


def test_unchanged_masks_count_only_where_they_are_accepted(exported: Desk) -> None:
    at = exported
    for name in (M1, C1):
        shutil.copy(at.place(name, "labels/original"), at.place(name))
    assert "no mask to import: 2 not corrected, 2 left as proposed (--accept-unchanged" in at.take(code=1)
    at.correct(C1)
    assert "1 corrected, 0 accepted; not imported: 1 left as proposed" in at.take()
    shutil.rmtree(at.root / "new")
    assert "1 corrected, 1 accepted; not imported: 0 left as proposed" in at.take("--accept-unchanged")
    assert {entry["id"]: entry["action"] for entry in at.record()} == {
        "MCUCXR_0001_1": "accepted",
        "CHNCXR_0001_1": "corrected",
    }


def annotated(at: Desk, change: Any) -> Path:
    """Write what Label Studio exports after ``change(name, regions)`` of each prediction; None: no annotation."""
    tasks = json.loads((at.root / "review/label-studio/tasks.json").read_text())
    for number, task in enumerate(tasks, 1):
        (prediction,) = task.pop("predictions")
        result = change(task["data"]["file"].rpartition("/")[2], prediction["result"])
        submitted = [] if result is None else [{"result": result, "completed_by": 3, "was_cancelled": False}]
        task |= {"id": number, "annotations": submitted}
    path = at.root / "export.json"
    path.write_text(json.dumps(tasks))
    return path


def test_the_polygons_of_label_studio_come_back(exported: Desk) -> None:
    at = exported

    def change(name: str, regions: list[dict[str, Any]]) -> list[dict[str, Any]] | None:
        assert regions
        if name == M1:
            for region in regions:  # a lower edge pulled down by a tenth of the picture
                region["value"]["points"] = [[x, y + 10 * (y > 60)] for x, y in region["value"]["points"]]
        return regions if name in (M1, C1) else None

    tasks = json.loads((at.root / "review/label-studio/tasks.json").read_text())
    for task in tasks:
        shown = at.manifest[task["data"]["file"].rpartition("/")[2]]
        assert task["data"]["image"] == f"/data/local-files/?d=review/{shown['id']}.png"
        regions = [region["value"]["points"] for region in task["predictions"][0]["result"]]
        proposed = read_mask(at.root / f"review/labels/original/{shown['id']}.png")
        drawn = to_mask(regions, *proposed.shape)
        assert 2 * (drawn & proposed).sum() / (drawn.sum() + proposed.sum()) > 0.97
    path = annotated(at, change)
    assert "1 corrected, 0 accepted; not imported: 1 left as proposed" in at.take("--label-studio", path)
    (entry,) = at.record()
    assert (entry["id"], entry["annotator"]) == ("MCUCXR_0001_1", "3")
    assert 0.7 < entry["dice_with_proposed"] < 1
    shutil.rmtree(at.root / "new")
    assert "1 corrected, 1 accepted" in at.take("--label-studio", path, "--accept-unchanged")
    # What was not touched is the proposed mask to the pixel, not its polygons.
    proposed = read_mask(at.place(C1, "labels/original"))
    assert np.array_equal(read_mask(at.root / "new/ChinaSet_AllFiles/mask/CHNCXR_0001_1_mask.png"), proposed)


def test_what_label_studio_cannot_mean_is_refused(exported: Desk) -> None:
    at = exported

    def brush(_: str, regions: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [region | {"type": "brushlabels"} for region in regions]

    told = at.take("--label-studio", annotated(at, brush), code=1)
    assert "4 mask(s) cannot be imported" in told
    assert "a region of type brushlabels" in told
    path = annotated(at, lambda _, regions: regions)
    at.correct(M1)
    assert "also in Label Studio's export" in at.take("--label-studio", path, code=1)
    tasks = json.loads(path.read_text())
    for task in tasks:
        task["annotations"] *= 2
    path.write_text(json.dumps(tasks))
    assert "has several annotations" in at.take("--label-studio", path, code=1)
    path.write_text(json.dumps([{"image": "a.png", KIND: []}]))
    assert "export as JSON" in at.take("--label-studio", path, code=1)
    assert not (at.root / "new").exists()


def test_a_full_disk_leaves_the_cohort_as_it_was(exported: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    at = exported
    for name in (M1, C1):
        at.correct(name)
    before = at.files("cohort")
    calls = []

    def fails(data: np.ndarray) -> bytes:
        calls.append(data)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return encode(data)

    monkeypatch.setattr(writing, "encode", fails)
    words = ("--cohort", at.root / "cohort", "--by", "A. Reader", "--params", at.root / "params.yaml")
    assert "the disk is full" in at.call("review", "import", at.root / "review", *words, code=1)
    assert at.files("cohort") == before
    monkeypatch.undo()
    at.call("review", "import", at.root / "review", *words)
    assert len(at.record("cohort")) == 2


def test_a_pinned_cohort_is_not_changed_behind_dvc(exported: Desk) -> None:
    at = exported
    at.correct(M1)
    (at.root / "cohort.dvc").write_text("outs: []\n")
    words = ("--cohort", at.root / "cohort", "--by", "A. Reader", "--params", at.root / "params.yaml")
    assert "--out FOLDER" in at.call("review", "import", at.root / "review", *words, code=1)
    at.take()
    assert "is there already" in at.take(code=1)
    words = ("--cohort", at.root / "nothing", "--by", "A. Reader", "--params", at.root / "params.yaml")
    assert "not found" in at.call("review", "import", at.root / "review", *words, code=1)
