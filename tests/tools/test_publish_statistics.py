"""Verdicts between networks: how often they are false for equal networks, and how often a difference is found."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import t

from tools.publish.statistics import Floats, estimate, holm, run_spread

NETWORKS, RUNS, TABLES, RESAMPLES = 7, 3, 1000, 400


def tables(
    rng: np.random.Generator,
    images: tuple[int, ...],
    deviation: tuple[float, float],
    interaction: float,
    effect: Floats,
) -> list[Floats]:
    """Return made-up Dice by scenario, (tables, networks, runs, images), of networks that differ by ``effect``.

    Images are alike hard for all networks (sd .03), runs differ in the mean and again on every image.
    """
    found = []
    for count in images:
        spread = rng.uniform(*deviation, (TABLES, len(effect), 1, 1))
        dice = 0.95 + effect[:, None, None] + spread * rng.normal(size=(TABLES, len(effect), RUNS, 1))
        dice = (
            dice
            + 0.03 * rng.normal(size=(TABLES, 1, 1, count))
            + interaction * rng.normal(size=(TABLES, len(effect), 1, count))
        )
        found.append(dice + interaction * rng.normal(size=(TABLES, len(effect), RUNS, count)))
    return found


def p_values(scenarios: list[Floats]) -> Floats:
    """Return p-values of the first network against each other one in every scenario, (tables, comparisons)."""
    spread = run_spread([dice[:, network] for dice in scenarios for network in range(scenarios[0].shape[1])])
    pairs = [(dice[:, 0], dice[:, network]) for dice in scenarios for network in range(1, scenarios[0].shape[1])]
    return np.stack([estimate(*pair, spread, resamples=RESAMPLES).p for pair in pairs], -1)


@pytest.mark.slow
@pytest.mark.full
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("networks", "images", "deviation", "interaction"),
    [
        (NETWORKS, (100, 566, 138), (0.0012, 0.002), 0.005),  # as the networks of results/128px were found
        (NETWORKS, (100, 566, 138), (0.0012, 0.002), 0.0005),
        (NETWORKS, (20, 20, 20), (0.0012, 0.002), 0.005),
        (NETWORKS, (20, 100, 138), (0.0007, 0.0067), 0.005),  # R2U-Net's runs differ far more than others
        (2, (20, 100, 138), (0.0012, 0.002), 0.0005),
        (2, (100,), (0.0007, 0.0067), 0.0005),
    ],
)
def test_equal_networks_are_seldom_called_different(
    networks: int, images: tuple[int, ...], deviation: tuple[float, float], interaction: float
) -> None:
    p = p_values(tables(np.random.default_rng(1), images, deviation, interaction, np.zeros(networks)))
    false = holm(p) < 0.05
    print(
        f"{networks} {images} {deviation} {interaction}: a comparison {false.mean():.4f}, "
        f"a table {false.any(-1).mean():.4f}, uncorrected {(p < 0.05).mean():.4f}"
    )
    assert (p < 0.05).mean() < 0.05
    assert false.any(-1).mean() < 0.05


@pytest.mark.slow
@pytest.mark.full
@pytest.mark.timeout(600)
def test_a_difference_of_a_hundredth_is_found() -> None:
    effect = np.zeros(NETWORKS)
    effect[3] = -0.01
    p = p_values(tables(np.random.default_rng(2), (100, 566, 138), (0.0012, 0.002), 0.005, effect))
    found = (holm(p) < 0.05)[:, [2, 8, 14]]
    print(f"found {found.mean():.4f}")
    assert found.mean() > 0.95


@pytest.mark.slow
@pytest.mark.full
@pytest.mark.parametrize("deviation", [(0.0012, 0.002), (0.0007, 0.004)])
def test_the_interval_of_a_mean_holds_it(deviation: tuple[float, float]) -> None:
    scenarios = tables(np.random.default_rng(5), (30, 100, 566), deviation, 0.005, np.zeros(1))
    spread = run_spread([dice[:, 0] for dice in scenarios])
    for dice in scenarios:
        found = estimate(dice[:, 0], None, spread, resamples=RESAMPLES)
        held = ((found.low <= 0.95) & (found.high >= 0.95)).mean()
        print(f"{deviation}, {dice.shape[-1]} images: {held:.3f}, half width {(found.high - found.low).mean() / 2:.4f}")
        assert 0.93 < held <= 0.995


def test_the_plain_bootstrap_of_three_runs_would_be_wrong_too_often() -> None:
    """What the corrections are for: the same resamples, taken as they are, with the normal distribution's quantile."""
    rng = np.random.default_rng(3)
    wrong = 0
    for _ in range(400):
        one, two = 0.95 + 0.002 * rng.normal(size=(2, 3, 1)) + 0.001 * rng.normal(size=(2, 3, 20))
        runs = rng.integers(3, size=(2, 400, 3))
        means = one.mean(-1)[runs[0]].mean(-1) - two.mean(-1)[runs[1]].mean(-1)
        low, high = np.quantile(means, [0.025, 0.975])
        wrong += not low <= 0 <= high
    assert wrong / 400 > 0.1


def test_the_interval_is_that_of_runs_and_images_together() -> None:
    rng = np.random.default_rng(4)
    hard = 0.03 * rng.normal(size=200)  # for both networks: it falls out of the difference
    one, two = (
        0.9 + hard + 0.002 * rng.normal(size=(3, 1)) + 0.004 * rng.normal(size=200) + 1e-4 * rng.normal(size=(3, 200))
        for _ in range(2)
    )
    found = estimate(one, two, run_spread([one, two]), resamples=20_000)
    variances = [side.mean(1).var(ddof=1) for side in (one, two)]
    pooled = np.mean(variances)
    over_images = (one.mean(0) - two.mean(0)).var(ddof=1) / 200
    of_runs = sum(max(variance, pooled) for variance in variances) / 3
    expected = np.sqrt(of_runs + over_images)
    known = sum(variances) ** 2 / sum(variance**2 / 2 for variance in variances)
    freedom = expected**4 / (of_runs**2 / known + over_images**2 / 199)
    assert found.value == pytest.approx(one.mean() - two.mean())
    assert (found.high - found.low) / 2 == pytest.approx(t.ppf(0.975, freedom) * expected, rel=0.02)
    assert estimate(one, one, run_spread([one, two])).p == 1
    assert estimate(one, one - 0.2, run_spread([one, two])).p < 0.01
    mean = estimate(one, None, run_spread([one, two]))
    assert mean.low < one.mean() < mean.high


def test_runs_that_are_alike_leave_no_doubt_and_single_runs_no_estimate() -> None:
    same = np.full((3, 5), 0.5)
    spread = run_spread([same])
    found = estimate(same, same - 0.25, spread)
    assert (found.value, found.low, found.high, found.p) == (0.25, 0.25, 0.25, 0)
    assert estimate(same, same, spread).p == 1
    with pytest.raises(ValueError, match="two runs"):
        run_spread([same[:1]])
    with pytest.raises(ValueError, match="two or more runs"):
        estimate(same, same[:1], spread)
    with pytest.raises(ValueError, match="two or more runs"):
        estimate(same, same[:, :4], spread)


def test_holm_is_holm() -> None:
    # By hand: .01 * 4, then max(.04, .02 * 3), max(.06, .03 * 2), max(.06, .04).
    assert holm(np.array([0.03, 0.01, 0.04, 0.02])) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm(np.array([0.9, 0.8])) == pytest.approx([1, 1])
    assert holm(np.array([[0.03], [0.2]])) == pytest.approx(np.array([[0.03], [0.2]]))
