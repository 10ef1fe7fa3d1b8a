"""A copy of the project in a folder of its own, with Git, DVC and a small cohort."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tests.conftest import ROOMS

ROOT = Path(__file__).resolve().parent.parent
FILES = ("dvc.yaml", "params.yaml", ".gitignore", ".dvcignore", ".dvc/config", ".dvc/.gitignore")
CELLS = ("defu_net-mixed-0", "defu_net-shenzhen-to-montgomery-0")

SMALL: dict[str, dict[str, Any]] = {
    # A kernel of 3 pixels at this size, so that dilated masks are not the original ones.
    "preprocess": {"size": 32, "dilation": 48},
    "matrix": {"scenarios": ["mixed", "shenzhen-to-montgomery"]},
    "train": {"width": 0.0625, "epochs": 2},
    "evaluate": {"bootstrap": 100, "worst": 2, "figure_images": 1},
    "promotion": {"floor": 0.1},  # so little training comes to no more
}


@dataclass(frozen=True)
class Project:
    """A checkout of the project that a test may change, and the environment of its user."""

    root: Path
    environment: dict[str, str]

    def run(self, *line: object, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the project's folder, as its user does."""
        words = [str(word) for word in line]
        done = subprocess.run(
            words, cwd=self.root, env=self.environment | environment, capture_output=True, text=True, check=False
        )
        assert not check or done.returncode == 0, f"{' '.join(words)}\n{done.stdout}\n{done.stderr}"
        return done

    def repro(self) -> list[str]:
        """Run ``dvc repro`` and return the stages that ran, sorted."""
        return ran(self.run("dvc", "repro").stdout)

    def set_params(self, changes: dict[str, dict[str, Any]]) -> None:
        """Change values in ``params.yaml``."""
        yaml, path = YAML(), self.root / "params.yaml"
        values = yaml.load(path)
        for section, section_changes in changes.items():
            values[section].update(section_changes)
        yaml.dump(values, path)


def ran(output: str) -> list[str]:
    """Return the stages that ``dvc repro`` says it ran, sorted."""
    return sorted(re.findall(r"Running stage '([^']+)'", output))


def sample(out: Path) -> Path:
    """Draw the small cohort: enough of each site and label for every split of every scenario."""
    line = [sys.executable, "-m", "tools.sample", str(out), "--scale", "0.25"]
    subprocess.run([*line, "--montgomery", "12", "--shenzhen", "16"], cwd=ROOT, check=True, capture_output=True)
    return out


def checkout(root: Path) -> Project:
    """Return the project in a folder, with the environment of a user who has an MLflow database there."""
    ours = ("GIT_", "PYTHONPATH", "OMP_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    environment |= {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]]),
        "DVC_NO_ANALYTICS": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_SYSTEM": os.devnull,
        "MLFLOW_TRACKING_URI": f"sqlite:///{root / 'mlflow.db'}",
    }
    for role in ("AUTHOR", "COMMITTER"):
        environment |= {f"GIT_{role}_NAME": "A User", f"GIT_{role}_EMAIL": "user@example.org"}
    return Project(root, environment)


def make_project(root: Path) -> Project:
    """Copy the project, draw its cohort, pin it and commit all of it."""
    for name in FILES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, root / name)
    for name in ROOMS:
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    sample(root / "samples")
    project = checkout(root)
    project.set_params(SMALL)
    project.run("git", "init", "--quiet")
    project.run("git", "add", "--all")
    project.run("bash", "tools/pin-data.sh", "samples")
    project.run("git", "add", "--all")
    project.run("git", "commit", "--quiet", "--message", "Start")
    return project
