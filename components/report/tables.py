"""The tables of the report, for the page and for Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev

from components.report import paper
from components.report.layout import Column, Figure, Group, Line, Results, Table, scenario_title
from components.report.load import Cohort, Evaluated, scenario_order
from core.cell import Cell
from core.cohort import SPLITS
from core.results import Row

MASKS = {"dilated": "dilated masks", "original": "original masks"}
REDUCTIONS = {"pooled": "pooled over pixels", "per_image": "mean over images"}

# The most likely scoring of the paper is first. In every row of its Tables II and III, F1 is below the harmonic mean of
# precision and recall, as for means over images or batches of two, but not for pooled pixels.
VARIANTS = (("dilated", "per_image"), ("original", "per_image"), ("dilated", "pooled"), ("original", "pooled"))

LABELS = {
    "dice": "Dice",
    "accuracy": "Accuracy",
    "jaccard": "Jaccard",
    "paper_iou": "paper’s IOU",
    "precision": "Precision",
    "recall": "Recall",
    "f1": "F1",
    "auc": "AUC",
    "hd95": "HD95, px",
    "assd": "ASSD, px",
    "soft_dice": "Soft Dice",
    "soft_dice_batch2": "Soft Dice",
    "stored_dice": "Stored Dice",
    "stored_hd95": "HD95, stored px",
    "stored_assd": "ASSD, stored px",
    "nsd2": "NSD 2 px",
    "nsd4": "NSD 4 px",
}
DISTANCES = ("hd95", "assd", "stored_hd95", "stored_assd")  # pixels
SOFT = ("soft_dice_batch2",)
SOFT_NOTE = (
    " The paper’s “Dice coefficient” is soft: minus its loss (Eq. 2), of probabilities and, most likely, of batches of "
    "2 images. “Soft Dice” here is taken so, “Dice” from the masks that are drawn."
)

THEIRS_BESIDE = "Each figure is ours, the paper’s with it."


@dataclass(frozen=True)
class Headline:
    """Test Dice of one network: mean over images against one kind of masks, then over seeds.

    ``key`` is the project's name of the network, ``network`` the name to print; ``seeds`` is the number of seeds.
    """

    key: str
    network: str
    seeds: int
    images: int
    dice: Figure


class _Notes:
    """Footnotes of one table, numbered in order of first use."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def number(self, table: str, network: str, metric: str) -> tuple[int, ...]:
        text = paper.NOTES.get((table, network, metric))
        if text is None:
            return ()
        if text not in self.texts:
            self.texts.append(text)
        return (self.texts.index(text) + 1,)


def _variant_title(masks: str, reduction: str) -> str:
    closest = " (closest to how the paper scored)" if (masks, reduction) == VARIANTS[0] else ""
    return f"Against {MASKS[masks]}, {REDUCTIONS[reduction]}{closest}"


def figure_of(row: Row | None, metric: str, theirs: float | None = None, notes: tuple[int, ...] = ()) -> Figure:
    """Return one metric of a row, Dice with its interval; undefined if there is no row."""
    digits = 2 if metric in DISTANCES else 4
    if row is None:
        return Figure(None, digits, theirs, notes=notes)
    values: dict[str, float | None] = dict(row)  # type: ignore[arg-type]
    ends = row["dice_ci95"] if metric == "dice" else None
    interval = (ends[0], ends[1]) if ends else None
    return Figure(values[metric], digits, theirs, interval, notes=notes, few=metric == "dice" and row["few"])


def mean_figure(figures: Sequence[Figure]) -> Figure:
    """Return mean and standard deviation over seeds; undefined if one seed's value is undefined."""
    values = [figure.value for figure in figures if figure.value is not None]
    first, few = figures[0], any(figure.few for figure in figures)
    if len(values) < len(figures):
        return Figure(None, first.digits, first.paper, notes=first.notes, few=few)
    return Figure(fmean(values), first.digits, first.paper, deviation=stdev(values), notes=first.notes, few=few)


