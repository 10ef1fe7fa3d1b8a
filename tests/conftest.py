"""A tiny cohort taken through all steps once a session, and a folder of its own for every test that spoils one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

from core.cell import PROVENANCE, SCORED, Cell
from core.files import sha256
from core.params import Params, check, read_yaml
from tests.launcher import QUIET, ROOMS, ROOT, Job, Launcher
from tracking.local_store import adopt

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from tests.workers import Once

__all__ = ["CELL", "DATA_MD5", "EPOCHS", "MODULES", "QUIET", "ROOMS", "ROOT", "Job", "Launcher", "Project", "Trained"]
__all__ += ["fresh", "refused", "shrunk"]
pytest_plugins = [
    *("tests.workers", "tests.browser", "tests.cohorts", "tests.engine_fixtures", "tests.project_fixtures"),
    *("tests.services_fixtures", "tests.registry.registered", "tests.serving.serving_fixtures"),
    *("tests.tools.kept_study", "tests.components.sharded"),
]
CELL = Cell("defu_net", "mixed", 0)
WEIGHTS = "weights.safetensors"
# The commands that are no step of the pipeline.
MODULES = {"predict": "serving.predict", "serve": "serving.http", "track": "tracking"}
MODULES |= {name: f"tools.{name}" for name in ("check", "publish", "publish.archive", "publish.run", "sample")}
DATA_MD5 = "0123456789abcdef0123456789abcdef.dir"
EPOCHS = 3
LOADING = "loading PyTorch, to train defu_net mixed seed 0 ...\n"  # what a training says first, on standard error
# A busy machine makes any test slow; what takes too long is pytest's own timeout to tell.
settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")
# MLflow's servers start a dozen processes for jobs that nothing here asks for; every test's process inherits this.
os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
# Workers share the cores: several threads each would wait for each other and double the time of the tests of model/.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# A worker of pytest-xdist has 80; a command that is piped has none, and a test that wants a width says so.
os.environ.pop("COLUMNS", None)


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
    launcher: Launcher

    @property
    def arrays(self) -> Path:
        return self.root / "artifacts/arrays"

    @property
    def raw(self) -> Path:
        return self.root / "artifacts/raw"

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
        return os.environ | given | QUIET | {"GIT_COMMIT": "c0ffee", "GIT_DIRTY": "false"}

    def write_params(self, **changes: dict[str, Any]) -> Params:
        values = shrunk(**changes)
        (self.root / "params.yaml").write_text(json.dumps(values))  # JSON is YAML
        return check(values, "the test's parameters")

    def line(self, command: str, *arguments: object) -> list[str]:
        module = MODULES.get(command, f"components.{command}")
        return [sys.executable, "-m", module, *map(str, arguments)]

    def train_line(self, *arguments: object) -> list[str]:
        cell = ("--network", CELL.network, "--scenario", CELL.scenario, "--seed", CELL.seed)
        return self.line("train", self.arrays, *cell, "--split", self.split, "--out", self.model, *arguments)

    def evaluate_line(self, *arguments: object) -> list[str]:
        where = ("--raw", self.raw, "--model", self.model, "--split", self.split, "--out", self.evaluation)
        return self.line("evaluate", self.arrays, *where, *arguments)

    def register_line(self) -> list[str]:
        where = ("--models", "models", "--evaluations", "evaluations", "--arrays", self.arrays)
        return self.line("register", *where, "--out", "registered.json")

    def record_again(self) -> None:
        """Have train and evaluate name the weights and the split that are there now, as if they had read them."""
        weights, split = sha256(self.model / WEIGHTS), sha256(self.split)
        learnt = json.loads((self.model / PROVENANCE).read_text()) | {"weights": weights}
        learnt["files"]["split"] = split
        (self.model / PROVENANCE).write_text(json.dumps(learnt))
        if (self.evaluation / SCORED).exists():
            scored = json.loads((self.evaluation / SCORED).read_text())
            scored["files"] |= {"weights": weights, "split": split}
            (self.evaluation / SCORED).write_text(json.dumps(scored))

    def start(self, line: list[str], largest_file: int = 0, **environment: str) -> Job:
        """Start a command."""
        return self.launcher.start(line, self.root, self.environment | environment, largest_file)

    def call(self, line: list[str], largest_file: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, whatever that is."""
        return self.start(line, largest_file, **environment).wait(line)

    def do(self, line: list[str], **environment: str) -> str:
        """Run a command that must succeed and return what it printed."""
        done = self.call(line, **environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def spawn(self, line: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command to its end in a process that shares nothing with others."""
        given = {"cwd": self.root, "env": self.environment, "capture_output": True, "text": True, "timeout": 100}
        return subprocess.run(line, check=False, **(given | options))

    def client(self) -> MlflowClient:
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=self.store, registry_uri=self.store)

    def runs(self) -> list[Any]:
        """Return all MLflow runs of the project's experiment."""
        client = self.client()
        experiment = client.get_experiment_by_name("lung-segmentation")
        return [] if experiment is None else list(client.search_runs([experiment.experiment_id]))


def elsewhere(code: str, *arguments: object) -> list[str]:
    """Return the call of Python code that has the environment's libraries, and this project nowhere on its path."""
    site = sysconfig.get_path("purelib")
    # Without `site` no .pth file is read, by which the project is installed in place.
    return [sys.executable, "-S", "-P", "-c", f"import sys; sys.path.append({site!r})\n{code}", *map(str, arguments)]


def files(folder: Path) -> dict[str, bytes]:
    """Return the bytes of all files below a folder, by their paths in it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """Return the one clear line with which a command has refused; a traceback is not one."""
    assert done.returncode == 1, (done.returncode, done.stdout, done.stderr)
    lines = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("loading ")]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: "), done.stderr
    return lines[0]


@pytest.fixture(autouse=True)
def _environment() -> Iterator[None]:
    """Restore the environment: MLflow writes MLFLOW_TRACKING_URI, which later tests' commands would inherit."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(autouse=True)
def _artifact_repositories() -> None:
    """Let MLflow find the artifacts of each test's own copy of a store.

    MLflow keeps the artifact repository of a run id for the whole process, and the runs of copies have the same ids.
    """
    if (utils := sys.modules.get("mlflow.tracking._tracking_service.utils")) is not None:
        utils._artifact_repos_cache.clear()


@pytest.fixture(scope="session")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    one = Launcher(tmp_path_factory.mktemp("commands"))
    yield one
    one.process.communicate()


@pytest.fixture(scope="session")
def empty_store(once: Once) -> Path:
    """An MLflow database with its tables and nothing in them: to make one costs seconds, to copy it none."""

    def make(folder: Path) -> None:
        code = "import mlflow; mlflow.MlflowClient().search_experiments()"
        environment = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}"}
        subprocess.run([sys.executable, "-c", code], check=True, cwd=folder, env=environment, capture_output=True)

    return once("store", make) / "mlflow.db"


@pytest.fixture(scope="session")
def prepared(once: Once, launcher: Launcher, empty_store: Path) -> Project:
    """A sample cohort, ingested, validated and preprocessed; not to be changed."""
    from components.ingest import ingest
    from components.preprocess import preprocess
    from components.validate import validate
    from tools.sample import make_sample

    def make(root: Path) -> None:
        project = Project(root, launcher)
        params = project.write_params()
        artifacts = root / "artifacts"
        make_sample(root / "data", montgomery=12, shenzhen=20, scale=0.25)
        (root / "data.dvc").write_text(f"outs:\n- md5: {DATA_MD5}\n  path: data\n")
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(root)  # where data.dvc pins it
            ingest("data", params.ingest, artifacts / "raw")
        validate(artifacts / "raw", params.validate_, artifacts / "validation")
        where = (artifacts / "raw", artifacts / "validation")
        preprocess(*where, params.preprocess, params.scenarios, project.arrays, project.split.parent)
        shutil.copy(empty_store, root / "mlflow.db")

    return Project(once("prepared", make), launcher)


@dataclass(frozen=True)
class Trained:
    """A trained and evaluated cell, and what the two commands printed; not to be changed."""

    project: Project
    train: subprocess.CompletedProcess[str]
    evaluate: subprocess.CompletedProcess[str]

    def copy(self, root: Path) -> Project:
        """Return a project that a test may change; its MLflow database is a copy too."""
        shutil.copytree(self.project.root, root, dirs_exist_ok=True)
        adopt(root)
        return Project(root, self.project.launcher)


@pytest.fixture(scope="session")
def trained(prepared: Project, once: Once) -> Trained:
    """One cell trained for :data:`EPOCHS` epochs and evaluated, by the commands."""

    def make(folder: Path) -> None:
        project = fresh(prepared, folder / "project")
        for name, line in (("train", project.train_line()), ("evaluate", project.evaluate_line())):
            done = project.call(line)
            assert done.returncode == 0, done.stderr
            (folder / name).write_text(json.dumps([line, 0, done.stdout, done.stderr]))

    folder = once("trained", make)
    ended = [subprocess.CompletedProcess(*json.loads((folder / name).read_text())) for name in ("train", "evaluate")]
    return Trained(Project(folder / "project", prepared.launcher), *ended)


def fresh(prepared: Project, root: Path) -> Project:
    """Return a project with the prepared cohort, in which nothing has been trained."""
    for name in ("arrays", "raw", "splits"):
        shutil.copytree(prepared.root / "artifacts" / name, root / "artifacts" / name)
    for name in ("params.yaml", "mlflow.db", "data.dvc"):
        shutil.copy(prepared.root / name, root / name)
    adopt(root)  # else MLflow would keep the artifacts of all copies in the first one's folder
    return Project(root, prepared.launcher)


@pytest.fixture
def untrained(prepared: Project, tmp_path: Path) -> Project:
    """A project of the test's own with the prepared cohort, in which nothing has been trained."""
    return fresh(prepared, tmp_path)


@pytest.fixture
def scored(trained: Trained, tmp_path: Path) -> Project:
    """A project of the test's own with a trained and evaluated cell."""
    return trained.copy(tmp_path)
