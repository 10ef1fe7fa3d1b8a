"""Cost of ``dvc add`` for a cohort as files and as ZIP archives: ``python -m benchmarks.pinning FOLDER``.

Both are added to one new repository, one after the other. A second row each shows ``dvc status``, with which every
``dvc repro`` begins. Ingest reads both.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from core import cli, terminal
from core.errors import UserError
from core.files import write_json
from core.provenance import hardware

FILES, ARCHIVES = "files", "archives"


def archive(folder: Path, out: Path, parts: int) -> None:
    """Write the files of a folder to ``parts`` ZIP files, uncompressed, because X-rays are already compressed."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    out.mkdir()
    for part in range(parts):
        with zipfile.ZipFile(out / f"{folder.name}-{part + 1:03d}.zip", "w", zipfile.ZIP_STORED) as packed:
            for path in files[part::parts]:
                packed.write(path, path.relative_to(folder))


def run(folder: Path, *line: str) -> dict[str, float]:
    """Run ``dvc`` in a folder and return its seconds of wall time and CPU time.

    Raises:
        UserError: the command failed.
    """
    before, started = os.times(), time.perf_counter()
    done = subprocess.run(["dvc", *line], cwd=folder, capture_output=True, text=True)
    wall, after = time.perf_counter() - started, os.times()
    if done.returncode:
        raise UserError(f"dvc {' '.join(line)} failed: {done.stderr.strip().splitlines()[-1]}")
    own = after.children_user + after.children_system - before.children_user - before.children_system
    return {"wall_seconds": wall, "processor_seconds": own}


def measure(folder: Path, parts: int, repository: Path) -> Iterator[dict[str, Any]]:
    """Yield the figures of ``dvc add`` and ``dvc status``, for files and for archives."""
    run(repository, "init", "--no-scm", "--quiet")
    run(repository, "config", "core.analytics", "false")
    shutil.copytree(folder, repository / FILES)
    archive(folder, repository / ARCHIVES, parts)
    for name in (FILES, ARCHIVES):
        found = [path for path in (repository / name).rglob("*") if path.is_file()]
        yield {
            "way": name,
            "files": len(found),
            "bytes": sum(path.stat().st_size for path in found),
            "add": run(repository, "add", "--quiet", name),
            "status": run(repository, "status", f"{name}.dvc"),
        }


def table(rows: list[dict[str, Any]]) -> Table:
    """Return the figures as a table, with the ratio of CPU time of files to archives."""
    columns = ["files", "MB", "add, wall s", "processor s", "status, wall s", "processor s"]
    shown = terminal.table("dvc add and dvc status, by what is added", ["what"], columns)
    for row in rows:
        seconds = [f"{row[what][clock]:.1f}" for what in ("add", "status") for clock in row[what]]
        shown.add_row(row["way"], f"{row['files']:,}", f"{row['bytes'] / 1e6:,.0f}", *seconds)
    return shown


def main(
    folder: Annotated[Path, typer.Argument(help="A cohort in its publishers' layouts, such as of tools.sample.")],
    parts: Annotated[int, typer.Option(min=1, help="ZIP archives.")] = 8,
    out: Annotated[Path, typer.Option("--out", "-o", help="The file of all figures.")] = Path(
        "build/benchmarks/pinning.json"
    ),
) -> None:
    """Measure dvc add and dvc status of a cohort as files and as archives."""
    if not folder.is_dir():
        raise UserError(f"{folder}: not a folder; draw a cohort with python -m tools.sample")
    out.parent.mkdir(parents=True, exist_ok=True)
    # Next to the folder, whose disk has enough space; the system's temporary folder may be in memory.
    with tempfile.TemporaryDirectory(dir=folder.resolve().parent) as repository:
        rows = list(measure(folder.resolve(), parts, Path(repository)))
    write_json(out, {"hardware": hardware(), "ways": rows})
    terminal.console(110).print(table(rows))
    files, archives = (row["add"]["processor_seconds"] for row in rows)
    print(f"dvc add takes {files / archives:.1f} times as much processor time for files\nwrote {out}")


if __name__ == "__main__":
    cli.run(main)
