"""Areas, sides, symmetry and doubts; what the network was trained on comes from a contract made for the test."""

from __future__ import annotations

import re
from dataclasses import asdict, replace
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset

from components.register.statistics import describe_training
from model.inference.package import Contract, Segmentation
from model.inference.view import VARIANTS, Border, Limits, Variant, View
from model.lungs import halves
from model.preprocessing import standardise
from serving.xray.findings import FLAGS, Findings, describe
from serving.xray.reading import Xray
from serving.xray.sides import mirrored
from tests.cohorts import lungs

SIZE = 64


def chest(seed: int, height: int = 96, width: int = 80, spread: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """A picture like an X-ray and its mask, 0 or 1, of a size and brightness of its own."""
    random = np.random.default_rng(seed)
    mask = np.zeros((height, width), np.uint8)
    for x in (0.28, 0.72):
        axes = (width * (0.13 + 0.03 * spread * random.random()), height * (0.28 + 0.06 * spread * random.random()))
        centre = (round(width * x), round(height * 0.5))
        cv2.ellipse(mask, centre, (round(axes[0]), round(axes[1])), 0, 0, 360, 1, -1)
    body = 150 + 40 * np.cos(np.linspace(-1.5, 1.5, width))[None] * np.ones((height, 1))
    picture = body - 110 * cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 2)
    return (picture + random.normal(0, 6, mask.shape)).clip(0, 255).astype(np.uint8), mask


def sure(mask: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 1)


def contract_of(chests: list[tuple[np.ndarray, np.ndarray]]) -> Contract:
    def square(picture: np.ndarray) -> np.ndarray:
        return standardise(picture, SIZE, "area", (0.5, 99.5))

    masks = np.stack([cv2.resize(mask, (SIZE, SIZE), interpolation=cv2.INTER_NEAREST) for _, mask in chests])
    sizes = pd.DataFrame([{"height": picture.shape[0], "width": picture.shape[1]} for picture, _ in chests])
    training = describe_training(
        sizes, np.stack([square(picture) for picture, _ in chests]), masks, np.stack([sure(mask) for mask in masks])
    )
    return Contract(SIZE, "area", (0.5, 99.5), "lungs dark", SIZE, 0.5, False, 2, 0.0, False, ("torch",), training)


CONTRACT = contract_of([chest(seed, 90 + seed % 12, 74 + seed % 12) for seed in range(1000, 1200)])


def found(picture: np.ndarray, mask: np.ndarray, **options: Any) -> Findings:
    probabilities = options.pop("probabilities", sure(mask))
    xray = Xray(picture, options.pop("spacing", None), options.pop("dicom", None), "png")
    view = options.pop("view", View())
    return describe(Segmentation(mask, probabilities, view), xray, options.pop("contract", CONTRACT))


def names(findings: Findings) -> set[str]:
    given = {flag.name for flag in findings.flags}
    assert given <= set(FLAGS)
    return given


def test_areas_are_counted_in_pixels_shares_and_square_centimetres() -> None:
    picture, mask = chest(100)
    findings = found(picture, mask, spacing=(0.5, 2.0))
    assert findings.lungs.pixels == mask.sum()
    assert findings.lungs.share == pytest.approx(mask.mean())
    assert findings.lungs.cm2 == pytest.approx(mask.sum() * 0.01)
    assert findings.left.cm2 == pytest.approx(findings.left.pixels * 0.01)
    assert found(picture, mask).lungs.cm2 is None
    assert findings.components == 2


def test_the_patients_left_lung_is_on_the_pictures_right() -> None:
    both = lungs(64, 80) // 255
    for side in ("left", "right"):
        alone = lungs(64, 80, side) // 255
        findings = found(both * 100, alone)
        assert getattr(findings, side).pixels == alone.sum()
        assert findings.symmetry == 0


@pytest.mark.parametrize(
    ("says", "turned"),
    [
        ({}, False),
        ({"PatientOrientation": ["L", "F"], "ViewPosition": "PA"}, False),
        ({"PatientOrientation": ["L", "F"], "ViewPosition": "AP"}, False),
        ({"PatientOrientation": ["R", "F"]}, True),
        ({"PatientOrientation": ["A", "F"]}, None),
        ({"PatientOrientation": ["L", "H"]}, None),
        ({"ViewPosition": "LL"}, None),
    ],
)
def test_a_dicom_says_which_side_is_which(says: dict[str, Any], turned: bool | None) -> None:
    picture, _ = chest(0)
    mask = lungs(96, 80, "left") // 255
    dicom = Dataset()
    for keyword, value in says.items():
        setattr(dicom, keyword, value)
    findings = found(picture, mask, dicom=dicom)
    side = findings.right if turned else findings.left
    assert side.pixels == mask.sum()
    assert ("view" in names(findings)) == (turned is None)


