"""What holds of the project as a whole: who imports whom, and that every step is a command."""

from __future__ import annotations

import json
import runpy
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from core.params import read_yaml
from tests.conftest import ROOMS

ROOT = Path(__file__).parents[1]
COMMANDS = sorted(
    ".".join(path.relative_to(ROOT).parent.parts) for room in ROOMS for path in (ROOT / room).rglob("__main__.py")
)
STEPS = sorted(f"components.{path.parent.name}" for path in ROOT.glob("components/*/__init__.py"))
PARTLY = ("evaluations", "models")  # folders that steps read, of which a clone has the plots alone


def test_imports_run_one_way() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "5 kept, 0 broken" in done.stdout


def test_every_step_of_dvc_yaml_is_a_command_and_the_other_way_round() -> None:
    text = (ROOT / "dvc.yaml").read_text()
    # A promotion is a decision of its own, made outside `dvc repro`.
    assert {name for name in STEPS if f"python -m {name} " in text} == set(STEPS) - {"components.promote"}


def test_the_lock_is_that_of_the_code_and_the_choices_here(tmp_path: Path) -> None:
    """`dvc status` of a clone in which nothing has run: outputs are not there, and nothing else may be amiss."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    tracked = [name for name in listed.split("\0") if name and (ROOT / name).is_file()]
    for name in tracked:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, tmp_path / name)
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    line = [Path(sys.executable).with_name("dvc"), "status", "--json"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=True)
    wrong = [
        f"{stage}: {place} {state}"
        for stage, changes in json.loads(done.stdout).items()
        for change in changes
        # A command that differs has no place.
        for place, state in (
            [pair for found in change.values() for pair in found.items()]
            if isinstance(change, dict)
            else [(change, "")]
        )
        if state not in ("deleted", "not in cache") or place in tracked
        if place not in PARTLY
    ]
    assert wrong == [], "run `make run` in a fresh clone, and commit dvc.lock with the metrics and plots"
    assert {"reports/metrics.json", "reports/plots/dice.csv"} <= set(tracked)
    locked = read_yaml(ROOT / "dvc.lock")["stages"]
    done = subprocess.run(
        [line[0], "stage", "list", "--name-only"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert sorted(locked) == sorted(done.stdout.split())


@pytest.mark.parametrize("module", [*COMMANDS, "tools.publish.archive", "pipelines.compile"])
def test_every_command_says_what_it_does(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [module, "--help"])
    monkeypatch.chdir(ROOT)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # another test has imported the module
        with pytest.raises(SystemExit) as ended:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
    told = capsys.readouterr()
    assert ended.value.code == 0, told.err
    assert "Usage:" in told.out


def test_torch_is_not_imported_before_a_training_has_settled_its_threads() -> None:
    code = "import sys, components.train.__main__; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
