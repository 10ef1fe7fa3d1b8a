"""Where a result comes from is read from the repository, or from what a container was told."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from core.errors import UserError
from core.provenance import data_md5, git_state, hardware, versions

# What a run writes of what Git tracks.
REWRITTEN = ("dvc.lock", "models/unet/mixed/seed-0/history.csv", "evaluations/roc.csv", "reports/metrics.json")


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one commit, as the current folder."""
    for name in ("GIT_COMMIT", "GIT_DIRTY", "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    for name in ("code.py", *REWRITTEN):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1\n")
    git("init", "--quiet")
    git("add", "--all")
    git("-c", "user.name=A", "-c", "user.email=a@example.org", "commit", "--quiet", "--message", "One")
    return tmp_path


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True).stdout.strip()


def test_commit_and_whether_the_code_differs_from_it(repository: Path) -> None:
    head = git("rev-parse", "HEAD")
    assert git_state(Path.cwd()) == (head, False)
    (repository / "new.py").touch()
    for name in REWRITTEN:
        (repository / name).write_text("2\n")
    assert git_state(Path.cwd()) == (head, False)
    (repository / "reports/metrics.json").unlink()
    assert git_state(Path.cwd()) == (head, False)
    (repository / "code.py").write_text("2\n")
    assert git_state(Path.cwd()) == (head, True)
    git("add", "code.py")
    assert git_state(Path.cwd()) == (head, True)


def test_the_repository_is_that_of_the_code_wherever_it_is_run(
    repository: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = git("rev-parse", "HEAD")
    folder = repository / "reports"
    monkeypatch.chdir(folder)
    (repository / "dvc.lock").write_text("of a run\n")
    assert git_state(repository) == (head, False), "in a folder below it"
    other = tmp_path_factory.mktemp("other")
    monkeypatch.chdir(other)
    git("init", "--quiet")
    git("-c", "user.name=A", "-c", "user.email=a@example.org", "commit", "--quiet", "--allow-empty", "--message", "Two")
    assert git_state(repository) == (head, False), "in another repository"
    assert git_state()[0] != git("rev-parse", "HEAD")


def test_outside_a_repository_nothing_is_known(
    tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    monkeypatch.chdir(outside)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    assert git_state(Path.cwd()) == (None, True)
    monkeypatch.setenv("PATH", str(outside))  # no git at all
    assert git_state(Path.cwd()) == (None, True)


@pytest.mark.parametrize(
    ("dirty", "expected"), [("", False), ("0", False), ("false", False), ("1", True), ("true", True)]
)
def test_a_container_is_told(repository: Path, monkeypatch: pytest.MonkeyPatch, dirty: str, expected: bool) -> None:
    monkeypatch.setenv("GIT_COMMIT", "c0ffee")
    monkeypatch.setenv("GIT_DIRTY", dirty)
    assert git_state(Path.cwd()) == ("c0ffee", expected)


def test_the_pin_of_the_data(repository: Path) -> None:
    assert data_md5() is None
    (repository / "data.dvc").write_text("deps:\n- path: samples\nouts:\n- md5: abc.dir\n  path: data\n")
    assert data_md5() == "abc.dir"
    (repository / "data.dvc").write_text("outs: [")
    with pytest.raises(UserError, match=r"data\.dvc: not valid YAML"):
        data_md5()


def test_machine_and_versions_are_those_of_this_process() -> None:
    import torch

    assert versions()["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    machine = hardware()
    assert machine["cores"] >= 1
    assert machine["memory_gib"] > 0
    assert (machine["gpu"] is None) == (not torch.cuda.is_available())
