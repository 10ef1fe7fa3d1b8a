"""Which of two sets of trainings is better on the same images, and whether it is so whichever trainings are taken.

A bootstrap over images tells the chance in the images alone. Trainings of one network that differ in nothing but their
seed, or in how sums are rounded, differ by as much as many networks do: a verdict here must hold for every pair.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd

from components.errors import UserError
from components.publish.studies import Study
from components.report.layout import Results
from components.report.load import Evaluated
from components.report.paired import NEITHER, REFERENCE, pair_of

RESAMPLES, SEED = 10_000, 0
NOT_EVERY, OF_IMAGES = "{} on average, not with every training", "{} on these images"


@dataclass(frozen=True)
class Difference:
    """Mean test Dice of some trainings less that of others in one scenario, over the same images.

    Attributes:
        scenario: in which all were trained and tested.
        network: of ``ours``.
        other: the other network, the same one, or what differs.
        trainings: how many of ours, how many of the others.
        n_images: tested by all.
        ours: mean over trainings and images.
        theirs: the same of the others.
        value: ``ours - theirs``.
        ci95: paired bootstrap interval over images of the means over trainings.
        extremes: the lowest and the highest mean difference of one of ours and one of the others.
        verdict: what is said of ours.
    """

    scenario: str
    network: str
    other: str
    trainings: tuple[int, int]
    n_images: int
    ours: float
    theirs: float
    value: float
    ci95: tuple[float, float] | None
    extremes: tuple[float, float]
    verdict: str


def difference(ours: list[Evaluated], theirs: list[Evaluated], other: str, masks: str) -> Difference:
    """Compare the trainings of one network with others of the same scenario, against ``masks``.

    Raises:
        ValueError: they were tested on no image in common.
    """
    pair = pair_of(ours, theirs, masks, RESAMPLES, SEED)
    if pair["difference"] is None or pair["dice_reference"] is None or pair["dice_other"] is None:
        raise ValueError(f"{ours[0].cell.folder}, {theirs[0].cell.folder}: no test image in common")
    singles = [float(np.mean(dice_of(one, masks) - dice_of(two, masks))) for one, two in product(ours, theirs)]
    verdict = pair["verdict"] or NEITHER
    if verdict != NEITHER and min(singles) <= 0 <= max(singles):
        verdict = NOT_EVERY.format(verdict)
    elif verdict != NEITHER and len(singles) == 1 and ours[0].run["started"] != theirs[0].run["started"]:
        verdict = OF_IMAGES.format(verdict)  # with the same weights, images are all that chance is in
    return Difference(
        pair["scenario"],
        pair["reference"],
        other,
        (len(ours), len(theirs)),
        pair["n_images"],
        pair["dice_reference"],
        pair["dice_other"],
        pair["difference"],
        None if pair["ci95"] is None else (pair["ci95"][0], pair["ci95"][1]),
        (min(singles), max(singles)),
        verdict,
    )


def dice_of(data: Evaluated, masks: str) -> pd.Series[float]:
    """Return the test Dice of a cell's images by id, where it is defined."""
    chosen = data.cases[(data.cases["split"] == "test") & (data.cases["masks"] == masks)]
    return chosen.dropna(subset=["dice"]).set_index("id")["dice"]


def trainings(cells: list[Evaluated], network: str, scenario: str) -> list[Evaluated]:
    """Return the cells of one network in one scenario, by seed."""
    found = [data for data in cells if (data.cell.network, data.cell.scenario) == (network, scenario)]
    return sorted(found, key=lambda data: data.cell.seed)


def of_networks(study: Study) -> list[Difference]:
    """Return DEFU-Net less every other network in each scenario, against the study's masks, all seeds of both."""
    return [
        difference(ours, theirs, network, study.masks)
        for scenario in study.scenarios
        if (ours := trainings(study.cells, REFERENCE, scenario))
        for network in study.networks
        if network != REFERENCE and (theirs := trainings(study.cells, network, scenario))
    ]


def beside(study: Study, other: Study) -> list[Difference]:
    """Return this study's test Dice less another's, of every network and scenario that both have.

    Against this study's masks. Where the sizes differ, each is scored at its own.
    """
    return [
        difference(ours, theirs, other.name, study.masks)
        for scenario in study.scenarios
        for network in study.networks
        if (ours := trainings(study.cells, network, scenario)) and (theirs := trainings(other.cells, network, scenario))
    ]


def dropped(study: Study) -> dict[str, list[Difference]]:
    """Return, by ablation, DEFU-Net's test Dice without it less the whole recipe's, against the study's masks.

    What was left out of the prediction alone, with the weights of the whole recipe, is compared with those weights.

    Raises:
        UserError: an ablation has a scenario that the study itself has not.
    """
    table: dict[str, list[Difference]] = {}
    for name, cells in study.ablations.items():
        for scenario in Results(cells).scenarios:
            without, whole = (trainings(of, REFERENCE, scenario) for of in (cells, study.cells))
            started = {data.run["started"] for data in without}
            same = [data for data in whole if data.run["started"] in started]
            if not whole:
                raise UserError(f"{study.folder}: ablation {name} has {scenario}, the study itself has not")
            table.setdefault(name, []).append(difference(without, same or whole, name, study.masks))
    return table
