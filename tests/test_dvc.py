"""What a DVC user expects of ``dvc repro``, ``params``, ``metrics``, ``plots`` and ``exp``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.project import CELLS, Project, ran

pytest_plugins = ["tests.project_fixtures"]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

METRICS = "evaluations/defu_net/mixed/seed-0/metrics.json"


def answer(project: Project, *line: str) -> Any:
    return json.loads(project.run("dvc", *line, "--json").stdout)


def test_a_second_repro_runs_nothing(project: Project) -> None:
    assert project.repro() == []
    assert answer(project, "status") == {}
    assert project.run("git", "status", "--porcelain").stdout == ""


def test_nothing_runs_on_a_clone_with_the_same_cache(project: Project, tmp_path: Path) -> None:
    project.run("git", "clone", "--quiet", ".", tmp_path / "clone")
    clone = Project(tmp_path / "clone", project.environment)
    clone.run("dvc", "cache", "dir", "--local", project.root / ".dvc/cache")
    clone.run("dvc", "checkout")
    assert clone.repro() == []
    assert answer(clone, "status") == {}


def test_another_threshold_runs_again_only_what_depends_on_it(project: Project) -> None:
    project.set_params({"evaluate": {"threshold": 0.25}})

    assert project.repro() == sorted([*(f"evaluate@{cell}" for cell in CELLS), "register", "report"])

    diff = answer(project, "params", "diff")
    assert diff["params.yaml"]["evaluate.threshold"] == {"old": 0.5, "new": 0.25, "diff": -0.25}
    assert len(diff["params.yaml"]) == 1
    metrics = answer(project, "metrics", "diff")
    recall = metrics[METRICS]["test.original.recall"]
    assert recall["new"] > recall["old"]  # a lower threshold can only add pixels
    assert recall["diff"] == pytest.approx(recall["new"] - recall["old"])


def test_another_scenario_trains_its_own_cell_alone(project: Project) -> None:
    scenarios = ["mixed", "shenzhen-to-montgomery", "montgomery-to-shenzhen"]
    project.set_params({"matrix": {"scenarios": scenarios}})

    new = "defu_net-montgomery-to-shenzhen-0"
    assert project.repro() == sorted(["preprocess", f"train@{new}", f"evaluate@{new}", "report", "register"])
    rows = json.loads((project.root / "reports/results.json").read_text())
    assert {row["scenario"] for row in rows} == set(scenarios)


def test_another_seed_leaves_finished_cells_alone(project: Project) -> None:
    project.set_params({"matrix": {"seeds": [0, 1]}})

    changed = set(answer(project, "status"))

    assert {f"train@{cell[:-1]}1" for cell in CELLS} <= changed
    assert not changed & {f"train@{cell}" for cell in CELLS} | changed & {f"evaluate@{cell}" for cell in CELLS}
    assert not changed & {"data.dvc", "ingest", "validate", "preprocess"}


def test_metrics_and_plots_of_every_cell_are_shown(project: Project, tmp_path: Path) -> None:
    shown = answer(project, "metrics", "show")[""]["data"]
    cells = ["defu_net/mixed/seed-0", "defu_net/shenzhen-to-montgomery/seed-0"]
    assert set(shown) == {f"evaluations/{cell}/metrics.json" for cell in cells}
    assert 0 <= shown[METRICS]["data"]["test"]["original"]["dice"] <= 1

    done = project.run("dvc", "plots", "show", "--out", tmp_path)
    assert "failed" not in done.stdout + done.stderr
    page = (tmp_path / "index.html").read_text()
    for cell in ("defu_net mixed seed 0", "defu_net shenzhen-to-montgomery seed 0"):
        assert f"Validation Dice, {cell}" in page
        assert f"ROC of test pixels, {cell}" in page
    assert "Dice of every test image" in page
    points = json.loads(project.run("dvc", "plots", "show", f"models/{cells[0]}/history.csv", "--show-vega").stdout)
    assert [point["epoch"] for point in points["data"]["values"]] == ["1", "2"]


def test_an_experiment_with_other_values_is_kept_beside_the_workspace(project: Project) -> None:
    before = (project.root / METRICS).read_bytes()

    line = ("-S", "train.epochs=1", "-S", "matrix.scenarios=[mixed]", "--name", "shorter", "--temp")
    output = project.run("dvc", "exp", "run", *line).stdout

    cell = "defu_net-mixed-0"
    assert ran(output) == sorted(["preprocess", f"train@{cell}", f"evaluate@{cell}", "report", "register"])
    assert (project.root / METRICS).read_bytes() == before
    params = answer(project, "params", "diff", "HEAD", "shorter")["params.yaml"]
    assert params["train.epochs"] == {"old": 2, "new": 1, "diff": -1}
    metrics = answer(project, "metrics", "diff", "HEAD", "shorter")
    assert metrics[METRICS]["test.original.dice"]["old"] != metrics[METRICS]["test.original.dice"]["new"]
