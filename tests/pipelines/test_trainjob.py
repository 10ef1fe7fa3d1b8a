"""A training over several nodes: the TrainJob that is sent, how it is followed and ended, and what is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from kfp.compiler import Compiler

from components.train.result import FILES
from core.cell import RUN, Cell
from core.params import read_params, read_yaml
from model.training.checkpoint import STATE
from model.weights import WEIGHTS
from pipelines.cluster import CLUSTER, check_cluster
from pipelines.graph import build
from pipelines.trainjob_spec import JOB, RUNTIME, job_name, settings, train_job
from tests.conftest import CELL, EPOCHS, ROOT, Project
from tests.pipelines.trainer_server import RECORDED, Trainer, serving, stop
from tests.services import Bucket

RUNTIME_FILE = ROOT / "pipelines/manifests/training-runtime.yaml"
# What the train step does in its pod.
STEP = """
import sys
from pathlib import Path
from pipelines.tasks import in_processes, task
with task():
    from components.train import train
    from components.train.checkpoints import places
    from core.cell import Cell
    from core.params import read_params
    choices, cell, out = read_params(Path("params.yaml")), Cell("defu_net", "mixed", 0), Path("step/model")
    beside = out.with_name("checkpoints")
    states = places(sys.argv[1] or str(beside), cell, beside)
    inputs = (Path("artifacts/arrays"), Path("artifacts/splits/mixed.json"))
    print(in_processes(train, cell, *inputs, choices.train, choices.register_.experiment, out.absolute(), *states))
"""


def shipped(**train: Any) -> dict[str, Any]:
    values: dict[str, Any] = read_yaml(ROOT / CLUSTER)
    values["steps"]["train"] |= {"nodes": 2} | train
    return values


def small() -> dict[str, Any]:
    """The settings of a cluster without GPUs."""
    cpu, memory = {"request": "100m", "limit": "1"}, {"request": "1Gi", "limit": "4Gi"}
    values = shipped(cpu=cpu, memory=memory, gpus={"resource": "nvidia.com/gpu", "count": 0}, shared_memory=None)
    return settings(check_cluster(values, "here"), "image:1") | {"labels": {"team": "lungs"}}


LONG = 24
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def trainer(untrained: Project) -> Trainer:
    return Trainer(untrained.root, {**untrained.environment, "PYTHONPATH": str(ROOT)})


@pytest.fixture
def start(untrained: Project, trainer: Trainer, tmp_path: Path) -> Iterator[Start]:
    """Return what starts the step: ``start(checkpoints)``."""
    with serving(trainer, tmp_path) as config:

        def started(checkpoints: str, **given: str) -> subprocess.Popen[str]:
            environment = untrained.environment | {"KUBECONFIG": str(config), JOB: json.dumps(small())} | given
            line = [sys.executable, "-c", STEP, checkpoints]
            return subprocess.Popen(line, cwd=untrained.root, env=environment, stdout=-1, stderr=-1, text=True)

        yield started


def ended(step: subprocess.Popen[str], seconds: float = 110) -> tuple[int, str, str]:
    out, errors = step.communicate(timeout=seconds)
    return step.returncode, out, errors


def until(moment: Callable[[], bool], step: subprocess.Popen[str]) -> None:
    limit = time.monotonic() + 90
    while not moment():
        assert step.poll() is None, step.communicate()
        assert time.monotonic() < limit
        time.sleep(0.05)


# --- what is sent ---------------------------------------------------------------------------------------------------


def forms(value: Any, where: str = "") -> dict[str, str]:
    """The keys of nested values, and the kinds of what is there; elements of lists as one."""
    if isinstance(value, dict):
        return {key: kind for name, each in value.items() for key, kind in forms(each, f"{where}.{name}").items()}
    if isinstance(value, list):
        return {key: kind for each in value for key, kind in forms(each, f"{where}[]").items()}
    return {where: type(value).__name__}


FREE = ("labels", "ownerReferences", "valueFrom", "resourcesPerNode")  # Kubernetes' own kinds, with keys of any name


def test_the_train_job_has_the_recorded_form() -> None:
    """The CRD's schema is not available; Trainer 2.3.0 accepted this."""
    command, arguments = ["python", "-m", "torch.distributed.run"], ["-m", "components.train"]
    sent = forms(train_job("defunet-mixed-0", small(), command, arguments))
    recorded = forms(RECORDED["trainjob"])
    assert {k: v for k, v in sent.items() if not any(f".{name}" in k for name in FREE)}.items() <= recorded.items()
    spec = train_job("n", small(), command, arguments)["spec"]
    assert spec["runtimeRef"] == RECORDED["trainjob"]["spec"]["runtimeRef"] | {"name": RUNTIME}
    assert spec["trainer"]["command"] == RECORDED["trainjob"]["spec"]["trainer"]["command"]
    assert spec["trainer"]["resourcesPerNode"] == RECORDED["trainjob"]["spec"]["trainer"]["resourcesPerNode"]
    assert {"name": "OMP_NUM_THREADS", "value": "1"} in spec["trainer"]["env"]
    assert "valueFrom" in next(each for each in spec["trainer"]["env"] if each["name"] == "MLFLOW_TRACKING_URI")


