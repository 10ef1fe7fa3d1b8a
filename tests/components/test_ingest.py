from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.ingest import SiteCount, ingest
from components.ingest.layouts import Layout, survey
from components.ingest.pictures import component_fractions
from components.ingest.readings import read_montgomery, read_shenzhen
from core.cohort import read_manifest
from core.errors import UserError
from core.files import sha256
from core.images import encode, pixel_sha256, read_image, read_mask
from core.params import IngestParams
from tests.cohorts import lungs, put, write_cohort, xray
from tests.core.test_images import black

PARAMS = IngestParams(max_megapixels=1.0)
Command = Callable[..., subprocess.CompletedProcess[str]]


def tree(folder: Path) -> dict[str, str]:
    """Every file below a folder with the SHA-256 of its bytes."""
    return {path.relative_to(folder).as_posix(): sha256(path) for path in folder.rglob("*") if path.is_file()}


def refusal(source: Path | str, out: Path) -> UserError:
    """The error that ingest ends with; nothing may be left of its output."""
    with pytest.raises(UserError) as caught:
        ingest(str(source), PARAMS, out)
    assert not out.exists()
    assert [path.name for path in out.parent.glob(f".{out.name}.partial-*")] == []
    return caught.value


def test_a_cohort_becomes_images_masks_and_a_manifest(cohort: Path, tmp_path: Path) -> None:
    result = ingest(str(cohort), PARAMS, tmp_path / "raw")
    assert result.sites == {"montgomery": SiteCount(2, 2, 0), "shenzhen": SiteCount(3, 2, 1)}
    manifest = read_manifest(result.folder).set_index("id")
    assert list(manifest.index) == [
        "MCUCXR_0001_1",
        "MCUCXR_0002_0",
        "CHNCXR_0001_1",
        "CHNCXR_0002_0",
        "CHNCXR_0003_1",
    ]
    assert list(manifest["label"]) == ["abnormal", "normal", "abnormal", "normal", "abnormal"]
    assert list(manifest["bit_depth"]) == [16, 16, 8, 8, 8]

    row = manifest.loc["MCUCXR_0001_1"]
    published = cohort / "MontgomerySet/CXR_png/MCUCXR_0001_1.png"
    assert (result.folder / row["image"]).read_bytes() == published.read_bytes()
    assert row["image_sha256"] == sha256(published)
    np.testing.assert_array_equal(read_image(result.folder / row["image"]), xray(96, 80, 1, np.uint16))
    assert row["pixel_sha256"] == pixel_sha256(xray(96, 80, 1, np.uint16))
    assert (row["width"], row["height"], row["mask_width"], row["mask_height"]) == (80, 96, 80, 96)
    assert (row["age"], row["sex"], row["reading"]) == (33, "F", "normal")

    united = lungs(96, 80)
    np.testing.assert_array_equal(read_mask(result.folder / row["mask"]), united > 0)
    stored = cv2.imread(str(result.folder / row["mask"]), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(stored, united)
    assert row["mask_sha256"] == sha256(result.folder / row["mask"])
    assert row["mask_binary"]
    assert row["lung_fraction"] == (united > 0).mean()
    assert [float(part) for part in row["component_fractions"].split()] == pytest.approx(
        [row["lung_fraction"] / 2] * 2, rel=1e-5
    )

    sideways = manifest.loc["MCUCXR_0002_0"]
    assert (sideways["width"], sideways["height"]) == (96, 80)
    assert sideways[["age", "sex", "reading"]].isna().tolist() == [True, False, False]

    shenzhen = manifest.loc["CHNCXR_0001_1"]
    assert (shenzhen["age"], shenzhen["sex"], shenzhen["reading"]) == (45, "M", "STB in the right upper field")
    unpaired = manifest.loc["CHNCXR_0003_1"]
    assert (unpaired["mask"], unpaired["component_fractions"], unpaired["mask_sha256"]) == ("", "", "")
    assert unpaired[["mask_width", "mask_height", "mask_binary", "lung_fraction"]].isna().all()
    assert sorted(tree(result.folder)) == sorted(
        ["manifest.csv", "cohort.json", *manifest["image"], *(mask for mask in manifest["mask"] if mask)]
    )


def test_the_same_source_gives_the_same_bytes(cohort: Path, tmp_path: Path) -> None:
    first = ingest(str(cohort), PARAMS, tmp_path / "one/raw").folder
    second = ingest(str(cohort), PARAMS, tmp_path / "two/raw").folder
    again = ingest(str(cohort), PARAMS, tmp_path / "two/raw").folder
    assert tree(first) == tree(second) == tree(again)


def test_a_cohort_may_lie_deeper_and_in_pieces(cohort: Path, tmp_path: Path) -> None:
    plain = ingest(str(cohort), PARAMS, tmp_path / "plain").folder
    deep = tmp_path / "deep"
    (deep / "data").mkdir(parents=True)
    shutil.copytree(cohort / "MontgomerySet", deep / "data/cxr/MontgomerySet")
    shutil.copytree(cohort / "ChinaSet_AllFiles", deep / "data/ChinaSet_AllFiles", ignore=lambda *_: ["mask"])
    (deep / "masks").mkdir()
    (deep / "masks/mask").symlink_to(cohort / "ChinaSet_AllFiles/mask")
    nested = ingest(str(deep), PARAMS, tmp_path / "nested").folder
    assert {k: v for k, v in tree(nested).items() if k != "cohort.json"} == {
        k: v for k, v in tree(plain).items() if k != "cohort.json"
    }


def test_the_publishers_folder_alone_is_enough(cohort: Path, tmp_path: Path) -> None:
    result = ingest(str(cohort / "MontgomerySet"), PARAMS, tmp_path / "raw")
    assert result.sites == {"montgomery": SiteCount(2, 2, 0)}


def test_what_a_cohort_says_of_itself_is_carried_through(cohort: Path, tmp_path: Path) -> None:
    card = {"name": "sample", "synthetic": True, "description": "made up"}
    (cohort / "cohort.json").write_text(json.dumps(card))
    result = ingest(str(cohort), PARAMS, tmp_path / "raw")
    assert (result.name, result.synthetic) == ("sample", True)
    written = json.loads((result.folder / "cohort.json").read_text())
    assert written == card | {
        "source": str(cohort),
        "data_md5": None,
        "sites": {
            "montgomery": {"images": 2, "masks": 2, "unpaired": 0},
            "shenzhen": {"images": 3, "masks": 2, "unpaired": 1},
        },
    }


def test_without_a_card_a_cohort_is_real_and_named_after_its_source(cohort: Path, tmp_path: Path) -> None:
    result = ingest(str(cohort), PARAMS, tmp_path / "raw")
    assert (result.name, result.synthetic, result.ignored) == ("cohort", False, [])


@pytest.mark.parametrize(
    ("text", "what"),
    [('{"name": 3}', "name: "), ('{"synthetic": "yes"}', "synthetic: "), ('{"autor": ""}', "autor: "), ("{", "JSON")],
)
def test_a_wrong_card_is_refused(cohort: Path, tmp_path: Path, text: str, what: str) -> None:
    (cohort / "cohort.json").write_text(text)
    error = refusal(cohort, tmp_path / "raw")
    assert str(error).startswith(f"{cohort}/cohort.json: ")
    assert what in str(error)


def test_every_unusable_file_is_listed_at_once(cohort: Path, tmp_path: Path) -> None:
    montgomery, shenzhen = cohort / "MontgomerySet", cohort / "ChinaSet_AllFiles"
    whole = (montgomery / "CXR_png/MCUCXR_0001_1.png").read_bytes()
    expected = {
        "MontgomerySet/CXR_png/MCUCXR_0001_1.png": "truncated",
        "MontgomerySet/CXR_png/MCUCXR_0002_0.png": "the file is empty",
        "MontgomerySet/ManualMask/leftMask/MCUCXR_0002_0.png": "rightMask/MCUCXR_0002_0.png is missing",
        "MontgomerySet/ManualMask/rightMask/MCUCXR_0009_0.png": "a mask without its image CXR_png/MCUCXR_0009_0.png",
        "ChinaSet_AllFiles/CXR_png/CHNCXR_0001_1.png": "not a PNG image",
        "ChinaSet_AllFiles/CXR_png/CHNCXR_0002_0.png": "40000 x 40000 pixels are more than the 1 megapixels",
        "ChinaSet_AllFiles/CXR_png/CHNCXR_0003_1.png": "a colour image",
        "ChinaSet_AllFiles/CXR_png/CHNCXR_0004_2.png": "the name does not follow the layout (MCUCXR_0001_0.png or",
        "ChinaSet_AllFiles/CXR_png/CHNCXR_0005_0.jpg": "the name does not follow the layout",
        "ChinaSet_AllFiles/mask/CHNCXR_0001_1_mask.png": "damaged",
        "ChinaSet_AllFiles/mask/CHNCXR_0007_0_mask.png": "a mask without its image",
        "copy/CXR_png/MCUCXR_0001_1.png": "there already is MontgomerySet/CXR_png/MCUCXR_0001_1.png",
    }
    (montgomery / "CXR_png/MCUCXR_0001_1.png").write_bytes(whole[:-100])
    (montgomery / "CXR_png/MCUCXR_0002_0.png").write_bytes(b"")
    (montgomery / "ManualMask/rightMask/MCUCXR_0002_0.png").unlink()
    put(montgomery / "ManualMask/rightMask/MCUCXR_0009_0.png", lungs(8, 8))
    put(montgomery / "ManualMask/leftMask/MCUCXR_0009_0.png", lungs(8, 8))
    (shenzhen / "CXR_png/CHNCXR_0001_1.png").write_text("no picture")
    (shenzhen / "CXR_png/CHNCXR_0002_0.png").write_bytes(black(40_000, 40_000))
    put(shenzhen / "CXR_png/CHNCXR_0003_1.png", np.random.default_rng(0).integers(0, 255, (9, 9, 3), dtype=np.uint8))
    put(shenzhen / "CXR_png/CHNCXR_0004_2.png", xray(9, 9, 0))
    (shenzhen / "CXR_png/CHNCXR_0005_0.jpg").write_bytes(b"\xff\xd8\xff")
    mask = bytearray((shenzhen / "mask/CHNCXR_0001_1_mask.png").read_bytes())
    mask[60] ^= 1
    (shenzhen / "mask/CHNCXR_0001_1_mask.png").write_bytes(mask)
    put(shenzhen / "mask/CHNCXR_0007_0_mask.png", lungs(8, 8))
    put(cohort / "copy/CXR_png/MCUCXR_0001_1.png", xray(9, 9, 0))

    error = refusal(cohort, tmp_path / "raw")
    said = dict(problem.removeprefix(f"{cohort}/").split(": ", 1) for problem in error.problems)
    assert {name: text for name, text in expected.items() if text not in said.get(name, "")} == {}
    # Both halves of the mask without an image are named.
    assert sorted(set(said) - set(expected)) == ["MontgomerySet/ManualMask/leftMask/MCUCXR_0009_0.png"]
    assert str(error).startswith(f"{cohort}: {len(expected) + 1} file(s) cannot be used")


def test_a_file_that_may_not_be_read_is_listed(cohort: Path, tmp_path: Path) -> None:
    path = cohort / "MontgomerySet/CXR_png/MCUCXR_0001_1.png"
    path.unlink()
    path.symlink_to(tmp_path / "nowhere.png")
    assert refusal(cohort, tmp_path / "raw").problems == [
        f"{path}: cannot be read (No such file or directory); change its permissions, or remove it"
    ]


def test_a_huge_file_is_refused_unread(cohort: Path, tmp_path: Path) -> None:
    path = cohort / "MontgomerySet/CXR_png/MCUCXR_0001_1.png"
    os.truncate(path, 1 << 34)  # sparse: it takes no space, but reading it would
    (problem,) = refusal(cohort, tmp_path / "raw").problems
    assert problem == f"{path}: 17180 MB, more than any such file may have; remove it"


def test_halves_of_different_sizes_cannot_be_united(cohort: Path, tmp_path: Path) -> None:
    put(cohort / "MontgomerySet/ManualMask/rightMask/MCUCXR_0001_1.png", lungs(10, 12, "right"))
    (problem,) = refusal(cohort, tmp_path / "raw").problems
    assert "leftMask/MCUCXR_0001_1.png: it and its other half differ in size (80 x 96, 12 x 10)" in problem


def test_a_mask_of_another_size_or_of_grey_values_is_recorded_for_validate(cohort: Path, tmp_path: Path) -> None:
    put(cohort / "ChinaSet_AllFiles/mask/CHNCXR_0001_1_mask.png", lungs(36, 40))
    grey = lungs(72, 72)
    grey[0, 0] = 100
    put(cohort / "ChinaSet_AllFiles/mask/CHNCXR_0002_0_mask.png", grey)
    manifest = read_manifest(ingest(str(cohort), PARAMS, tmp_path / "raw").folder).set_index("id")
    other = manifest.loc["CHNCXR_0001_1"]
    assert (other["width"], other["height"], other["mask_width"], other["mask_height"]) == (72, 72, 40, 36)
    assert other["lung_fraction"] == (lungs(36, 40) > 0).mean()
    assert manifest["mask_binary"].dropna().tolist() == [True, True, True, False]


def test_an_empty_mask_is_recorded_for_validate(cohort: Path, tmp_path: Path) -> None:
    put(cohort / "ChinaSet_AllFiles/mask/CHNCXR_0001_1_mask.png", np.zeros((72, 72), np.uint8))
    row = read_manifest(ingest(str(cohort), PARAMS, tmp_path / "raw").folder).set_index("id").loc["CHNCXR_0001_1"]
    assert (row["lung_fraction"], row["component_fractions"], row["mask_binary"]) == (0, "", True)
    assert row["mask"] != ""


def test_one_picture_under_two_names_has_one_pixel_hash(cohort: Path, tmp_path: Path) -> None:
    put(cohort / "ChinaSet_AllFiles/CXR_png/CHNCXR_0002_0.png", xray(72, 72, 101))  # as 0001, but stored as grey
    manifest = read_manifest(ingest(str(cohort), PARAMS, tmp_path / "raw").folder).set_index("id")
    one, two = manifest.loc["CHNCXR_0001_1"], manifest.loc["CHNCXR_0002_0"]
    assert one["pixel_sha256"] == two["pixel_sha256"]
    assert one["image_sha256"] != two["image_sha256"]


def test_an_unknown_layout_an_empty_folder_and_no_folder_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "empty/.hidden").mkdir(parents=True)
    (tmp_path / "empty/.hidden/file").write_text("")
    assert "it has no files; check the address" in str(refusal(tmp_path / "empty", tmp_path / "raw"))
    put(tmp_path / "unknown/pictures/a.png", xray(8, 8, 0))
    error = str(refusal(tmp_path / "unknown", tmp_path / "raw"))
    assert "1 file(s), for example pictures/a.png, but none in a layout known here" in error
    assert "montgomery: .../CXR_png/MCUCXR_0001_0.png" in error
    assert "not found; give a folder" in str(refusal(tmp_path / "absent", tmp_path / "raw"))
    assert "not a source" in str(refusal("ftp://host/data", tmp_path / "raw"))


