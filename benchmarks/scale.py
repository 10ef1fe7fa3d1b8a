"""Cost of every step as the cohort grows: ``python -m benchmarks.scale``.

Draws cohorts of several sizes, runs ingest, validate, preprocess, one epoch of training, evaluate and report on each,
and prints CPU time, wall time, peak memory and files, with the exponent of their growth: 1 is linear. A measured step
is not run again, so that a run of hours can be interrupted and resumed.

The network is small, because its time per image does not depend on the cohort; ``benchmarks.training`` measures it.
"""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from ruamel.yaml import YAML

from benchmarks import scale_plan
from core import cli, terminal
from core.errors import UserError
from core.files import read_json, write_file, write_json
from core.params import read_params, read_yaml
from core.provenance import hardware
from core.terminal import say
from tools.sample import make_sample

SIZES = (700, 7_000, 70_000)
PATIENTS = 500  # per site; larger cohorts have more X-rays per patient
SCALE = 0.4  # scale of the sample: images of about 130 x 160 pixels
NETWORK, SCENARIO = "unet", "mixed"
SET: dict[str, Any] = {
    "matrix": {"networks": [NETWORK], "scenarios": [SCENARIO], "seeds": [0]},
    "train": {"epochs": 1, "width": 1 / 32},
    "evaluate": {"splits": ["test"]},
}
GIB = 2**30
MOST_EXPONENT, MOST_MEMORY = 1.05, 2 * GIB


@dataclass(frozen=True)
class Step:
    """A step: its name, the arguments of its command, and its outputs."""

    name: str
    arguments: list[str]
    outputs: list[str]


def steps(folder: Path) -> list[Step]:
    """Return the steps in order, for a cohort in ``folder``."""
    raw, checked, arrays, splits, model, evaluations, report = (
        str(folder / name) for name in ("raw", "validation", "arrays", "splits", "models", "evaluations", "report")
    )
    cell = f"{NETWORK}/{SCENARIO}/seed-0"
    split = ["--split", f"{splits}/{SCENARIO}.json"]
    training = ["--network", NETWORK, "--scenario", SCENARIO, "--seed", "0", *split]
    found = [
        Step("ingest", [str(folder / "source"), "--out", raw], [raw]),
        Step("validate", [raw, "--out", checked], [checked]),
        Step("preprocess", [raw, "--validation", checked, "--out", arrays, "--splits", splits], [arrays, splits]),
        Step(
            "train",
            [arrays, *training, "--checkpoints", str(folder / "checkpoints"), "--out", f"{model}/{cell}"],
            [f"{model}/{cell}"],
        ),
        Step(
            "evaluate",
            [arrays, "--raw", raw, "--model", f"{model}/{cell}", *split, "--out", f"{evaluations}/{cell}"],
            [f"{evaluations}/{cell}"],
        ),
        Step(
            "report",
            ["--evaluations", evaluations, "--models", model, "--arrays", arrays, "--splits", splits, "--out", report],
            [report],
        ),
    ]
    return [Step(step.name, [*step.arguments, "--params", str(folder / "params.yaml")], step.outputs) for step in found]


def write_params(base: Path, pixels: int, out: Path) -> None:
    """Write the shipped parameters with the changes of :data:`SET` and the size of the images."""
    values = read_yaml(base)
    for section, changes in {**SET, "preprocess": {"size": pixels}}.items():
        values[section] = values[section] | changes
    with write_file(out) as partial:
        YAML().dump(values, partial)
    read_params(out)


def measure(step: Step, folder: Path, record: Path) -> dict[str, Any]:
    """Run a step in a new process and return its resource use and the size of its outputs.

    Raises:
        UserError: the step failed.
    """
    for output in step.outputs:
        shutil.rmtree(output, ignore_errors=True)
    log = folder / f"{step.name}.log"
    line = [sys.executable, "-m", "benchmarks.usage", str(record), f"components.{step.name}", *step.arguments]
    tracking = f"sqlite:///{(folder / 'mlflow.db').resolve()}"
    with log.open("w") as file:
        done = subprocess.run(line, stdout=file, stderr=file, env=os.environ | {"MLFLOW_TRACKING_URI": tracking})
    if done.returncode:
        last = (log.read_text().strip().splitlines() or ["no output"])[-1]
        raise UserError(f"{step.name} failed: {last} ({log})")
    files, size = taken(map(Path, step.outputs))
    used: dict[str, Any] = read_json(record) | {"files": files, "bytes": size}
    if step.name == "ingest":
        used["source_files"], used["source_bytes"] = taken([folder / "source"])
        used["mask_bytes"] = taken([folder / "raw" / "masks"])[1]
    write_json(record, used)
    return used


def taken(folders: Iterable[Path]) -> tuple[int, int]:
    """Return the number of files in the folders, and their bytes."""
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return len(files), sum(path.stat().st_size for path in files)


def exponent(small: tuple[int, float], large: tuple[int, float]) -> float:
    """Return b of y = a x^b through two points (x, y); NaN if a y is 0."""
    (few, less), (many, more) = small, large
    return math.log(more / less) / math.log(many / few) if less > 0 and more > 0 else math.nan


