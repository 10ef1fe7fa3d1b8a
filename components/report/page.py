"""From results to the page and the Markdown file: what the templates print, and how numbers are written."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from components.report import charts, paper, tables
from components.report.layout import Results, scenario_title
from components.report.load import Cohort, Evaluated, Overlay
from components.report.paired import Pair, paired_tables
from components.report.runs import columns_apart, recipes, run_line
from components.report.text import duration, figure_text, moment, plain
from components.results import FIGURE_COLOURS, WORST_COLOURS

# Above this a picture is embedded as WebP of quality 90: a run of seven networks at 512 pixels holds hundreds of
# overlays of 300 KiB each, and a page of 100 MB is not opened by anyone.
LARGEST_PNG = 64 * 1024

_FIGURE_NUMBERS = {"shenzhen": "Figure 5", "montgomery": "Figure 6"}


@dataclass(frozen=True)
class Comparison:
    """Figure 5 or 6: the X-rays of one site, one row each, with the prediction of every network side by side."""

    title: str
    site: str
    networks: list[str]
    seeds: list[int]
    rows: list[tuple[Overlay, list[Overlay | None]]]


@dataclass(frozen=True)
class Gallery:
    """The worst test images of one cell, worst first."""

    title: str
    overlays: list[Overlay]


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "figure": figure_text,
        "count": lambda value: "–" if value is None else f"{value:,}",
        "duration": duration,
        "plain": plain,
        "superscript": lambda numbers: "".join("⁰¹²³⁴⁵⁶⁷⁸⁹"[int(digit)] for n in numbers for digit in str(n)),
        "cellsafe": lambda text: str(text).replace("|", "\\|").replace("\n", " "),
        "rgb": lambda colour: "rgb({}, {}, {})".format(*colour),
        "picture": picture,
        "drawing": Markup,  # matplotlib's own markup: it escapes the names that it writes
    }
    return environment


def picture(overlay: Overlay) -> str:
    """Return a picture as a data URI: its own PNG bytes, or WebP where these are too many."""
    data, kind = overlay.path.read_bytes(), "png"
    if len(data) > LARGEST_PNG:
        pixels = cv2.imread(str(overlay.path), cv2.IMREAD_COLOR)
        if pixels is None:
            raise ValueError(f"{overlay.path}: was a picture when the report began and is none now")
        data, kind = cv2.imencode(".webp", pixels, [cv2.IMWRITE_WEBP_QUALITY, 90])[1].tobytes(), "webp"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def render_markdown(cohort: Cohort, cells: list[Evaluated], pairs: list[Pair]) -> str:
    """Return ``results.md``: the tables and nothing that differs between two equal runs."""
    return _environment().get_template("results.md.j2").render(**_shared(cohort, cells, pairs))


def render_page(cohort: Cohort, cells: list[Evaluated], pairs: list[Pair]) -> str:
    """Return ``index.html``: one page with everything in it."""
    shared = _shared(cohort, cells, pairs)
    results: Results = shared["results"]
    by_scenario = {name: [data for data in cells if data.cell.scenario == name] for name in results.scenarios}
    differing, lines, common = recipes(cells, results)
    runs = [run_line(data, results) for data in cells]
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            **shared,
            runs=runs,
            run_columns=columns_apart(runs),
            recipe=common,
            differing=differing,
            recipe_lines=lines,
            distributions=charts.dice_distributions(by_scenario),
            curves={name: charts.learning_curves(name, found) for name, found in by_scenario.items()},
            dashes=any(len(found) <= charts.TOGETHER for found in by_scenario.values()),
            rocs={name: charts.roc_curve(name, found) for name, found in by_scenario.items()},
            colours=[(paper.name(name), charts.colour_number(name)) for name in results.networks()],
            comparisons=_comparisons(cells, results),
            galleries=_galleries(cells, results),
            figure_colours=FIGURE_COLOURS,
            worst_colours=WORST_COLOURS,
            started=min((moment(data.run["started"]) for data in cells if data.run.get("started")), default=None),
            foreign=_foreign(cohort, cells),
        )
    )


def _shared(cohort: Cohort, cells: list[Evaluated], pairs: list[Pair]) -> dict[str, Any]:
    results = Results(cells)
    across = tables.across_table(results)
    return {
        "cohort": cohort,
        "results": results,
        "headlines": tables.headlines(results),
        "scenario_title": scenario_title,
        "paper_tables": [
            *(tables.mixed_table(results, split) for split in ("train", "validation", "test")),
            *([across] if across else []),
        ],
        "paired_tables": paired_tables(pairs),
        "place_tables": [tables.place_table(results, name) for name in results.scenarios],
        "data": tables.data_table(cohort),
        "sites": {str(site): int(count) for site, count in cohort.manifest["site"].value_counts().sort_index().items()},
        "networks": [paper.name(name) for name in results.networks()],
        "widths": _values(cells, "width"),
        "trained_masks": sorted({str(_section(data, "train").get("masks") or "–") for data in cells}),
        "source": paper.SOURCE,
    }


def _section(data: Evaluated, name: str) -> dict[str, Any]:
    value = data.config.get(name)
    return value if isinstance(value, dict) else {}


def _values(cells: Iterable[Evaluated], name: str) -> list[str]:
    return sorted({plain(data.config.get(name)) for data in cells})


def _foreign(cohort: Cohort, cells: list[Evaluated]) -> list[str]:
    """Return the names of other cohorts that a network was trained on."""
    names = {str(_section(data, "cohort").get("name") or cohort.name) for data in cells}
    return sorted(names - {cohort.name}) if cohort.name else []


def _comparisons(cells: list[Evaluated], results: Results) -> list[Comparison]:
    """Return Figures 5 and 6 from the mixed scenario, as in the paper; of several seeds the first."""
    shown = [data for data in cells if data.cell.scenario == "mixed"]
    shown = [data for data in shown if data.cell == results.seeds(data.cell.network, "mixed")[0]]
    by_cell = [{(item.site, item.id): item for item in data.overlays if item.kind == "figure"} for data in shown]
    places = list(dict.fromkeys(place for found in by_cell for place in found))
    sites = sorted({site for site, _ in places}, key=lambda site: (_FIGURE_NUMBERS.get(site, "Further site"), site))
    comparisons = []
    for site in sites:
        rows = []
        for place in places:
            if place[0] == site:
                drawn = [found.get(place) for found in by_cell]
                rows.append((next(item for item in drawn if item), drawn))
        networks = [paper.name(data.cell.network) for data in shown]
        seeds = sorted({data.cell.seed for data in shown}) if results.several_seeds else []
        comparisons.append(Comparison(_FIGURE_NUMBERS.get(site, "Further site"), site, networks, seeds, rows))
    return comparisons


def _galleries(cells: list[Evaluated], results: Results) -> dict[str, list[Gallery]]:
    """Return the galleries by the title of their scenario."""
    galleries: dict[str, list[Gallery]] = {}
    for data in cells:
        worst = [item for item in data.overlays if item.kind == "worst"]
        # An image whose Dice is not defined cannot be ranked and comes last.
        worst.sort(key=lambda item: (item.dice is None, item.dice or 0.0, item.id))
        if worst:
            scenario = scenario_title(data.cell.scenario)
            galleries.setdefault(scenario, []).append(Gallery(f"{results.named(data.cell)}, {scenario}", worst))
    return galleries