def test_files_outside_any_layout_are_reported_not_lost(cohort: Path, tmp_path: Path) -> None:
    put(cohort / "figures/overview.png", xray(8, 8, 0))
    (cohort / "README.md").write_text("a cohort")
    (cohort / "MontgomerySet/CXR_png/Thumbs.db").write_bytes(b"")
    assert ingest(str(cohort), PARAMS, tmp_path / "raw").ignored == ["figures/overview.png"]


def test_an_existing_output_is_replaced_only_by_a_whole_one(cohort: Path, tmp_path: Path) -> None:
    before = tree(ingest(str(cohort), PARAMS, tmp_path / "raw").folder)
    picture = cohort / "MontgomerySet/CXR_png/MCUCXR_0001_1.png"
    picture.write_bytes(picture.read_bytes()[:50])
    with pytest.raises(UserError):
        ingest(str(cohort), PARAMS, tmp_path / "raw")
    assert tree(tmp_path / "raw") == before


def test_the_command_says_what_it_found(cohort: Path, tmp_path: Path, command: Command) -> None:
    (cohort / "cohort.json").write_text('{"name": "tiny", "synthetic": true}')
    done = command("components.ingest", cohort, "--out", tmp_path / "raw")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "montgomery: 2 X-rays, 2 with a mask, 0 without",
        "shenzhen: 3 X-rays, 2 with a mask, 1 without",
        f"{tmp_path}/raw: tiny (synthetic)",
    ]
    assert "ingest: images: 5 of 5" in done.stderr
    assert len(read_manifest(tmp_path / "raw")) == 5


