"""Differences in mean Dice between networks with several training runs, tested on the same images.

An interval over images ignores the variance of training runs. So runs and images are resampled together (hierarchical
bootstrap: Davison and Hinkley, Bootstrap Methods and their Application, 1997, section 3.8; Bouthillier et al.,
Accounting for Variance in Machine Learning Benchmarks, MLSys 2021). With three runs per side this alone gives too many
false positives, for two reasons, which are corrected here:

- Resampling n runs gives only (n - 1) / n of the variance among runs (Davison and Hinkley). So the runs' deviations
  from their mean are multiplied by sqrt(n / (n - 1)).
- By chance the variance of three runs is often far too small. It is replaced by the mean variance over all networks of
  the table if that is larger. Student's quantiles replace the normal ones, with the degrees of freedom of that mean and
  of the images (Satterthwaite, Biometrics Bulletin 2, 1946).

``tests/tools/test_publish_statistics.py`` checks that fewer than 5 % of tables have a false verdict for equal networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

LEVEL = 0.05
RESAMPLES, SEED = 4_000, 0


@dataclass(frozen=True)
class RunSpread:
    """Spread of the training runs of one table.

    Attributes:
        variance: variance of a run's mean Dice, mean over the networks and scenarios of the table, (...).
        freedom: degrees of freedom of that mean, (...).
    """

    variance: Floats
    freedom: Floats


@dataclass(frozen=True)
class Estimate:
    """A mean Dice or a difference of two, with its uncertainty over images and training runs.

    Attributes:
        value: the mean or the difference, -1 to 1, (...).
        low: lower end of the 95 % interval, (...).
        high: upper end of the 95 % interval, (...).
        p: two-sided p-value of the null hypothesis that the value is 0, (...).
    """

    value: Floats
    low: Floats
    high: Floats
    p: Floats


def run_spread(sides: Sequence[Floats]) -> RunSpread:
    """Return the mean variance among training runs over all sides of a table.

    Args:
        sides: Dice of each network and scenario, float64 (..., runs, images), at least two runs; each side once.

    Raises:
        ValueError: there is no side, or a side has a single run.
    """
    if not sides or min(side.shape[-2] for side in sides) < 2:
        raise ValueError("the spread among training runs needs two runs of every side")
    variances = np.stack([_run_variance(side) for side in sides])
    freedom = np.array([side.shape[-2] - 1 for side in sides]).reshape(-1, *(1,) * (variances.ndim - 1))
    total, squares = variances.sum(0), (variances**2 / freedom).sum(0)
    known = squares > 0  # without variance among runs there are no degrees of freedom to estimate
    found = np.where(known, total**2 / np.where(known, squares, 1), freedom.sum())
    return RunSpread(total / len(sides), found)


def estimate(
    ours: Floats, theirs: Floats | None, spread: RunSpread, *, resamples: int = RESAMPLES, seed: int = SEED
) -> Estimate:
    """Estimate a network's mean Dice, or its difference to another network's, over training runs and images.

    Args:
        ours: Dice, float64 (..., runs, images), 0 to 1, or differences between pairs of runs.
        theirs: Dice of the other network on the same images, in the same order; ``None`` for a mean.
        spread: spread of the runs of the table.
        resamples: number of bootstrap resamples.
        seed: seed of the bootstrap.

    Raises:
        ValueError: a side has fewer than two runs or images, or the images differ in number.
    """
    from scipy.stats import t

    sides = [ours] if theirs is None else [ours, theirs]
    if min(min(side.shape[-2:]) for side in sides) < 2 or len({side.shape[-1] for side in sides}) > 1:
        raise ValueError(f"two or more runs of the same two or more images, got {[side.shape for side in sides]}")
    rng = np.random.default_rng(seed)
    images = _draws(rng, resamples, ours.shape[-1])
    drawn = [_resampled(side, images, rng) for side in sides]
    means = [side.mean((-2, -1)) for side in sides]
    value, spun = (means[0], drawn[0]) if theirs is None else (means[0] - means[1], drawn[0] - drawn[1])
    counted = [(_run_variance(side), side.shape[-2]) for side in sides]
    runs = np.sum([np.maximum(own, spread.variance) / count for own, count in counted], axis=0)
    over_images = np.maximum(spun.var(0) - np.sum([own / count for own, count in counted], axis=0), 0)
    variance = runs + over_images
    error = np.sqrt(variance)
    parts = runs**2 / spread.freedom + over_images**2 / (ours.shape[-1] - 1)
    freedom = np.divide(variance**2, parts, out=np.ones_like(variance), where=parts > 0)
    reach = t.ppf(1 - LEVEL / 2, freedom) * error
    # Without any error, a nonzero difference is certain.
    ratio = np.divide(np.abs(value), error, out=np.where(value == 0, 0.0, np.inf), where=error > 0)
    return Estimate(value, value - reach, value + reach, 2 * t.sf(ratio, freedom))


def holm(p: Floats) -> Floats:
    """Return p-values with Holm's correction, which controls the probability of any false verdict in a table.

    Source: Holm, A Simple Sequentially Rejective Multiple Test Procedure, Scandinavian Journal of Statistics 6, 1979.

    Args:
        p: p-values of the comparisons of one table, (..., comparisons), 0 to 1.
    """
    order = np.argsort(p, -1)
    steps = np.take_along_axis(p, order, -1) * np.arange(p.shape[-1], 0, -1)
    corrected = np.empty_like(p)
    np.put_along_axis(corrected, order, np.minimum(np.maximum.accumulate(steps, -1), 1), -1)
    return corrected


def _run_variance(side: Floats) -> Floats:
    variance: Floats = side.mean(-1).var(-1, ddof=1)
    return variance


def _draws(rng: np.random.Generator, resamples: int, count: int) -> Floats:
    """Return the weight of each of ``count`` items in each resample, (resamples, count)."""
    chosen = rng.integers(count, size=(resamples, count)) + count * np.arange(resamples)[:, None]
    return np.bincount(chosen.ravel(), minlength=resamples * count).reshape(resamples, count) / count


def _resampled(side: Floats, images: Floats, rng: np.random.Generator) -> Floats:
    """Return the means of one side, (resamples, ...); draws runs anew and uses the common draws of images."""
    count = side.shape[-2]
    mean = side.mean(-2, keepdims=True)
    wide = mean + np.sqrt(count / (count - 1)) * (side - mean)
    on_images = np.moveaxis(wide @ images.T, -1, 0)  # (resamples, ..., runs)
    runs = _draws(rng, len(images), count).reshape(len(images), *(1,) * (side.ndim - 2), count)
    means: Floats = (on_images * runs).sum(-1)
    return means
