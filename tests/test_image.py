"""The image as ``make image`` builds it, and every step in a container of it."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from core import __version__
from tests.conftest import CELL, MODULES, ROOMS, ROOT, shrunk
from tests.engine import SECRET, Engine, Image, options

# Minutes on an idle machine, most of them the build; a busy one takes many times as long.
pytestmark = [pytest.mark.slow, pytest.mark.full, pytest.mark.timeout(3000)]


def test_make_image_gives_the_name_that_the_pipeline_asks_for() -> None:
    from pipelines.components import IMAGE

    for target, name in (("cpu", IMAGE), ("gpu", f"{IMAGE}-gpu")):
        done = subprocess.run(
            ["make", "--dry-run", "image", f"TARGET={target}"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert f"--target {target} --tag {name} " in done.stdout


def test_only_sources_and_choices_enter_the_build(engine: Engine, base: str, checkout: Path, tmp_path: Path) -> None:
    # A build before this one has tidied up there.
    (checkout / "build/image").mkdir(exist_ok=True)
    for name in ("ca.pem", "notes.txt"):
        (checkout / "build/image" / name).write_text(SECRET)
    (tmp_path / "Dockerfile").write_text(f"FROM {base}\nCOPY . /context\n")
    name = f"defu-net-pipeline-context:test-{os.getpid()}"
    engine.run("docker", "build", "--tag", name, "--file", tmp_path / "Dockerfile", checkout)
    try:
        found = engine.run("docker", "run", "--rm", "--network", "none", name, "find", "/context", "-type", "f").stdout
    finally:
        engine.run("docker", "rmi", name)
    tracked = subprocess.run(["git", "ls-files"], cwd=checkout, capture_output=True, text=True, check=True).stdout
    code = {
        f for f in tracked.splitlines() if f.startswith((*(f"{room}/" for room in ROOMS), "profiles/", "pretrained/"))
    }
    # What an operator applies and what is run before the image exists are no part of it.
    code = {f for f in code if not f.startswith("pipelines/manifests") and not f.endswith(".sh")}
    rest = {"params.yaml", "requirements.in", "requirements.lock", "LICENSE", "tools/setup.sh"}
    rest |= {f"requirements-{name}.lock" for name in ("uv", "torch", "cuda")}
    inputs = {"tools/image-venv.sh", "tools/sbom.sh", "build/image/ca.pem"}
    assert {line.removeprefix("/context/") for line in found.splitlines()} == code | rest | inputs


def test_what_the_image_is_and_holds(image: Image) -> None:
    found = image.inspect()
    labels = {name.removeprefix("org.opencontainers.image."): text for name, text in found["Config"]["Labels"].items()}
    assert labels["revision"] == image.commit
    assert (labels["version"], labels["licenses"]) == (__version__, "Apache-2.0")
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
        find /app /opt/venv -name '*.whl' -o -name '.env' -o -name '.git'
        find /app -path /app/pretrained -prune -o -name '*.png' ! -path '*/serving/http/templates/example.png' -print
        find /app /opt/venv -writable
        grep -rl SECRET /app
        for source in $(find /app -path /app/pretrained -prune -o -name '*.py' -print); do
          compiled=${source%/*}/__pycache__/$(basename $source .py).cpython-311.pyc
          [ -e $compiled ] || echo not compiled: $source
        done
        ls /opt/venv/lib/python3.11/site-packages/torch/__pycache__/__init__.*.pyc >/dev/null
    """
    assert image.run("sh", "-c", script.replace("SECRET", SECRET)).split("\n") == ["uid 10001", ""]
    assert f"GIT_COMMIT={image.commit}" in found["Config"]["Env"]


def test_every_step_says_how_it_is_called(image: Image) -> None:
    steps = sorted(path.parent.name for path in (ROOT / "components").glob("*/__main__.py"))
    assert {"ingest", "train", "promote"} <= set(steps)
    loop = f"cd /; for step in {' '.join(steps)}; do python -m components.$step --help || echo NO HELP: $step; done"
    said = image.run("sh", "-c", loop)
    assert "NO HELP" not in said
    assert [step for step in steps if f"Usage: python -m components.{step} " not in said] == []
    assert "Usage: defunet" in image.run("defunet", "--help")


IMPORTS = """
import importlib, importlib.metadata, re, sys
plain = lambda name: re.sub("[-_.]+", "-", name).lower()
found = importlib.metadata.packages_distributions()
for wanted in map(plain, sys.argv[1:]):
    modules = [name for name, owners in found.items() if wanted in map(plain, owners) and name.isidentifier()]
    print(wanted, *sorted(modules))
    for name in modules:
        importlib.import_module(name)
"""


def test_every_library_finds_what_it_needs_of_the_system(image: Image) -> None:
    used, _, _ = (ROOT / "requirements.in").read_text().partition("# tests and checks")
    names = re.findall(r"^[A-Za-z0-9][A-Za-z0-9._-]*", used, re.MULTILINE)
    said = image.run("python", "-c", IMPORTS, *names)
    lines = dict(line.partition(" ")[::2] for line in said.splitlines())
    assert {name for name in names if not lines.get(re.sub(r"[-_.]+", "-", name).lower())} == set()
    assert "gdcm" in lines["python-gdcm"].split()


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
    choices = shrunk(matrix={"scenarios": [CELL.scenario]}, promotion={"floor": 0.0})
    (work / "params.yaml").write_text(json.dumps(choices))  # JSON is YAML
    os.chown(work, uid, -1)
    # As strict as a cluster may be: no right that could be taken away, and nothing to write but the volume and /tmp.
    container: tuple[str, ...] = ("--user", f"{uid}:{uid}", "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL")  # noqa: S108
    container += ("--security-opt", "no-new-privileges", "--volume", f"{work}:/work", "--workdir", "/work")
    environment = ("--env", "MLFLOW_TRACKING_URI=sqlite:////work/mlflow.db", "--env", "OMP_NUM_THREADS=1")

    def step(name: str, *arguments: str) -> str:
        return image.run(
            "python", "-m", MODULES.get(name, f"components.{name}"), *arguments, options=container + environment
        )

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
    step("evaluate", "arrays", "--raw", "raw", "--model", model, *split, "--out", evaluation)
    where = ("--models", "models", "--evaluations", "evaluations", "--arrays", "arrays")
    step("report", *where, "--splits", "splits", "--out", "reports")
    step("register", *where, "--out", "registered.json")
    assert "champion" in step("promote", "--arrays", "arrays", "--splits", "splits")
    assert "16 done, 0 failed" in step("predict", "data/ChinaSet_AllFiles/CXR_png", "--out", "predictions")

    said = step("predict", "data/MontgomerySet/CXR_png", "--out", "lungs", "--model", "pretrained")
    assert "12 done, 0 failed" in said

    rows = json.loads((work / "reports/results.json").read_text())
    assert {row["scenario"] for row in rows} == {CELL.scenario}
    assert json.loads((work / model / "run.json").read_text())["commit"] == image.commit
    assert json.loads((work / "registered.json").read_text())["version"] == 1
    assert {path.name for path in work.rglob("*") if path.stat().st_uid != uid} == {"params.yaml"}


def test_a_step_runs_as_kubeflow_calls_it(image: Image, tmp_path: Path) -> None:
    from core.params import check
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
