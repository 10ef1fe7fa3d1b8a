"""Kubeflow tasks in real containers: exit codes that hold, and the whole graph with the figures of ``dvc repro``."""

# No `from __future__ import annotations`: kfp reads the annotations of pipelines.

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from kfp import dsl, local

from components.train.result import FILES
from pipelines.local.containers import Mount, options, reliable
from pipelines.local.view import View
from tests.conftest import CELL, ROOT, refused
from tests.engine import Engine, Image
from tests.pipelines.test_local import COMMAND
from tests.project import Project, sample
from tests.services import KEYS, Bucket

# The first that needs the image builds it: minutes on an idle machine, and many times as long on a busy one.
pytestmark = [pytest.mark.slow, pytest.mark.full, pytest.mark.timeout(3000)]

STRANGER = 54321  # a user that neither the image nor this machine knows


class Tasks:
    """One-task pipelines in containers of the base image, with kfp's DockerRunner as ``pipelines.local`` uses it."""

    def __init__(self, base: str, folder: Path) -> None:
        self.base, self.last_words, self.root = base, folder / "last-words", folder / "tasks"
        self.last_words.touch()

    def succeeds(self, script: str, **how: Any) -> bool:
        """Run a shell script as the task of a pipeline and tell whether kfp calls the pipeline a success."""

        def task() -> dsl.ContainerSpec:
            return dsl.ContainerSpec(image=self.base, command=["sh", "-c", script])

        component = dsl.container_component(task)

        @dsl.pipeline  # type: ignore[untyped-decorator]
        def pipeline() -> None:
            component()

        runner = local.DockerRunner(**({"network_mode": "none"} | how))
        local.init(runner, pipeline_root=str(self.root))
        try:
            with reliable(self.last_words, View()):
                pipeline()
        except RuntimeError:
            return False
        return True


