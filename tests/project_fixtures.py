"""The project reproduced once a session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.project import CELLS, Project, make_project


@pytest.fixture(scope="session")
def reproduced(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The project after its first ``dvc repro``, with its lock file committed. Tests leave it as it is."""
    project = make_project(tmp_path_factory.mktemp("project"))
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
