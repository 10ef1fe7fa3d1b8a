"""Paired comparison of networks on the same X-rays."""

from __future__ import annotations

import math
from typing import TypedDict

import pandas as pd

from components.report import paper
from components.report.layout import Column, Figure, Group, Line, Results, Table, scenario_title
from components.report.load import Evaluated
from components.report.text import digits_for
from core.cell import CASES, Cell
from core.errors import UserError
from model.metrics import mean_of, paired_difference

REFERENCE = "defu_net"  # the paper's network, which the paper claims is better than the others
MASKS = ("original", "dilated")
BETTER, WORSE, NEITHER = "better", "worse", "no difference shown"

# With fewer images the interval is more than 5 % too narrow: a percentile interval of a mean uses the normal quantile
# instead of Student's, and lacks the factor sqrt(N / (N - 1)).
FEW_IMAGES = 30


class Pair(TypedDict):
    """One entry of ``comparisons.json``: two networks on their common test images of one scenario.

    Dice is the mean over these images. An image's Dice is its mean over ``seeds`` for the reference and over
    ``other_seeds`` for the other network: the common seeds or, if there are none, all seeds of each. ``difference`` is
    the reference's Dice minus the other's, ``ci95`` its paired bootstrap interval over images, and ``verdict`` the
    result for the reference. Undefined figures are ``None``.
    """

    scenario: str
    reference: str
    other: str
    masks: str
    n_images: int
    n_images_reference: int
    n_images_other: int
    seeds: list[int]
    other_seeds: list[int]
    dice_reference: float | None
    dice_other: float | None
    difference: float | None
    ci95: list[float] | None
    verdict: str | None


def compare(cells: list[Evaluated], resamples: int, seed: int) -> list[Pair]:
    """Compare DEFU-Net with every other network in each scenario; without it, the first in the paper's order.

    Args:
        cells: all cells of the report.
        resamples: number of bootstrap resamples.
        seed: seed of the bootstrap.

    Returns:
        Two entries, original and dilated masks, per other network; none for a scenario with a single network.
    """
    results = Results(cells)
    loaded = {data.cell: data for data in cells}
    pairs = []
    for scenario in results.scenarios:
        networks = results.networks(scenario)
        reference = REFERENCE if REFERENCE in networks else networks[0]
        for other in networks:
            if other == reference:
                continue
            seeds = [[cell.seed for cell in results.seeds(network, scenario)] for network in (reference, other)]
            shared = sorted(set(seeds[0]) & set(seeds[1]))
            seeds = [shared, shared] if shared else seeds
            sides = [
                [loaded[Cell(network, scenario, number)] for number in numbers]
                for network, numbers in zip((reference, other), seeds, strict=True)
            ]
            for masks in MASKS:
                pairs.append(pair_of(sides[0], sides[1], masks, resamples, seed))
    return pairs


def pair_of(ours: list[Evaluated], theirs: list[Evaluated], masks: str, resamples: int, seed: int) -> Pair:
    """Compare two networks image by image; each list has the cells of one network's seeds in the same scenario."""
    dice = [_dice_of_images(cells, masks) for cells in (ours, theirs)]
    both = pd.concat(dice, axis=1, join="inner", keys=["reference", "other"]).sort_index()
    reference, other = (both[name].to_numpy(float) for name in ("reference", "other"))
    difference, interval = paired_difference(reference, other, resamples=resamples, seed=seed)
    return {
        "scenario": ours[0].cell.scenario,
        "reference": ours[0].cell.network,
        "other": theirs[0].cell.network,
        "masks": masks,
        "n_images": len(both),
        "n_images_reference": len(dice[0]),
        "n_images_other": len(dice[1]),
        "seeds": [data.cell.seed for data in ours],
        "other_seeds": [data.cell.seed for data in theirs],
        "dice_reference": _or_none(mean_of(reference)),
        "dice_other": _or_none(mean_of(other)),
        "difference": _or_none(difference),
        "ci95": None if interval is None else list(interval),
        "verdict": _verdict(interval),
    }


def _dice_of_images(cells: list[Evaluated], masks: str) -> pd.Series[float]:
    """Return the Dice of every test image by id, the mean over the cells; images missing in a cell are omitted."""
    return pd.concat([dice_of(data, masks) for data in cells], axis=1, join="inner").mean(axis=1)


