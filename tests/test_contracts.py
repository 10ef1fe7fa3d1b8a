"""What holds of the project as a whole: who imports whom, and that every step is a command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMMANDS = sorted(".".join(path.relative_to(ROOT).parent.parts) for path in ROOT.glob("components/*/__main__.py"))


def test_imports_run_one_way() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "3 kept, 0 broken" in done.stdout


def test_every_step_of_dvc_yaml_is_a_command_and_the_other_way_round() -> None:
    text = (ROOT / "dvc.yaml").read_text()
    beside = {
        f"components.{name}"
        for name in ("check", "predict", "profile", "promote", "publish", "sample", "serve", "track")
    }
    assert {name for name in COMMANDS if f"python -m {name} " in text} == set(COMMANDS) - beside


@pytest.mark.parametrize(
    "module", [*COMMANDS, "components.report.show", "components.publish.keep", "pipelines.compile", "pipelines.local"]
)
def test_every_command_says_what_it_does(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Usage:" in done.stdout
