"""Only a version that was evaluated becomes champion; a refusal leaves the champion where it was."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from components.errors import UserError
from components.promote import EVIDENCE, Promotion, promote
from tests.conftest import Launcher, Project, refused

NAME = "lung-segmentation"
EVALUATED = dict.fromkeys(EVIDENCE, "0.950000")


@pytest.fixture
def store(
    tmp_path: Path, empty_store: Path, launcher: Launcher, monkeypatch: pytest.MonkeyPatch
) -> tuple[Project, MlflowClient]:
    """A registry with no model in it."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    project = Project(tmp_path, launcher)
    project.write_params()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", project.store)
    return project, project.client()


def versions(client: MlflowClient, *tags: dict[str, str]) -> None:
    """Register one version for each set of tags; the last is challenger."""
    client.create_registered_model(NAME)
    for given in tags:
        version = client.create_model_version(NAME, source="file:///nowhere", tags=given)
    client.set_registered_model_alias(NAME, "challenger", version.version)


def champion(client: MlflowClient) -> int | None:
    found = client.get_registered_model(NAME).aliases.get("champion")
    return None if found is None else int(found)


def test_the_challenger_becomes_champion_then_another(store: tuple[Project, MlflowClient], capsys: Any) -> None:
    client = store[1]
    versions(client, EVALUATED, EVALUATED)
    assert promote(NAME) == Promotion(NAME, 2, None)
    assert champion(client) == 2
    assert promote(NAME, 1) == Promotion(NAME, 1, 2)
    assert champion(client) == 1
    assert client.get_registered_model(NAME).aliases["challenger"] in ("2", 2)
    assert capsys.readouterr().out == (
        "lung-segmentation: version 2 is champion (before: none)\n"
        "lung-segmentation: version 1 is champion (before: 2)\n"
    )


@pytest.mark.parametrize(
    "tags",
    [
        {},
        {EVIDENCE[0]: "0.95"},
        {EVIDENCE[1]: "0.95"},
        EVALUATED | {EVIDENCE[1]: "nan"},
        EVALUATED | {EVIDENCE[0]: "inf"},
        EVALUATED | {EVIDENCE[0]: "good"},
        EVALUATED | {EVIDENCE[0]: ""},
    ],
    ids=["none", "no-test", "no-validation", "nan", "infinite", "a-word", "empty"],
)
def test_without_an_evaluation_the_champion_stays(store: tuple[Project, MlflowClient], tags: dict[str, str]) -> None:
    client = store[1]
    versions(client, EVALUATED, tags)
    promote(NAME, 1)
    missing = [name for name in EVIDENCE if tags.get(name) not in ("0.95", "0.950000")]
    with pytest.raises(UserError) as told:
        promote(NAME)
    assert str(told.value) == (
        f"lung-segmentation version 2: its evaluation is missing ({', '.join(missing)}), so it is not promoted; "
        "evaluate the model and register it again"
    )
    assert champion(client) == 1


def test_unknown_model_version_or_challenger_is_one_line(store: tuple[Project, MlflowClient]) -> None:
    project, client = store
    with pytest.raises(UserError, match=r"lung-segmentation.* not found"):
        promote(NAME)
    client.create_registered_model(NAME)
    with pytest.raises(UserError, match="no version is challenger; run the register step first, or say --version N"):
        promote(NAME)
    client.delete_registered_model(NAME)
    versions(client, EVALUATED)
    promote(NAME)
    with pytest.raises(UserError, match=r"version=9.* not found") as told:
        promote(NAME, 9)
    assert "\n" not in str(told.value)
    assert champion(client) == 1
    assert "version=9" in refused(project.call(project.line("promote", "--version", 9)))
    assert project.do(project.line("promote")) == "lung-segmentation: version 1 is champion (before: 1)\n"
    assert project.call(project.line("promote", "--version", 0)).returncode == 2


def test_a_store_that_cannot_be_reached_is_told(store: tuple[Project, MlflowClient]) -> None:
    project = store[0]
    message = refused(project.call(project.line("promote"), MLFLOW_TRACKING_URI="nonsense://here"))
    assert message.startswith("error: MLflow, nonsense://here: ")
    (project.root / "broken.db").write_bytes(b"not a database" * 100)
    message = refused(project.call(project.line("promote"), MLFLOW_TRACKING_URI="sqlite:///broken.db"))
    assert message.startswith("error: MLflow, sqlite:///broken.db: ")
