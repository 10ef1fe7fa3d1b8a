"""What ``make`` refuses before anything has run, in a checkout of its own with this environment."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.project import ROOT, Project


@pytest.fixture
def checkout(tmp_path: Path) -> Project:
    """All files of the repository, without what runs made; its environment is the one of the tests."""
    environment = Path(sys.prefix)
    if not list(environment.glob(".made-*")):
        pytest.skip(f"{environment} was not made by `make setup`, which would make another one here")
    line = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", ":!results", ":!docs", ":!tests"]
    listed = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tmp_path / name)
    (tmp_path / ".venv").symlink_to(environment)
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    return Project(tmp_path, {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(tmp_path)})


@pytest.mark.parametrize(
    ("line", "wrong", "told"),
    [
        (["run"], "learning_rate: fast", "train.learning_rate"),
        (["run", "PROFILE=enormous"], "", "enormous"),
        (["run", "DATA=/no/such/cohort"], "", "/no/such/cohort: not found"),
        (["run", "TRAIN_PROCESSES=3"], "", "train.batch_size 8 is not a multiple of 3 processes"),
        (["data"], "", "which cohort?"),
        (["profile"], "", "which profile?"),
    ],
)
def test_bad_input_ends_a_target_before_anything_ran(checkout: Project, line: list[str], wrong: str, told: str) -> None:
    kept = {name: (checkout.root / name).read_bytes() for name in ("dvc.lock", "data.dvc", "params.yaml")}
    if wrong:
        path = checkout.root / "params.yaml"
        kept["params.yaml"] = path.read_bytes().replace(b"learning_rate: 0.002", wrong.encode())
        assert kept["params.yaml"] != path.read_bytes()
        path.write_bytes(kept["params.yaml"])
    done = checkout.run("make", *line, check=False)
    assert done.returncode == 2, done.stdout + done.stderr
    errors = [line for line in done.stderr.splitlines() if not line.startswith("make: ***")]
    assert "error: " in errors[0]
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert {name: (checkout.root / name).read_bytes() for name in kept} == kept
    assert [name for name in ("artifacts", "mlflow.db", "data") if (checkout.root / name).exists()] == []
    assert list((checkout.root / "models").rglob("weights.safetensors")) == []


def test_a_cohort_that_is_not_the_pinned_one_is_refused(checkout: Project) -> None:
    pin = checkout.root / "data.dvc"
    pin.write_text(f"frozen: true\n{pin.read_text()}")
    before = pin.read_bytes()
    for state in ("not pulled", "of another pin"):
        if state == "of another pin":
            (checkout.root / "data").mkdir()
            (checkout.root / "data/one.txt").touch()
        done = checkout.run("make", "run", check=False)
        assert done.returncode == 2
        error = next(line for line in done.stderr.splitlines() if line.startswith("error: "))
        assert error.startswith("error: data is not what data.dvc pins: dvc pull data.dvc brings it")
        assert pin.read_bytes() == before
        assert [name for name in ("artifacts", "mlflow.db") if (checkout.root / name).exists()] == []


def test_clean_keeps_what_git_and_dvc_hold(checkout: Project) -> None:
    kept = ("models/unet/history.csv", ".dvc/cache/files/one", "mlflow.db", "samples/cohort.json")
    gone = ("models/unet/weights.safetensors", "models/res_unet/history.csv", "artifacts/a", "checkpoints/b", "build/c")
    for name in (*kept[:3], *gone):
        (checkout.root / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout.root / name).touch()
    checkout.run("git", "add", kept[0])
    checkout.run("make", "clean")
    assert [name for name in (*kept, *gone) if (checkout.root / name).exists()] == list(kept)


def test_a_folder_that_is_no_repository_is_refused_at_once(checkout: Project) -> None:
    shutil.rmtree(checkout.root / ".git")
    done = checkout.run("make", "run", check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[0].startswith(f"error: {checkout.root} is no git repository: clone the project")
    assert done.stdout == ""


def interpreter(folder: Path, version: str) -> Path:
    """A stand-in for a Python of another version, which says only what it is."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "python"
    path.write_text(f"#!/bin/sh\necho {version}\n")
    path.chmod(0o755)
    return path


def set_up(root: Path, python: Path) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "PYTHON": str(python), "VENV": str(root / ".venv")}
    line = [str(root / "tools" / "setup.sh")]
    return subprocess.run(line, cwd=root, env=environment, capture_output=True, text=True, check=False)


def test_another_python_and_a_renamed_clone_are_no_finished_environment(tmp_path: Path) -> None:
    one = tmp_path / "one"
    (one / "tools").mkdir(parents=True)
    for name in (
        "requirements.lock",
        "pyproject.toml",
        *(f"requirements-{name}.lock" for name in ("uv", "torch", "cuda")),
    ):
        shutil.copy2(ROOT / name, one)
    shutil.copy2(ROOT / "tools" / "setup.sh", one / "tools")
    interpreter(one / ".venv" / "bin", "Python 3.11.7")
    wrong = interpreter(tmp_path / "wrong", "3.12")
    refused = set_up(one, wrong)
    assert refused.returncode == 1
    assert refused.stderr == f"error: {wrong} is Python 3.12, the lock is for 3.11: pass PYTHON=/path/to/python3.11\n"
    # As a finished set-up marks it: by its own account of lock, script, place and interpreter.
    script = (one / "tools" / "setup.sh").read_text()
    account = next(line for line in script.splitlines() if line.startswith("made_for()"))
    mark = f'set -e; VENV={one}/.venv; cd {one}; {account}; touch "$VENV/.made-$(made_for)"'
    subprocess.run(["bash", "-c", mark], check=True)
    assert set_up(one, wrong).returncode == 0  # nothing to do, whatever PYTHON says now
    one.rename(tmp_path / "two")
    assert "is Python 3.12" in set_up(tmp_path / "two", wrong).stderr
    (tmp_path / "two").rename(one)
    interpreter(one / ".venv" / "bin", "Python 3.11.9")
    assert "is Python 3.12" in set_up(one, wrong).stderr


def test_everything_that_is_installed_has_its_hash_and_the_lock_no_cuda() -> None:
    for name in ("requirements.lock", "requirements-uv.lock", "requirements-torch.lock", "requirements-cuda.lock"):
        lines = [line for line in (ROOT / name).read_text().splitlines() if not line.lstrip().startswith("#")]
        entries = re.split(r"\n(?=[a-z0-9])", "\n".join(lines))
        assert all("==" in entry and "--hash=sha256:" in entry for entry in entries), name
    # They are 3 GB, and `make lock` takes them in where pip finds no CPU build of torch.
    assert not re.findall(r"^(nvidia|cuda|triton)\S*", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    pinned = re.findall(r"^torch==(\S+)", (ROOT / "requirements.in").read_text(), re.MULTILINE)
    assert pinned == re.findall(r"^torch==(\S+)", (ROOT / "requirements-torch.lock").read_text(), re.MULTILINE)
