"""No altered package becomes champion, and no promotion ends in a traceback: an attack on every file of a version."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest

from benchmarks.attack.promotions import promotions
from core.errors import UserError
from registry.seal import PACKAGE_TAG
from tests.conftest import Project, files
from tests.registry.registered import BETTER, GATE, NAME, WORSE
from tracking.local_store import adopt

LEAST = 44  # tries


@pytest.mark.full
@pytest.mark.timeout(300)
def test_an_altered_version_is_not_promoted(three: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(three.root, tmp_path, dirs_exist_ok=True)
    adopt(tmp_path)
    project = Project(tmp_path, three.launcher)
    project.write_params(promotion=GATE | {"floor": 0.0})
    before = files(tmp_path)
    monkeypatch.chdir(tmp_path)
    counts = promotions(Path(), 0, BETTER)
    assert counts.failures == {}
    assert counts.tried >= LEAST
    assert (counts.read, counts.refused) == (1, counts.tried - 1)
    assert files(tmp_path) == before


@pytest.mark.full
def test_a_package_that_lies_elsewhere_is_not_touched(
    three: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(three.root, tmp_path, dirs_exist_ok=True)
    # As a store that some of its experiments were made in another folder for.
    with sqlite3.connect(tmp_path / "mlflow.db") as store:
        store.execute("UPDATE experiments SET artifact_location = ? WHERE experiment_id = 0", [f"{tmp_path}/mlruns/0"])
    before = files(three.root)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"lies outside .* an attack would damage it"):
        promotions(Path(), 0, BETTER)
    assert files(three.root) == before


def test_a_version_without_a_digest_is_named(three: Project, tmp_path: Path) -> None:
    shutil.copytree(three.root, tmp_path, dirs_exist_ok=True)
    project = Project(tmp_path, three.launcher)
    project.client().delete_model_version_tag(NAME, str(WORSE), PACKAGE_TAG)
    with pytest.raises(UserError, match="registered without a digest"):
        promotions(project.root, 0, WORSE)


def test_a_folder_without_a_run_is_named(three: Project, tmp_path: Path) -> None:
    shutil.copy(three.root / "params.yaml", tmp_path)
    with pytest.raises(UserError, match=r"mlflow\.db: not there; name a project in which `make run` was"):
        promotions(tmp_path, 0)
