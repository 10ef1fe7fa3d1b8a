"""The test Dice of every network in every scenario, with its uncertainty over images and training runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from statistics import stdev

import numpy as np
import pandas as pd

from components.report import paper
from components.report.load import Evaluated
from components.report.paired import dice_of
from core.errors import UserError
from model.metrics import paired_difference
from tools.publish.statistics import RunSpread, estimate, run_spread
from tools.publish.studies import Study

MIXED = "mixed"
ALL = "all"
ENOUGH = 3  # training runs per side for an interval over runs and for a verdict
RESAMPLES, SEED = 10_000, 0
OVER_IMAGES, OVER_BOTH = "images", "runs and images"


@dataclass(frozen=True)
class Score:
    """The test Dice of one network in one scenario, mean over images and training runs.

    Attributes:
        scenario: the scenario; for folds, without their number.
        network: name of the network.
        site: site of the images, or ``all``.
        n_images: number of test images.
        runs: number of training runs; for folds, per fold.
        dice: mean Dice, 0 to 1.
        interval: ends of the 95 % interval; ``None`` for a single image.
        over: the sources of variation in the interval, :data:`OVER_IMAGES` or :data:`OVER_BOTH`.
        deviation: standard deviation over the runs; ``None`` for one run.
        paper: the paper's Dice, against dilated masks.
    """

    scenario: str
    network: str
    site: str
    n_images: int
    runs: int
    dice: float
    interval: tuple[float, float] | None
    over: str
    deviation: float | None
    paper: float | None


def runs_of(cells: list[Evaluated], network: str, scenario: str) -> list[Evaluated]:
    """Return the cells of one network in one scenario, by seed."""
    found = [data for data in cells if (data.cell.network, data.cell.scenario) == (network, scenario)]
    return sorted(found, key=lambda data: data.cell.seed)


def by_image(cells: Sequence[Evaluated], masks: str, column: str, site: str = ALL) -> pd.DataFrame:
    """Return Dice with one row per common test image, sorted by id, and one column per run."""
    dice = [dice_of(data, masks, column) for data in cells]
    found = pd.concat(dice, axis=1, join="inner", keys=range(len(dice))).sort_index()
    if site != ALL:
        sites = cells[0].cases.drop_duplicates("id").set_index("id")["site"]
        found = found[sites[found.index] == site]
    return found


def spread_of(sides: Sequence[pd.DataFrame]) -> RunSpread | None:
    """Return the spread of runs over all sides with several runs, ``None`` if there are none; pass each side once."""
    several = [side.to_numpy(float).T for side in sides if side.shape[1] > 1 and len(side) > 1]
    return run_spread(several) if several else None


def published(scenario: str, network: str) -> float | None:
    """Return the paper's test Dice of a network in a scenario."""
    table = paper.MIXED["test"] if scenario == MIXED else paper.ACROSS.get(scenario, {})
    return table.get(network, {}).get("dice")


def scores(study: Study) -> list[Score]:
    """Return the scores of every network in every scenario, against the kind of masks they were trained on.

    The spread of runs is pooled over all scenarios.

    Raises:
        UserError: a cell lacks Dice at the study's size.
    """
    sides = {
        (scenario, network): by_image(cells, study.masks, study.column)
        for scenario, network in product(study.scenarios, study.networks)
        if (cells := runs_of(study.cells, network, scenario))
    }
    spread = {
        network: spread_of([dice for place, dice in sides.items() if place[1] == network]) for network in study.networks
    }
    return [_score(*place, ALL, dice, spread[place[1]]) for place, dice in sides.items()]


def score_at(study: Study, network: str, scenario: str, column: str, site: str = ALL) -> Score | None:
    """Return one score, over all folds if there are folds; ``None`` if the study has none.

    Args:
        study: the study, with its kind of masks.
        network: name of the network.
        scenario: the scenario; for folds, without their number.
        column: ``dice`` or ``stored_dice``.
        site: site of the images, or ``all``.

    Raises:
        UserError: a cell lacks the column, or folds are incomplete.
    """
    if study.about.folds:
        dice = _pooled(study, network, scenario, column, site)
        return None if dice is None or dice.empty else _score(scenario, network, site, dice, None)
    sides = {
        name: by_image(runs_of(study.cells, network, name), study.masks, column, site)
        for name in study.scenarios
        if runs_of(study.cells, network, name)
    }
    if scenario not in sides or sides[scenario].empty:
        return None
    return _score(scenario, network, site, sides[scenario], spread_of(list(sides.values())))


def folded(study: Study) -> list[Score]:
    """Return every network's scores over the test images of all folds, for all images and for each site.

    Raises:
        UserError: a fold is missing, or two folds share a test image.
    """
    if not study.about.folds:
        return []
    names = sorted({scenario.partition("-fold-")[0] for scenario in study.scenarios})
    sites = [ALL, *sorted(study.cohort.manifest["site"].unique())]
    found = (
        score_at(study, network, name, study.column, site)
        for name, network, site in product(names, study.networks, sites)
    )
    return [score for score in found if score]


def _pooled(study: Study, network: str, scenario: str, column: str, site: str) -> pd.DataFrame | None:
    parts = {
        number: runs_of(study.cells, network, f"{scenario}-fold-{number}") for number in range(1, study.about.folds + 1)
    }
    if not any(parts.values()):
        return None
    seeds = {tuple(data.cell.seed for data in part) for part in parts.values()}
    if len(seeds) > 1:
        held = [f"fold {number}: seeds {[data.cell.seed for data in part]}" for number, part in parts.items()]
        raise UserError(f"{study.folder}: {network}, {scenario}: not every fold has the same seeds", held)
    dice = pd.concat([by_image(part, study.masks, column, site) for part in parts.values()])
    if twice := sorted(set(dice.index[dice.index.duplicated()])):
        raise UserError(f"{study.folder}: {network}, {scenario}: tested in two folds", twice[:5])
    return dice.sort_index()


def _score(scenario: str, network: str, site: str, dice: pd.DataFrame, spread: RunSpread | None) -> Score:
    """Return a score; without ``spread`` its interval is only over images."""
    images = dice.mean(axis=1).to_numpy(float)
    value, interval = paired_difference(images, np.zeros_like(images), resamples=RESAMPLES, seed=SEED)
    over = OVER_IMAGES
    if spread and dice.shape[1] >= ENOUGH and len(dice) > 1:
        found = estimate(dice.to_numpy(float).T, None, spread)
        interval, over = (float(found.low), float(found.high)), OVER_BOTH
    return Score(
        scenario,
        network,
        site,
        len(images),
        dice.shape[1],
        value,
        interval,
        over,
        float(stdev(dice.mean())) if dice.shape[1] > 1 else None,
        published(scenario, network) if site == ALL else None,
    )