def test_the_command_ends_with_one_on_bad_input(cohort: Path, tmp_path: Path, command: Command) -> None:
    for name in ("MCUCXR_0001_1", "MCUCXR_0002_0"):
        (cohort / f"MontgomerySet/CXR_png/{name}.png").write_bytes(b"")
    done = command("components.ingest", cohort, "--out", tmp_path / "raw")
    assert done.returncode == 1
    assert f"error: {cohort}: 2 file(s) cannot be used; nothing was written\n  {cohort}/MontgomerySet" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "raw").exists()


def test_a_third_site_is_one_more_layout() -> None:
    third = Layout(
        site="third",
        id=r"T\d+(?P<label>[01])",
        image="images/{id}.png",
        masks=("masks/{id}.png",),
        reading="notes/{id}.txt",
        read=read_shenzhen,
        example="T010.png",
    )
    found = survey(["a/images/T010.png", "a/masks/T010.png", "a/images/T021.png", "a/images/U.png"], [third])
    assert [(case.id, case.label, case.masks) for case in found.cases] == [
        ("T010", "normal", ("a/masks/T010.png",)),
        ("T021", "abnormal", ()),
    ]
    assert [problem.split(":")[0] for problem in found.problems] == ["a/images/U.png"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Patient's Sex: F\r\nPatient's Age: 033Y\r\nnormal\r\n", (33, "F", "normal")),
        ("Patient's Sex: M \nPatient's Age: 006M\nright\n  effusion", (0.5, "M", "right effusion")),
        ("Patient's Sex: O\nPatient's Age: young\nnormal", (None, "", "Patient's Sex: O Patient's Age: young normal")),
        ("", (None, "", "")),
    ],
)
def test_montgomery_readings(text: str, expected: tuple[float | None, str, str]) -> None:
    reading = read_montgomery(text)
    assert (reading.age, reading.sex, reading.text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("male 45yrs\nnormal", (45, "M", "normal")),
        ("Female, 30yrs\nbilateral PTB", (30, "F", "bilateral PTB")),
        ("female 18 months\n\nnormal", (1.5, "F", "normal")),
        ("male 20yr", (20, "M", "")),
        ("a man of 40\nnormal", (None, "", "a man of 40 normal")),
        ("\n", (None, "", "")),
    ],
)
def test_shenzhen_readings(text: str, expected: tuple[float | None, str, str]) -> None:
    reading = read_shenzhen(text)
    assert (reading.age, reading.sex, reading.text) == expected


