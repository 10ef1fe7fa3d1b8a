"""Publish the results of the studies: ``docs/results.md``, its figures, and one page per study."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from components.report import paper, tables
from components.report.layout import Results, Table, scenario_title
from components.report.page import render_markdown
from components.report.reliability import calibration_table
from components.report.text import digits_for, duration, figure_text
from core.files import write_file, write_folder
from core.templating import environment as templates
from tools.publish import charts, differences, facts, scores
from tools.publish.measured import read_cost, read_robustness
from tools.publish.statistics import RESAMPLES
from tools.publish.studies import Study, read_studies
from tools.publish.targets import reach, read_targets

SUMMARY = "summary.md"
PAGES = ("comparisons.md", "method.md")
FOREST, ABLATIONS, ROBUSTNESS, COST = "forest.svg", "ablations.svg", "robustness.svg", "cost.svg"


def publish(results: Path, out: Path) -> list[str]:
    """Write the page of all studies, one page per study, two more pages and the figures.

    Equal rows give equal bytes.

    Args:
        results: folder of the studies (:mod:`tools.publish.studies`), with the optional files ``summary.md``,
            ``targets.yaml`` and ``cost.csv``.
        out: the main page, ``docs/results.md``; other pages are in ``docs/results/``, figures in
            ``docs/results/figures/``.

    Returns:
        The studies' names.

    Raises:
        UserError: a study is incomplete, a file is invalid, or a remark on a worst image is missing or outdated.
    """
    studies = read_studies(results)
    dropped = {study.name: differences.dropped(study) for study in studies}
    with write_folder(out.with_suffix("")) as folder:
        for study in studies:
            text = _render("study.md.j2", **_part(study, dropped[study.name], out.with_suffix("")), page=out.name)
            (folder / f"{study.name}.md").write_text(text + _all_tables(study), encoding="utf-8")
        for name in PAGES:
            (folder / name).write_text(_render(f"{name}.j2", studies=_pairs(studies), page=out.name), encoding="utf-8")
        (folder / "figures").mkdir()
        page = _page(results, studies, dropped, folder / "figures")
    with write_file(out) as partial:
        partial.write_text(_render("results.md.j2", **page, folder=out.stem), encoding="utf-8")
    return [study.name for study in studies]


def _page(
    results: Path, studies: list[Study], dropped: dict[str, list[differences.Difference]], figures: Path
) -> dict[str, Any]:
    """Draw the figures of the page and return the variables of its template."""
    first = next(study for study in studies if study.about.headline)
    found = scores.scores(first)
    charts.forest(found, figures / FOREST)
    # Of several studies the page's first is used, else the last; for ablations the one with most.
    order = [*(study for study in studies if study is not first), first]
    ablated = max(
        (study for study in reversed(order) if dropped[study.name]),
        key=lambda study: len(dropped[study.name]),
        default=None,
    )
    if ablated:
        charts.ablations(dropped[ablated.name], ablated.about.ablations, figures / ABLATIONS)
    corrupted = {study.name: frame for study in order if (frame := read_robustness(study)) is not None}
    robust = next((study for study in reversed(order) if study.name in corrupted), None)
    if robust:
        charts.robustness(corrupted[robust.name], figures / ROBUSTNESS)
    cost = read_cost(results)
    if cost is not None:
        networks = set(charts.mean_dice(found))
        cost = cost[(cost["size"] == first.size) & (cost["width"] == first.width) & cost["network"].isin(networks)]
    if cost is not None and len(cost):
        charts.cost(cost, found, figures / COST)
    return {
        "summary": _summary(results / SUMMARY),
        "first": first,
        "scenarios": first.scenarios,
        "lines": [_line(first, network, found) for network in first.networks],
        "reach": reach(read_targets(results), studies),
        "folded": [(study, lines) for study in studies if (lines := scores.folded(study))],
        "ablated": ablated,
        "robust": robust,
        "hardware": sorted(cost["hardware"].unique()) if cost is not None else [],
        "studies": studies,
        "files": {"forest": FOREST, "ablations": ABLATIONS, "robustness": ROBUSTNESS, "cost": COST},
    }


def _summary(path: Path) -> str:
    """Return the summary with its links, which are relative to ``results/``, relative to the page in ``docs/``."""
    return path.read_text(encoding="utf-8").strip().replace("](../docs/", "](") if path.exists() else ""


def _line(study: Study, network: str, found: list[scores.Score]) -> dict[str, Any]:
    mine = {score.scenario: score for score in found if score.network == network}
    return {
        "network": network,
        "parameters": next(data.config["parameters"] for data in study.cells if data.cell.network == network),
        "scores": mine,
        "runs": sorted({score.runs for score in mine.values()}),
        "over": sorted({score.over for score in mine.values()}),
    }


def _part(study: Study, dropped: list[differences.Difference], folder: Path) -> dict[str, Any]:
    runs = [data.run for data in study.cells]
    return {
        "study": study,
        "scores": scores.scores(study),
        "folded": scores.folded(study),
        "bounds": tables.bounds(study.cells),
        "networks": differences.of_networks(study),
        "calibration": _calibration(study),
        "dropped": dropped,
        "cases": facts.worst(study),
        "reaching": facts.reaching(study),
        "figures": [
            (facts.figure_title(path), Path(os.path.relpath(path, folder)).as_posix()) for path in facts.figures(study)
        ],
        "rows": Path(os.path.relpath(study.folder, folder)).as_posix(),
        "seconds": sum(float(run["training_seconds"]) for run in runs),
        "speed": (min(run["images_per_second"] for run in runs), max(run["images_per_second"] for run in runs)),
        "hardware": sorted({_hardware(run) for run in runs}),
        "precisions": sorted({str(run["precision"]) for run in runs}),
        "commits": sorted({str(run["commit"])[:7] + (" (changed)" if run["dirty"] else "") for run in runs}),
        "epochs": sorted({str(run["epochs"]) for run in runs}, key=int),
        "seeds": sorted({data.cell.seed for data in study.cells}),
    }


def _all_tables(study: Study) -> str:
    # Omit comparisons: the main page has them, over all training runs.
    text = re.sub(r"^# .*", "# All tables", render_markdown(study.cohort, study.cells, []), count=1)
    # Stored cells have only the scored splits, which may lack training images.
    return text.replace(" X-rays with a mask (", " scored X-rays (", 1)


def _pairs(studies: list[Study]) -> list[dict[str, Any]]:
    return [
        {
            "study": study,
            "other": other,
            "stored": differences.common_column(study, other) != "dice",
            "lines": differences.beside(study, other),
        }
        for study in studies
        for other in studies
        if other.name in study.about.beside
    ]


def _render(template: str, **values: Any) -> str:
    environment = templates(Path(__file__).parent / "templates", html=False)
    environment.filters |= {
        "figure": figure_text,
        "duration": duration,
        "scenario": scenario_title,
        "digits": digits_for,
        "network": paper.name,
    }
    shared = {
        "source": paper.SOURCE,
        "paper_epochs": facts.PAPER_EPOCHS,
        "paper_images": facts.PAPER_IMAGES,
        "resamples": RESAMPLES,
    }
    text = environment.get_template(template).render(**shared, **values)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _calibration(study: Study) -> Table | None:
    # Evaluate computes these bins against original masks; earlier versions wrote none.
    if study.masks != "original" or any(data.reliability is None for data in study.cells):
        return None
    return calibration_table(study.cells, Results(study.cells))


def _hardware(run: dict[str, Any]) -> str:
    machine = run["hardware"]
    return machine["gpu"] or f"{machine['cores']} cores of {machine['cpu']}"
