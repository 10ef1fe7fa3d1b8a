"""A version is registered only if what is here now is what its weights were made of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from core.cell import PROVENANCE, RUN, SCORED
from core.cohort import Arrays
from core.errors import UserError
from core.params import Params
from registry.origin import origin_tags
from tests.conftest import DATA_MD5, Project, Trained, refused


@pytest.fixture
def here(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    project = trained.copy(tmp_path)
    monkeypatch.chdir(project.root)
    return project


def tags(project: Project, params: Params | None = None) -> dict[str, str]:
    params = params or project.write_params()
    return origin_tags(project.model, project.evaluation, Arrays(project.arrays), params)


def problems(project: Project, params: Params | None = None) -> list[str]:
    with pytest.raises(
        UserError, match=r"the current files and parameters are not those of its weights, so no version"
    ) as told:
        tags(project, params)
    return told.value.problems


def test_commit_and_changes_are_those_of_the_training(here: Project) -> None:
    run = json.loads((here.model / RUN).read_text())
    (here.model / RUN).write_text(json.dumps(run | {"commit": "deadbeef", "dirty": True}))
    found = tags(here)
    assert (found["git.commit"], found["git.dirty"], found["data.md5"]) == ("deadbeef", "true", DATA_MD5)


def test_of_a_training_that_is_not_recorded_here_the_commit_is_unknown(here: Project) -> None:
    """As of a model that came by `dvc pull`, or with what an earlier training has left beside it."""
    run = json.loads((here.model / RUN).read_text())
    (here.model / RUN).write_text(json.dumps(run | {"weights": "0" * 64}))
    other = tags(here)
    (here.model / RUN).unlink()
    assert tags(here) == other
    assert (other["git.commit"], other["git.dirty"], other["data.md5"]) == ("unknown", "unknown", DATA_MD5)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"train": {"epochs": 24}}, "train.epochs: 3 in the files, 24 in the parameters now"),
        ({"evaluate": {"threshold": 0.4}}, "evaluate.threshold: 0.5 in the files, 0.4 in the parameters now"),
        ({"preprocess": {"size": 64, "dilation": 48}}, "preprocess.size: 32 in the files, 64 in the parameters now"),
    ],
)
def test_other_parameters_are_named(here: Project, changes: dict[str, Any], line: str) -> None:
    """As when ``params.yaml`` was edited for the next run, or put back without ``dvc checkout``."""
    assert problems(here, here.write_params(**changes)) == [line]


def test_a_training_from_before_a_parameter_counts_as_trained_with_what_there_was(here: Project) -> None:
    record = here.model / PROVENANCE
    trained = json.loads(record.read_text())
    assert trained["params"].pop("start_from") == "random"
    record.write_text(json.dumps(trained))
    assert tags(here)["git.dirty"] == "false"
    assert problems(here, here.write_params(train={"start_from": "pretrained"})) == [
        "train.start_from: random in the files, pretrained in the parameters now"
    ]


def test_weights_that_were_not_evaluated_are_refused(here: Project) -> None:
    """As when a forced register meets the weights of one run and the evaluation of another."""
    scored = json.loads((here.evaluation / SCORED).read_text())
    scored["files"]["weights"] = "0" * 64
    (here.evaluation / SCORED).write_text(json.dumps(scored))
    (line,) = problems(here)
    assert line.endswith("those that were evaluated 000000000000")


def test_another_pin_is_refused(here: Project) -> None:
    other = "f" * 32 + ".dir"
    (here.root / "data.dvc").write_text(f"outs:\n- md5: {other}\n  path: data\n")
    message = refused(here.call(here.register_line()))
    assert message.startswith(f"error: data.dvc pins {other}, {here.arrays} was made from {DATA_MD5}; run `dvc repro`")
    assert list(here.client().search_registered_models()) == []


def test_the_command_refuses_and_registers_nothing(here: Project) -> None:
    here.write_params(train={"epochs": 24})
    done = here.call(here.register_line())
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "  train.epochs: 3 in the files, 24 in the parameters now"
    assert not (here.root / "registered.json").exists()
    assert list(here.client().search_registered_models()) == []