@given(st.text())
def test_no_reading_is_too_odd_to_keep(text: str) -> None:
    for read in (read_montgomery, read_shenzhen):
        reading = read(text)
        if reading.age is None and not reading.sex:
            assert reading.text == " ".join(text.split())


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.integers(1, 30), st.floats(0, 1))
def test_components_add_up_to_the_mask(seed: int, height: int, width: int, share: float) -> None:
    mask = (np.random.default_rng(seed).random((height, width)) < share).astype(np.uint8)
    fractions = [float(part) for part in component_fractions(mask).split()]
    assert fractions == sorted(fractions, reverse=True)
    if len(fractions) < 16:
        assert sum(fractions) == pytest.approx(mask.mean(), rel=1e-5)
    else:
        assert sum(fractions) <= mask.mean() + 1e-5


def test_components_touch_by_corners() -> None:
    assert component_fractions(np.eye(4, dtype=np.uint8)) == "0.25"
    assert component_fractions(np.array([[1, 1, 0, 1]], np.uint8)) == "0.5 0.25"


@pytest.mark.full
@pytest.mark.skipif("CXR_DATA" not in os.environ, reason="CXR_DATA names no folder with the paper's X-rays")
def test_the_papers_cohort_has_the_papers_counts(tmp_path: Path) -> None:
    result = ingest(os.environ["CXR_DATA"], IngestParams(max_megapixels=60.0), tmp_path / "raw")
    manifest = read_manifest(result.folder)
    counts = manifest.groupby(["site", "label"]).size().to_dict()
    assert counts == {
        ("montgomery", "normal"): 80,
        ("montgomery", "abnormal"): 58,
        ("shenzhen", "normal"): 279,
        ("shenzhen", "abnormal"): 287,
    }
    assert (manifest["mask"] != "").all()
    assert manifest["mask_binary"].all()


def test_a_cohort_of_full_size_pictures_keeps_its_twelve_bits(tmp_path: Path) -> None:
    root = write_cohort(tmp_path / "cohort", montgomery=1, shenzhen=0)
    picture = np.random.default_rng(0).integers(0, 4096, (600, 500)).astype(np.uint16)
    put(root / "MontgomerySet/CXR_png/MCUCXR_0001_1.png", picture)
    for side in ("left", "right"):
        put(root / f"MontgomerySet/ManualMask/{side}Mask/MCUCXR_0001_1.png", lungs(600, 500, side))
    folder = ingest(str(root), PARAMS, tmp_path / "raw").folder
    np.testing.assert_array_equal(read_image(folder / "images/montgomery/MCUCXR_0001_1.png"), picture)
    assert encode(picture) == (folder / "images/montgomery/MCUCXR_0001_1.png").read_bytes()
