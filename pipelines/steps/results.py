"""The steps from the cells to a report, a registered version, a champion and the run's outcome."""

from __future__ import annotations

import shutil
from pathlib import Path

from core.cell import Cell
from core.files import read_json
from pipelines.artifacts import (
    HTML,
    Archive,
    Artifact,
    Dataset,
    Input,
    Markdown,
    Output,
    Status,
)
from pipelines.steps.cells import CELLS, EVALUATIONS, MODELS
from pipelines.steps.data import ARRAYS, SPLITS
from pipelines.tasks import from_json, section


def report(
    gathered: Input[Archive[Artifact]],
    arrays: Input[Archive[Dataset]],
    params: str,
    folder: Output[Artifact],
    page: Output[HTML],
    tables: Output[Markdown],
) -> None:
    """Report all evaluations next to the paper's results: tables, figures, curves, overlays.

    Args:
        gathered: All models and evaluations.
        arrays: Images and masks as arrays of one size, and the splits.
        params: Section evaluate of params.yaml as JSON, with the settings of the comparison of networks.
        folder: results.json, comparisons.json, results.md, index.html and the plots' points.
        page: The report as one self-contained page.
        tables: The tables as Markdown.
    """
    from components.report import MARKDOWN, PAGE, report
    from core.params import EvaluateParams

    out, tree = Path(folder.path), Path(gathered.path)
    choices = section(EvaluateParams, params, "evaluate")
    which = [Cell.of(Path(cell)) for cell in read_json(tree / CELLS)]
    where = (tree / EVALUATIONS, tree / MODELS, Path(arrays.path) / ARRAYS, Path(arrays.path) / SPLITS, out)
    report(*where, which, resamples=choices.bootstrap, seed=choices.seed)
    shutil.copyfile(out / PAGE, page.path)
    shutil.copyfile(out / MARKDOWN, tables.path)


def register(
    gathered: Input[Archive[Artifact]], arrays: Input[Archive[Dataset]], params: str, version: Output[Artifact]
) -> None:
    """Register the best cell as a version in the MLflow model registry with the alias challenger.

    Args:
        gathered: All models and evaluations.
        arrays: Images and masks as arrays of one size, for the input example.
        params: All sections of params.yaml as JSON.
        version: The registered version as JSON.
    """
    from dataclasses import asdict

    from components.register import register
    from core.params import check

    tree = Path(gathered.path)
    choices = check(from_json(params, "params"), "pipeline parameters")
    done = register(tree / MODELS, tree / EVALUATIONS, Path(arrays.path) / ARRAYS, choices, Path(version.path))
    version.metadata.update(asdict(done))


def promote(
    version: Input[Artifact],
    arrays: Input[Archive[Dataset]],
    params: str,
    wanted: bool,
    champion: Output[Markdown],
) -> None:
    """Give the registered version the alias champion if ``wanted`` is set and it passes the gate.

    Args:
        version: Output of register.
        arrays: Images and masks as arrays of one size, for the comparison with the champion.
        params: All sections of params.yaml as JSON.
        wanted: False does not change the champion.
        champion: Every rule of the gate with its figures, and the action.
    """
    from functools import partial

    from components.promote import promote
    from core.params import check
    from pipelines.tasks import promoted

    choices = check(from_json(params, "params"), "pipeline parameters")
    gate = partial(
        promote, choices, Path(arrays.path) / ARRAYS, Path(arrays.path) / SPLITS, reason="last step of the pipeline"
    )
    page = promoted(Path(version.path), gate if wanted else None)
    Path(champion.path).write_text(page)


def outcome(status: Status, source: str, data_md5: str, git_commit: str, summary: Output[Markdown]) -> None:
    """Report how the run ended, also if it failed.

    Args:
        status: Final status of the other steps together.
        source: Address of the cohort.
        data_md5: MD5 of the cohort.
        git_commit: Commit of the code.
        summary: Final status of the run, with its data and code.
    """
    from pipelines.outcome import ended

    line, text = ended(status, {"source": source, "data": data_md5, "code": git_commit})
    print(line)
    Path(summary.path).write_text(text)
