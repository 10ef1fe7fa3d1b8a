"""The image as ``make image`` builds it, and every step in a container of it.

With an engine that is there, or one of its own where these tests are root and ``dockerd`` is installed; without either,
nothing here is tested, and a warning says so.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests.conftest import CELL, ROOT, shrunk

# Minutes on an idle machine, most of them the build; a busy one takes many times as long.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]

STEPS = ("sample", "ingest", "validate", "preprocess", "train", "evaluate", "report", "register", "promote", "profile")
# What must enter neither the build nor the image.
PLANTED = (
    *(".env", ".aws/credentials", "mlflow.db", "data/patient.png", "models/weights.safetensors", "notes.py"),
    *("components/.env", "components/train/key.pem", "components/train/patient.png", "pipelines/token.json"),
    *("model/__pycache__/networks.cpython-311.pyc", "profiles/secret.txt", "scripts/upload.sh", "build/pipeline.yaml"),
    *("build/image/notes.txt", "components/.ssh/stolen.py"),
)
SECRET = "planted-7c1f"


def skip(reason: str) -> NoReturn:
    warnings.warn(f"THE IMAGE IS NOT TESTED: {reason}", stacklevel=2)
    pytest.skip(reason)


@dataclass(frozen=True)
class Engine:
    """A Docker engine."""

    environment: dict[str, str]

    def run(self, *line: object, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
        words = [str(word) for word in line]
        given: dict[str, Any] = {"env": self.environment, "capture_output": True, "text": True, "cwd": ROOT}
        done = subprocess.run(words, check=False, **(given | options))
        assert not check or done.returncode == 0, f"{shlex.join(words)}\n{done.stdout[-6000:]}\n{done.stderr[-6000:]}"
        return done


def answers(engine: Engine) -> bool:
    return engine.run("docker", "info", check=False).returncode == 0


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    """The engine that is there, else one for as long as these tests run."""
    # The oldest way to build is the one that every engine has.
    engine = Engine(os.environ | {"DOCKER_BUILDKIT": "0"})
    if shutil.which("docker") is None:
        skip("docker is not installed (Debian: apt-get install docker.io)")
    if answers(engine):
        yield engine
        return
    if os.geteuid() != 0 or shutil.which("dockerd") is None:
        skip("no Docker engine answers, and none can be started here: that takes root and dockerd (Debian: docker.io)")
    # With a short path, since a socket's has at most 107 characters.
    with tempfile.TemporaryDirectory(prefix="dockerd-") as folder:
        run = Path(folder)
        socket = f"unix://{run / 'docker.sock'}"
        line = ["dockerd", "--host", socket, "--pidfile", run / "pid", "--exec-root", run / "exec"]
        # The machine's network stays as it is: containers of these tests have that one or none.
        line += ["--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false"]
        with (run / "log").open("w") as log:
            daemon = subprocess.Popen([*map(str, line)], stdout=log, stderr=log)
        try:
            engine = Engine(engine.environment | {"DOCKER_HOST": socket})
            limit = time.monotonic() + 120
            while not answers(engine):
                if daemon.poll() is not None or time.monotonic() > limit:
                    said = (run / "log").read_text().splitlines()[-3:]
                    skip(f"dockerd does not start here: {' | '.join(said)}")
                time.sleep(0.5)
            yield engine
        finally:
            daemon.terminate()
            daemon.wait(60)
            # It leaves the network namespace of its containers mounted.
            mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
            for mount in reversed([mount for mount in mounts if mount.startswith(folder)]):
                subprocess.run(["umount", mount], check=False)


@pytest.fixture(scope="module")
def base(engine: Engine) -> str:
    """The Dockerfile's base image: here, pulled, or made of Debian's packages."""
    (name,) = re.findall(r"^ARG BASE=(.+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    present = engine.run("docker", "image", "inspect", name, check=False).returncode == 0
    if not present and engine.run("docker", "pull", "--quiet", name, check=False).returncode:
        if os.geteuid() != 0 or shutil.which("debootstrap") is None:
            skip(f"{name} can neither be pulled nor made here: that takes root and debootstrap")
        made = engine.run("scripts/base-image.sh", name, check=False)
        if made.returncode:
            skip(f"{name} can neither be pulled nor made: {made.stderr.splitlines()[-1:]}")
    return str(name)


def pip_setting(name: str) -> str:
    """Return what pip is told on this machine, by its environment or its files, and else nothing."""
    line = [sys.executable, "-m", "pip", "config", "list"]
    told = subprocess.run(line, capture_output=True, text=True, check=True).stdout
    found = dict(re.findall(r"^(\S+)='(.*)'$", told, re.MULTILINE))
    return next(
        (found[f"{place}.{name}"] for place in (":env:", "install", "global") if f"{place}.{name}" in found), ""
    )


def options() -> list[str]:
    """Return the options with which an installation inside a build reaches what one on this machine reaches."""
    given = {
        "CA_BUNDLE": pip_setting("cert") or os.environ.get("SSL_CERT_FILE", ""),
        "INDEX_URL": pip_setting("index-url"),
        "WHEELS": next((f for f in pip_setting("find-links").split() if list(Path(f).glob("torch-*.whl"))), ""),
        "TORCH_INDEX_URL": os.environ.get("TORCH_INDEX_URL", ""),
    }
    return [f"{name}={value}" for name, value in given.items() if value]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone with all that a build must not take, planted."""
    root = tmp_path_factory.mktemp("checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    for name in filter(None, listed):
        if (ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, root / name)
    identity = ["-c", "user.name=A User", "-c", "user.email=user@example.org"]
    for line in (["init", "--quiet"], ["add", "--all"], [*identity, "commit", "--quiet", "--message", "Start"]):
        subprocess.run(["git", *line], cwd=root, check=True)
    for name in PLANTED:
        assert not (root / name).exists(), name
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(SECRET)
    return root


@dataclass(frozen=True)
class Image:
    """The image, as ``make image`` left it."""

    name: str
    engine: Engine
    commit: str
    seconds: float

    def run(self, *words: object, options: tuple[object, ...] = (), check: bool = True) -> str:
        """Run a command in a container without network and return what it printed."""
        line = ("docker", "run", "--rm", "--network", "none", *options, self.name, *words)
        return self.engine.run(*line, check=check).stdout

    def inspect(self) -> dict[str, Any]:
        return json.loads(self.engine.run("docker", "image", "inspect", self.name).stdout)[0]


@pytest.fixture(scope="module")
def image(engine: Engine, base: str, checkout: Path) -> Iterator[Image]:
    name = f"defu-net-pipeline-python:test-{os.getpid()}"
    started = time.monotonic()
    engine.run(
        "make", "image", f"IMAGE={name}", f"BASE={base}", "DOCKER_FLAGS=--network host", *options(), cwd=checkout
    )
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=checkout, capture_output=True, text=True, check=True)
    yield Image(name, engine, head.stdout.strip(), time.monotonic() - started)
    # Its layers stay: the next build starts from them.
    engine.run("docker", "rmi", "--no-prune", name, check=False)