def dice_of(data: Evaluated, masks: str, column: str = "dice") -> pd.Series[float]:
    """Return the test Dice of a cell's images by id, without undefined values.

    Args:
        data: the cell.
        masks: original or dilated.
        column: ``dice`` at the network's size, ``stored_dice`` at the stored size of the X-ray.

    Raises:
        UserError: the cell's cases lack the column.
    """
    if column not in data.cases:
        raise UserError(f"{data.cell.folder}/{CASES}: no column {column}; evaluate the cell again with this version")
    chosen = data.cases[(data.cases["split"] == "test") & (data.cases["masks"] == masks)]
    return chosen.dropna(subset=[column]).set_index("id")[column]


def _verdict(interval: tuple[float, float] | None) -> str | None:
    if interval is None:
        return None
    return BETTER if interval[0] > 0 else WORSE if interval[1] < 0 else NEITHER


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def paired_tables(pairs: list[Pair]) -> list[Table]:
    """Return one table per scenario: one line per network, with original and dilated masks side by side."""
    tables = []
    for scenario in dict.fromkeys(pair["scenario"] for pair in pairs):
        here = [pair for pair in pairs if pair["scenario"] == scenario]
        reference = paper.name(here[0]["reference"])
        lines = [
            Line((paper.name(other),), [f for pair in here if pair["other"] == other for f in _figures(pair)])
            for other in dict.fromkeys(pair["other"] for pair in here)
        ]
        columns = [Column(text) for text in (reference, "Other", "Difference", f"{reference} is")]
        tables.append(
            Table(
                f"paired-{scenario}",
                f"Paired comparison: {scenario_title(scenario)}",
                _caption(reference, [pair for pair in here if pair["masks"] == MASKS[0]]),
                ("Other network",),
                [*columns, *columns],
                [Group("", lines)],
                [(f"Against {masks} masks", len(columns)) for masks in MASKS],
            )
        )
    return tables


def _figures(pair: Pair) -> list[Figure]:
    ends, difference = pair["ci95"], pair["difference"]
    digits = digits_for([*(ends or []), difference or 0.0])
    return [
        Figure(pair["dice_reference"]),
        Figure(pair["dice_other"]),
        Figure(difference, digits, interval=(ends[0], ends[1]) if ends else None, signed=True),
        Figure(None, text=pair["verdict"]),
    ]


def _caption(reference: str, lines: list[Pair]) -> str:
    """Return the caption with the limits of the comparison; ``lines`` are the pairs of one kind of masks."""
    images = {pair["n_images"] for pair in lines}
    differing = [pair for pair in lines if {pair["n_images_reference"], pair["n_images_other"]} != {pair["n_images"]}]
    count = f"{images.pop()} " if len(images) == 1 else ""
    sentences = [
        f"Mean Dice over the {count}test images of both networks, {reference} less the other network, with its paired "
        f"95 % bootstrap interval over images. {reference} is called better or worse where the interval excludes 0."
    ]
    if differing:
        counts = "; ".join(
            f"{paper.name(pair['other'])} {pair['n_images']} of its {pair['n_images_other']} and of {reference}’s "
            f"{pair['n_images_reference']}"
            for pair in differing
        )
        sentences.append(f"Not all were tested on the same images; the common ones count: {counts}.")
    sentences += _about_seeds(reference, lines)
    sentences.append("The interval covers the choice of the images, not the randomness of training.")
    if min(pair["n_images"] for pair in lines) < FEW_IMAGES:
        sentences.append("With so few images it is somewhat too narrow.")
    if len(lines) > 1:
        sentences.append(
            f"{_in_words(len(lines))} comparisons with no correction for their number: one may exclude 0 by chance."
        )
    return " ".join(sentences)


def _about_seeds(reference: str, lines: list[Pair]) -> list[str]:
    sentences = []
    shared = {tuple(pair["seeds"]) for pair in lines if pair["seeds"] == pair["other_seeds"]}
    if any(len(seeds) > 1 for seeds in shared):
        which = f" ({_listed(shared.pop())})" if len(shared) == 1 else ""
        sentences.append(f"An image’s Dice is its mean over the seeds that both networks have{which}.")
    sentences += [
        f"{reference} and {paper.name(pair['other'])} have no seed in common: an image’s Dice is its mean over each "
        f"network’s own, {_listed(pair['seeds'])} and {_listed(pair['other_seeds'])}."
        for pair in lines
        if pair["seeds"] != pair["other_seeds"]
    ]
    return sentences


def _listed(numbers: tuple[int, ...] | list[int]) -> str:
    return ", ".join(map(str, numbers))


def _in_words(number: int) -> str:
    words = ("No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine")
    return words[number] if number < len(words) else str(number)
