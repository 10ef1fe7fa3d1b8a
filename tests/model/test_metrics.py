"""Every figure agrees with its definition and with another library's computation of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from sklearn import metrics as sk
from torchmetrics.functional.classification import binary_jaccard_index, binary_stat_scores

from model.metrics import (
    COUNTS,
    OVERLAP,
    agreement,
    confusion,
    dice_interval,
    expected_dice,
    mean_of,
    overlap_metrics,
    paired_difference,
    soft_counts,
    soft_dice,
)
from model.training.losses import dice_loss

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
        reference = binary_stat_scores(torch.tensor(p).long(), torch.tensor(g).long())[:4].tolist()
        assert [counts[name][n] for name in ("tp", "fp", "tn", "fn")] == reference


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
        "precision": sk.precision_score(g, p, zero_division=0.0 if g.any() else np.nan),
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
    if pair[0].any():  # of an empty prediction precision is 0, of an empty truth recall is not defined
        assert one["precision"] == pytest.approx(other["recall"], nan_ok=True)


def test_an_empty_prediction_is_no_better_than_a_wrong_one() -> None:
    lung, nothing = np.ones((4, 4), np.uint8), np.zeros((4, 4), np.uint8)
    assert figures(nothing, lung)["precision"] == figures(nothing, lung)["recall"] == 0
    assert figures(lung, nothing)["precision"] == 0
    assert math.isnan(figures(lung, nothing)["recall"])
    assert math.isnan(figures(nothing, nothing)["precision"])
    assert figures(nothing, nothing)["dice"] == 1


Rated = NDArray[np.float32]


def rated() -> st.SearchStrategy[tuple[Rated, Mask]]:
    """Probabilities of some images with their masks."""
    shape = st.tuples(st.integers(1, 5), sides, sides)
    return shape.flatmap(
        lambda s: st.tuples(
            hnp.arrays(np.float32, s, elements=st.floats(0, 1, width=32)),
            hnp.arrays(np.uint8, s, elements=st.integers(0, 1)),
        )
    )


@quick
@given(rated(), st.integers(1, 3))
def test_soft_dice_is_minus_the_papers_loss_of_every_batch(pair: tuple[Rated, Mask], batch: int) -> None:
    probabilities, masks = pair
    # As logits that come back as these very probabilities, but for 0 and 1.
    inside = probabilities.clip(1e-6, 1 - 1e-6)
    logits, truth = torch.logit(torch.tensor(inside, dtype=torch.float64)), torch.tensor(masks)
    got = soft_dice(soft_counts(inside, masks), batch)
    wanted = [
        -float(dice_loss(logits[start : start + batch, None], truth[start : start + batch, None]))
        for start in range(0, len(masks), batch)
    ]
    assert got == pytest.approx(wanted, abs=1e-5)
    assert ((got > 0) & (got <= 1)).all()


@quick
@given(binary(st.tuples(st.integers(1, 4), sides, sides)))
def test_soft_dice_of_sure_probabilities_is_the_dice_of_the_masks(pair: tuple[Mask, Mask]) -> None:
    predicted, masks = pair
    soft = soft_dice(soft_counts(predicted.astype(np.float32), masks))
    assert soft == pytest.approx(overlap_metrics(confusion(predicted, masks))["dice"])


def test_soft_dice_of_no_image_is_none() -> None:
    nothing = np.zeros((0, 4, 4), np.float32)
    assert soft_dice(soft_counts(nothing, nothing.astype(np.uint8)), 2).shape == (0,)


@quick
@given(rated())
def test_expected_dice_is_that_of_expected_counts(pair: tuple[Rated, Mask]) -> None:
    probabilities, masks = pair
    for got, p, m in zip(expected_dice(probabilities, masks), probabilities.astype(float), masks, strict=True):
        total = p.sum() + m.sum()
        assert got == pytest.approx(2 * (p * m).sum() / total if total else 1)
        assert 0 <= got <= 1


@quick
@given(binary(st.tuples(st.integers(1, 4), sides, sides)))
def test_expected_dice_of_sure_probabilities_is_1_and_agreement_is_of_two_masks(pair: tuple[Mask, Mask]) -> None:
    one, other = pair
    assert expected_dice(one.astype(np.float32), one) == pytest.approx(1)
    assert agreement(one, one) == pytest.approx(1)
    assert agreement(one, other) == pytest.approx(agreement(other, one))
    assert agreement(one > 0, other > 0) == pytest.approx(overlap_metrics(confusion(one, other))["dice"])


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


@pytest.mark.parametrize("at_once", [1, 100, 12 * 199])
def test_interval_does_not_depend_on_how_many_resamples_are_drawn_at_once(
    monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    whole = dice_interval(counts_of(12, 0), pooled=False, resamples=200, seed=1)
    monkeypatch.setattr("model.metrics.RESAMPLED_AT_ONCE", at_once)
    assert dice_interval(counts_of(12, 0), pooled=False, resamples=200, seed=1) == whole


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
