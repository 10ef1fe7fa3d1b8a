"""What a DVC user expects of ``dvc repro``, ``params``, ``metrics``, ``plots`` and ``exp``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from tests.project import CELLS, Project, ran

pytestmark = [pytest.mark.slow, pytest.mark.full, pytest.mark.timeout(600)]

METRICS, DICE = "reports/metrics.json", "defu_net.mixed.test_dice"


# What docs/parameters.md says, to see few columns: the figures, and what differs between the experiments.
COLUMNS = (
    "--only-changed",
    "--keep",
    ".*test_",
    "--drop",
    "artifacts|components|core|data|evaluations|models?|registry",
)


def tracked(project: Project) -> list[Any]:
    """The MLflow runs of the project's own database."""
    store = f"sqlite:///{project.root / 'mlflow.db'}"
    client = MlflowClient(store, store)
    return list(client.search_runs([client.get_experiment_by_name("lung-segmentation").experiment_id]))


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
    # Nothing that came from elsewhere says that a version stands in the registry here.
    assert list(answer(clone, "status")) == ["register"]
    assert clone.repro() == ["register"]
    assert clone.repro() == []
    assert answer(clone, "status") == {}
    assert clone.run("git", "status", "--porcelain").stdout == ""


def test_a_fresh_clone_has_figures_and_its_run_leaves_the_very_same_lock(project: Project, tmp_path: Path) -> None:
    """Another folder, later, with no cache, no registry and no MLflow run of the first."""
    project.run("git", "clone", "--quiet", ".", tmp_path / "clone")
    store = {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}"}
    clone = Project(tmp_path / "clone", project.environment | store)
    here, there = (json.loads((one.root / METRICS).read_text()) for one in (project, clone))
    assert answer(clone, "metrics", "show")[""]["data"][METRICS]["data"] == there == here
    unchanged = answer(clone, "metrics", "diff", "--all", "HEAD")[METRICS][DICE]
    assert unchanged == {
        "old": here["defu_net"]["mixed"]["test_dice"],
        "new": here["defu_net"]["mixed"]["test_dice"],
        "diff": 0,
    }
    # Without --force, DVC asks its cache of runs for inputs that are not there (treeverse/dvc#9818).
    planned = ran(clone.run("dvc", "repro", "--dry", "--force").stdout)
    plots = clone.run("dvc", "plots", "diff", "HEAD", "--out", tmp_path / "plots")
    assert "failed" not in plots.stdout + plots.stderr
    page = (tmp_path / "plots/index.html").read_text()
    for title in ("Dice of every test image", "Validation Dice", "ROC of test pixels", "Reliability on test pixels"):
        assert title in page
    for line in (["status"], ["dag", "--md"], ["exp", "show", "--no-pager"]):
        assert clone.run("dvc", *line).stdout.strip()
    assert clone.run("git", "status", "--porcelain").stdout == ""

    stages = clone.repro()

    assert stages == sorted(["ingest", "validate", "preprocess", "report", "register", *planned_cells()])
    assert planned == stages
    assert (clone.root / "dvc.lock").read_bytes() == (project.root / "dvc.lock").read_bytes()
    assert clone.run("git", "status", "--porcelain").stdout == ""
    # Not for want of differences: these are in files that DVC does not track.
    for name in ("models/defu_net/mixed/seed-0/run.json", "artifacts/validation/docs/index.html"):
        assert (clone.root / name).read_bytes() != (project.root / name).read_bytes()
    assert clone.repro() == []


def planned_cells() -> list[str]:
    return [f"{stage}@{cell}" for stage in ("evaluate", "train") for cell in CELLS]


def test_another_threshold_runs_again_only_what_depends_on_it(project: Project) -> None:
    project.set_params({"evaluate": {"threshold": 0.25}})

    assert project.repro() == sorted([*(f"evaluate@{cell}" for cell in CELLS), "register", "report"])

    diff = answer(project, "params", "diff")
    assert diff["params.yaml"]["evaluate.threshold"] == {"old": 0.5, "new": 0.25, "diff": -0.25}
    assert len(diff["params.yaml"]) == 1
    metrics = answer(project, "metrics", "diff")
    dice = metrics[METRICS][DICE]
    assert dice["new"] != dice["old"]
    assert dice["diff"] == pytest.approx(dice["new"] - dice["old"])


def test_another_scenario_trains_its_own_cell_alone(project: Project) -> None:
    scenarios = ["mixed", "shenzhen-to-montgomery", "montgomery-to-shenzhen"]
    project.set_params({"matrix": {"scenarios": scenarios}})

    new = "defu_net-montgomery-to-shenzhen-0"
    assert project.repro() == sorted(["preprocess", f"train@{new}", f"evaluate@{new}", "report", "register"])
    rows = json.loads((project.root / "reports/results.json").read_text())
    assert {row["scenario"] for row in rows} == set(scenarios)