def test_it_asks_for_gpus_and_threads_by_the_quota() -> None:
    gpus = {"resource": "nvidia.com/gpu", "count": 2}
    asked = settings(check_cluster(shipped(gpus=gpus), "here"), "image:1")
    assert (asked["nodes"], asked["processes"]) == (2, 2)
    assert asked["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert {"name": "OMP_NUM_THREADS", "value": "4"} in asked["env"]  # 8 CPUs, two processes


def test_it_ends_with_the_pod_of_its_step_and_is_named_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KFP_POD_NAME", "run-1")
    monkeypatch.setenv("KFP_POD_UID", "u")
    (owner,) = train_job("n", small(), [], [])["metadata"]["ownerReferences"]
    assert owner == {"apiVersion": "v1", "kind": "Pod", "name": "run-1", "uid": "u"}
    names = {job_name(Cell("incept_res_unet", "montgomery-to-shenzhen", seed), run) for seed in (0, 1) for run in "ab"}
    assert len(names) == 4
    assert all(len(f"{name}-node-0-0") <= 63 and name[0].isalpha() for name in names)
    assert job_name(CELL, "a").startswith("train-defu-net-mixed-0-")


def test_the_runtime_has_what_the_recorded_one_has() -> None:
    runtime, *others = yaml.safe_load_all(RUNTIME_FILE.read_text())
    recorded = RECORDED["runtime"]
    assert (runtime["apiVersion"], runtime["kind"]) == (recorded["apiVersion"], recorded["kind"])
    assert runtime["metadata"]["name"] == RUNTIME
    assert recorded["metadata"]["labels"].items() <= runtime["metadata"]["labels"].items()
    assert runtime["spec"]["mlPolicy"] == recorded["spec"]["mlPolicy"]
    job, expected = (each["spec"]["template"]["spec"]["replicatedJobs"][0] for each in (runtime, recorded))
    assert runtime["spec"]["template"]["spec"]["failurePolicy"] == {"maxRestarts": 3}
    assert job["name"] == expected["name"] == "node"
    assert job["template"]["metadata"] == expected["template"]["metadata"]
    pod = job["template"]["spec"]["template"]["spec"]
    assert (job["template"]["spec"]["backoffLimit"], pod["restartPolicy"]) == (0, "Never")
    assert [container["name"] for container in pod["containers"]] == ["node"]
    assert {each["kind"] for each in others} == {"Role", "RoleBinding"}
    image = [pod["containers"][0] | {"image": "i"}]  # which the TrainJob says
    for document in (*others, {"apiVersion": "v1", "kind": "Pod", "spec": pod | {"containers": image}}):
        whole = {"metadata": {"name": "x"}} | document
        kubernetes_validate.validate(whole, "1.37", strict=True)


def test_the_compiled_step_sends_it_and_asks_for_little_itself(tmp_path: Path) -> None:
    package = tmp_path / "pipeline.yaml"
    cluster = check_cluster(shipped(), "here")
    Compiler().compile(build(read_params(ROOT / "params.yaml"), cluster=cluster), str(package))
    spec, platform = yaml.safe_load_all(package.read_text())
    container = spec["deploymentSpec"]["executors"]["exec-train"]["container"]
    given = {each["name"]: each["value"] for each in container["env"]}
    assert json.loads(given[JOB]) == settings(cluster, cluster.image)
    assert "accelerator" not in container["resources"]
    assert container["resources"]["resourceCpuLimit"] == "2"
    asked = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-train"]
    assert "tolerations" not in asked
    assert asked["fieldPathAsEnv"][0]["name"] == "KUBEFLOW_RUN_ID"
    assert asked["activeDeadlineSeconds"] == "86400"


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda v: v.update(checkpoints=None), "steps.train.nodes: several nodes need checkpoints"),
        (lambda v: v["every_step"].update(nodes=2), "every_step.nodes: only train has several nodes"),
        (lambda v: v["steps"]["report"].update(nodes=2), "steps.report.nodes: only train has several nodes"),
        (lambda v: v["steps"]["train"].update(nodes=0), "steps.train.nodes: Input should be greater than or equal to"),
    ],
)
def test_settings_that_cannot_be_are_refused(change: Callable[[dict[str, Any]], None], told: str) -> None:
    from core.errors import UserError

    values = shipped()
    change(values)
    with pytest.raises(UserError) as error:
        check_cluster(values, "here")
    assert [problem for problem in error.value.problems if problem.startswith(told)]


def refused(step: subprocess.Popen[str]) -> str:
    code, _, errors = ended(step)
    assert code == 1, errors
    (line,) = errors.splitlines()
    return line


def test_without_trainer_it_is_refused_in_one_line(start: Start, trainer: Trainer) -> None:
    trainer.installed = False
    line = refused(start("states"))
    assert line == (
        "error: TrainJobs in kubeflow: the cluster has no trainjobs.trainer.kubeflow.org/v1alpha1; install Kubeflow "
        "Trainer 2 with JobSet, or set steps.train.nodes: 1"
    )
    assert "need checkpoints that all of them see" in refused(start(""))


