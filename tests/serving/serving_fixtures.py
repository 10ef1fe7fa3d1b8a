"""Services."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Project, Trained
from tests.serving.serving import NAME, Served, launch, ready
from tests.workers import Once


@pytest.fixture(scope="session")
def registered(trained: Trained, once: Once) -> Project:
    """A project whose registry holds version 1, champion; not to be changed."""

    def make(folder: Path) -> None:
        project = trained.copy(folder)
        line = project.register_line()
        job = project.start(line)
        job.until(lambda: False, 400)  # to its end: it exports the network, which takes its time on a busy machine
        assert job.wait(line).returncode == 0, job.wait(line).stderr
        project.client().set_registered_model_alias(NAME, "champion", "1")

    return Project(once("registered", make), trained.project.launcher)


@pytest.fixture
def registry(registered: Project, tmp_path: Path) -> Project:
    """A project of the test's own, whose registry starts as that of ``registered``; the files are shared."""
    for name in ("mlflow.db", "params.yaml", "data.dvc"):
        shutil.copy(registered.root / name, tmp_path / name)
    return Project(tmp_path, registered.launcher)


@pytest.fixture(scope="session")
def package(trained: Trained, once: Once) -> Path:
    """A package as a folder, from no registry; not to be changed."""
    from components.register.build import build
    from core.params import read_params

    def make(folder: Path) -> None:
        project = trained.project
        params = read_params(project.root / "params.yaml")
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(project.root)
            patch.setenv("GIT_COMMIT", "c0ffee")
            build(project.model, project.evaluation, project.arrays, params, folder / "one")

    return once("package", make) / "one"


@pytest.fixture(scope="session")
def service(trained: Trained, package: Path) -> Iterator[Served]:
    """A service of the package's folder, small limits; it must outlive whatever the tests send."""
    limits = ("--max-mb", 2, "--max-megapixels", 4, "--header-timeout", 3, "--body-timeout", 4)
    one = ready(launch(trained.project, package, *limits))
    yield one
    done = one.stop()
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stdout + done.stderr, done.stdout + done.stderr
