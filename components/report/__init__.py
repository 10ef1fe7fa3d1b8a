"""The report step: tables and charts of all evaluations, with the paper's results, as a web page and as Markdown."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

import pandas as pd

from components.report.layout import Results
from components.report.load import Evaluated, find_cells, load_cells, load_cohort
from components.report.origin import require_one_origin
from components.report.page import render_markdown, render_page
from components.report.paired import compare
from components.report.rows import row_key
from components.report.tables import figure_of
from core.cell import Cell
from core.cohort import Arrays
from core.files import write_folder, write_json
from core.results import Row

RESULTS = "results.json"
COMPARISONS = "comparisons.json"
HEADLINES = "metrics.json"  # {network: {scenario: {test_dice, test_hd95}}}, for `dvc metrics` and `dvc exp`
PAGE = "index.html"
MARKDOWN = "results.md"


def report(
    evaluations: Path,
    models: Path,
    arrays: Path,
    splits: Path,
    out: Path,
    cells: list[Cell] | None = None,
    *,
    resamples: int,
    seed: int,
    mixed: bool = False,
) -> list[Row]:
    """Write the report of all evaluations of a run.

    ``out`` has ``results.json`` (every row of every cell, sorted), ``comparisons.json``
    (:class:`components.report.paired.Pair`, empty for a single network), ``results.md``, ``index.html``
    (self-contained), and for DVC ``metrics.json`` (test Dice and HD95 of every network in every scenario) and
    ``plots/dice.csv``. Equal evaluations give equal bytes. Values that differ between equal runs, such as times, are
    not in the report; :mod:`tools.show.costs` prints them.

    Args:
        evaluations: outputs of evaluate, one folder per cell (:mod:`core.results`).
        models: outputs of train, one folder per cell.
        arrays: output of preprocess.
        splits: one split per scenario, ``<scenario>.json``.
        out: output folder, written atomically; an earlier report is replaced.
        cells: the cells of the report; ``None``: all in ``evaluations``, including those of an earlier matrix.
        resamples: number of bootstrap resamples for the comparison of networks.
        seed: seed of that bootstrap.
        mixed: accept cells with different parameters, data or code.

    Returns:
        The rows of ``results.json``.

    Raises:
        UserError: there is no evaluation, a cell is missing, files are missing or invalid (all are listed), or the
            cells differ in parameters, data or code and ``mixed`` is False.
    """
    loaded = load_cells(evaluations, models, find_cells(evaluations, cells))
    if not mixed:
        require_one_origin(loaded)
    cohort = load_cohort(arrays, splits, loaded)
    xrays = Arrays(arrays)
    rows = sorted((row for data in loaded for row in data.rows), key=row_key)
    pairs = compare(loaded, resamples, seed)
    with write_folder(out) as folder:
        write_json(folder / RESULTS, rows)
        write_json(folder / COMPARISONS, pairs)
        write_json(folder / HEADLINES, headline_figures(Results(loaded)))
        (folder / MARKDOWN).write_text(render_markdown(cohort, loaded, pairs), encoding="utf-8")
        (folder / PAGE).write_text(render_page(cohort, loaded, pairs, xrays), encoding="utf-8")
        _write_plots(folder / "plots", loaded)
    return rows


def headline_figures(results: Results) -> dict[str, dict[str, dict[str, float]]]:
    """Return the test Dice and HD95 (pixels) of every network in every scenario, if defined.

    Means over images against original masks, then over seeds; the format of :data:`HEADLINES`.
    """
    found: dict[str, dict[str, dict[str, float]]] = {}
    for network in results.networks():
        for scenario in results.scenarios:
            rows = [results.row(cell, "original", "per_image") for cell in results.seeds(network, scenario)]
            for name in ("dice", "hd95"):
                values = [figure_of(row, name).value for row in rows]
                defined = [value for value in values if value is not None]
                if defined and len(defined) == len(values):
                    found.setdefault(network, {}).setdefault(scenario, {})[f"test_{name}"] = fmean(defined)
    return found


def _write_plots(folder: Path, cells: list[Evaluated]) -> None:
    folder.mkdir()
    columns = ["id", "site", "label", "masks", "dice"]
    marked = [
        data.cases.loc[data.cases["split"] == "test", columns].assign(
            network=data.cell.network, scenario=data.cell.scenario, seed=data.cell.seed
        )
        for data in cells
    ]
    frame = pd.concat(marked, ignore_index=True)
    frame[["network", "scenario", "seed", *columns]].to_csv(folder / "dice.csv", index=False)