@pytest.mark.parametrize(
    ("changes", "stale"),
    [
        ({"evaluate": {"threshold": 0.25}}, {*(f"evaluate@{cell}" for cell in CELLS), "register"}),
        ({"train": {"epochs": 3}}, {f"train@{cell}" for cell in CELLS}),
        ({"evaluate": {"bootstrap": 200}}, {*(f"evaluate@{cell}" for cell in CELLS), "report"}),
        ({"preprocess": {"dilation": 60}}, {"preprocess"}),
    ],
)
def test_what_depends_on_a_parameter_is_stale(
    project: Project, changes: dict[str, dict[str, Any]], stale: set[str]
) -> None:
    project.set_params(changes)
    assert set(answer(project, "status")) == stale


def test_another_seed_leaves_finished_cells_alone(project: Project) -> None:
    project.set_params({"matrix": {"seeds": [0, 1]}})

    changed = set(answer(project, "status"))

    assert {f"train@{cell[:-1]}1" for cell in CELLS} <= changed
    assert not changed & {f"train@{cell}" for cell in CELLS} | changed & {f"evaluate@{cell}" for cell in CELLS}
    assert not changed & {"data.dvc", "ingest", "validate", "preprocess"}


def test_metrics_and_plots_of_every_cell_are_shown(project: Project, tmp_path: Path) -> None:
    shown = answer(project, "metrics", "show")[""]["data"]
    assert set(shown) == {METRICS}
    figures = shown[METRICS]["data"]["defu_net"]
    assert set(figures) == {"mixed", "shenzhen-to-montgomery"}
    assert 0 <= figures["mixed"]["test_dice"] <= 1

    cells = ["defu_net/mixed/seed-0", "defu_net/shenzhen-to-montgomery/seed-0"]
    done = project.run("dvc", "plots", "show", "--out", tmp_path)
    assert "failed" not in done.stdout + done.stderr
    page = (tmp_path / "index.html").read_text()
    for cell in ("defu_net mixed seed 0", "defu_net shenzhen-to-montgomery seed 0"):
        assert f"Validation Dice, {cell}" in page
        assert f"ROC of test pixels, {cell}" in page
    assert "Dice of every test image" in page
    points = json.loads(project.run("dvc", "plots", "show", f"models/{cells[0]}/history.csv", "--show-vega").stdout)
    assert [point["epoch"] for point in points["data"]["values"]] == ["1", "2"]


def test_an_experiment_is_kept_beside_the_workspace_applied_and_pushed(project: Project, tmp_path: Path) -> None:
    before = (project.root / METRICS).read_bytes()
    runs = tracked(project)
    environment = {name: value for name, value in project.environment.items() if not name.startswith("GIT_")}
    del environment["MLFLOW_TRACKING_URI"]
    nobody = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull, "HOME": str(tmp_path)}
    user = Project(project.root, environment | nobody)  # Git knows no name, and nobody has said where MLflow is

    line = ("-S", "train.epochs=1", "-S", "matrix.scenarios=[mixed]", "--name", "shorter")
    assert "Queued experiment 'shorter'" in user.run("dvc", "exp", "run", "--queue", *line).stdout
    output = user.run("dvc", "exp", "run", "--run-all").stdout
    output = user.run("dvc", "queue", "logs", "shorter").stdout

    cell = "defu_net-mixed-0"
    assert ran(output) == sorted(["preprocess", f"train@{cell}", f"evaluate@{cell}", "report", "register"])
    assert (project.root / METRICS).read_bytes() == before
    params = answer(project, "params", "diff", "HEAD", "shorter")["params.yaml"]
    assert params["train.epochs"] == {"old": 2, "new": 1, "diff": -1}
    dice = answer(project, "metrics", "diff", "HEAD", "shorter")[METRICS][DICE]
    assert dice["old"] != dice["new"]
    # Its training and its version are in the project's MLflow, not in the copy, which is gone.
    assert len(tracked(project)) == len(runs) + 1
    (new,) = [run for run in tracked(project) if run.info.run_id not in {old.info.run_id for old in runs}]
    assert new.data.params["train.epochs"] == "1"

    user.run("git", "init", "--quiet", "--bare", tmp_path / "remote.git")
    user.run("git", "remote", "add", "origin", tmp_path / "remote.git")
    user.run("dvc", "remote", "add", "--local", "--default", "storage", tmp_path / "storage")
    user.run("git", "push", "--quiet", "origin", "HEAD:main")
    user.run("dvc", "exp", "push", "origin", "shorter")
    assert "shorter" in user.run("dvc", "exp", "list", "origin").stdout
    assert any((tmp_path / "storage/files").iterdir())

    shown = user.run("dvc", "exp", "show", "--csv", *COLUMNS).stdout.splitlines()
    assert "train.epochs" in shown[0]
    assert DICE in shown[0]
    assert len(shown[0].split(",")) <= 12 + 3, "of Experiment the table has one column, the file four"
    user.run("dvc", "exp", "apply", "shorter")
    assert (project.root / METRICS).read_bytes() != before
    assert "register" in answer(user, "status"), "the registry here has not been offered this one"
    user.run("git", "remote", "remove", "origin")
    (project.root / ".dvc/config.local").unlink()
