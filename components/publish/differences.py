"""Which of two sets of trainings is better on the same images, and whether it is so beyond the chance in training.

A bootstrap over images tells the chance in the images alone. Trainings of one network that differ in nothing but their
seed, or in how sums are rounded, differ by as much as many networks do: a verdict without reservation must hold for
every pair of trainings, and by more than the trainings of one side differ among themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import pandas as pd

from components.errors import UserError
from components.publish.studies import Study
from components.report.layout import Results
from components.report.load import Evaluated
from components.report.paired import NEITHER, REFERENCE, dice_of, pair_of

RESAMPLES, SEED = 10_000, 0
# Reservations of a verdict.
NOT_EVERY = "{} on average, not with every training"
WITHIN = "{}, by no more than trainings differ"
OF_IMAGES = "{} on these images"
SAME_TRAINING = "{} in the same training"


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


def difference(
    ours: list[Evaluated], theirs: list[Evaluated], other: str, masks: str, same: bool = False
) -> Difference:
    """Compare the trainings of one network with others of the same scenario, against ``masks``.

    Args:
        ours: one or more.
        theirs: one or more; with ``same``, of each of ours the very training, with something else after it.
        other: what they are called.
        masks: original or dilated.
        same: whether only these pairs of trainings mean anything.

    Raises:
        ValueError: they were tested on no image in common.
    """
    pair = pair_of(ours, theirs, masks, RESAMPLES, SEED)
    if pair["difference"] is None or pair["dice_reference"] is None or pair["dice_other"] is None:
        raise ValueError(f"{ours[0].cell.folder}, {theirs[0].cell.folder}: no test image in common")
    columns = [[dice_of(data, masks) for data in side] for side in (ours, theirs)]
    images = pd.concat([*columns[0], *columns[1]], axis=1, join="inner").index
    means = [[float(dice[images].mean()) for dice in side] for side in columns]
    singles = [one - two for one, two in (zip(*means, strict=True) if same else product(*means))]
    verdict = pair["verdict"] or NEITHER
    if verdict != NEITHER:
        verdict = _reservation(singles, max(max(side) - min(side) for side in means), same).format(verdict)
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


def _reservation(singles: list[float], spread: float, same: bool) -> str:
    """Return what a verdict must be qualified by.

    Args:
        singles: the differences between single trainings.
        spread: by how much trainings of one side differ at most.
        same: whether both sides are the same trainings.
    """
    if min(singles) <= 0 <= max(singles):
        return NOT_EVERY
    if same:
        return SAME_TRAINING
    if len(singles) == 1:
        return OF_IMAGES
    # One training lies above or below all of three others by chance in half of the cases.
    return WITHIN if min(map(abs, singles)) <= spread else "{}"


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

    What was left out after the steps of the training alone (they have the same losses) is compared with this training.

    Raises:
        UserError: an ablation has a scenario that the study itself has not.
    """
    table: dict[str, list[Difference]] = {}
    for name, cells in study.ablations.items():
        for scenario in Results(cells).scenarios:
            without, whole = (trainings(of, REFERENCE, scenario) for of in (cells, study.cells))
            if not whole:
                raise UserError(f"{study.folder}: ablation {name} has {scenario}, the study itself has not")
            steps = {data.cell.seed: data for data in whole}
            twins = [steps[one.cell.seed] for one in without if _same_steps(one, steps.get(one.cell.seed))]
            same = len(twins) == len(without)
            found = difference(without, twins if same else whole, name, study.masks, same)
            table.setdefault(name, []).append(found)
    return table


def _same_steps(one: Evaluated, other: Evaluated | None) -> bool:
    return other is not None and one.history["train_loss"].equals(other.history["train_loss"])