@pytest.fixture
def tasks(engine: Engine, base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tasks:
    if "DOCKER_HOST" in engine.environment:
        monkeypatch.setenv("DOCKER_HOST", engine.environment["DOCKER_HOST"])
    return Tasks(base, tmp_path)


def test_a_failing_task_fails_the_run_every_time(tasks: Tasks, capsys: pytest.CaptureFixture[str]) -> None:
    # Output keeps kfp's own runner busy until the container is gone: it takes 20 of 20 of these for successes.
    assert [tasks.succeeds("seq 3000; exit 3") for _ in range(20)] == [False] * 20
    assert [tasks.succeeds("exit 1") for _ in range(3)] == [False] * 3
    capsys.readouterr()
    assert [tasks.succeeds("seq 3000; printf 'Größe µ'") for _ in range(3)] == [True] * 3
    said = capsys.readouterr().out
    assert (said.count("3000\n"), said.count("Größe µ")) == (3, 3)


def test_a_task_that_is_killed_and_one_that_docker_refuses_fail_the_run_and_say_so(tasks: Tasks) -> None:
    assert not tasks.succeeds("sh -c 'kill -9 $$'; exit $?")
    assert "ended by signal 9" in tasks.last_words.read_text()

    absent = tasks.root / "absent"
    assert not tasks.succeeds("true", **options((0, 0), [Mount(absent)], network=False))
    assert f'Docker: invalid mount config for type "bind": bind source path does not exist: {absent}' in (
        tasks.last_words.read_text()
    )


def test_a_task_writes_where_it_may_and_nowhere_else(tasks: Tasks, tmp_path: Path) -> None:
    folders = {name: tmp_path / name for name in ("may", "may-not")}
    for folder in folders.values():
        folder.mkdir(mode=0o777)
        folder.chmod(0o777)
    mounts = [Mount(folder, writable=name == "may") for name, folder in folders.items()]
    how = options((STRANGER, STRANGER), mounts, network=False, GREETING="hello")
    script = f"""
        set -e
        cd "{folders["may"]}"; echo $GREETING $(id -u) >written; : >/tmp/written
        for path in "{folders["may-not"]}" /etc /opt; do
          if (: >"$path/written") 2>/dev/null; then exit 1; fi
        done
        if grep -q eth0 /proc/net/dev; then exit 1; fi
    """
    assert tasks.succeeds(script, **how)
    assert (folders["may"] / "written").read_text() == f"hello {STRANGER}\n"


def test_a_mount_over_the_images_code_is_refused() -> None:
    from core.errors import UserError

    for path in ("/", "/app", "/opt"):
        with pytest.raises(UserError, match="would hide the image's own"):
            options((0, 0), [Mount(Path(path))], network=False)


def containers(image: Image) -> list[str]:
    return image.engine.run("docker", "ps", "--all", "--quiet", "--filter", f"ancestor={image.name}").stdout.split()


def where(engine: Engine) -> dict[str, str]:
    return {name: value for name, value in engine.environment.items() if name == "DOCKER_HOST"}


def test_the_graph_in_containers_gives_the_figures_of_dvc_repro(
    project: Project, image: Image, empty_store: Path, tmp_path: Path
) -> None:
    uid = STRANGER if os.geteuid() == 0 else os.geteuid()
    out, store = tmp_path / "run", tmp_path / "store"
    for folder in (out, store):
        folder.mkdir()
    shutil.copy(empty_store, store / "mlflow.db")
    for path in (out, store, store / "mlflow.db"):
        os.chown(path, uid, -1)

    # No other number of threads than `dvc repro` had: sums in another order are other sums.
    variables = {"MLFLOW_TRACKING_URI": f"sqlite:///{store / 'mlflow.db'}"}
    location = (
        f"import mlflow; mlflow.create_experiment('lung-segmentation', artifact_location='{store / 'artifacts'}')"
    )
    project.run("python", "-c", location, check=True, **variables)

    line = (*COMMAND, "--runner", "docker", "--image", image.name, "--out", out)
    done = project.run(*line, check=True, **variables, **where(image.engine))

    assert str(out / "reports/index.html") in done.stdout
    name = "reports/results.json"
    assert json.loads((out / name).read_text()) == json.loads((project.root / name).read_text())
    registered = json.loads((out / "registered.json").read_text())
    by_dvc = json.loads((project.root / "artifacts/registered.json").read_text())
    assert {**registered, "run_id": None} == {**by_dvc, "run_id": None}
    (cell,) = out.glob("tasks/*/for-loop-2-iteration-0/train/model")
    assert json.loads((cell / "run.json").read_text())["commit"] == image.commit
    written = [*(out / "tasks").rglob("*"), *(store / "artifacts").rglob("*")]
    assert len(written) > 100
    assert {path.stat().st_uid for path in written} == {uid}
    assert containers(image) == []


def test_from_s3_to_a_champion_on_a_server_with_keys_in_the_environment_alone(
    project: Project, image: Image, bucket: Bucket, mlflow_server: str, tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    name = "from-containers"
    # The server is the session's: other tests count their own experiment's runs.
    project.set_params({"matrix": {"scenarios": ["mixed"]}, "register": {"model": name, "experiment": name}})
    bucket.upload(project.root / "samples", "cxr/")
    out, s3 = tmp_path / "run", f"s3://{bucket.name}"
    variables = {key: value for key, value in os.environ.items() if key.startswith("AWS_")}
    variables |= where(image.engine) | {"MLFLOW_TRACKING_URI": mlflow_server}

    places = ("--source", f"{s3}/cxr", "--checkpoints", f"{s3}/states", "--out", out)
    line = (*COMMAND, "--runner", "docker", "--image", image.name, *places, "--promote")
    done = project.run(*line, check=True, **variables)

    assert done.stdout.splitlines()[-1].endswith(f"{name} version 1: is champion (before: none)")
    rows = json.loads((project.root / "reports/results.json").read_text())
    expected = [row for row in rows if row["scenario"] == "mixed"]
    assert json.loads((out / "reports/results.json").read_text()) == expected
    names = set(bucket.names("states/"))
    results = {name for name in names if name.startswith(f"states/{CELL.folder}/")}
    # A training that has ended keeps its result in the place of its state; the others are the copied Data Docs.
    assert {"/".join(name.split("/")[-2:]) for name in results} == {f"result/{n}" for n in FILES}
    assert all(name.startswith("states/validation-") for name in names - results)
    assert any(name.endswith("/index.html") for name in names - results)
    client = MlflowClient(mlflow_server, mlflow_server)
    champion = client.get_model_version_by_alias(name, "champion")
    assert (champion.tags["image"], champion.tags["kubeflow.run"]) == (image.name, "none")
    assert client.get_run(champion.run_id).info.artifact_uri.startswith("mlflow-artifacts:/")
    # S3's keys are not printed, and no file remains.
    assert KEYS.secret not in done.stdout + done.stderr
    assert not [path for path in out.rglob("*") if path.is_file() and KEYS.secret.encode() in path.read_bytes()]
    assert containers(image) == []


def test_a_failing_step_in_a_container_fails_the_run_and_says_why(
    project: Project, image: Image, tmp_path: Path
) -> None:
    cohort = sample(tmp_path / "cohort")
    broken = cohort / "ChinaSet_AllFiles/CXR_png/CHNCXR_0003_0.png"
    broken.write_bytes(broken.read_bytes()[:400])

    line = (*COMMAND, "--runner", "docker", "--image", image.name, "--source", cohort, "--out", tmp_path / "run")
    done = project.run(*line, check=False, **where(image.engine))

    assert done.returncode == 1
    first, *problems = done.stderr[done.stderr.index("error: ") :].splitlines()
    assert first == f"error: {cohort}: 1 file(s) cannot be used; nothing was written"
    assert [problem.partition(": ")[0].strip() for problem in problems] == [str(broken)]
    assert not (tmp_path / "run/reports").exists()
    assert containers(image) == []


def test_an_interrupt_leaves_no_container_behind(project: Project, image: Image, tmp_path: Path) -> None:
    line = [*COMMAND, "--runner", "docker", "--image", image.name, "--out", str(tmp_path / "run")]
    with (tmp_path / "said").open("w") as said:
        variables = project.environment | where(image.engine)
        process = subprocess.Popen(line, cwd=project.root, env=variables, stdout=said, stderr=said)
    limit = time.monotonic() + 300
    while ": started" not in (tmp_path / "said").read_text() or not containers(image):
        assert process.poll() is None, (tmp_path / "said").read_text()
        assert time.monotonic() < limit
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(100) == 130, (tmp_path / "said").read_text()
    assert (tmp_path / "said").read_text().splitlines()[-1].startswith("interrupted: ")
    limit = time.monotonic() + 20  # on a busy machine the engine lists a container for a while after it was killed
    while containers(image):
        assert time.monotonic() < limit
        time.sleep(0.2)


def call(folder: Path, *arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a folder of its own, with the shipped parameters."""
    line = [sys.executable, *COMMAND[1:], "--params", str(ROOT / "params.yaml"), *map(str, arguments)]
    given = os.environ | {"PYTHONPATH": str(ROOT)} | variables
    done = subprocess.run(line, cwd=folder, env=given, capture_output=True, text=True, check=False)
    assert list(folder.iterdir()) == []
    return done


def test_without_an_engine_there_is_one_clear_line(tmp_path: Path) -> None:
    said = refused(call(tmp_path, "--runner", "docker", DOCKER_HOST=f"unix://{tmp_path}/none.sock"))
    assert said.startswith("error: no Docker engine answers (")
    assert said.endswith("start one, or let DOCKER_HOST name one")


def test_an_image_that_is_not_there_and_one_that_nothing_runs_in_are_refused(engine: Engine, tmp_path: Path) -> None:
    arguments = ("--runner", "docker", "--image", "no-such-image:1")
    assert "error: image no-such-image:1: not on this machine" in refused(call(tmp_path, *arguments, **where(engine)))
    assert "--runner docker" in refused(call(tmp_path, "--image", "an-image"))
    colon = ("--runner", "docker", "--out", tmp_path / "a:b")
    assert f"error: {tmp_path / 'a:b'}: " in refused(call(tmp_path, *colon))


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone writes as somebody else")
def test_root_is_told_what_does_not_belong_to_the_owner_of_the_run(engine: Engine, base: str, tmp_path: Path) -> None:
    out, here = tmp_path / "run", tmp_path / "here"
    out.mkdir()
    here.mkdir()
    os.chown(out, STRANGER, STRANGER)
    arguments = ("--runner", "docker", "--image", base, "--out", out)
    store = {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}"}
    said = refused(call(here, *arguments, **store, **where(engine)))
    assert said == f"error: {tmp_path / 'mlflow.db'}: must belong to the owner of {out}, as whom tasks write"
