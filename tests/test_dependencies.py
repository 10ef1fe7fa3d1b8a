"""DVC's dependencies on code, held against what each step imports."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import grimp
import pytest

from components import evaluate, train
from core.params import read_yaml
from tests.conftest import ROOMS, ROOT

STAGES = read_yaml(ROOT / "dvc.yaml")["stages"]
# Modules that do not decide what a step writes. They read arguments and parameters (whose values DVC tracks), move
# files byte for byte, record where a result came from, print, and log to MLflow. What they import counts no more.
CARRIERS = {
    *("core.cli", "core.errors", "core.files", "core.inputs", "core.parallel", "core.params", "core.provenance"),
    *("core.runs", "core.s3", "core.terminal", "registry.fetch", "registry.pretrained"),
}
# `python -m` of these folders is imported by name, not by a statement.
BY_NAME = {"model.networks"}


@cache
def graph() -> grimp.ImportGraph:
    return grimp.build_graph(*ROOMS)


def carries(module: str) -> bool:
    return module in CARRIERS or module.partition(".")[0] == "tracking"


def imported(step: str) -> set[str]:
    """Return every module whose code decides what a step writes, the step's own included."""
    found: set[str] = set()
    open_ = {f"components.{step}", *graph().find_descendants(f"components.{step}")}
    while open_:
        module = open_.pop()
        if module in found or carries(module):
            continue
        found.add(module)
        open_ |= graph().find_modules_directly_imported_by(module)
        if module in BY_NAME:
            open_ |= graph().find_descendants(module)
    # The `__init__` of a room that only describes it.
    return {module for module in found if module not in {*ROOMS, "model.inference"}}


def covers(place: str) -> set[str]:
    """Return the modules in a place that dvc.yaml names."""
    module = place.removesuffix(".py").replace("/", ".")
    return {module} if place.endswith(".py") else {module, *graph().find_descendants(module)}


def watched(step: str) -> list[str]:
    return [place for place in STAGES[step]["deps"] if place.partition("/")[0] in ROOMS]


@pytest.mark.parametrize("step", STAGES)
def test_dvc_names_what_a_step_imports_neither_too_much_nor_too_little(step: str) -> None:
    needed = imported(step)
    places = {place: covers(place) for place in watched(step)}
    assert places, "every stage depends on code"
    assert needed - set().union(*places.values()) == set(), "imported, and not in dvc.yaml"
    assert [place for place, modules in places.items() if not modules & needed] == [], "in dvc.yaml, and not imported"
    assert all((ROOT / place).exists() for place in places)


def test_an_import_that_dvc_does_not_name_is_noticed() -> None:
    assert "model.training.losses" in imported("train")
    assert "model.networks.defu_net" in imported("evaluate")
    assert "model.metrics" not in imported("train")
    assert not any(module.startswith("tracking") for step in STAGES for module in imported(step))


def test_trainings_and_evaluations_record_the_code_that_dvc_watches() -> None:
    assert list(train.CODE) == watched("train")
    assert list(evaluate.CODE) == watched("evaluate")


def test_carriers_are_there() -> None:
    assert {module for module in CARRIERS if module not in graph().modules} == set()
    assert Path(ROOT / "tracking").is_dir()
