"""The expected Dice: its bound covers what it says, it is monotone, and a package gives it as it was calibrated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from components.register.quality import fit_quality
from core.cell import CASES
from core.cohort import Arrays, read_split
from core.errors import UserError
from model.inference.quality import COVERAGE, LEAST_DOUBT, Quality, calibrate, doubts, doubts_of
from model.inference.view import NO_BORDER
from registry.packages import Package, load
from tests.conftest import Project, Trained

SHARES = st.floats(0, 1, allow_nan=False)


def test_the_bound_covers_what_it_says() -> None:
    random = np.random.default_rng(0)
    covered, wide = [], []
    for _ in range(400):
        doubt = random.gamma(2, 0.02, 160)
        error = np.minimum(doubt * random.lognormal(0, 0.6, 160), 1)
        quality = calibrate(doubt[:60], 1 - error[:60])
        assert quality.images == 60
        low = np.array([quality.estimate(each)[1] for each in doubt[60:]])
        covered.append(np.mean(1 - error[60:] >= low))
        wide.append(quality.bound)
    assert COVERAGE <= np.mean(covered) <= COVERAGE + 0.03
    assert 1.5 < np.median(wide) < 3


@given(st.lists(st.tuples(st.floats(LEAST_DOUBT, 1), SHARES), min_size=1, max_size=50), SHARES, SHARES)
def test_more_doubt_means_a_smaller_dice(pairs: list[tuple[float, float]], one: float, other: float) -> None:
    quality = calibrate(*np.array(pairs).T)
    little, much = (quality.estimate(each) for each in sorted((one, other)))
    for expected, low in (little, much):
        assert 0 <= low <= expected <= 1
    assert much[0] <= little[0]
    assert much[1] <= little[1]


def test_the_mean_expected_dice_is_the_mean_dice_of_the_calibration() -> None:
    random = np.random.default_rng(1)
    doubt, dice = random.uniform(0.01, 0.1, 40), random.uniform(0.9, 1, 40)
    quality = calibrate(doubt, dice)
    assert np.mean([quality.estimate(each)[0] for each in doubt]) == pytest.approx(dice.mean())
    with pytest.raises(ValueError, match="no picture to calibrate on"):
        calibrate(np.array([]), np.array([]))


@given(arrays(np.float32, (2, 3, 8, 8), elements=st.floats(0, 1, width=32)))
def test_doubt_is_0_only_for_sure_and_equal_predictions(both: np.ndarray) -> None:
    plain, mirrored = both
    masks = ((plain + mirrored) / 2 >= 0.5).astype(np.uint8)
    found = doubts_of(plain, mirrored, masks, 0.5)
    assert ((found >= LEAST_DOUBT) & (found <= 1)).all()
    sure = (plain >= 0.5).astype(np.float32)
    assert (doubts_of(sure, sure, sure.astype(np.uint8), 0.5) == LEAST_DOUBT).all()
    assert (doubts_of(plain, None, masks, 0.5) >= LEAST_DOUBT).all()


@pytest.fixture(scope="module")
def built(trained: Trained, package: Path) -> tuple[Project, Package]:
    return trained.project, load(package, "torch")


def test_a_package_says_of_its_test_images_what_the_evaluation_gives(built: tuple[Project, Package]) -> None:
    project, package = built
    quality, holds = fit_quality(project.evaluation, "original", flip=True)
    assert package.contract.quality == quality
    assert package.card["expected_dice"] == holds
    cases = pd.read_csv(project.evaluation / CASES, dtype={"id": str})
    cases = cases[(cases["split"] == "test") & (cases["masks"] == "original")].set_index("id")
    ids = read_split(project.split)["test"]
    cohort = Arrays(project.arrays)
    found = package.segment([cohort.images[row] for row in cohort.rows(ids)])
    for name, segmentation in zip(ids, found, strict=True):
        # The package may put a picture right that the evaluation took as it was.
        if segmentation.view.change.turns or segmentation.view.border != NO_BORDER or not segmentation.view.frontal:
            continue
        case = cases.loc[name]
        doubt = doubts(np.array([case["expected_dice"]]), np.array([case["mirror_agreement"]]))
        assert segmentation.expected_dice == pytest.approx(quality.estimate(float(doubt[0])), abs=0.01)
    assert {"images", "coverage", "auroc", "spearman", "mean_error"} <= set(holds["all"])
    assert holds["all"]["images"] == len(ids)


def test_no_estimate_without_calibration_for_another_threshold_or_without_lungs(built: tuple[Project, Package]) -> None:
    project, package = built
    (image,) = Arrays(project.arrays).images[:1]
    contract = package.contract
    assert package.segment([image], threshold=0.4)[0].expected_dice is None
    (found,) = package.segment([np.where(image > 0, 0, 0).astype(np.uint8)])
    assert found.expected_dice in (None, (0.0, 0.0))
    try:
        package.contract = type(contract)(**{**vars(contract), "quality": None})
        assert package.segment([image])[0].expected_dice is None
        package.contract = type(contract)(**{**vars(contract), "quality": Quality(1.0, 2.0, 10), "flip": False})
        (alone,) = package.segment([image])
        assert alone.expected_dice is None or 0 <= alone.expected_dice[1] <= alone.expected_dice[0] <= 1
    finally:
        package.contract = contract


def test_an_evaluation_without_validation_images_is_refused(built: tuple[Project, Package], tmp_path_factory) -> None:  # type: ignore[no-untyped-def]
    project, _ = built
    folder = tmp_path_factory.mktemp("cases")
    cases = pd.read_csv(project.evaluation / CASES)
    cases[cases["split"] != "validation"].to_csv(folder / CASES, index=False)
    with pytest.raises(UserError, match=r"no validation images; add validation to evaluate\.splits"):
        fit_quality(folder, "original", flip=True)
    cases.drop(columns="mirror_agreement").to_csv(folder / CASES, index=False)
    with pytest.raises(UserError, match="columns missing: mirror_agreement; run the evaluate step again"):
        fit_quality(folder, "original", flip=True)