def test_make_image_gives_the_name_that_the_pipeline_asks_for() -> None:
    from pipelines.components import IMAGE

    for target, name in (("cpu", IMAGE), ("gpu", f"{IMAGE}-gpu")):
        done = subprocess.run(
            ["make", "--dry-run", "image", f"TARGET={target}"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert f"--target {target} --tag {name} " in done.stdout


def test_only_sources_and_choices_enter_the_build(engine: Engine, base: str, checkout: Path, tmp_path: Path) -> None:
    (checkout / "build/image/ca.pem").write_text("a bundle")
    (tmp_path / "Dockerfile").write_text(f"FROM {base}\nCOPY . /context\n")
    name = f"defu-net-pipeline-context:test-{os.getpid()}"
    engine.run("docker", "build", "--tag", name, "--file", tmp_path / "Dockerfile", checkout)
    try:
        found = engine.run("docker", "run", "--rm", "--network", "none", name, "find", "/context", "-type", "f").stdout
    finally:
        engine.run("docker", "rmi", name)
    tracked = subprocess.run(["git", "ls-files"], cwd=checkout, capture_output=True, text=True, check=True).stdout
    code = {f for f in tracked.splitlines() if f.startswith(("components/", "model/", "pipelines/", "profiles/"))}
    rest = {"params.yaml", "requirements.in", "requirements.lock", "LICENSE", "scripts/setup.sh"}
    inputs = {"scripts/image-venv.sh", "build/image/ca.pem"}
    assert {line.removeprefix("/context/") for line in found.splitlines()} == code | rest | inputs


def test_what_the_image_is_and_holds(image: Image) -> None:
    found = image.inspect()
    labels = {name.removeprefix("org.opencontainers.image."): text for name, text in found["Config"]["Labels"].items()}
    (version,) = re.findall(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert labels["revision"] == image.commit
    assert (labels["version"], labels["licenses"]) == (version, "Apache-2.0")
    assert found["Config"]["Entrypoint"] is None  # Kubeflow's commands are whole
    assert found["Config"]["User"] == "10001:10001"

    history = image.engine.run("docker", "history", "--no-trunc", image.name).stdout
    assert "/inputs" not in history
    assert not any(option.partition("=")[2] in history for option in options())

    script = """
        echo uid $(id -u)
        for tool in gcc cc g++ make pip pip3 uv pytest mypy ruff weed git curl; do
          command -v $tool >/dev/null && echo tool $tool
        done
        ls -d /inputs /src /root/.cache /tmp/* 2>/dev/null
        ls -A /var/lib/apt/lists /var/cache/apt/archives | grep -v -e '^$' -e ':$' -e '^lock$' -e '^partial$'
        find /app /opt/venv -name '*.whl' -o -name '*.png' -path '/app/*' -o -name '.env' -o -name '.git'
        find /app /opt/venv -writable
        grep -rl planted-7c1f /app
        for source in $(find /app -name '*.py'); do
          compiled=${source%/*}/__pycache__/$(basename $source .py).cpython-311.pyc
          [ -e $compiled ] || echo not compiled: $source
        done
        ls /opt/venv/lib/python3.11/site-packages/torch/__pycache__/__init__.*.pyc >/dev/null
    """
    assert image.run("sh", "-c", script).split("\n") == ["uid 10001", ""]
    assert f"GIT_COMMIT={image.commit}" in found["Config"]["Env"]


def test_every_step_says_how_it_is_called(image: Image) -> None:
    steps = {path.parent.name for path in (ROOT / "components").glob("*/__main__.py")}
    assert steps == set(STEPS)
    loop = f"cd /; for step in {' '.join(STEPS)}; do python -m components.$step --help || echo failed $step; done"
    said = image.run("sh", "-c", loop)
    assert said.count("Usage: python -m components.") == len(STEPS), said
    assert "failed" not in said
    assert "Usage: defunet" in image.run("defunet", "--help")


def test_the_versions_are_those_of_the_lock(image: Image) -> None:
    code = "import importlib.metadata as m; print(*(f'{d.name}=={d.version}' for d in m.distributions()))"
    inside = {re.sub(r"[-_.]+", "-", item).lower() for item in image.run("python", "-c", code).split()}
    entries = re.findall(
        r"^([a-z0-9][^=\[\s]*)(?:\[.*\])?(==\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE
    )
    locked = {re.sub(r"[-_.]+", "-", "".join(entry)).lower() for entry in entries}
    (torch,) = re.findall(r"^torch==(\S+)$", (ROOT / "requirements.in").read_text(), re.MULTILINE)
    others = {item for item in inside - locked if not item.startswith(f"torch=={torch}".replace(".", "-"))}
    assert others == set()
    assert len(inside) > 100


def test_the_steps_run_for_a_user_that_the_image_does_not_know(image: Image, tmp_path: Path) -> None:
    uid = 54321 if os.geteuid() == 0 else os.geteuid()
    work = tmp_path / "work"
    work.mkdir()
    (work / "params.yaml").write_text(json.dumps(shrunk(matrix={"scenarios": [CELL.scenario]})))  # JSON is YAML
    os.chown(work, uid, -1)
    # As strict as a cluster may be: no right that could be taken away, and nothing to write but the volume and /tmp.
    container = ("--user", f"{uid}:{uid}", "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL")  # noqa: S108
    container += ("--security-opt", "no-new-privileges", "--volume", f"{work}:/work", "--workdir", "/work")
    environment = ("--env", "MLFLOW_TRACKING_URI=sqlite:////work/mlflow.db", "--env", "OMP_NUM_THREADS=1")

    def step(name: str, *arguments: str) -> str:
        return image.run("python", "-m", f"components.{name}", *arguments, options=container + environment)

    model, evaluation = f"models/{CELL.folder}", f"evaluations/{CELL.folder}"
    split = ("--split", f"splits/{CELL.scenario}.json")
    cell = ("--network", CELL.network, "--scenario", CELL.scenario, "--seed", str(CELL.seed))
    step("sample", "data", "--montgomery", "12", "--shenzhen", "16", "--scale", "0.25")
    assert "12 X-rays" in step("ingest", "data", "--out", "raw")
    assert "28 images valid" in step("validate", "raw", "--out", "validation")
    assert "27 images" in step(  # one has no mask
        "preprocess", "raw", "--validation", "validation", "--out", "arrays", "--splits", "splits"
    )
    step("train", "arrays", *cell, *split, "--out", model)
    step("evaluate", "arrays", "--model", model, *split, "--out", evaluation)
    where = ("--models", "models", "--evaluations", "evaluations", "--arrays", "arrays")
    step("report", *where, "--splits", "splits", "--out", "reports")
    step("register", *where, "--out", "registered.json")
    step("promote")

    rows = json.loads((work / "reports/results.json").read_text())
    assert {row["scenario"] for row in rows} == {CELL.scenario}
    assert json.loads((work / model / "run.json").read_text())["commit"] == image.commit
    assert json.loads((work / "registered.json").read_text())["version"] == 1
    assert {path.name for path in work.rglob("*") if path.stat().st_uid != uid} == {"params.yaml"}


def test_a_step_runs_as_kubeflow_calls_it(image: Image, tmp_path: Path) -> None:
    from components.params import check
    from pipelines import components
    from pipelines.tasks import sections

    call = components.plan.component_spec.implementation.container
    values = sections(check(shrunk(), "the test's parameters"))
    inputs = {name: values.get(name, "") for name in components.plan.component_spec.inputs}
    outputs = {name: {"outputFile": f"/work/{name}"} for name in components.plan.component_spec.outputs}
    message = {
        "inputs": {"parameterValues": inputs},
        "outputs": {"parameters": outputs, "outputFile": "/work/executor_output.json"},
    }
    work = tmp_path / "work"
    work.mkdir()
    work.chmod(0o777)
    words = [*call.command, *call.args]
    words = [json.dumps(message) if word == "{{$}}" else word for word in words]
    image.run(*words, options=("--volume", f"{work}:/work"))
    said = json.loads((work / "executor_output.json").read_text())["parameterValues"]
    assert CELL.folder.as_posix() in said["Output"]