def table(found: dict[int, dict[str, dict[str, Any]]]) -> Table:
    """Return the figures of each step by number of X-rays, with the exponents from each size to the next."""
    columns = ["X-rays", "processor s", "wall s", "ms each", "GiB", "resident", "files", "MB"]
    columns += ["exponent of time", "of memory"]
    shown = terminal.table("Each step by number of X-rays", ["step"], columns)
    sizes = sorted(found)
    for name in [step.name for step in steps(Path())]:
        for place, size in enumerate(sizes):
            if name not in found[size]:
                continue
            used = found[size][name]
            cells = [
                f"{used['processor_seconds']:.1f}",
                f"{used['wall_seconds']:.1f}",
                f"{1e3 * used['processor_seconds'] / size:.2f}",
                f"{used['memory_bytes'] / GIB:.2f}",
                f"{used['resident_bytes'] / GIB:.2f}",
                f"{used['files']:,}",
                f"{used['bytes'] / 1e6:,.1f}",
            ]
            before = found[sizes[place - 1]].get(name) if place else None
            growth = [
                f"{exponent((sizes[place - 1], before[key]), (size, used[key])):.2f}" if before else ""
                for key in ("processor_seconds", "memory_bytes")
            ]
            shown.add_row("" if place else name, f"{size:,}", *cells, *growth, end_section=place + 1 == len(sizes))
    return shown


def verdict(found: dict[int, dict[str, dict[str, Any]]]) -> list[str]:
    """Return one line for each step that exceeds a goal, or one line that all goals are met."""
    *_, small, large = sorted(found)
    lines = []
    for name, used in found[large].items():
        if small not in found or name not in found[small]:
            continue
        grows = exponent((small, found[small][name]["processor_seconds"]), (large, used["processor_seconds"]))
        if grows > MOST_EXPONENT:
            lines.append(f"{name}: exponent of processor time {grows:.2f}, above {MOST_EXPONENT:g}")
        if used["memory_bytes"] > MOST_MEMORY:
            lines.append(f"{name}: {used['memory_bytes'] / GIB:.2f} GiB, above {MOST_MEMORY / GIB:g}")
    return lines or [
        f"every step: exponent of processor time at most {MOST_EXPONENT:g} from {small:,} to {large:,} X-rays, "
        f"memory at most {MOST_MEMORY / GIB:g} GiB"
    ]


def main(
    sizes: Annotated[list[int] | None, typer.Option("--size", help="Numbers of X-rays; repeatable.")] = None,
    pixels: Annotated[int, typer.Option(min=32, help="Side of the preprocessed images.")] = 128,
    scale: Annotated[float, typer.Option(help="Scale of the drawn X-rays, as of tools.sample.")] = SCALE,
    work: Annotated[Path, typer.Option(help="Cohorts, outputs and records of steps.")] = Path("build/scale"),
    out: Annotated[Path, typer.Option("--out", "-o", help="The file of all figures.")] = Path(
        "build/benchmarks/scale.json"
    ),
    cluster: Annotated[int, typer.Option(min=0, help="Also print what so many X-rays cost on a cluster.")] = 0,
    pods: Annotated[int, typer.Option(min=1, help="Pods of one core that share a step on the cluster.")] = 8,
    cells: Annotated[int, typer.Option(min=1, help="Cells of the matrix on the cluster.")] = 1,
    params: cli.ParamsFile = Path("params.yaml"),
) -> None:
    """Measure every step on cohorts of several sizes and print how time, memory and files grow."""
    found: dict[int, dict[str, dict[str, Any]]] = {}
    for size in sorted(sizes or SIZES):
        folder = work / f"{size}-{pixels}"
        folder.mkdir(parents=True, exist_ok=True)
        write_params(params, pixels, folder / "params.yaml")
        if not (folder / "source" / "cohort.json").exists():
            montgomery = size * 2 // 5
            make_sample(folder / "source", montgomery, size - montgomery, 0, scale, PATIENTS)
        found[size] = {}
        for step in steps(folder):
            record = folder / f"{step.name}.json"
            used = read_json(record) if record.exists() else measure(step, folder, record)
            found[size][step.name] = used
            say(
                f"{size} X-rays, {step.name}: {used['processor_seconds']:.1f} s of processor time, "
                f"{used['memory_bytes'] / GIB:.2f} GiB"
            )
            named = {str(number): figures for number, figures in found.items()}
            write_json(out, {"hardware": hardware(), "pixels": pixels, "scale": scale, "sizes": named})
    console = terminal.console(130)
    console.print(table(found))
    if len(found) > 1:
        for line in verdict(found):
            console.print(line)
    console.print(
        "GiB: the most memory that a step cannot give back; resident: with pages of mapped files, which the system "
        f"takes back.\nwrote {out}"
    )
    if cluster and len(found) > 1:
        plan = scale_plan.Plan(cluster, pods, cells)
        console.print(scale_plan.table(plan, found))
        for line in scale_plan.lines(plan, found):
            console.print(line)
        console.print(
            "From the two largest sizes above: X-rays of this size and the small network; train is one epoch of one "
            "cell, and cells train at the same time. Pods also take time to start and to move the bytes."
        )


if __name__ == "__main__":
    cli.run(main)
