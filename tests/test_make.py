"""What ``make`` refuses before anything has run, in a checkout of its own with this environment."""

from __future__ import annotations

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
    if not list(environment.glob(".lock-*")):
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
    assert [name for name in ("artifacts", "models", "mlflow.db", "data") if (checkout.root / name).exists()] == []
