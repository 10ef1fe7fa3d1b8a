"""Publish what has been measured: ``docs/results.md`` and every study's full tables, from the rows that are kept."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from components.files import write_file, write_folder
from components.publish import facts
from components.publish.studies import Study, read_studies
from components.report import paper, tables
from components.report.layout import Results, scenario_title
from components.report.page import render_markdown
from components.report.paired import Pair, compare
from components.report.text import digits_for, duration, figure_text, plain
from components.templating import environment as templates

RESAMPLES, SEED = 1000, 0  # of the paired bootstrap of the tables, as evaluate.bootstrap and evaluate.seed are shipped


def publish(results: Path, out: Path) -> list[str]:
    """Write the document of all studies, and one of full tables for each in the folder of the document's own name.

    Equal rows give equal bytes.

    Args:
        results: the folder of the studies (:mod:`components.publish.studies`).
        out: the document, ``docs/results.md``; the tables lie in ``docs/results/<study>.md``.

    Returns:
        The studies' names.

    Raises:
        UserError: a study is not whole, or a remark on a worst image is missing or stale.
    """
    studies = read_studies(results)
    pairs = {study.name: compare(study.cells, RESAMPLES, SEED) for study in studies}
    with write_folder(out.with_suffix("")) as folder:
        for study in studies:
            (folder / f"{study.name}.md").write_text(_tables(study, pairs[study.name]), encoding="utf-8")
    with write_file(out) as partial:
        partial.write_text(_document(studies, pairs, out), encoding="utf-8")
    return [study.name for study in studies]


def _tables(study: Study, pairs: list[Pair]) -> str:
    text = render_markdown(study.cohort, study.cells, pairs)
    return re.sub(r"^# .*", f"# {study.about.title}: all tables", text, count=1)


def _document(studies: list[Study], pairs: dict[str, list[Pair]], out: Path) -> str:
    environment = templates(Path(__file__).parent / "templates", html=False)
    environment.filters |= {
        "figure": figure_text,
        "duration": duration,
        "scenario": scenario_title,
        "plain": plain,
        "digits": digits_for,
    }
    parts = [_part(study, studies, pairs[study.name], out) for study in studies]
    text = environment.get_template("results.md.j2").render(
        parts=parts, source=paper.SOURCE, paper_epochs=facts.PAPER_EPOCHS, name=paper.name, folder=out.stem
    )
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _part(study: Study, studies: list[Study], pairs: list[Pair], out: Path) -> dict[str, Any]:
    results = Results(study.cells)
    runs = [data.run for data in study.cells]
    return {
        "study": study,
        "width": study.cells[0].config["width"],
        "size": study.cells[0].config["input"]["size"],
        "headlines": tables.headlines(results, study.masks),
        "several_seeds": results.several_seeds,
        "reached": facts.reached(study),
        "dropped": facts.dropped(study),
        "scenarios": facts.scenarios(study),
        "cases": facts.worst(study),
        "reaching": facts.reaching(study),
        "figures": [
            (facts.figure_title(path), Path(os.path.relpath(path, out.parent)).as_posix())
            for path in facts.figures(study)
        ],
        "pairs": [pair for pair in pairs if pair["masks"] == study.masks],
        "beside": [(other, facts.beside(study, other)) for other in studies if other.name in study.about.beside],
        "seconds": sum(float(run["training_seconds"]) for run in runs),
        "speed": (min(run["images_per_second"] for run in runs), max(run["images_per_second"] for run in runs)),
        "hardware": sorted({_hardware(run) for run in runs}),
        "precisions": sorted({str(run["precision"]) for run in runs}),
        "commits": sorted({str(run["commit"])[:7] + (" (changed)" if run["dirty"] else "") for run in runs}),
        "epochs": sorted({str(run["epochs"]) for run in runs}, key=int),
        "seeds": sorted({data.cell.seed for data in study.cells}),
    }


def _hardware(run: dict[str, Any]) -> str:
    machine = run["hardware"]
    return machine["gpu"] or f"{machine['cores']} cores of {machine['cpu']}"
