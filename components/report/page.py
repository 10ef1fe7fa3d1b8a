"""From results to the page and the Markdown file: what the templates print, and how numbers are written."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import cv2
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from components.report import charts, paper, tables
from components.report.layout import Results, scenario_title
from components.report.load import Cohort, Evaluated, Overlay
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


def figure_text(value: float | None, digits: int = 4) -> str:
    """Return a figure as the tables print it; what is not defined is a dash."""
    return "–" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def duration(seconds: float | None) -> str:
    """Return seconds in words: ``48 s``, ``3 min 20 s``, ``2 h 05 min``."""
    if seconds is None:
        return "–"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def moment(text: Any) -> str:
    """Return an ISO time for reading, in UTC where it says its zone: ``2026-01-02 03:04 UTC``."""
    try:
        time = datetime.fromisoformat(str(text))
    except ValueError:
        return str(text)
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if time.tzinfo else f"{time:%Y-%m-%d %H:%M}"


def plain(value: Any) -> str:
    """Return a parameter's value for reading: lists with commas, nothing as a dash."""
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(plain(item) for item in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def picture(overlay: Overlay) -> str:
    """Return a picture as a data URI: its own PNG bytes, or WebP where these are too many."""
    data, kind = overlay.path.read_bytes(), "png"
    if len(data) > LARGEST_PNG:
        pixels = cv2.imread(str(overlay.path), cv2.IMREAD_COLOR)
        if pixels is None:
            raise ValueError(f"{overlay.path}: was a picture when the report began and is none now")
        data, kind = cv2.imencode(".webp", pixels, [cv2.IMWRITE_WEBP_QUALITY, 90])[1].tobytes(), "webp"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def render_markdown(cohort: Cohort, cells: list[Evaluated]) -> str:
    """Return ``results.md``: the tables and nothing that differs between two equal runs."""
    return _environment().get_template("results.md.j2").render(**_shared(cohort, cells))


def render_page(cohort: Cohort, cells: list[Evaluated]) -> str:
    """Return ``index.html``: one page with everything in it."""
    shared = _shared(cohort, cells)
    results: Results = shared["results"]
    by_scenario = {name: [data for data in cells if data.cell.scenario == name] for name in results.scenarios}
    differing, common = _recipes(cells, results)
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            **shared,
            runs=[_run(data, results) for data in cells],
            recipe=common,
            recipe_differences=differing,
            distributions=charts.dice_distributions(by_scenario, lambda data: results.named(data.cell)),
            curves={name: charts.learning_curves(name, found) for name, found in by_scenario.items()},
            rocs={name: charts.roc_curve(name, found) for name, found in by_scenario.items()},
            colours=[(paper.name(name), charts.colour_number(name)) for name in results.networks()],
            comparisons=_comparisons(cells, results),
            galleries=list(_galleries(cells, results)),
            figure_colours=FIGURE_COLOURS,
            worst_colours=WORST_COLOURS,
            started=min((moment(data.run["started"]) for data in cells if data.run.get("started")), default=None),
            foreign=_foreign(cohort, cells),
        )
    )


def _shared(cohort: Cohort, cells: list[Evaluated]) -> dict[str, Any]:
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


def _run(data: Evaluated, results: Results) -> dict[str, Any]:
    """Return what the table of runs prints of one cell; what the run does not tell is ``None``."""
    run = data.run
    told = run.get("hardware")
    hardware: dict[str, Any] = told if isinstance(told, dict) else {}
    memory = hardware.get("memory_gib")
    machine = [
        hardware.get("gpu"),
        hardware.get("cpu"),
        f"{hardware['cores']} cores" if hardware.get("cores") else None,
        f"{memory:.0f} GiB" if isinstance(memory, int | float) else None,
    ]
    return {
        "network": results.named(data.cell),
        "scenario": scenario_title(data.cell.scenario),
        "seed": data.cell.seed,
        "width": data.config.get("width"),
        "parameters": data.config.get("parameters"),
        "epochs": run.get("epochs"),
        "best_epoch": run.get("best_epoch"),
        "seconds": run.get("seconds"),
        "images_per_second": run.get("images_per_second"),
        "commit": str(run["commit"])[:10] if run.get("commit") else None,
        "dirty": bool(run.get("dirty")),
        "machine": ", ".join(str(part) for part in machine if part),
        "mlflow": run.get("mlflow_run_id"),
        "versions": run.get("versions") if isinstance(run.get("versions"), dict) else {},
    }


def _flat(value: dict[str, Any], before: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, dict):
            flat |= _flat(item, f"{before}{key}.")
        else:
            flat[before + key] = item
    return flat


def _recipes(cells: list[Evaluated], results: Results) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """Return what the cells' configurations differ in, {key: {cell: value}}, and what they have in common."""
    told_elsewhere = ("network", "scenario", "seed")
    configs = {
        f"{results.named(data.cell)}, {scenario_title(data.cell.scenario)}": {
            key: plain(value)
            for key, value in _flat(data.config).items()
            if key not in told_elsewhere and not key.startswith("cohort.")
        }
        for data in cells
    }
    keys = list(dict.fromkeys(key for config in configs.values() for key in config))
    differing: dict[str, dict[str, str]] = {}
    common: dict[str, str] = {}
    for key in keys:
        values = {cell: config.get(key, "–") for cell, config in configs.items()}
        if len(set(values.values())) == 1:
            common[key] = next(iter(values.values()))
        else:
            differing[key] = values
    return differing, common


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
        networks = [results.named(data.cell) for data in shown]
        comparisons.append(Comparison(_FIGURE_NUMBERS.get(site, "Further site"), site, networks, rows))
    return comparisons


def _galleries(cells: list[Evaluated], results: Results) -> Iterable[Gallery]:
    for data in cells:
        worst = [item for item in data.overlays if item.kind == "worst"]
        # An image whose Dice is not defined cannot be ranked and comes last.
        worst.sort(key=lambda item: (item.dice is None, item.dice or 0.0, item.id))
        if worst:
            yield Gallery(f"{results.named(data.cell)}, {scenario_title(data.cell.scenario)}", worst)
