"""Render the results as a web page and as Markdown."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment

from components.report import paper, tables
from components.report.explorer import explorer_table
from components.report.layout import FEW_NOTE, Results, scenario_title
from components.report.load import Cohort, Evaluated
from components.report.once import paper_once
from components.report.paired import Pair, paired_tables
from components.report.pictures import Places, XRays, comparisons, galleries, picture, within
from components.report.places import STORED_METRICS, place_table, stored_table
from components.report.reliability import calibration_table
from components.report.runs import recipes, run_line
from components.report.sheet import sheet_rules
from components.report.text import figure_text, parts, plain
from core.cohort import Arrays
from core.results import DIFFERENCE_COLOURS, FIGURE_COLOURS
from core.templating import environment as templates

# Size of the page in bytes; the contact sheet uses what the rest of the page leaves.
LIMIT = 3_000_000
PICTURES = 1_000_000  # bytes for the worst and best cases
_SHEET = "/* the contact sheet */"  # placeholder; the size of the rendered page determines the size of the sheet

# Views of the case viewer: colour of each region, RGB 0 to 255; missing regions are not drawn.
TRUTH, PREDICTION = (86, 180, 233), (230, 159, 0)
VIEWS = {
    "xray": {},
    "truth": {"true positive": TRUTH, "false negative": TRUTH},
    "prediction": {"true positive": PREDICTION, "false positive": PREDICTION},
    "difference": DIFFERENCE_COLOURS,
}


@cache
def _environment() -> Environment:
    environment = templates(Path(__file__).parent / "templates", html=True)
    environment.filters |= {
        "figure": figure_text,
        "count": lambda value: "–" if value is None else f"{value:,}",
        "plain": plain,
        "parts": parts,
        "superscript": lambda numbers: "".join("⁰¹²³⁴⁵⁶⁷⁸⁹"[int(digit)] for n in numbers for digit in str(n)),
        "cellsafe": lambda text: str(text).replace("|", "\\|").replace("\n", " "),
        "rgb": lambda colour: "rgb({}, {}, {})".format(*colour),
        "picture": picture,
    }
    return environment


def render_markdown(cohort: Cohort, cells: list[Evaluated], pairs: list[Pair]) -> str:
    """Return ``results.md``, the tables in Markdown; equal runs give equal text."""
    return _environment().get_template("results.md.j2").render(**_shared(cohort, cells, pairs))


def render_page(cohort: Cohort, cells: list[Evaluated], pairs: list[Pair], arrays: Arrays) -> str:
    """Return ``index.html``, one self-contained page; ``arrays`` are the X-rays for the contact sheet."""
    # Imported here because altair is slow to import, and tools that only read a report do not need it.
    from components.report import charts, curves, spread

    shared = _shared(cohort, cells, pairs)
    results: Results = shared["results"]
    masks: str = shared["headline_masks"]
    by_scenario = {name: [data for data in cells if data.cell.scenario == name] for name in results.scenarios}
    differing, lines, common = recipes(cells, results)
    runs = [run_line(data, results) for data in cells]
    figures, shown = comparisons(cells, results), within(galleries(cells, results), PICTURES)
    every = [one for found in shown.values() for one in found]
    cases = [item for one in every for item in one.worst + one.best]
    in_figures = [item for one in figures for _, row in one.rows for item in row if item]
    ranked = {name: spread.best_first(found) for name, found in shared["headlines"].items()}
    dotted, sampled = spread.drawn(by_scenario, ranked)
    tested = dotted if every else []
    places = Places(every, tested)
    rankings = [spread.ranking(name, found, masks, results, places) for name, found in ranked.items()]
    rocs = [curves.roc_curves(name, found, results) for name, found in by_scenario.items()]
    page = (
        _environment()
        .get_template("page.html.j2")
        .render(
            **shared | {"paper_tables": [paper_once(table) for table in shared["paper_tables"]]},
            ranked=ranked,
            headlines_few=FEW_NOTE if any(found[0].dice.few for found in ranked.values()) else "",
            runs=runs,
            recipe=common,
            differing=differing,
            recipe_lines=lines,
            rankings=[chart for chart in rankings if chart],
            distributions=spread.dice_distributions(by_scenario, ranked, places),
            curves={name: curves.learning_curves(name, found, results) for name, found in by_scenario.items()},
            rocs=[chart for part in zip(*rocs, strict=True) for chart in part],  # enlarged corners below the curves
            explorer=explorer_table(results, masks),
            reliability=[curves.reliability_curve(name, found, results) for name, found in by_scenario.items()],
            calibration=calibration_table(cells, results),
            comparisons=figures,
            galleries=shown,
            places=places,
            sampled=(spread.MOST_DOTS, spread.LOWEST) if sampled else None,
            xrays=XRays(cases + in_figures),
            figure_colours=FIGURE_COLOURS,
            difference_colours=DIFFERENCE_COLOURS,
            views=VIEWS,
            foreign=sorted({data.config["cohort"]["name"] for data in cells} - {cohort.name}),
            libraries=charts.libraries(),
            sheet=_SHEET,
        )
    )
    return page.replace(_SHEET, sheet_rules(arrays.images[arrays.rows(tested)], LIMIT - len(page.encode())))


def _shared(cohort: Cohort, cells: list[Evaluated], pairs: list[Pair]) -> dict[str, Any]:
    results = Results(cells)
    across = tables.across_table(results)
    masks = tables.trained_masks(cells)
    return {
        "cohort": cohort,
        "results": results,
        "headlines": tables.headlines(results, masks),
        "headline_masks": masks,
        "bounds": tables.bounds(cells) if masks == "original" and (cohort.kernel is None or cohort.kernel > 1) else {},
        "scenario_title": scenario_title,
        "paper_tables": [
            *(tables.mixed_table(results, split) for split in ("train", "validation", "test")),
            *([across] if across else []),
        ],
        "paired_tables": paired_tables(pairs),
        "place_tables": [place_table(results, name) for name in results.scenarios],
        "stored_tables": [stored_table(results, name) for name in results.scenarios if results.defined(STORED_METRICS)],
        "data": tables.data_table(cohort),
        "sites": {str(site): int(count) for site, count in cohort.manifest["site"].value_counts().sort_index().items()},
        "networks": [paper.name(name) for name in results.networks()],
        "widths": sorted({plain(data.config["width"]) for data in cells}),
        "trained_masks": sorted({data.config["train"]["masks"] for data in cells}),
        "source": paper.SOURCE,
    }
