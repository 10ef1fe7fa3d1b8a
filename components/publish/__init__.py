"""Publish what has been measured: ``docs/results.md`` and every study's full tables, from the rows that are kept."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from components.files import write_file, write_folder
from components.publish import differences, facts
from components.publish.studies import Study, read_studies
from components.report import paper, tables
from components.report.layout import Results, Table, scenario_title
from components.report.page import render_markdown
from components.report.paired import REFERENCE
from components.report.reliability import calibration_table
from components.report.text import digits_for, duration, figure_text, plain
from components.templating import environment as templates

SUMMARY = "summary.md"


def publish(results: Path, out: Path) -> list[str]:
    """Write the document of all studies, and one of full tables for each in the folder of the document's own name.

    Equal rows give equal bytes.

    Args:
        results: the folder of the studies (:mod:`components.publish.studies`) and, if somebody wrote it, of
            ``summary.md``: what they come to in words.
        out: the document, ``docs/results.md``; the tables lie in ``docs/results/<study>.md``.

    Returns:
        The studies' names.

    Raises:
        UserError: a study is not whole, or a remark on a worst image is missing or stale.
    """
    studies = read_studies(results)
    with write_folder(out.with_suffix("")) as folder:
        for study in studies:
            (folder / f"{study.name}.md").write_text(_tables(study, out.name), encoding="utf-8")
    with write_file(out) as partial:
        partial.write_text(_document(studies, results, out), encoding="utf-8")
    return [study.name for study in studies]


def _tables(study: Study, name: str) -> str:
    # Comparisons are those of the document, over all trainings.
    text = render_markdown(study.cohort, study.cells, [])
    head = f"# {study.about.title}: all tables\n\nWhat they come to: [{name}](../{name}#{study.name})."
    return re.sub(r"^# .*", head, text, count=1)


def _document(studies: list[Study], results: Path, out: Path) -> str:
    environment = templates(Path(__file__).parent / "templates", html=False)
    environment.filters |= {
        "figure": figure_text,
        "duration": duration,
        "scenario": scenario_title,
        "plain": plain,
        "digits": digits_for,
    }
    summary = results / SUMMARY
    text = environment.get_template("results.md.j2").render(
        summary=summary.read_text(encoding="utf-8") if summary.exists() else "",
        parts=[_part(study, studies, out) for study in studies],
        source=paper.SOURCE,
        paper_epochs=facts.PAPER_EPOCHS,
        paper_images=facts.PAPER_IMAGES,
        reference=REFERENCE,
        name=paper.name,
        folder=out.stem,
    )
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _part(study: Study, studies: list[Study], out: Path) -> dict[str, Any]:
    runs = [data.run for data in study.cells]
    return {
        "study": study,
        "width": study.cells[0].config["width"],
        "size": study.cells[0].config["input"]["size"],
        "tested": facts.tested(study),
        "bounds": tables.bounds(study.cells),
        "networks": differences.of_networks(study),
        "beside": [(one, differences.beside(study, one)) for one in studies if one.name in study.about.beside],
        "calibration": _calibration(study),
        "dropped": differences.dropped(study),
        "cases": facts.worst(study),
        "reaching": facts.reaching(study),
        "figures": [
            (facts.figure_title(path), Path(os.path.relpath(path, out.parent)).as_posix())
            for path in facts.figures(study)
        ],
        "seconds": sum(float(run["training_seconds"]) for run in runs),
        "speed": (min(run["images_per_second"] for run in runs), max(run["images_per_second"] for run in runs)),
        "hardware": sorted({_hardware(run) for run in runs}),
        "precisions": sorted({str(run["precision"]) for run in runs}),
        "commits": sorted({str(run["commit"])[:7] + (" (changed)" if run["dirty"] else "") for run in runs}),
        "epochs": sorted({str(run["epochs"]) for run in runs}, key=int),
        "seeds": sorted({data.cell.seed for data in study.cells}),
    }


def _calibration(study: Study) -> Table | None:
    # Evaluate counts these bins against original masks, and an earlier version left none.
    if study.masks != "original" or any(data.reliability is None for data in study.cells):
        return None
    return calibration_table(study.cells, Results(study.cells))


def _hardware(run: dict[str, Any]) -> str:
    machine = run["hardware"]
    return machine["gpu"] or f"{machine['cores']} cores of {machine['cpu']}"
