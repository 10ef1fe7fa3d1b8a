"""Advice names commands that are there, README's first screen says what is true, and no help is too wide."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
from pathlib import Path

import pytest
import typer

from defunet.__main__ import app
from tests.conftest import ROOT

ROOMS = (
    "benchmarks",
    "components",
    "core",
    "defunet",
    "model",
    "pipelines",
    "registry",
    "serving",
    "tools",
    "tracking",
)
README = (ROOT / "README.md").read_text()


def texts() -> dict[Path, str]:
    """Return the documentation and the code, in which messages are."""
    files = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "Makefile", *(ROOT / "docs").rglob("*.md")]
    files += [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    return {path: path.read_text() for path in files}


def advised(pattern: str) -> set[str]:
    """Return what follows a command in backticks or at the start of a line of a shell, over all texts."""
    return {word for text in texts().values() for word in re.findall(rf"(?:`|^\$ |^)(?:{pattern})", text, re.MULTILINE)}


def test_every_target_of_make_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = advised(r"make ([a-z][a-z-]*)\b(?!:)")
    assert len(named) > 10
    assert named <= targets


def test_every_command_of_defunet_that_is_named_exists() -> None:
    named = advised(r"defunet ([a-z]+)\b")
    assert len(named) > 12
    assert named <= set(getattr(typer.main.get_command(app), "commands"))  # noqa: B009


def test_every_module_that_is_named_exists() -> None:
    named = {word for word in advised(r"python -m ([a-z_]+(?:\.[a-z_]+)*)(?![.\w])") if word.partition(".")[0] in ROOMS}
    assert len(named) > 20
    for name in named:
        found = importlib.util.find_spec(name)
        assert found, name
        assert found.submodule_search_locations is None or importlib.util.find_spec(f"{name}.__main__"), name


def test_the_first_table_has_the_figures_of_the_results() -> None:
    page = (ROOT / "docs/results.md").read_text()
    rows = [line for line in README.splitlines() if line.startswith("| DEFU-Net")]
    assert len(rows) == 2
    for row in rows:
        figures = re.findall(r"\| (\.\d{3})", row)
        assert len(figures) == 3
        for figure in figures:
            assert figure in page or f"0{figure}" in page, row


def test_the_first_picture_says_loudly_that_it_is_drawn() -> None:
    picture = README.index("![")
    assert README[picture:].split("\n\n")[1].startswith("***Drawn by a program: these are not X-rays of people.***")


def test_the_first_screens_give_the_time_of_both_commands() -> None:
    assert re.search(r"`make run` takes [\w ]+ minutes and\s+`make test` about", README)


def test_the_help_of_make_fits_80_columns() -> None:
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=30).stdout
    assert shown.count("\n") > 15
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize("name", ["MLFLOW_DISABLE_TELEMETRY=true", "GX_ANALYTICS_ENABLED=false"])
def test_the_activated_shell_sends_no_telemetry(name: str) -> None:
    activate = ROOT / ".venv/bin/activate"
    if not activate.exists():
        pytest.skip("no .venv in this clone: the environment was not made by `make setup`")
    assert re.search(rf"^export .*{name}", activate.read_text(), re.MULTILINE)
    assert "analytics = false" in (ROOT / ".dvc/config").read_text()


def test_dvc_metrics_show_has_at_most_ten_columns() -> None:
    """One for the path, and one for each figure of the committed run."""
    figures = json.loads((ROOT / "reports/metrics.json").read_text())
    assert 1 + sum(len(values) for scenarios in figures.values() for values in scenarios.values()) <= 10
