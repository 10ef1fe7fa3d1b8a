"""Compare the Dice of two sets of training runs on the same images, with verdicts for whole tables."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from components.report.layout import Results
from components.report.load import Evaluated
from components.report.paired import BETTER, NEITHER, REFERENCE, WORSE
from core.errors import UserError
from model.metrics import paired_difference
from tools.publish.scores import ENOUGH, OVER_BOTH, OVER_IMAGES, RESAMPLES, SEED, by_image, runs_of, spread_of
from tools.publish.statistics import LEVEL, RunSpread, estimate, holm, run_spread
from tools.publish.studies import COLUMNS, Study

WORDS = {1: "one training run", 2: "two training runs"}


@dataclass(frozen=True)
class Difference:
    """Difference in mean test Dice between two sets of training runs in one scenario, on the same images.

    Attributes:
        scenario: the scenario of all runs.
        network: the network of ``ours``.
        other: name of the other side: a network, a study or an ablation.
        runs: number of runs of each side.
        n_images: number of common test images.
        ours: mean Dice over runs and images, 0 to 1.
        theirs: mean Dice of the other side.
        value: ``ours - theirs``.
        interval: ends of the 95 % interval, not corrected for multiple comparisons; ``None`` for one image.
        over: the sources of variation in the interval.
        p: two-sided p-value, corrected for the table's comparisons; ``None`` with too few runs for a verdict.
        verdict: the verdict on ``ours``.
    """

    scenario: str
    network: str
    other: str
    runs: tuple[int, int]
    n_images: int
    ours: float
    theirs: float
    value: float
    interval: tuple[float, float] | None
    over: str
    p: float | None
    verdict: str


@dataclass(frozen=True)
class Pair:
    """Two sides of a comparison; with ``same`` they differ only after training, so runs are compared pairwise."""

    ours: list[Evaluated]
    theirs: list[Evaluated]
    other: str
    same: bool = False


def compare(pairs: list[Pair], masks: str, column: str) -> list[Difference]:
    """Compare the pairs of one table.

    Args:
        pairs: the pairs, each in one scenario.
        masks: original or dilated.
        column: column of the cases, ``dice`` or ``stored_dice``.

    Raises:
        UserError: two sides have no common test image, or a cell lacks the column.
    """
    sides = [(by_image(pair.ours, masks, column), by_image(pair.theirs, masks, column)) for pair in pairs]
    separate = {  # each side once, even if several pairs have it
        tuple(id(data) for data in cells): dice
        for pair, both in zip(pairs, sides, strict=True)
        if not pair.same
        for cells, dice in zip((pair.ours, pair.theirs), both, strict=True)
    }
    spread = spread_of(list(separate.values()))
    return _judged([_difference(pair, *both, spread) for pair, both in zip(pairs, sides, strict=True)])


def _difference(pair: Pair, ours: pd.DataFrame, theirs: pd.DataFrame, spread: RunSpread | None) -> Difference:
    images = ours.index.intersection(theirs.index)
    if images.empty:
        raise UserError(f"{pair.ours[0].cell.folder}, {pair.theirs[0].cell.folder}: no test image in common")
    one, two = (side.loc[images].to_numpy(float).T for side in (ours, theirs))
    means = one.mean(0), two.mean(0)
    value, interval = paired_difference(*means, resamples=RESAMPLES, seed=SEED)
    few = min(len(one), len(two))
    over, p, verdict = OVER_IMAGES, None, f"{WORDS.get(few)}: no verdict"
    if few >= ENOUGH and len(images) > 1:
        first, second = (one - two, None) if pair.same else (one, two)
        found = estimate(first, second, run_spread([first]) if pair.same or spread is None else spread)
        interval, over, p = (float(found.low), float(found.high)), OVER_BOTH, float(found.p)
    return Difference(
        pair.ours[0].cell.scenario,
        pair.ours[0].cell.network,
        pair.other,
        (len(one), len(two)),
        len(images),
        float(means[0].mean()),
        float(means[1].mean()),
        value,
        interval,
        over,
        p,
        verdict,
    )


def _judged(differences: list[Difference]) -> list[Difference]:
    """Return the differences with verdicts and p-values corrected for their number (:func:`holm`)."""
    corrected = iter(holm(np.array([item.p for item in differences if item.p is not None])).tolist())
    return [item if item.p is None else _with(item, next(corrected)) for item in differences]


def _with(item: Difference, p: float) -> Difference:
    return replace(item, p=p, verdict=NEITHER if p >= LEVEL else BETTER if item.value > 0 else WORSE)


def of_networks(study: Study) -> list[Difference]:
    """Return DEFU-Net minus every other network in each scenario, against the study's masks, over all runs."""
    return compare(
        [
            Pair(ours, theirs, network)
            for scenario in study.scenarios
            if (ours := runs_of(study.cells, REFERENCE, scenario))
            for network in study.networks
            if network != REFERENCE and (theirs := runs_of(study.cells, network, scenario))
        ],
        study.masks,
        study.column,
    )


def beside(study: Study, other: Study) -> list[Difference]:
    """Return this study's test Dice minus another's, for every common network and scenario.

    Dice is against this study's masks, at the stored size if both have it, else at each network's size.
    """
    return compare(
        [
            Pair(ours, theirs, other.name)
            for scenario in study.scenarios
            for network in study.networks
            if (ours := runs_of(study.cells, network, scenario)) and (theirs := runs_of(other.cells, network, scenario))
        ],
        study.masks,
        common_column(study, other),
    )


def common_column(*studies: Study) -> str:
    """Return the column of Dice at the stored size if all cells have it, else at the network's size."""
    stored = COLUMNS["stored"]
    return stored if all(stored in data.cases for study in studies for data in study.cells) else COLUMNS["network"]


def dropped(study: Study) -> list[Difference]:
    """Return DEFU-Net's test Dice in each ablation minus the full recipe's, against the study's masks.

    ``other`` is the ablation's name. An ablation with the same training steps (equal losses) is compared run by run.

    Raises:
        UserError: an ablation has a scenario that the study lacks.
    """
    pairs = []
    for name, cells in study.ablations.items():
        for scenario in Results(cells).scenarios:
            without, whole = (runs_of(of, REFERENCE, scenario) for of in (cells, study.cells))
            if not whole:
                raise UserError(f"{study.folder}: ablation {name} has {scenario}, the study itself has not")
            steps = {data.cell.seed: data for data in whole}
            twins = [steps[one.cell.seed] for one in without if _same_steps(one, steps.get(one.cell.seed))]
            same = len(twins) == len(without)
            pairs.append(Pair(without, twins if same else whole, name, same))
    return compare(pairs, study.masks, study.column)


def _same_steps(one: Evaluated, other: Evaluated | None) -> bool:
    return other is not None and one.history["train_loss"].equals(other.history["train_loss"])
