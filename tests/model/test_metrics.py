"""Every figure agrees with its definition and with another library's computation of it."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import ndimage
from sklearn import metrics as sk
from torchmetrics.functional.classification import binary_auroc, binary_jaccard_index

from model.metrics import (
    COUNTS,
    OVERLAP,
    confusion,
    dice_interval,
    mean_of,
    overlap_metrics,
    paired_difference,
    roc_auc,
    surface_distances,
)

Mask = NDArray[np.uint8]
sides = st.integers(1, 12)
shapes = st.tuples(sides, sides)
quick = settings(max_examples=60, deadline=None)


def binary(shape: st.SearchStrategy[tuple[int, ...]] = shapes) -> st.SearchStrategy[tuple[Mask, Mask]]:
    """Pairs of masks of one shape, every kind of agreement among them."""
    return shape.flatmap(lambda s: st.tuples(*[hnp.arrays(np.uint8, s, elements=st.integers(0, 1))] * 2))


def figures(predicted: Mask, mask: Mask) -> dict[str, float]:
    return {k: float(v[0]) for k, v in overlap_metrics(confusion(predicted[None], mask[None])).items()}


@quick
@given(binary(st.tuples(st.integers(1, 4), sides, sides)))
def test_counts_are_those_of_every_image(pair: tuple[Mask, Mask]) -> None:
    predicted, masks = pair
    counts = confusion(predicted, masks)
    assert tuple(counts) == COUNTS
    for n, (p, g) in enumerate(zip(predicted, masks, strict=True)):
        tn, fp, fn, tp = sk.confusion_matrix(g.ravel(), p.ravel(), labels=[0, 1]).ravel()
        assert [counts[name][n] for name in COUNTS] == [tp, fp, fn, tn]


def test_counts_of_booleans_are_those_of_numbers() -> None:
    predicted, masks = np.random.default_rng(0).integers(0, 2, (2, 3, 5, 7), np.uint8)
    for name, values in confusion(predicted > 0, masks > 0).items():
        np.testing.assert_array_equal(values, confusion(predicted, masks)[name])


@quick
@given(binary())
def test_overlap_agrees_with_scikit_learn_and_torchmetrics(pair: tuple[Mask, Mask]) -> None:
    predicted, mask = pair
    p, g = predicted.ravel(), mask.ravel()
    got = figures(predicted, mask)
    assert set(got) == set(OVERLAP)
    assert got["accuracy"] == pytest.approx(sk.accuracy_score(g, p))
    expected = {
        "precision": sk.precision_score(g, p, zero_division=np.nan),
        "recall": sk.recall_score(g, p, zero_division=np.nan),
        "f1": sk.f1_score(g, p, zero_division=np.nan),
    }
    for name, value in expected.items():
        assert got[name] == pytest.approx(value, nan_ok=True), name
    union = int((p | g).sum())
    if union:
        # The paper's 1 above and below taken off again.
        jaccard = (got["jaccard"] * (union + 1) - 1) / union
        assert jaccard == pytest.approx(sk.jaccard_score(g, p), abs=1e-9)
        assert jaccard == pytest.approx(float(binary_jaccard_index(torch.tensor(p), torch.tensor(g))), abs=1e-6)


@quick
@given(binary())
@example((np.zeros((2, 2), np.uint8), np.zeros((2, 2), np.uint8)))
def test_overlap_is_the_papers_equations(pair: tuple[Mask, Mask]) -> None:
    p, g = (mask.astype(int) for mask in pair)
    got = figures(*pair)
    both, either = (p * g).sum(), np.maximum(p, g).sum()
    assert got["dice"] == pytest.approx((2 * both + 1) / (p.sum() + g.sum() + 1))  # Eq. 3
    assert got["jaccard"] == pytest.approx((both + 1) / (either + 1))  # Eq. 4
    # Eq. 4 at every pixel alone, (intersection + 1) / (union + 1), then the mean over pixels.
    assert got["paper_iou"] == pytest.approx(((p * g + 1) / (np.maximum(p, g) + 1)).mean())


@quick
@given(binary())
def test_overlap_is_symmetric_where_it_should_be(pair: tuple[Mask, Mask]) -> None:
    one, other = figures(*pair), figures(*pair[::-1])
    for name in ("dice", "accuracy", "jaccard", "f1", "paper_iou"):
        assert one[name] == pytest.approx(other[name], nan_ok=True), name
    assert one["precision"] == pytest.approx(other["recall"], nan_ok=True)


def test_pooled_counts_pixels_and_per_image_counts_images() -> None:
    masks = np.ones((2, 4, 4), np.uint8)
    masks[1, 1:] = 0  # 16 and 4 pixels of lung
    predicted = masks.copy()
    predicted[1] = 0  # all of the second is missed
    counts = confusion(predicted, masks)
    pooled = overlap_metrics({name: values.sum() for name, values in counts.items()})
    assert pooled["recall"] == pytest.approx(16 / 20)
    assert pooled["dice"] == pytest.approx((2 * 16 + 1) / (16 + 20 + 1))
    assert mean_of(overlap_metrics(counts)["recall"]) == pytest.approx((1 + 0) / 2)
    assert mean_of(overlap_metrics(counts)["dice"]) == pytest.approx((1 + 1 / 5) / 2)


def test_mean_leaves_out_what_is_not_defined() -> None:
    assert mean_of(np.array([0.5, math.nan, 1.0])) == 0.75
    assert math.isnan(mean_of(np.array([math.nan])))


@quick
@given(
    shapes.flatmap(
        lambda s: st.tuples(
            hnp.arrays(np.float32, s, elements=st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0])),
            hnp.arrays(np.uint8, s, elements=st.integers(0, 1)),
        )
    )
)
def test_roc_area_is_the_chance_that_lung_is_rated_higher(pair: tuple[NDArray[np.float32], Mask]) -> None:
    rated, mask = pair
    got = roc_auc(rated, mask)
    lung, other = rated[mask > 0], rated[mask == 0]
    if not lung.size or not other.size:
        assert math.isnan(got)
        return
    difference = lung[:, None] - other[None]
    assert got == pytest.approx(((difference > 0) + 0.5 * (difference == 0)).mean())
    assert got == pytest.approx(float(binary_auroc(torch.tensor(rated), torch.tensor(mask).long())), abs=1e-6)


def outline(mask: Mask) -> NDArray[np.bool_]:
    return (mask > 0) & ~ndimage.binary_erosion(mask > 0)


def distances(predicted: Mask, mask: Mask) -> tuple[float, float]:
    """The two surface distances from distance maps: hd95 and assd, pixels."""
    p, g = outline(predicted), outline(mask)
    to_mask, to_prediction = ndimage.distance_transform_edt(~g)[p], ndimage.distance_transform_edt(~p)[g]
    hd95 = max(np.percentile(to_mask, 95), np.percentile(to_prediction, 95))
    return float(hd95), float(np.concatenate([to_mask, to_prediction]).mean())


@settings(max_examples=40, deadline=None)
@given(binary())
@example((np.ones((5, 5), np.uint8), np.pad(np.ones((1, 1), np.uint8), 2)))
def test_surface_distances_are_those_of_distance_maps(pair: tuple[Mask, Mask]) -> None:
    assume(pair[0].any() and pair[1].any())
    predicted, mask = pair
    got = surface_distances(predicted[None], mask[None])
    hd95, assd = distances(predicted, mask)
    assert got["hd95"][0] == pytest.approx(hd95, abs=1e-4)
    assert got["assd"][0] == pytest.approx(assd, abs=1e-4)
    back = surface_distances(mask[None], predicted[None])
    assert [back["hd95"][0], back["assd"][0]] == pytest.approx([got["hd95"][0], got["assd"][0]], abs=1e-4)


def test_surface_distances_of_shapes_that_one_knows() -> None:
    left, right, nothing = (np.zeros((20, 30), np.uint8) for _ in range(3))
    left[5:15, 3:10] = 1
    right[5:15, 7:14] = 1  # four pixels to the right
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = surface_distances(np.stack([left, left, left, nothing]), np.stack([left, right, nothing, left]))
    assert got["hd95"][0] == got["assd"][0] == 0
    assert got["hd95"][1] == 4
    assert 0 < got["assd"][1] < 4
    for values in got.values():
        assert np.isnan(values[2:]).all()


def test_surface_distances_where_all_are_empty() -> None:
    nothing = np.zeros((2, 8, 8), np.uint8)
    for values in surface_distances(nothing, nothing).values():
        assert np.isnan(values).all()


def counts_of(images: int, seed: int) -> dict[str, NDArray[np.float64]]:
    random = np.random.default_rng(seed)
    return {name: random.integers(1, 200, images).astype(np.float64) for name in COUNTS}


@pytest.mark.parametrize("pooled", [True, False])
def test_interval_is_the_percentile_bootstrap_of_the_images(pooled: bool) -> None:
    # A few pixels an image, so that the 1 of Eq. 3 is seen to be added once to their sum.
    counts = {name: np.ceil(values / 50) for name, values in counts_of(12, 0).items()}
    got = dice_interval(counts, pooled=pooled, resamples=4000, seed=1)
    random, drawn = np.random.default_rng(7), []
    for _ in range(4000):
        rows = random.integers(0, 12, 12)
        tp, fp, fn = (counts[name][rows] for name in ("tp", "fp", "fn"))
        if pooled:
            tp, fp, fn = tp.sum(), fp.sum(), fn.sum()
        drawn.append(np.mean((2 * tp + 1) / (2 * tp + fp + fn + 1)))
    assert got is not None
    # Two draws of 4000 differ by chance in the third figure.
    assert got == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.015)


@settings(max_examples=25, deadline=None)
@given(images=st.integers(2, 30), seed=st.integers(0, 1000), pooled=st.booleans())
def test_interval_repeats_and_lies_among_the_images(images: int, seed: int, pooled: bool) -> None:
    counts = counts_of(images, seed)
    low, high = dice_interval(counts, pooled=pooled, resamples=200, seed=seed) or (math.nan, math.nan)
    assert dice_interval(counts, pooled=pooled, resamples=200, seed=seed) == (low, high)
    each = overlap_metrics(counts)["dice"]
    assert each.min() - 0.01 <= low <= high <= each.max() + 0.01


@pytest.mark.parametrize("pooled", [True, False])
def test_interval_of_equal_images_has_no_width_and_of_one_image_is_none(pooled: bool) -> None:
    equal = {name: np.full(5, 10.0) for name in COUNTS}
    low, high = dice_interval(equal, pooled=pooled, resamples=100, seed=0) or (0, 1)
    assert low == pytest.approx(high)
    assert dice_interval({name: np.ones(1) for name in COUNTS}, pooled=pooled, resamples=100, seed=0) is None


Dice = NDArray[np.float64]
shares = st.floats(0, 1)
bootstraps = settings(max_examples=30, deadline=None)


def pairs(elements: st.SearchStrategy[float] = shares) -> st.SearchStrategy[tuple[Dice, Dice]]:
    """Dice of two networks on the same images, two images at least."""
    return st.integers(2, 12).flatmap(lambda n: st.tuples(*[hnp.arrays(np.float64, n, elements=elements)] * 2))


def difference_of(first: Dice, second: Dice, seed: int = 0) -> tuple[float, float, float]:
    difference, interval = paired_difference(first, second, resamples=300, seed=seed)
    assert interval is not None
    return difference, *interval


@bootstraps
@given(pairs(), st.integers(0, 1000))
def test_paired_difference_turns_round_when_the_networks_are_exchanged(pair: tuple[Dice, Dice], seed: int) -> None:
    difference, low, high = difference_of(*pair, seed=seed)
    assert difference_of(*pair[::-1], seed=seed) == pytest.approx((-difference, -high, -low), abs=1e-12)


@bootstraps
@given(pairs())
def test_a_network_does_not_differ_from_itself(pair: tuple[Dice, Dice]) -> None:
    assert difference_of(pair[0], pair[0].copy()) == (0, 0, 0)


@bootstraps
@given(pairs(), st.integers(0, 1000))
def test_paired_difference_repeats_and_lies_in_its_interval(pair: tuple[Dice, Dice], seed: int) -> None:
    difference, low, high = difference_of(*pair, seed=seed)
    assert difference_of(*pair, seed=seed) == (difference, low, high)
    assert difference == pytest.approx((pair[0] - pair[1]).mean(), abs=1e-12)
    assert low - 1e-12 <= difference <= high + 1e-12
    assert (pair[0] - pair[1]).min() - 1e-12 <= low <= high <= (pair[0] - pair[1]).max() + 1e-12


@bootstraps
@given(pairs(), st.floats(-1, 1))
def test_paired_difference_shifts_with_a_constant(pair: tuple[Dice, Dice], constant: float) -> None:
    difference, low, high = difference_of(*pair)
    shifted = difference_of(pair[0] + constant, pair[1])
    assert shifted == pytest.approx((difference + constant, low + constant, high + constant), abs=1e-12)


@bootstraps
@given(pairs(st.sampled_from([0.1, 0.5, 0.9, math.nan])))
def test_images_without_a_figure_are_left_out_of_both(pair: tuple[Dice, Dice]) -> None:
    both = ~np.isnan(pair[0]) & ~np.isnan(pair[1])
    assume(both.sum() >= 2)
    assert difference_of(*pair) == difference_of(pair[0][both], pair[1][both])


def test_paired_interval_is_the_percentile_bootstrap_of_the_differences() -> None:
    random = np.random.default_rng(3)
    first, second = random.beta(9, 1, (2, 15))
    got = paired_difference(first, second, resamples=4000, seed=1).interval
    drawn = [(first - second)[random.integers(0, 15, 15)].mean() for _ in range(4000)]
    assert got == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.006)


def test_pairing_takes_out_what_makes_an_image_hard_for_both() -> None:
    hard = np.linspace(0.1, 0.9, 20)
    _, low, high = difference_of(hard + 0.01, hard)
    assert (low, high) == pytest.approx((0.01, 0.01))
    _, low, high = difference_of(hard + 0.01, hard[::-1])
    assert high - low > 0.2


@pytest.mark.parametrize(
    ("first", "expected"), [([0.75, math.nan], 0.25), ([math.nan, math.nan], math.nan), ([], math.nan)]
)
def test_fewer_than_two_images_have_no_interval(first: list[float], expected: float) -> None:
    second = np.array([0.5, 0.9])[: len(first)]
    got = paired_difference(np.array(first), second, resamples=100, seed=0)
    assert got.difference == pytest.approx(expected, nan_ok=True)
    assert got.interval is None


@pytest.mark.parametrize("shapes", [((3,), (2,)), ((2, 2), (2, 2)), ((1,), (3,))])
def test_figures_of_other_images_are_refused(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match="of the same images"):
        paired_difference(np.ones(shapes[0]), np.ones(shapes[1]), resamples=100, seed=0)
