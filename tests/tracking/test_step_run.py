"""Kubeflow's MLflow plugin starts a run for each step: a training's run is its child, and no step logs into it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from core.cell import RUN
from tests.conftest import Project


def started(project: Project, name: str) -> str:
    """Start a run as the plugin does; return its id."""
    client = project.client()
    found = client.get_experiment_by_name("kubeflow")
    experiment = found.experiment_id if found else client.create_experiment("kubeflow")
    return str(client.create_run(experiment, run_name=name).info.run_id)


def content(project: Project, run_id: str) -> dict[str, Any]:
    run = project.client().get_run(run_id)
    return run.to_dictionary() | {"artifacts": project.client().list_artifacts(run_id)}


@pytest.mark.slow
def test_a_training_is_the_child_of_the_steps_run(untrained: Project) -> None:
    step = started(untrained, "train")
    before = content(untrained, step)
    untrained.do(untrained.train_line(), MLFLOW_RUN_ID=step)
    (run,) = untrained.runs()
    assert run.data.tags["mlflow.parentRunId"] == step
    assert run.info.status == "FINISHED"
    assert content(untrained, step) == before


@pytest.mark.slow
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.full
def test_no_other_step_resumes_it_or_logs_into_it(scored: Project, known: bool) -> None:
    if not known:  # as after `dvc pull`: register makes a run of its own
        (scored.model / RUN).unlink()
    (trained,) = scored.runs()
    steps = {name: started(scored, name) for name in ("evaluate", "register", "promote")}
    before = {name: content(scored, run_id) for name, run_id in steps.items()}
    scored.do(scored.evaluate_line(), MLFLOW_RUN_ID=steps["evaluate"])
    scored.do(scored.register_line(), MLFLOW_RUN_ID=steps["register"])
    scored.call(scored.line("promote", "--dry-run"), MLFLOW_RUN_ID=steps["promote"])
    assert {name: content(scored, run_id) for name, run_id in steps.items()} == before
    registered = json.loads((scored.root / "registered.json").read_text())
    assert registered["run_id"] not in steps.values()
    assert (registered["run_id"] == trained.info.run_id) == known
