"""``python -m tools.publish.archive``: store the rows of finished cells, and small images, in the repository."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from components.report.load import find_cells
from core import cli
from core.cell import CASES, HISTORY, PROVENANCE, RELIABILITY, ROWS, RUN, SCORED, Cell
from core.errors import UserError
from core.files import read_json, write_folder, write_json
from core.params import EvaluateParams, read_params
from core.runs import read_run
from model.weights import CONFIG
from tools.publish import pictures
from tools.publish.facts import DIGITS
from tools.publish.measured import ROBUSTNESS
from tools.publish.studies import ABLATIONS, FIGURES


def keep(
    evaluations: Path,
    models: Path,
    out: Path,
    arrays: Path | None = None,
    params: EvaluateParams | None = None,
    only: Cell | None = None,
) -> list[Path]:
    """Copy the records of each evaluated cell: rows, cases (rounded), history, configuration and run.

    Weights, arrays and images are not copied. Cells that are already stored are replaced.

    Args:
        evaluations: folder of the cells' evaluations.
        models: folder of the cells' models.
        out: folder of the study or of one of its ablations.
        arrays: the preprocessed cohort, to draw Figures 5 and 6 and the worst images; None: do not draw them.
        params: section ``evaluate`` of the parameters, for the drawings.
        only: store only this cell.

    Returns:
        The folders written.

    Raises:
        UserError: a cell is not finished, or its ``run.json`` is missing.
    """
    cells = find_cells(evaluations, [only] if only else None)
    missing = [str(models / cell.folder) for cell in cells if not (models / cell.folder / PROVENANCE).exists()]
    if missing:
        raise UserError(f"{evaluations}: evaluated, but the models are missing", missing)
    runs = {cell: read_run(models / cell.folder) for cell in cells}
    if unknown := [str(models / cell.folder) for cell, run in runs.items() if not run]:
        raise UserError(
            "run.json, what a training took and where, is not recorded here for these weights; keep them where they "
            "were trained",
            unknown,
        )
    for cell in cells:
        with write_folder(out / cell.folder) as folder:
            cases = pd.read_csv(evaluations / cell.folder / CASES, dtype={"id": "string"})
            cases.round(DIGITS).to_csv(folder / CASES, index=False)
            rows = [json.dumps(row) for row in read_json(evaluations / cell.folder / ROWS)]
            (folder / ROWS).write_text("[\n" + ",\n".join(rows) + "\n]\n")  # one row per line, for diffs
            for name in (CONFIG, PROVENANCE):
                shutil.copy(models / cell.folder / name, folder)
            history = pd.read_csv(models / cell.folder / HISTORY)
            history.merge(pd.DataFrame(runs[cell]["per_epoch"]), on="epoch").to_csv(folder / HISTORY, index=False)
            # Omit the folder of unsent MLflow records: it is a path of the training machine.
            record = {key: value for key, value in runs[cell].items() if key not in ("mlflow_records", "per_epoch")}
            write_json(folder / RUN, record)
            for name in (RELIABILITY, SCORED):
                shutil.copy(evaluations / cell.folder / name, folder)
            if (evaluations / cell.folder / ROBUSTNESS).exists():  # optional, from benchmarks.robustness
                shutil.copy(evaluations / cell.folder / ROBUSTNESS, folder)
    if arrays is not None and params is not None:
        with write_folder(out / FIGURES) as folder:
            pictures.draw(evaluations, models, arrays, cells, params, folder)
    return [out / cell.folder for cell in cells]


def main(
    study: Annotated[str, typer.Argument(help="The study's folder below --results.")],
    evaluations: Annotated[Path, typer.Option(help="The folder of the cells' evaluations.")] = Path("evaluations"),
    models: Annotated[Path, typer.Option(help="The folder of the cells' models.")] = Path("models"),
    arrays: Annotated[Path | None, typer.Option(help="The preprocessed cohort; draws small pictures too.")] = None,
    ablation: Annotated[str | None, typer.Option(help="Store them as this ablation of the study.")] = None,
    results: Annotated[Path, typer.Option(help="The folder of the studies.")] = Path("results"),
    params: cli.ParamsFile = Path("params.yaml"),
) -> None:
    """Keep the rows of every evaluated cell as a study; study.yaml, which says what it is, is written by hand."""
    out = results / study / ABLATIONS / ablation if ablation else results / study
    for folder in keep(evaluations, models, out, arrays, read_params(params).evaluate):
        print(folder)


if __name__ == "__main__":
    cli.run(main)