def seed_lines(results: Results, per_seed: list[tuple[Cell, list[Figure]]], more: tuple[str, ...] = ()) -> list[Line]:
    """Return one line per seed; with several seeds the first line is their mean and standard deviation.

    Then only the mean has the paper's values, because the paper does not name its seed. ``more`` are the texts of the
    head columns after the network's name.
    """
    if len(per_seed) == 1:
        return [Line((results.named(cell), *more), figures) for cell, figures in per_seed]
    columns = zip(*(figures for _, figures in per_seed), strict=True)
    lines = [
        Line((results.named_all([cell for cell, _ in per_seed]), *more), [mean_figure(column) for column in columns])
    ]
    for cell, figures in per_seed:
        lines.append(Line((results.named(cell), *more), [replace(f, paper=None, notes=()) for f in figures], seed=True))
    return lines


def _theirs(metric: str) -> str:
    """Return the paper's name of a metric, see :data:`SOFT_NOTE`."""
    return "dice" if metric == "soft_dice_batch2" else metric


def mixed_table(results: Results, split: str) -> Table:
    """Return Table I (``train``), II (``validation``) or III (``test``): scenario mixed, with the paper's values."""
    numeral, what = {"train": ("I", "training"), "validation": ("II", "validation"), "test": ("III", "test")}[split]
    soft = results.defined(SOFT)
    metrics = ("dice", *soft, "accuracy", "jaccard", "paper_iou", "precision", "recall", "f1", "auc")
    notes = _Notes()
    columns = [Column(LABELS[metric], notes.number(split, "*", metric)) for metric in metrics]
    # Splits to score are a parameter: a network without rows of this split counts as not in this run.
    here = [
        network
        for network in results.networks("mixed")
        if any(results.row(cell, *VARIANTS[0], split) for cell in results.seeds(network, "mixed"))
    ]

    def figures(network: str, row: Row | None) -> list[Figure]:
        theirs = paper.MIXED[split].get(network, {})
        named = [(metric, _theirs(metric)) for metric in metrics]
        return [figure_of(row, ours, theirs.get(its), notes.number(split, network, its)) for ours, its in named]

    groups = []
    for masks, reduction in VARIANTS if here else ():
        lines: list[Line] = []
        for network in here:
            cells = results.seeds(network, "mixed")
            lines += seed_lines(
                results, [(cell, figures(network, results.row(cell, masks, reduction, split))) for cell in cells]
            )
        groups.append(Group(_variant_title(masks, reduction), lines))
    absent = [network for network in paper.NAMES if network not in here]
    if absent:
        lines = [Line((paper.name(network),), figures(network, None)) for network in absent]
        groups.append(Group("Not in this run: the paper’s figures alone", lines, alone=True))
    caption = f"Scenario mixed, {what} images. {THEIRS_BESIDE}{SOFT_NOTE if soft else ''}"
    if split == "train":
        caption += " Training images are scored without augmentation, by the finished network."
    return Table(
        f"table-{numeral.lower()}", f"Table {numeral}: {what} result", caption, ("Network",), columns, groups,
        notes=notes.texts,
    )  # fmt: skip