@given(st.integers(0, 10_000), st.integers(20, 70), st.integers(20, 70))
def test_a_mirrored_mask_has_left_and_right_exchanged(seed: int, height: int, width: int) -> None:
    random = np.random.default_rng(seed)
    mask = np.zeros((height, width), np.uint8)
    for x in (0.25, 0.75):
        axes = (random.uniform(1, width * 0.22), random.uniform(1, height * 0.4))
        centre = (round(width * x), round(random.uniform(0.3, 0.7) * height))
        cv2.ellipse(mask, centre, (int(axes[0]), int(axes[1])), 0, 0, 360, 1, -1)
    left, right = halves(mask)
    mirrored_left, mirrored_right = halves(np.ascontiguousarray(mask[:, ::-1]))
    np.testing.assert_array_equal(left + right, mask)
    np.testing.assert_array_equal(mirrored_left[:, ::-1], right)
    np.testing.assert_array_equal(mirrored_right[:, ::-1], left)


@given(st.integers(0, 10_000), st.integers(8, 40))
def test_any_mask_is_split_without_rest(seed: int, side: int) -> None:
    mask = (np.random.default_rng(seed).random((side, side)) < 0.4).astype(np.uint8)
    left, right = halves(mask)
    np.testing.assert_array_equal(left + right, mask)


def test_lungs_that_touch_are_parted_at_the_bridge() -> None:
    mask = lungs(64, 80) // 255
    joined = mask.copy()
    joined[30:34, 20:60] = 1
    left, right = halves(joined)
    assert abs(int(left.sum()) - int(right.sum())) < 0.05 * mask.sum()
    assert left[:, 45:].sum() == right[:, :35].sum() == 0


def test_one_lung_and_a_speck_are_one_lung() -> None:
    mask = lungs(64, 80, "right") // 255
    mask[5, 2] = 1
    left, right = halves(mask)
    assert (left.sum(), right.sum()) == (mask.sum(), 0)


@given(st.floats(0.05, 5), st.floats(0.05, 5), st.integers(0, 50))
def test_symmetry_is_a_share_and_does_not_depend_on_spacing(rows: float, columns: float, seed: int) -> None:
    picture, mask = chest(seed)
    plain, spaced = found(picture, mask), found(picture, mask, spacing=(rows, columns))
    assert plain.symmetry == spaced.symmetry
    assert 0 <= (plain.symmetry or 0) <= 1
    assert spaced.left.cm2 == pytest.approx(plain.left.pixels * rows * columns / 100)


def test_a_picture_like_the_training_images_has_no_flags() -> None:
    flagged = [seed for seed in range(100, 140) if found(*chest(seed)).flags]
    assert len(flagged) <= 8, flagged  # by chance: each of a dozen figures has an extreme at either end


