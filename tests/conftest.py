"""A tiny cohort taken through all steps once a session, and a folder of its own for every test that spoils one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from core.cell import PROVENANCE, SCORED, Cell
from core.files import sha256
from core.params import Params, check, read_yaml

if TYPE_CHECKING:
    from mlflow import MlflowClient

pytest_plugins = [
    *("tests.browser", "tests.cohorts", "tests.engine_fixtures", "tests.project_fixtures", "tests.services_fixtures"),
    *("tests.registry.registered", "tests.serving.serving_fixtures", "tests.tools.kept_study"),
]
ROOT = Path(__file__).parents[1]
CELL = Cell("defu_net", "mixed", 0)
WEIGHTS = "weights.safetensors"
# The commands that are no step of the pipeline.
MODULES = {"predict": "serving.predict", "serve": "serving.http", "track": "tracking"}
MODULES |= {name: f"tools.{name}" for name in ("check", "publish", "publish.keep", "publish.run", "sample")}
# The folders of code that a project needs to run.
ROOMS = ("model", "core", "tracking", "registry", "components", "serving", "pipelines", "tools", "defunet")
DATA_MD5 = "0123456789abcdef0123456789abcdef.dir"
EPOCHS = 3
QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "GX_ANALYTICS_ENABLED": "false"}
# MLflow's servers start a dozen processes for jobs that nothing here asks for; every test's process inherits this.
os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"


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


# `python -m module arguments` in a process of its own, forked from one that has imported the slow libraries: 10 s of
# imports once, not for every command of every test.
LAUNCHER = """
import ctypes, importlib, json, os, pathlib, resource, runpy, select, signal, sys
PR_SET_PDEATHSIG = 1
for name in sys.argv[1:]:
    importlib.import_module(name)
running = {}
while True:
    if select.select([sys.stdin], [], [], 0.005)[0]:
        line = sys.stdin.readline()
        if not line:
            break
        job = json.loads(line)
        pid = os.fork()
        if not pid:
            if sys.platform == "linux":  # a command does not outlive tests that were killed
                ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            os.setsid()
            os.chdir(job["cwd"])
            os.environ.clear()
            os.environ.update(job["env"])
            for number, name in ((0, os.devnull), (1, job["out"]), (2, job["err"])):
                os.dup2(os.open(name, os.O_RDWR | os.O_CREAT | os.O_APPEND), number)
            if job["largest_file"]:
                resource.setrlimit(resource.RLIMIT_FSIZE, (job["largest_file"], job["largest_file"]))
            sys.path[0], sys.argv = job["cwd"], [job["module"], *job["arguments"]]
            runpy.run_module(job["module"], run_name="__main__", alter_sys=True)
            sys.exit()
        running[pid] = job
        print(pid, flush=True)
    for pid in list(running):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            done = pathlib.Path(running.pop(pid)["done"])
            done.with_suffix(".partial").write_text(str(os.waitstatus_to_exitcode(status)))
            done.with_suffix(".partial").rename(done)
"""
PRELOADED = (
    *(
        "torch._dynamo",
        "git",
        "mlflow.pyfunc",
        "mlflow.data.pandas_dataset",
        "mlflow.store.tracking.sqlalchemy_store",
    ),
    *("torchmetrics.functional.classification", "sklearn.metrics", "scipy.stats", "monai.metrics.hausdorff_distance"),
    *("monai.metrics.surface_distance", "rich.progress", "pandas", "cv2", "core.cli", "core.params"),
)


@dataclass(frozen=True)
class Job:
    """A command that runs by itself."""

    pid: int
    files: Path

    @property
    def output(self) -> str:
        return (self.files / "out").read_text()

    @property
    def errors(self) -> str:
        return (self.files / "err").read_text()

    @property
    def ended(self) -> bool:
        return (self.files / "done").exists()

    def until(self, moment: Callable[[], bool], seconds: float = 60) -> bool:
        """Wait for the moment; tell whether it came before the command's end."""
        limit = time.monotonic() + seconds
        while not moment():
            if self.ended:
                return False
            assert time.monotonic() < limit, f"it never came: {self.output}"
            time.sleep(0.002)
        return True

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        os.kill(self.pid, number)

    def wait(self, line: list[str]) -> subprocess.CompletedProcess[str]:
        limit = time.monotonic() + 100
        while not self.ended:
            assert time.monotonic() < limit, f"it does not end: {self.output}"
            time.sleep(0.002)
        code = int((self.files / "done").read_text())
        return subprocess.CompletedProcess(line, code, self.output, self.errors)