def across_table(results: Results) -> Table | None:
    """Return Table IV: trained on one site, tested on another; ``None`` if no such scenario was evaluated."""
    evaluated = [scenario for scenario in results.scenarios if scenario != "mixed"]
    if not evaluated:
        return None
    scenarios = sorted({*evaluated, *paper.ACROSS}, key=scenario_order)
    soft = results.defined(SOFT)
    metrics = ("dice", *soft, "f1")
    notes = _Notes()

    def figures(network: str, seed: int | None, masks: str, reduction: str) -> list[Figure]:
        found: list[Figure] = []
        for scenario in scenarios:
            theirs = paper.ACROSS.get(scenario, {}).get(network, {})
            row = None if seed is None else results.row(Cell(network, scenario, seed), masks, reduction)
            for metric in metrics:
                name = _theirs(metric)
                found.append(figure_of(row, metric, theirs.get(name), notes.number(scenario, network, name)))
        return found

    here = [network for network in results.networks() if any(results.seeds(network, name) for name in evaluated)]
    groups = []
    for masks, reduction in VARIANTS:
        lines: list[Line] = []
        for network in here:
            cells = {cell.seed: cell for name in evaluated for cell in results.seeds(network, name)}
            lines += seed_lines(
                results, [(cells[seed], figures(network, seed, masks, reduction)) for seed in sorted(cells)]
            )
        groups.append(Group(_variant_title(masks, reduction), lines))
    absent = [network for network in paper.NAMES if network not in here]
    if absent:
        lines = [Line((paper.name(network),), figures(network, None, "", "")) for network in absent]
        groups.append(Group("Not in this run: the paper’s figures alone", lines, alone=True))
    return Table(
        "table-iv",
        "Table IV: test result across sites",
        f"Trained on the first site, tested on the second. {THEIRS_BESIDE}" + (SOFT_NOTE if soft else ""),
        ("Network",),
        [Column(LABELS[metric]) for _ in scenarios for metric in metrics],
        groups,
        [(scenario_title(scenario), len(metrics)) for scenario in scenarios],
        notes.texts,
    )


def data_table(cohort: Cohort) -> Table:
    """Return the table of the numbers of X-rays by site, label, scenario and split."""
    manifest = cohort.manifest
    places = sorted(set(zip(manifest["site"], manifest["label"], strict=True)))
    where = dict(zip(manifest["id"], zip(manifest["site"], manifest["label"], strict=True), strict=True))

    def line(heads: tuple[str, str], counted: set[tuple[str, str]]) -> Line:
        figures = [Figure(sum(place in counted for place in where.values()), 0)]
        for split in cohort.splits.values():
            figures += [Figure(sum(where.get(id) in counted for id in split[name]), 0) for name in SPLITS]
        return Line(heads, figures)

    lines = [line(place, {place}) for place in places]
    return Table(
        "data",
        "X-rays with a mask, by site, label and split",
        "Splits are frozen, stratified by site and label, with no picture in two of them.",
        ("Site", "Label"),
        [Column("All")] + [Column(name.capitalize()) for _ in cohort.splits for name in SPLITS],
        [Group("", lines), Group("", [line(("all", "all"), set(places))])],
        [("", 1), *((scenario_title(scenario), len(SPLITS)) for scenario in cohort.splits)],
    )


def trained_masks(cells: Sequence[Evaluated]) -> str:
    """Return the kind of masks that all networks were trained on; original if they differ."""
    kinds = {data.config["train"]["masks"] for data in cells}
    return "dilated" if kinds == {"dilated"} else "original"


def bounds(cells: Sequence[Evaluated]) -> dict[str, float]:
    """Return by scenario the Dice of the original masks against the dilated ones, mean over test images.

    This is approximately the best score against dilated masks for a network trained on original masks.
    """
    found = {}
    for data in cells:
        test = data.cases[data.cases["split"] == "test"]
        area = {kind: of.set_index("id")[["tp", "fn"]].sum(axis=1) for kind, of in test.groupby("masks")}
        if set(area) == set(MASKS):
            found[data.cell.scenario] = float((2 * area["original"] / (area["original"] + area["dilated"])).mean())
    return {scenario: found[scenario] for scenario in sorted(found, key=scenario_order)}


def headlines(results: Results, masks: str) -> dict[str, list[Headline]]:
    """Return the main results by scenario: test Dice per image against ``masks``."""
    found: dict[str, list[Headline]] = {}
    for scenario in results.scenarios:
        theirs = paper.MIXED["test"] if scenario == "mixed" else paper.ACROSS.get(scenario, {})
        for network in results.networks(scenario):
            cells = results.seeds(network, scenario)
            rows = [results.row(cell, masks, "per_image") for cell in cells]
            figures = [figure_of(row, "dice", theirs.get(network, {}).get("dice")) for row in rows]
            found.setdefault(scenario, []).append(
                Headline(
                    network,
                    results.named_all(cells),
                    len(cells),
                    max(row["n_images"] if row else 0 for row in rows),
                    figures[0] if len(figures) == 1 else mean_figure(figures),
                )
            )
    return found