def test_what_trainer_refuses_is_told_in_its_words(start: Start, trainer: Trainer, untrained: Project) -> None:
    trainer.refuses = (403, 'admission webhook denied the request: trainingruntimes "lung" not found')
    line = refused(start("states"))
    assert 'trainingruntimes "lung" not found' in line
    assert "training-runtime.yaml" in line
    assert not (untrained.root / "states/jobs").exists() or not list((untrained.root / "states/jobs").iterdir())


# --- how it runs ----------------------------------------------------------------------------------------------------


def assert_trained(untrained: Project, printed: str, epochs: int = EPOCHS) -> dict[str, Any]:
    out = untrained.root / "step/model"
    assert {path.name for path in out.iterdir()} == {*FILES}
    record: dict[str, Any] = json.loads((out / RUN).read_text())
    assert (record["processes"], record["epochs"]) == (2, epochs)
    assert f"epoch {epochs}/{epochs}" in printed
    assert f"epochs={epochs}" in printed
    return record


@pytest.mark.full
@pytest.mark.slow
def test_two_nodes_train_over_a_volume(start: Start, trainer: Trainer, untrained: Project) -> None:
    code, printed, errors = ended(start("states"))
    assert code == 0, printed + errors
    record = assert_trained(untrained, printed)
    assert record["threads"] == 1
    (name,) = trainer.deleted
    assert name == trainer.sent[0]["metadata"]["name"]
    assert f"TrainJob kubeflow/{name}: sent, 2 nodes" in errors
    assert list((untrained.root / "states/jobs").iterdir()) == []
    last = trainer.reported[-1]
    assert (last["progressPercentage"], last["estimatedRemainingSeconds"]) == (100, 0)
    first = trainer.reported[0]
    assert {each["name"] for each in first["metrics"]} >= {"epoch", "validation_dice"}
    assert all(isinstance(each["value"], str) for each in first["metrics"])


@pytest.mark.full
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_lost_pod_starts_both_anew_and_the_training_goes_on(
    start: Start, trainer: Trainer, untrained: Project, bucket: Bucket
) -> None:
    untrained.write_params(train={"epochs": LONG})
    trainer.shared = False  # each pod has a disk of its own
    trainer.env |= {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    step = start(f"s3://{bucket.name}/states")
    until(lambda: any(name.endswith(f"/{STATE}") for name in bucket.names("states/")), step)
    stop(trainer.pods[1:2])
    code, printed, errors = ended(step, 280)
    assert code == 0, printed + errors
    record = assert_trained(untrained, printed, LONG)
    assert trainer.restarts == 1
    assert record["resumed_from"] >= 1
    assert "resuming after epoch" in printed
    assert "started anew, rank 0 is" in errors
    assert not [name for name in bucket.names("states/") if "/jobs/" in name]


@pytest.mark.full
@pytest.mark.slow
def test_a_pod_lost_after_the_end_does_not_train_anew(untrained: Project) -> None:
    untrained.do(untrained.train_line())
    begun = json.loads((untrained.model / RUN).read_text())["started"]
    out = ("--out", "again")
    assert "took the result" in untrained.do(untrained.train_line(*out), TRAIN_TAKES_SINCE=begun)
    assert "took the result" in untrained.do(untrained.train_line(*out), TRAIN_TAKES_SINCE="0")
    assert (untrained.root / "again" / WEIGHTS).read_bytes() == (untrained.model / WEIGHTS).read_bytes()
    assert "took the result" not in untrained.do(untrained.train_line(*out), TRAIN_TAKES_SINCE="2099")


@pytest.mark.full
@pytest.mark.slow
def test_the_error_of_rank_zero_is_that_of_the_step(start: Start, trainer: Trainer, untrained: Project) -> None:
    from tests.pipelines import trainer_server

    trainer_server.RESTARTS = 0
    try:
        untrained.write_params(train={"learning_rate": 1e38})
        code, _, errors = ended(start("states"))
    finally:
        trainer_server.RESTARTS = 3
    assert code == 1
    last = errors.splitlines()[-1]
    assert last.startswith("error: TrainJob train-defu-net-mixed-0-")
    assert "failed (jobset failed due to one or more job failures" in last
    assert "rank 0 said: train defu_net mixed seed 0: epoch 1" in last
    assert len(trainer.deleted) == 1


@pytest.mark.full
@pytest.mark.slow
def test_a_step_that_is_ended_ends_its_train_job(start: Start, trainer: Trainer, untrained: Project) -> None:
    untrained.write_params(train={"epochs": 500})
    step = start("states")
    until(lambda: bool(trainer.pods and trainer.pods[0].log), step)
    step.send_signal(signal.SIGTERM)
    code, _, _ = ended(step)
    assert code == 143
    assert trainer.deleted == [trainer.sent[0]["metadata"]["name"]]