def half(mask: np.ndarray) -> np.ndarray:
    one = mask.copy()
    one[:, : mask.shape[1] // 2] = 0
    return one


PICTURE, MASK = chest(7)
NOISE = np.random.default_rng(0).integers(0, 256, PICTURE.shape).astype(np.uint8)
CROSS = np.zeros_like(MASK)
CROSS[40:48], CROSS[:, 18:22], CROSS[:, 58:62] = 1, 1, 1


@pytest.mark.parametrize(("row", "side"), [("L", "right"), ("R", "left")])
def test_a_flag_names_the_patients_side(row: str, side: str) -> None:
    findings = found(PICTURE, half(MASK), dicom=dicom(row, "F"))
    assert any(f"the patient's {side} lung covers 0.0%" in flag.reason for flag in findings.flags)


@pytest.mark.parametrize(
    ("flag", "arguments"),
    [
        ("size", {"picture": PICTURE[:48, :40], "mask": MASK[:48, :40]}),
        ("aspect", {"picture": PICTURE[:, :50], "mask": MASK[:, :50]}),
        ("intensity", {"picture": NOISE}),
        ("intensity", {"picture": np.where(MASK, 10, 200).astype(np.uint8)}),
        ("shape", {"mask": half(MASK)}),
        ("shape", {"mask": np.zeros_like(MASK)}),
        ("shape", {"mask": cv2.erode(MASK, np.ones((9, 9), np.uint8))}),
        ("shape", {"mask": cv2.dilate(MASK, np.ones((13, 13), np.uint8))}),
        ("shape", {"mask": CROSS}),
        ("certainty", {"probabilities": np.full(MASK.shape, 0.5, np.float32)}),
        ("polarity", {"picture": 255 - PICTURE}),
    ],
)
def test_what_the_training_images_never_were_is_flagged(flag: str, arguments: dict[str, Any]) -> None:
    assert not found(PICTURE, MASK).flags
    findings = found(**({"picture": PICTURE, "mask": MASK} | arguments))
    assert flag in names(findings)
    assert all(flag.reason and "\n" not in flag.reason for flag in findings.flags)


VIEWS = replace(CONTRACT, view=Limits(-0.5, 0.2, 0.3, 0.1))


@pytest.mark.parametrize("change", VARIANTS)
def test_a_picture_that_was_put_right_has_the_findings_of_the_upright_one(change: Variant) -> None:
    def changed(plane: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(np.rot90(plane, -change.turns))

    mask = MASK.copy()
    mask[:30, :40] = 0  # the lungs differ
    picture = changed(255 - PICTURE if change.inverted else PICTURE)
    findings = found(picture, changed(mask), view=View(change=change), contract=VIEWS)
    upright = found(PICTURE, mask, contract=VIEWS)
    assert (findings.left, findings.right, findings.symmetry) == (upright.left, upright.right, upright.symmetry)
    told = names(findings) - names(upright)
    assert told == {*(["turned"] if change.turns else []), *(["inverted"] if change.inverted else [])}


def test_a_border_that_was_cut_off_takes_no_part_in_the_shares() -> None:
    def framed(plane: np.ndarray) -> np.ndarray:
        return cv2.copyMakeBorder(plane, 48, 48, 40, 40, cv2.BORDER_CONSTANT)

    quarter = View(Border(0.25, 0.25, 0.25, 0.25))
    findings = found(framed(PICTURE), framed(MASK), view=quarter, contract=VIEWS)
    assert names(findings) == {"border"}
    assert "75% of it is an empty border" in findings.flags[0].reason


def test_what_is_no_frontal_chest_or_mirrored_is_flagged() -> None:
    (flag,) = found(PICTURE, MASK, view=View(frontal=False, likeness=-1.5), contract=VIEWS).flags
    assert (flag.name, "-1.50, below -0.50" in flag.reason) == ("view", True)
    assert names(found(PICTURE, MASK, view=View(mirrored=True), contract=VIEWS)) == {"mirrored"}


def dicom(row: str, column: str) -> Dataset:
    dataset = Dataset()
    dataset.PatientOrientation = [row, column]
    return dataset


@pytest.mark.parametrize(
    "unknown",
    [
        {"dicom": dicom("A", "F")},
        {"dicom": dicom("L", "F"), "view": View(change=Variant(1, False))},
        {"view": View(frontal=False, mirrored=True)},
        {"dicom": dicom("A", "F"), "view": View(mirrored=True)},
    ],
)
def test_a_flag_names_no_side_where_the_sides_are_unknown(unknown: dict[str, Any]) -> None:
    findings = found(PICTURE, half(MASK), contract=VIEWS, **unknown)
    assert "view" in names(findings)
    reasons = [flag.reason for flag in findings.flags]
    assert any(reason.startswith("one lung covers 0.0%") for reason in reasons), reasons
    assert not re.search(r"\b[LR]\b|patient|\bleft\b|\bright\b", " ".join(reasons))


@pytest.mark.parametrize(
    ("orientation", "turns", "expected"),
    [
        (("L", "F"), 0, False),
        (("R", "F"), 0, True),
        (("R", "H"), 2, False),
        (("L", "H"), 2, True),
        (("H", "L"), 1, False),  # lies turned clockwise
        (("F", "R"), 3, False),
        (("F", "R"), 0, None),
        (("L", "F"), 1, None),  # the picture contradicts the header
    ],
)
def test_the_orientation_of_a_dicom_turns_with_its_picture(
    orientation: tuple[str, str], turns: int, expected: bool | None
) -> None:
    assert mirrored(dicom(*orientation), turns) is expected


def test_proportions_are_not_judged_by_images_that_were_squashed_to_one_size() -> None:
    sizes = {"height": [512.0] * 9, "width": [512.0] * 9}
    squashed = replace(CONTRACT, training=replace(CONTRACT.training, **sizes))
    assert "aspect" not in names(found(PICTURE[:, :70], MASK[:, :70], contract=squashed))


def test_findings_become_plain_values() -> None:
    values = asdict(found(PICTURE, MASK, spacing=(0.1, 0.1)))
    assert values["lungs"]["pixels"] == int(MASK.sum())
    assert values["flags"] == []
