"""One sortable, filterable table of all test metrics, one line per group of images."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

from components.report.layout import Column, Figure, Group, Line, Results, Table, scenario_title
from components.report.tables import LABELS, MASKS, figure_of, seed_lines
from core.cell import Cell

METRICS = ("dice", "hd95", "assd", "jaccard", "precision", "recall", "auc")
HEADS = ("Network", "Scenario", "Site", "Group", "Masks", "Aggregation")
MOST = 1500  # lines; each adds about 660 bytes to the page
REDUCTIONS = {"per_image": "per image", "pooled": "pooled"}


def explorer_table(results: Results, masks: str) -> Table:
    """Return all test metrics by network, scenario, site, group, masks and aggregation.

    A group is a label, a sex or an age. A scenario with one test site has lines only for that site. With several seeds,
    a line with their mean precedes the lines of the seeds; above :data:`MOST` lines, those of single seeds are omitted.

    Args:
        results: all rows.
        masks: initial filter of column "Masks", a key of :data:`components.report.tables.MASKS`.
    """
    lines: list[Line] = []
    for scenario in results.scenarios:
        for network in results.networks(scenario):
            cells = results.seeds(network, scenario)
            places = [(site, label, "all", "all") for cell in cells for site, label in results.sites[cell]]
            places += [(site, "all", sex, age) for cell in cells for site, sex, age in results.people[cell]]
            places = list(dict.fromkeys(places))
            for place, (against, reduction) in product(places, product(sorted(MASKS, reverse=True), REDUCTIONS)):
                lines += _lines(results, cells, place, against, reduction)
    whole = len(lines) <= MOST
    return Table(
        "explorer",
        "Test results by network, scenario, site and label, sex or age",
        "Dice, its 95 % bootstrap interval below it"
        + (" or, of several seeds, each figure with its standard deviation" if results.several_seeds else "")
        + ". Per image: mean over images; pooled: the pixels of all images counted together, which gives no distances."
        + ("" if whole else " Single seeds are in results.json."),
        HEADS,
        [Column("Images"), *(Column(LABELS[metric]) for metric in METRICS)],
        [Group("", lines if whole else [line for line in lines if not line.seed])],
        filters={"Masks": masks, "Aggregation": REDUCTIONS["per_image"]},
    )


def _lines(
    results: Results, cells: list[Cell], place: tuple[str, str, str, str], masks: str, reduction: str
) -> list[Line]:
    rows = [results.row(cell, masks, reduction, "test", *place) for cell in cells]
    evaluated = [(cell, row) for cell, row in zip(cells, rows, strict=True) if row is not None]
    if not evaluated:
        return []
    figures = [(cell, [figure_of(row, metric) for metric in METRICS]) for cell, row in evaluated]
    site, *of = place
    group = next((one for one in of if one != "all"), "all")  # at most one of label, sex and age is set
    heads = (scenario_title(cells[0].scenario), site, group, masks, REDUCTIONS[reduction])
    # The number of images is not averaged over seeds, so it is added afterwards.
    images = Figure(max(row["n_images"] for _, row in evaluated), 0)
    return [replace(line, figures=[images, *line.figures]) for line in seed_lines(results, figures, heads)]
