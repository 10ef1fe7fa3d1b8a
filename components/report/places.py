"""The tables by site and label: where a network is good, with boundary distances and figures at the stored size."""

from __future__ import annotations

from components.report.layout import Column, Figure, Group, Line, Results, Table, scenario_title
from components.report.tables import LABELS, MASKS, figure_of, mean_figure
from components.results import Cell

PLACE_METRICS = ("dice", "stored_dice", "soft_dice", "jaccard", "nsd2", "nsd4", "hd95", "assd")


def place_table(results: Results, scenario: str) -> Table:
    """Return the test figures of one scenario by site and label, with boundary distances, mean over images."""
    columns, spans = [Column("Images")], [("", 1)]
    for masks in ("original", "dilated"):
        columns += [Column(LABELS[metric]) for metric in PLACE_METRICS]
        spans.append((f"Against {MASKS[masks]}", len(PLACE_METRICS)))
    groups = []
    for network in results.networks(scenario):
        cells = results.seeds(network, scenario)
        parts = [_places(results, cell) for cell in cells]
        if len(cells) > 1:
            groups.append(Group(results.named_all(cells), _mean_places(parts)))
        groups += [
            Group(results.named(cell), part, seed=len(cells) > 1) for cell, part in zip(cells, parts, strict=True)
        ]
    of_seeds = " or, of several seeds, their standard deviation below each figure" if results.several_seeds else ""
    return Table(
        f"places-{scenario}",
        f"{scenario_title(scenario)}: by site and label",
        f"Test images, mean over images, 95 % bootstrap interval below Dice{of_seeds}. HD95 and ASSD in pixels at the "
        "network’s size; Dice at the stored size and NSD, the share of the outlines that is right to within 2 and 4 "
        "pixels of 512, are of masks drawn at the picture’s own size.",
        ("Site", "Label"),
        columns,
        groups,
        spans,
    )


def _places(results: Results, cell: Cell) -> list[Line]:
    lines = []
    for site, label in results.sites[cell]:
        by_masks = {
            masks: results.row(cell, masks, "per_image", site=site, label=label) for masks in ("original", "dilated")
        }
        counted = by_masks["original"] or by_masks["dilated"]
        figures = [Figure(counted["n_images"] if counted else None, 0)]
        figures += [figure_of(row, metric) for row in by_masks.values() for metric in PLACE_METRICS]
        lines.append(Line((site, label), figures))
    return lines


def _mean_places(parts: list[list[Line]]) -> list[Line]:
    """Return the mean over seeds of every place that all of them have; the number of images stays as it is."""
    by_place = [{line.heads: line for line in part} for part in parts]
    lines = []
    for first in parts[0]:
        same = [found[first.heads] for found in by_place if first.heads in found]
        if len(same) == len(parts):
            means = [mean_figure(column) for column in zip(*(line.figures[1:] for line in same), strict=True)]
            lines.append(Line(first.heads, [first.figures[0], *means]))
    return lines
