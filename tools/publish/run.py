"""``python -m tools.publish.run``: train, evaluate and store the studies of ``results/plan.yaml``.

Each cell trains in one process with one thread, and several cells run in parallel: on shared cores this is faster than
several threads per cell. Stored cells are skipped, and killed cells resume from their last checkpoint. Cells run in the
plan's order, with the first seed of all cells of a study before the second.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Annotated, Any

import typer
from pydantic import Field
from rich.console import Console
from rich.table import Table
from ruamel.yaml import YAML

from core import cli
from core.cell import PROVENANCE, RUN, Cell
from core.errors import UserError
from core.files import write_file
from core.inputs import read_record
from core.params import Name, Params, check, check_section, params_hash, read_params, read_yaml
from model.training.recipe import Section
from tools.profile import apply_profile
from tools.publish.archive import keep
from tools.publish.studies import ABLATIONS

PLAN = "plan.yaml"
NICE = 10
ONE_AT_A_TIME = Lock()  # held by the thread that prepares arrays shared by cells


class Planned(Section):
    """One entry of the plan: cells of a study with the same parameters."""

    study: Name
    ablation: Name | None = Field(default=None, description="store the cells as this ablation of the study")
    profile: Name = Field(description="of profiles/")
    set: dict[str, Any] = Field(default={}, description="{section.key: value} on top of the profile")
    networks: list[str]
    scenarios: list[Name]
    seeds: list[int]

    @property
    def name(self) -> str:
        """Name of the entry's folder in the work folder."""
        return f"{self.study}-{self.ablation}" if self.ablation else self.study

    def cells(self) -> list[Cell]:
        """Return the cells, with the first seed of all cells before the second."""
        return [cell for seed in self.seeds for cell in Cell.every(self.networks, self.scenarios, [seed])]


class Plan(Section):
    """The content of ``plan.yaml``."""

    studies: list[Planned]


@dataclass(frozen=True)
class Job:
    """One cell to train, evaluate and store."""

    entry: Planned
    cell: Cell
    kept: Path
    work: Path

    @property
    def done(self) -> bool:
        """Whether the cell's rows are already stored."""
        return (self.kept / self.cell.folder / RUN).exists()

    @property
    def begun(self) -> bool:
        """Whether the cell has a checkpoint."""
        return any((self.work / "checkpoints" / self.cell.folder).glob("*/state.pt"))


def jobs(plan: Path, results: Path, work: Path) -> list[Job]:
    """Return all cells of a plan, in its order.

    Raises:
        UserError: the plan cannot be read or has duplicate entries.
    """
    found = []
    for entry in check_section(Plan, read_yaml(plan), str(plan)).studies:
        kept = results / entry.study / ABLATIONS / entry.ablation if entry.ablation else results / entry.study
        found += [Job(entry, cell, kept, work / entry.name) for cell in entry.cells()]
    return found


def parameters(entry: Planned, base: Path, out: Path) -> Params:
    """Write and return the parameters of an entry: ``base``, then the profile, then the entry's values.

    Raises:
        UserError: a key is unknown or a value is invalid.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(base.read_bytes())
    apply_profile(entry.profile, out)
    yaml = YAML()
    yaml.width = 4096
    document = yaml.load(out.read_text())
    for key, value in entry.set.items():
        *sections, last = key.split(".")
        place = document
        for section in sections:
            place = place.get(section, {})
        if last not in place:
            raise UserError(f"study {entry.name}: set names {key}, which {base} does not have")
        place[last] = value
    with write_file(out) as partial:
        yaml.dump(document, partial)
    return check(read_yaml(out), f"study {entry.name}")


def run_job(job: Job, raw: Path, validation: Path, base: Path, shared: Path) -> None:
    """Train, evaluate and store one cell.

    Raises:
        UserError: a command failed; the message names its log.
    """
    # One file per cell, because a training run checks that its file has not changed.
    params = job.work / "params" / f"{'-'.join(job.cell.folder.parts)}.yaml"
    with ONE_AT_A_TIME:
        choices = parameters(job.entry, base, params)
        arrays, splits = preprocessed(choices, job.entry, raw, validation, params, shared)
    log = job.work / "logs" / f"{'-'.join(job.cell.folder.parts)}.log"
    model, evaluation = (job.work / kind / job.cell.folder for kind in ("models", "evaluations"))
    given = ["--split", splits / f"{job.cell.scenario}.json", "--params", params]
    names = ["--network", job.cell.network, "--scenario", job.cell.scenario, "--seed", job.cell.seed]
    if not trained(model, choices):
        call("train", log, arrays, *names, *given, "--checkpoints", job.work / "checkpoints", "--out", model)
    call("evaluate", log, arrays, "--raw", raw, "--model", model, *given, "--out", evaluation)
    keep(job.work / "evaluations", job.work / "models", job.kept, only=job.cell)


def trained(model: Path, choices: Params) -> bool:
    """Return whether a folder has a finished training run with exactly these parameters."""
    if not (model / RUN).exists():
        return False
    record = read_record(model / PROVENANCE, "train")
    return bool(record["params"] == choices.train.model_dump(mode="json"))


def preprocessed(
    choices: Params, entry: Planned, raw: Path, validation: Path, params: Path, shared: Path
) -> tuple[Path, Path]:
    """Return the arrays and splits for an entry's parameters; entries with equal parameters share them."""
    folder = shared / "-".join([params_hash(choices.preprocess), *entry.scenarios])
    arrays, splits = folder / "arrays", folder / "splits"
    if not (arrays.exists() and splits.exists()):
        # The command reads the scenarios from the matrix.
        own = folder / "params.yaml"
        planned = entry.model_copy(update={"set": entry.set | {"matrix.scenarios": entry.scenarios}})
        parameters(planned, params, own)
        given = ["--validation", validation, "--params", own, "--out", arrays, "--splits", splits]
        call("preprocess", folder / "preprocess.log", raw, *given)
    return arrays, splits


