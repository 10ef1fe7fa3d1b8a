"""The project pinned once a session, and reproduced once."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.project import CELLS, Project, checkout, make_project
from tests.workers import Once


@pytest.fixture(scope="session")
def pinned(once: Once) -> Callable[[Path], Project]:
    """Return what copies the project, its cohort pinned and nothing run, into a folder: ``pinned(folder)``."""
    folder = once("pinned", lambda folder: make_project(folder))

    def copy(root: Path) -> Project:
        shutil.copytree(folder, root, symlinks=True, dirs_exist_ok=True)
        return checkout(root)

    return copy


@pytest.fixture(scope="session")
def reproduced(pinned: Callable[[Path], Project], tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The project after its first ``dvc repro``, with its lock file committed. Tests leave it as it is."""
    project = pinned(tmp_path_factory.mktemp("project"))
    stages = project.repro()
    cells = [f"{stage}@{cell}" for stage in ("evaluate", "train") for cell in CELLS]
    assert stages == sorted(["ingest", "validate", "preprocess", *cells, "report", "register"])
    project.run("git", "add", "--all")
    project.run("git", "commit", "--quiet", "--message", "Run")
    return project


@pytest.fixture
def project(reproduced: Project) -> Iterator[Project]:
    """The reproduced project, for a test to change; it is put back afterwards."""
    # What neither Git nor DVC puts back.
    untracked = [*reproduced.root.glob("artifacts/*.json"), *reproduced.root.glob("models/**/run.json")]
    kept = {path: path.read_bytes() for path in untracked}
    yield reproduced
    reproduced.run("git", "reset", "--quiet", "--hard")
    reproduced.run("git", "clean", "--quiet", "-d", "--force")
    reproduced.run("dvc", "checkout", "--force", "--quiet")
    for path, content in kept.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
