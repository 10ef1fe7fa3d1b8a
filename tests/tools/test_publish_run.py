"""Studies are worked off as planned: each cell trained, evaluated and kept once, and resumed where it was left."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from core.cell import CASES, PROVENANCE, ROWS, RUN, Cell
from core.errors import UserError
from model.weights import CONFIG
from tests.conftest import ROOT, Project, refused
from tools.publish.run import jobs, parameters

ENTRY: dict[str, Any] = {
    "study": "tiny",
    "profile": "fast",
    "set": {"train.epochs": 1, "train.width": 0.0625, "train.images_per_epoch": 8},
    "networks": ["unet", "res_unet"],
    "scenarios": ["mixed"],
    "seeds": [0],
}


@pytest.fixture
def planned(prepared: Project, tmp_path: Path) -> Project:
    shutil.copytree(prepared.root / "artifacts", tmp_path / "artifacts")
    for name in ("mlflow.db", "data.dvc"):
        shutil.copy(prepared.root / name, tmp_path / name)
    shutil.copy(ROOT / "params.yaml", tmp_path / "params.yaml")
    project = Project(tmp_path, prepared.launcher)
    plan(project, ENTRY)
    return project


def plan(project: Project, *entries: dict[str, Any]) -> None:
    (project.root / "results").mkdir(exist_ok=True)
    (project.root / "results" / "plan.yaml").write_text(json.dumps({"studies": entries}))  # JSON is YAML


@pytest.mark.full
@pytest.mark.slow
def test_cells_are_trained_evaluated_and_kept_once(planned: Project) -> None:
    line = planned.line("publish.run", "--processes", 2)
    listed = planned.do([*line, "--list"])
    assert "0 of 2 cells stored" in listed
    assert listed.count("not run") == 2
    printed = planned.do(line)
    for network in ("unet", "res_unet"):
        assert f"tiny {network}/mixed/seed-0: stored in results/tiny" in printed
        kept = planned.root / "results/tiny" / Cell(network, "mixed", 0).folder
        assert {ROWS, CASES, CONFIG, PROVENANCE, RUN} <= {path.name for path in kept.iterdir()}
        config = json.loads((kept / CONFIG).read_text())
        assert (config["input"]["size"], config["train"]["epochs"]) == (64, 1)
    again = planned.do(line)
    assert "2 of 2 cells stored" in again
    assert "seed-0: stored" not in again
    # One that is no longer kept comes from what its training has left, without another training.
    shutil.rmtree(planned.root / "results/tiny/unet")
    model = planned.root / "build/studies/tiny/models/unet/mixed/seed-0"
    before = (model / RUN).read_bytes()
    assert "unet/mixed/seed-0: stored" in planned.do(line)
    assert (model / RUN).read_bytes() == before


@pytest.mark.full
@pytest.mark.slow
def test_a_cell_that_fails_is_named_with_its_log_and_the_others_go_on(planned: Project) -> None:
    plan(
        planned,
        ENTRY | {"networks": ["unet"], "set": ENTRY["set"] | {"train.learning_rate": 1e38}},
        ENTRY | {"study": "ok", "networks": ["res_unet"]},
    )
    done = planned.call(planned.line("publish.run", "--processes", 1))
    assert done.returncode == 1
    assert "tiny unet/mixed/seed-0: train failed: error: train unet mixed seed 0: " in done.stdout
    assert "build/studies/tiny/logs/unet-mixed-seed-0.log" in done.stdout.replace("\n", "")
    assert done.stderr.strip() == "error: 1 of 2 cells failed; run again to resume them"
    assert (planned.root / "results/ok/res_unet/mixed/seed-0" / RUN).exists()


def test_a_plan_is_refused_in_one_line(planned: Project) -> None:
    plan(planned, ENTRY | {"seed": 0})
    done = planned.call(planned.line("publish.run", "--list"))
    assert done.returncode == 1
    assert done.stderr.startswith("error: results/plan.yaml: 1 value(s) to correct")
    (planned.root / "results" / "plan.yaml").unlink()
    assert "results/plan.yaml: not found" in refused(planned.call(planned.line("publish.run", "--list")))


def test_the_first_seed_of_all_cells_comes_before_the_second(planned: Project) -> None:
    plan(planned, ENTRY | {"seeds": [0, 1], "ablation": "no-tone"})
    found = jobs(planned.root / "results/plan.yaml", planned.root / "results", planned.root / "work")
    assert [(job.cell.network, job.cell.seed) for job in found] == [
        ("unet", 0), ("res_unet", 0), ("unet", 1), ("res_unet", 1),
    ]  # fmt: skip
    assert found[0].kept == planned.root / "results/tiny/ablations/no-tone"
    assert found[0].work == planned.root / "work/tiny-no-tone"


def test_an_entry_sets_what_its_profile_leaves(planned: Project) -> None:
    plan(planned, ENTRY)
    entry = jobs(planned.root / "results/plan.yaml", planned.root, planned.root)[0].entry
    params = parameters(entry, planned.root / "params.yaml", planned.root / "own.yaml")
    assert (params.preprocess.size, params.train.epochs, params.train.images_per_epoch) == (64, 1, 8)
    wrong = entry.model_copy(update={"set": {"train.epoch": 1}})
    with pytest.raises(UserError, match=r"study tiny: set names train\.epoch, which .*params\.yaml does not have"):
        parameters(wrong, planned.root / "params.yaml", planned.root / "own.yaml")


def test_the_plan_of_the_repository_can_be_run() -> None:
    for job in jobs(ROOT / "results/plan.yaml", ROOT / "results", ROOT / "build"):
        assert job.entry.profile in {path.stem for path in (ROOT / "profiles").glob("*.yaml")}
