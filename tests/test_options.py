"""The documentation names every option of every command, and the defaults of `predict` and `serve`."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from defunet.__main__ import app
from tests.conftest import ROOT

PAGES = {
    "predict": "predict",
    "serve": "serve",
    "drift": "drift",
    "review export": "review",
    "review import": "review",
    "checkpoints": "training",
    **dict.fromkeys(("promote", "rollback", "models", "lineage"), "registry"),
}


def commands(command: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield a command and all below it, with their names."""
    yield name, command
    for each, below in getattr(command, "commands", {}).items():
        yield from commands(below, f"{name} {each}".strip())


COMMANDS = dict(commands(typer.main.get_command(app)))


def options(name: str) -> list[tuple[list[str], Any]]:
    """Return the long names of each option of a command, and its default."""
    every = [each for each in COMMANDS[name].params if each.param_type_name == "option" and each.name != "help"]
    return [([word for word in (*each.opts, *each.secondary_opts) if len(word) > 2], each.default) for each in every]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_on_the_page_of_its_command(name: str) -> None:
    page = (ROOT / f"docs/{PAGES.get(name, 'client')}.md").read_text()
    lacking = [
        words
        for words, _ in options(name)
        if not any(re.search(rf"{re.escape(each)}(?![\w-])", page) for each in words)
    ]
    assert not lacking, f"docs/{PAGES.get(name, 'client')}.md says nothing of {lacking}"


def test_every_command_that_has_a_page_of_its_own_exists() -> None:
    assert not set(PAGES) - set(COMMANDS)


@pytest.mark.parametrize("name", ["predict", "serve"])
def test_the_page_has_the_defaults_that_are_numbers(name: str) -> None:
    rows = [line for line in (ROOT / f"docs/{name}.md").read_text().splitlines() if line.startswith("| `--")]
    numbers = {words[0]: value for words, value in options(name) if type(value) in (int, float)}
    assert len(numbers) > 2
    for option, value in numbers.items():
        (row,) = [row for row in rows if f"`{option}`" in row]
        written = {float(each) for each in re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?![\w])", row)}
        assert value in written, f"{row}: the default of {option} is {value:g}"


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_fits_80_columns(name: str) -> None:
    """A word that is wider than its column would be cut in two."""
    shown = CliRunner().invoke(app, [*name.split(), "--help"], env={"COLUMNS": "80"}).output
    words = set(re.findall(r"[^\s│]+", shown))
    helps = [each.help.replace("\\[", "[") for each in COMMANDS[name].params if getattr(each, "help", None)]
    assert len(helps) == len(COMMANDS[name].params) or not name
    assert {word for text in helps for word in text.split()} <= words


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in ("", "review")])
def test_the_help_ends_with_an_example_that_the_command_takes(name: str) -> None:
    shown = CliRunner().invoke(app, [*name.split(), "--help"], env={"COLUMNS": "200"}).output
    found = re.search(rf"Example: defunet {name}( .*)?", shown.strip().splitlines()[-1])
    assert found
    # Every argument and option is parsed and checked as in a call.
    COMMANDS[name].make_context(name, shlex.split(found[1] or ""))


def test_commands_that_use_a_model_come_first() -> None:
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "100"}).output
    panels = re.findall(r"╭─ ([A-Z][\w ]+?) ─", shown)
    assert panels == ["Options", "Use a model", "The MLflow registry", "The pipeline on Kubeflow", "Trainings"]


def test_out_is_o_everywhere() -> None:
    """In every command, step, tool and benchmark."""
    found = 0
    for room in (
        "benchmarks",
        "components",
        "core",
        "defunet",
        "pipelines",
        "registry",
        "serving",
        "tools",
        "tracking",
    ):
        for path in (ROOT / room).rglob("*.py"):
            for out in re.findall(
                r"^\s+out: (Annotated\[Path[^\n]*typer\.Option\([^\n]*)", path.read_text(), re.MULTILINE
            ):
                found += 1
                assert '"--out", "-o"' in out, f"{path}: {out}"
    assert found > 10