class Launcher:
    """Starts commands; see :data:`LAUNCHER`."""

    def __init__(self, files: Path, code: Path = ROOT) -> None:
        self.files, self.started = files, 0
        environment = os.environ | {"PYTHONPATH": str(code), "OMP_NUM_THREADS": "1"} | QUIET
        # Code that a test edits is imported by each command anew.
        modules = [name for name in PRELOADED if code == ROOT or name.partition(".")[0] not in ROOMS]
        line = [sys.executable, "-c", LAUNCHER, *modules]
        self.process = subprocess.Popen(line, stdin=-1, stdout=-1, text=True, env=environment, cwd=code)

    def start(self, line: list[str], cwd: Path, env: dict[str, str], largest_file: int = 0) -> Job:
        assert line[:2] == [sys.executable, "-m"]
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.started += 1
        files = self.files / str(self.started)
        files.mkdir()
        for name in ("out", "err"):
            (files / name).touch()
        job = {"module": line[2], "arguments": line[3:], "cwd": str(cwd), "env": env, "largest_file": largest_file}
        print(
            json.dumps(job | {name: str(files / name) for name in ("out", "err", "done")}),
            file=self.process.stdin,
            flush=True,
        )
        return Job(int(self.process.stdout.readline()), files)


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


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """Return the one clear line with which a command has refused; a traceback is not one."""
    assert done.returncode == 1, (done.returncode, done.stdout, done.stderr)
    # What libraries log at their own leisure is not ours.
    lines = [line for line in done.stderr.splitlines() if line.strip()]
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


@pytest.fixture(scope="session")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    one = Launcher(tmp_path_factory.mktemp("commands"))
    yield one
    one.process.communicate()


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database with its tables and nothing in them: to make one costs seconds, to copy it none."""
    folder = tmp_path_factory.mktemp("store")
    code = "import mlflow; mlflow.MlflowClient().search_experiments()"
    environment = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}"}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=folder, env=environment, capture_output=True)
    return folder / "mlflow.db"


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory, launcher: Launcher, empty_store: Path) -> Project:
    """A sample cohort, ingested, validated and preprocessed; not to be changed."""
    from components.ingest import ingest
    from components.preprocess import preprocess
    from components.validate import validate
    from tools.sample import make_sample

    project = Project(tmp_path_factory.mktemp("prepared"), launcher)
    params = project.write_params()
    artifacts = project.root / "artifacts"
    make_sample(project.root / "data", montgomery=12, shenzhen=20, scale=0.25)
    (project.root / "data.dvc").write_text(f"outs:\n- md5: {DATA_MD5}\n  path: data\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project.root)  # where data.dvc pins it
        ingest("data", params.ingest, artifacts / "raw")
    validate(artifacts / "raw", params.validate_, artifacts / "validation")
    where = (artifacts / "raw", artifacts / "validation")
    preprocess(*where, params.preprocess, params.scenarios, project.arrays, project.split.parent)
    shutil.copy(empty_store, project.root / "mlflow.db")
    return project


@dataclass(frozen=True)
class Trained:
    """A trained and evaluated cell, and what the two commands printed; not to be changed."""

    project: Project
    train: subprocess.CompletedProcess[str]
    evaluate: subprocess.CompletedProcess[str]

    def copy(self, root: Path) -> Project:
        """Return a project that a test may change; its MLflow database is a copy too."""
        shutil.copytree(self.project.root, root, dirs_exist_ok=True)
        return Project(root, self.project.launcher)


@pytest.fixture(scope="session")
def trained(prepared: Project, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """One cell trained for :data:`EPOCHS` epochs and evaluated, by the commands."""
    project = fresh(prepared, tmp_path_factory.mktemp("trained"))
    done = Trained(project, project.call(project.train_line()), project.call(project.evaluate_line()))
    assert done.train.returncode == 0, done.train.stderr
    assert done.evaluate.returncode == 0, done.evaluate.stderr
    return done


def fresh(prepared: Project, root: Path) -> Project:
    """Return a project with the prepared cohort, in which nothing has been trained."""
    for name in ("arrays", "raw", "splits"):
        shutil.copytree(prepared.root / "artifacts" / name, root / "artifacts" / name)
    for name in ("params.yaml", "mlflow.db", "data.dvc"):
        shutil.copy(prepared.root / name, root / name)
    return Project(root, prepared.launcher)


@pytest.fixture
def untrained(prepared: Project, tmp_path: Path) -> Project:
    """A project of the test's own with the prepared cohort, in which nothing has been trained."""
    return fresh(prepared, tmp_path)


@pytest.fixture
def scored(trained: Trained, tmp_path: Path) -> Project:
    """A project of the test's own with a trained and evaluated cell."""
    return trained.copy(tmp_path)