def call(step: str, log: Path, *arguments: object) -> None:
    """Run a step's command with one thread at low priority; append its output to a log."""
    log.parent.mkdir(parents=True, exist_ok=True)
    line = [sys.executable, "-m", f"components.{step}", *map(str, arguments)]
    with log.open("a") as file:
        done = subprocess.run(
            ["nice", "-n", str(NICE), *line], stdout=file, stderr=file, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
    if done.returncode:
        last = (log.read_text().strip().splitlines() or ["no output"])[-1]
        raise UserError(f"{step} failed: {last} ({log})")


def work_off(todo: list[Job], processes: int, *given: Path) -> Iterator[tuple[bool, str]]:
    """Run jobs in parallel; for each, yield whether it succeeded, and one line about it."""
    with ThreadPoolExecutor(processes) as pool:
        running = {pool.submit(run_job, job, *given): job for job in todo}
        for future in as_completed(running):
            job = running[future]
            name = f"{job.entry.name} {job.cell.folder}"
            error = future.exception()
            if error is not None and not isinstance(error, UserError):
                pool.shutdown(wait=False, cancel_futures=True)
                raise error
            problems = "; ".join(error.problems) if isinstance(error, UserError) else ""
            yield error is None, f"{name}: {error or f'stored in {job.kept}'}{problems and f' ({problems})'}"


def main(
    raw: Annotated[Path, typer.Option(help="Output of ingest.")] = Path("artifacts/raw"),
    validation: Annotated[Path, typer.Option(help="Output of validate.")] = Path("artifacts/validation"),
    results: Annotated[Path, typer.Option(help="The folder of the studies and of plan.yaml.")] = Path("results"),
    work: Annotated[Path, typer.Option(help="Models, checkpoints and logs.")] = Path("build/studies"),
    processes: Annotated[int, typer.Option(min=1, help="Cells in parallel, one thread each.")] = 2,
    study: Annotated[list[str] | None, typer.Option(help="Only these studies; repeatable.")] = None,
    show: Annotated[bool, typer.Option("--list", help="Only print the state of every cell.")] = False,
    params: cli.ParamsFile = Path("params.yaml"),
) -> None:
    """Train, evaluate and store every cell of results/plan.yaml that is not stored yet."""
    read_params(params)
    found = [job for job in jobs(results / PLAN, results, work) if not study or job.entry.study in study]
    todo = [job for job in found if not job.done]
    table = Table(title=f"{len(found) - len(todo)} of {len(found)} cells stored")
    for column in ("study", "network", "scenario", "seed", "state"):
        table.add_column(column)
    for job in found:
        state = "kept" if job.done else "begun" if job.begun else "not run"
        table.add_row(job.entry.name, job.cell.network, job.cell.scenario, str(job.cell.seed), state)
    Console().print(table)
    if show:
        return
    failed = 0
    for good, line in work_off(todo, processes, raw, validation, params, work / "shared"):
        print(line, flush=True)
        failed += not good
    if failed:
        raise UserError(f"{failed} of {len(todo)} cells failed; run again to resume them")


if __name__ == "__main__":
    cli.run(main)
