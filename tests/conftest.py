"""A tiny cohort taken through all steps once a session, and a folder of its own for every test that spoils one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from components.cohort import Arrays, read_split
from components.params import Params, check, read_yaml
from components.results import Cell

ROOT = Path(__file__).parents[1]
CELL = Cell("defu_net", "mixed", 0)
DATA_MD5 = "0123456789abcdef0123456789abcdef.dir"
EPOCHS = 3


def shrunk(**changes: dict[str, Any]) -> dict[str, Any]:
    """Return the shipped parameters, small enough for a test; ``changes`` go into the sections they name."""
    values: dict[str, Any] = read_yaml(ROOT / "params.yaml")
    small = {
        "preprocess": {"size": 32, "dilation": 48},  # a kernel of 3 pixels
        "train": {"width": 0.125, "epochs": EPOCHS, "checkpoint_every": 1},
        "evaluate": {"bootstrap": 100, "worst": 3, "figure_images": 2},
        "matrix": {"networks": [CELL.network], "seeds": [CELL.seed]},
    }
    for section, given in [*small.items(), *changes.items()]:
        values[section] |= given
    return values


@dataclass(frozen=True)
class Project:
    """A folder in which steps run as a user runs them, with an MLflow database of its own."""

    root: Path

    @property
    def arrays(self) -> Path:
        return self.root / "artifacts/arrays"

    @property
    def split(self) -> Path:
        return self.root / f"artifacts/splits/{CELL.scenario}.json"

    @property
    def model(self) -> Path:
        return self.root / "models" / CELL.folder

    @property
    def evaluation(self) -> Path:
        return self.root / "evaluations" / CELL.folder

    @property
    def store(self) -> str:
        return f"sqlite:///{self.root / 'mlflow.db'}"

    @property
    def environment(self) -> dict[str, str]:
        given = {"MLFLOW_TRACKING_URI": self.store, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
        return os.environ | given | {"GIT_COMMIT": "c0ffee", "GIT_DIRTY": "false"}

    def write_params(self, **changes: dict[str, Any]) -> Params:
        values = shrunk(**changes)
        (self.root / "params.yaml").write_text(json.dumps(values))  # JSON is YAML
        return check(values, "the test's parameters")

    def line(self, step: str, *arguments: object) -> list[str]:
        return [sys.executable, "-m", f"components.{step}", *map(str, arguments)]

    def train_line(self, *arguments: object) -> list[str]:
        cell = ("--network", CELL.network, "--scenario", CELL.scenario, "--seed", CELL.seed)
        return self.line("train", self.arrays, *cell, "--split", self.split, "--out", self.model, *arguments)

    def evaluate_line(self, *arguments: object) -> list[str]:
        where = ("--model", self.model, "--split", self.split, "--out", self.evaluation)
        return self.line("evaluate", self.arrays, *where, *arguments)

    def register_line(self) -> list[str]:
        where = ("--models", "models", "--evaluations", "evaluations", "--arrays", self.arrays)
        return self.line("register", *where, "--out", "registered.json")

    def call(self, line: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, whatever that is."""
        given = {"cwd": self.root, "env": self.environment, "capture_output": True, "text": True, "timeout": 100}
        return subprocess.run(line, check=False, **(given | options))

    def do(self, line: list[str], **options: Any) -> str:
        """Run a command that must succeed and return what it printed."""
        done = self.call(line, **options)
        assert done.returncode == 0, done.stdout + done.stderr
        return str(done.stdout)


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """Return the one clear line with which a command has refused; a traceback is not one."""
    assert done.returncode == 1, (done.returncode, done.stdout, done.stderr)
    # What libraries log at their own leisure is not ours.
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: "), done.stderr
    return lines[0]


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database with its tables and nothing in them: to make one costs seconds, to copy it none."""
    folder = tmp_path_factory.mktemp("store")
    code = "import mlflow; mlflow.MlflowClient().search_experiments()"
    environment = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}"}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=folder, env=environment, capture_output=True)
    return folder / "mlflow.db"


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Project:
    """A sample cohort, ingested, validated and preprocessed; not to be changed."""
    from components.ingest import ingest
    from components.preprocess import preprocess
    from components.sample import make_sample
    from components.validate import validate

    project = Project(tmp_path_factory.mktemp("prepared"))
    params = project.write_params()
    artifacts = project.root / "artifacts"
    make_sample(project.root / "data", montgomery=12, shenzhen=20, scale=0.25)
    ingest(str(project.root / "data"), params.ingest, artifacts / "raw")
    validate(artifacts / "raw", params.validate_, artifacts / "validation")
    where = (artifacts / "raw", artifacts / "validation")
    preprocess(*where, params.preprocess, params.scenarios, project.arrays, project.split.parent)
    shutil.copy(empty_store, project.root / "mlflow.db")
    (project.root / "data.dvc").write_text(f"outs:\n- md5: {DATA_MD5}\n  path: data\n")
    return project


@dataclass(frozen=True)
class Trained:
    """A trained and evaluated cell, and what the two commands printed; not to be changed."""

    project: Project
    train_output: str
    evaluate_output: str

    def copy(self, root: Path) -> Project:
        """Return a project that a test may change; its MLflow database is a copy too."""
        shutil.copytree(self.project.root, root, dirs_exist_ok=True)
        return Project(root)


@pytest.fixture(scope="session")
def trained(prepared: Project, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """One cell trained for :data:`EPOCHS` epochs and evaluated, by the commands."""
    project = fresh(prepared, tmp_path_factory.mktemp("trained"))
    return Trained(project, project.do(project.train_line()), project.do(project.evaluate_line()))


def fresh(prepared: Project, root: Path) -> Project:
    """Return a project with the prepared cohort, in which nothing has been trained."""
    for name in ("arrays", "splits"):
        shutil.copytree(prepared.root / "artifacts" / name, root / "artifacts" / name)
    for name in ("params.yaml", "mlflow.db", "data.dvc"):
        shutil.copy(prepared.root / name, root / name)
    return Project(root)


@pytest.fixture
def untrained(prepared: Project, tmp_path: Path) -> Project:
    """A project of the test's own with the prepared cohort, in which nothing has been trained."""
    return fresh(prepared, tmp_path)


@pytest.fixture
def scored(trained: Trained, tmp_path: Path) -> Project:
    """A project of the test's own with a trained and evaluated cell."""
    return trained.copy(tmp_path)
