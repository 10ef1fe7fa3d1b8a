"""``python -m tools.show``: show the results of a run in a terminal."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from components.report import COMPARISONS, RESULTS
from components.report.paired import Pair
from components.report.text import digits_for
from core.cli import Wide
from core.errors import UserError
from core.files import read_json
from core.results import Row
from core.terminal import console, fit
from registry.versions import read_version
from tools.show.changes import change_line
from tools.show.costs import cost_table
from tracking.store import answered, connect, store_name

# Columns to drop in a narrow terminal, in this order.
DISPENSABLE = ("accuracy", "Jaccard", "ASSD, px", "MLflow run", "started", "HD95, px", "images", "seed", "commit")
RUNS = "workflowType=machine_learning"


def result_table(rows: list[Row]) -> Table:
    """Return the test metrics of every cell: means over images, against original and dilated masks."""
    table = Table(title="Test images, mean over images")
    for name in ("network", "scenario", "seed", "masks"):
        table.add_column(name, no_wrap=True)
    for name in ("images", "Dice", "95 %", "Jaccard", "accuracy", "HD95, px", "ASSD, px"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        place = (row["split"], row["site"], row["label"], row["sex"], row["age"], row["reduction"])
        if place != ("test", "all", "all", "all", "all", "per_image"):
            continue
        interval = "–" if row["dice_ci95"] is None else " to ".join(f"{bound:.3f}" for bound in row["dice_ci95"])
        figures = [
            _figure(row["jaccard"], 4),
            _figure(row["accuracy"], 4),
            _figure(row["hd95"], 2),
            _figure(row["assd"], 2),
        ]
        where = [row["network"], row["scenario"], str(row["seed"]), row["masks"]]
        table.add_row(*where, str(row["n_images"]), _figure(row["dice"], 4), interval, *figures)
    return table


def comparison_table(pairs: list[Pair]) -> Table:
    """Return the paired bootstrap comparison of one reference network with others, against one kind of masks."""
    reference, masks = pairs[0]["reference"], pairs[0]["masks"]
    table = Table(
        title=f"{reference} less the other network: Dice, test images, {masks} masks",
        caption="95 %: paired bootstrap over images; no correction for the number of comparisons",
    )
    for name in ("other", "scenario"):
        table.add_column(name, no_wrap=True)
    for name in ("images", "Dice", "95 %"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict")
    for pair in pairs:
        digits = digits_for([*(pair["ci95"] or []), pair["difference"] or 0.0])
        interval = "–" if pair["ci95"] is None else " to ".join(f"{bound:+.{digits}f}" for bound in pair["ci95"])
        difference = "–" if pair["difference"] is None else f"{pair['difference']:+.{digits}f}"
        where = [pair["other"], pair["scenario"]]
        table.add_row(*where, str(pair["n_images"]), difference, interval, pair["verdict"] or "–")
    return table


def _figure(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def main(
    reports: Annotated[Path, typer.Option(help="Output of report.")] = Path("reports"),
    registered: Annotated[Path, typer.Option(help="Output of register.")] = Path("artifacts/registered.json"),
    arrays: Annotated[Path, typer.Option(help="Output of preprocess.")] = Path("artifacts/arrays"),
    models: Annotated[Path, typer.Option(help="Output of train.")] = Path("models"),
    before: Annotated[Path | None, typer.Option(help="A copy of the last run's metrics.json.")] = None,
    wide: Wide = False,
) -> None:
    """Print results, comparisons and training times, and where the report and the registered model are."""
    cohort = read_json(arrays / "arrays.json")
    version = read_json(registered)
    screen = console(140, wide=wide)  # enough for every column
    rows, pairs = read_json(reports / RESULTS), read_json(reports / COMPARISONS)
    tables = [result_table(rows)]
    # A report of a single network has no pairs.
    kinds = dict.fromkeys((pair["masks"], pair["reference"]) for pair in pairs)
    tables += [
        comparison_table([pair for pair in pairs if (pair["masks"], pair["reference"]) == each]) for each in kinds
    ]
    several = len({row["seed"] for row in rows}) > 1
    for table in (*tables, cost_table(models, rows)):
        screen.print(fit(table, screen, [name for name in DISPENSABLE if name != "seed" or not several]))
    if cohort["synthetic"]:
        screen.print(
            "The X-rays are synthetic: these figures show that the pipeline works and say nothing about patients."
        )
    if line := change_line(reports, before):
        screen.print(line, soft_wrap=True)
    screen.print(f"report   {(reports / 'index.html').resolve()}", soft_wrap=True)
    for line in registry_lines(version):
        screen.print(line, soft_wrap=True)


def registry_lines(registered: dict[str, Any]) -> list[str]:
    """Return lines on the registered version and on how to browse the MLflow store.

    Args:
        registered: content of ``artifacts/registered.json``. The version is shown only if the current store has it with
            the same run: DVC may have pulled the file from another machine, or the store may have changed.
    """
    name, number = str(registered["name"]), int(registered["version"])
    cell = f"{registered['network']}, {registered['scenario']}, seed {registered['seed']}"
    address = store_name()
    if address.startswith(("http://", "https://")):
        base, browse = address.rstrip("/"), f"browse   {address}"
    else:
        base, browse = "http://127.0.0.1:5000", f"browse   mlflow ui --backend-store-uri {shlex.quote(address)}"
    missing = (
        f"model    {name} version {number} of this run ({cell}) is not in {address}: register it with "
        "`dvc repro --force --single-item register`"
    )
    try:
        client = connect(existing=True)
        version = read_version(client, name, number)
    except UserError as error:
        if getattr(error.__cause__, "error_code", "") == "RESOURCE_DOES_NOT_EXIST":
            return [missing, browse]
        return [f"model    {name} version {number} ({cell}) could not be looked up: {error}", browse]
    if version.run_id != registered["run_id"]:
        return [f"{missing} (its version {number} is of another run)", browse]
    with answered(f"run {version.run_id}"):
        # Not MLflow's start page, which is for language models and empty here.
        runs = f"runs     {base}/#/experiments/{client.get_run(version.run_id).info.experiment_id}/runs?{RUNS}"
    aliases = "".join(f" @{alias}" for alias in version.aliases)
    uri = f'mlflow.pyfunc.load_model("models:/{name}/{number}")'
    return [f"model    {name} version {number}{aliases} ({cell}): {uri}", browse, runs]
