"""The compiled pipeline, and each step compiled alone: what Kubeflow would read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import json_format
from kfp import components
from kfp.kubernetes.kubernetes_executor_config_pb2 import KubernetesExecutorConfig
from kfp.pipeline_spec import pipeline_spec_pb2

from core.params import read_params, read_yaml
from pipelines import components as steps
from pipelines.cluster import check_cluster, read_cluster
from pipelines.compile import compiled
from pipelines.tasks import whole

ROOT = Path(__file__).resolve().parents[2]
STAGES = {"ingest", "validate", "preprocess", "train", "evaluate", "report", "register"}
STEPS = STAGES | {"plan", "gather", "promote", "outcome"}
CLUSTER = ROOT / "pipelines/cluster.yaml"
IMAGE = "defu-net-pipeline-python:0.1.0"
SECTIONS = {
    "ingest",
    "validate",
    "preprocess",
    "scenarios",
    "matrix",
    "train",
    "evaluate",
    "register",
    "promotion",
    "registry",
}

DIGEST = f"sha256:{'01' * 32}"
PINNED = f"registry.example/python-lungs@{DIGEST}"


def compile_pipeline(out: Path, *options: object, here: Path = ROOT) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "pipelines.compile", "--out", out, *options]
    given = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(list(map(str, line)), cwd=here, env=given, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("compiled") / "build/pipeline.yaml"
    done = compile_pipeline(out, "--components", out.parent / "components")
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def spec(package: Path) -> dict[str, Any]:
    return next(yaml.safe_load_all(package.read_text()))


@pytest.fixture(scope="module")
def asked(package: Path) -> dict[str, dict[str, Any]]:
    """What each step asks of Kubernetes, by its name."""
    return placement(package.read_text())


def placement(text: str) -> dict[str, dict[str, Any]]:
    _, platform = yaml.safe_load_all(text)
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    return {name.removeprefix("exec-"): values for name, values in executors.items()}


def tasks(spec: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the tasks of the graph, of what its exit handler guards and of its loop by name."""
    dags = [spec["root"], spec["components"]["comp-exit-handler-1"], spec["components"]["comp-for-loop-2"]]
    return {name: task for component in dags for name, task in component["dag"]["tasks"].items()}


def container(spec: dict[str, Any], step: str) -> dict[str, Any]:
    return spec["deploymentSpec"]["executors"][f"exec-{step}"]["container"]


def test_the_same_bytes_twice(package: Path, tmp_path: Path) -> None:
    assert compile_pipeline(tmp_path / "again.yaml", "--components", tmp_path / "components").returncode == 0
    assert (tmp_path / "again.yaml").read_bytes() == package.read_bytes()
    for path in (tmp_path / "components").iterdir():
        assert path.read_bytes() == (package.parent / "components" / path.name).read_bytes()


def test_kubeflow_itself_reads_it(package: Path, spec: dict[str, Any]) -> None:
    loaded = components.load_component_from_text(package.read_text())
    assert loaded.name == "lung-segmentation"
    parsed = json_format.ParseDict(spec, pipeline_spec_pb2.PipelineSpec())
    assert parsed.pipeline_info.display_name == "Chest X-ray lung segmentation"
    assert set(parsed.root.dag.tasks) == {"exit-handler-1", "outcome"}
    guarded = parsed.components["comp-exit-handler-1"].dag.tasks
    assert set(guarded) == STEPS - {"train", "evaluate", "outcome"} | {"for-loop-2"}
    _, platform = yaml.safe_load_all(package.read_text())
    kubernetes = json_format.ParseDict(platform, pipeline_spec_pb2.PlatformSpec()).platforms["kubernetes"]
    for values in kubernetes.deployment_spec.executors.values():
        # Kubeflow's own schema of what a container asks of Kubernetes: an unknown field would be refused.
        json_format.ParseDict(json_format.MessageToDict(values), KubernetesExecutorConfig())


def test_the_graph_is_that_of_dvc_yaml(spec: dict[str, Any]) -> None:
    after = {name: set(task.get("dependentTasks", ())) for name, task in tasks(spec).items()}
    assert after == {
        "exit-handler-1": set(),
        "outcome": {"exit-handler-1"},
        "plan": set(),
        "ingest": {"plan"},
        "validate": {"ingest"},
        "preprocess": {"plan", "ingest", "validate"},
        "for-loop-2": {"plan", "ingest", "preprocess"},
        "train": set(),
        "evaluate": {"train"},
        "gather": {"for-loop-2"},
        "report": {"preprocess", "gather"},
        "register": {"plan", "preprocess", "gather"},
        "promote": {"plan", "preprocess", "register"},
    }
    assert set(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]) == STAGES
    loop = tasks(spec)["for-loop-2"]
    assert loop["parameterIterator"]["items"] == {"inputParameter": "pipelinechannel--plan-Output"}


def test_the_outcome_is_told_whatever_happens(spec: dict[str, Any]) -> None:
    outcome = tasks(spec)["outcome"]
    assert outcome["triggerPolicy"] == {"strategy": "ALL_UPSTREAM_TASKS_COMPLETED"}
    assert outcome["inputs"]["parameters"]["status"] == {"taskFinalStatus": {"producerTask": "exit-handler-1"}}


def test_nothing_is_promoted_unless_asked(spec: dict[str, Any]) -> None:
    assert spec["root"]["inputDefinitions"]["parameters"]["promote"]["defaultValue"] is False
    wanted = tasks(spec)["promote"]["inputs"]["parameters"]["wanted"]
    assert wanted == {"componentInputParameter": "pipelinechannel--promote"}


def test_the_last_step_compares_on_the_runs_own_test_images(spec: dict[str, Any]) -> None:
    inputs = tasks(spec)["promote"]["inputs"]
    artifacts = {name: value["taskOutputArtifact"]["producerTask"] for name, value in inputs["artifacts"].items()}
    assert artifacts == {"version": "register", "arrays": "preprocess"}
    assert inputs["parameters"]["params"]["taskOutputParameter"]["producerTask"] == "plan"


def test_what_writes_to_the_registry_knows_its_image_and_run(
    spec: dict[str, Any], asked: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    # Kubeflow's driver hands the variables of a container on as they are: a placeholder would stay one.
    run = {"name": "KUBEFLOW_RUN_ID", "fieldPath": "metadata.labels['pipeline/runid']"}
    for name in STEPS:
        assert (run in asked[name].get("fieldPathAsEnv", ())) == (name in ("register", "promote", "outcome"))
    other = PINNED
    for content, image in ((spec, IMAGE), (_with_image(tmp_path, other), other)):
        for name in STEPS:
            given = {entry["name"]: entry["value"] for entry in container(content, name).get("env", ())}
            assert (given.get("IMAGE") == image) == (name in ("register", "promote"))


def test_what_touches_the_registry_is_never_cached(spec: dict[str, Any]) -> None:
    cached = {
        name: task["cachingOptions"].get("enableCache", False) for name, task in tasks(spec).items() if name in STEPS
    }
    assert cached == {name: name not in ("register", "promote", "outcome") for name in STEPS}


def test_other_data_and_other_code_miss_every_cache(spec: dict[str, Any]) -> None:
    inputs = tasks(spec)["ingest"]["inputs"]["parameters"]
    assert {"data_md5", "git_commit", "image_digest"} <= set(inputs)
    assert {"git_commit", "image_digest"} <= set(tasks(spec)["plan"]["inputs"]["parameters"])
    # All the others read what ingest left, at first or at second hand.
    for name in ("validate", "preprocess", "report", "register", "for-loop-2"):
        assert tasks(spec)[name]["inputs"]["artifacts"]


def test_a_step_is_given_no_more_than_it_reads(spec: dict[str, Any]) -> None:
    for name in ("ingest", "validate", "preprocess"):
        given = tasks(spec)[name]["inputs"]["parameters"]["params"]
        assert given == {"componentInputParameter": f"pipelinechannel--{name}"}
    for name, section in (("train", "training"), ("evaluate", "scoring")):
        given = tasks(spec)[name]["inputs"]["parameters"]["params"]
        assert given == {"componentInputParameter": f"pipelinechannel--plan-{section}"}


def test_no_step_carries_its_source_and_one_alone_takes_a_list(spec: dict[str, Any]) -> None:
    for name in STEPS:
        call = container(spec, name)
        assert call["command"] == ["python", "-m", "pipelines.step", name]
        assert call["args"] == ["--executor_input", "{{$}}"]
    lists = {
        (name, key)
        for name in STEPS
        for key, kind in spec["components"][f"comp-{name}"]["inputDefinitions"].get("artifacts", {}).items()
        if kind.get("isArtifactList")
    }
    assert lists == {("gather", "evaluations")}
    assert "description" not in json.dumps([spec["components"][f"comp-{name}"] for name in STEPS])


@pytest.mark.slow
def test_a_cell_may_be_one_pod_with_what_train_asks_and_the_variables_of_both() -> None:
    values = read_yaml(CLUSTER) | {"one_pod_per_cell": True}
    text = compiled(read_params(ROOT / "params.yaml"), cluster=check_cluster(values, "here"))
    content, settings = next(yaml.safe_load_all(text)), placement(text)
    loop = content["components"]["comp-for-loop-2"]["dag"]["tasks"]
    assert set(loop) == {"train-and-evaluate"}
    own = settings["train-and-evaluate"]
    assert own["emptyDirMounts"][0]["mountPath"] == "/dev/shm"  # noqa: S108
    assert {entry["envVar"] for secret in own["secretAsEnv"] for entry in secret["keyToEnv"]} == {
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "MLFLOW_TRACKING_USERNAME",
        "MLFLOW_TRACKING_PASSWORD",
    }
    assert container(content, "train-and-evaluate")["resources"]["resourceMemoryLimit"] == "32Gi"
    made = content["components"]["comp-train-and-evaluate"]["outputDefinitions"]["artifacts"]
    assert set(made) == {"model", "training", "evaluation", "test", "roc"}


def test_what_will_not_fit_compiles_to_nothing(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    seeds = f"seeds: {list(range(70))}"
    path.write_text((ROOT / "params.yaml").read_text().replace("seeds: [0]", seeds))
    done = compile_pipeline(tmp_path / "pipeline.yaml", "--params", path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: 210 cells do not fit into one run")
    assert "fewer networks, scenarios or seeds" in done.stderr
    assert list(tmp_path.iterdir()) == [path]


def test_every_step_runs_in_the_image_and_installs_nothing(spec: dict[str, Any], tmp_path: Path) -> None:
    for content, image in ((spec, IMAGE), (_with_image(tmp_path, PINNED), None)):
        executors = content["deploymentSpec"]["executors"]
        assert set(executors) == {f"exec-{name}" for name in STEPS}
        images = {executor["container"]["image"] for executor in executors.values()}
        assert images == {image or PINNED}
        assert "pip install" not in json.dumps(executors)


def _with_image(folder: Path, image: str) -> dict[str, Any]:
    assert compile_pipeline(folder / "other.yaml", "--image", image).returncode == 0
    return next(yaml.safe_load_all((folder / "other.yaml").read_text()))


def test_an_images_digest_enters_the_cache_key(spec: dict[str, Any], tmp_path: Path) -> None:
    pinned = _with_image(tmp_path, PINNED)
    for content, digest in ((spec, ""), (pinned, DIGEST)):
        assert content["root"]["inputDefinitions"]["parameters"]["image_digest"]["defaultValue"] == digest


def test_the_parameters_are_those_of_the_file_to_the_last_digit(spec: dict[str, Any]) -> None:
    parameters = spec["root"]["inputDefinitions"]["parameters"]
    assert set(parameters) == SECTIONS | {
        "source",
        "data_md5",
        "git_commit",
        "image_digest",
        "checkpoints",
        "promote",
    }
    assert {name for name, value in parameters.items() if not value.get("isOptional")} == {"source", "data_md5"}
    assert all(value["description"] for value in parameters.values())
    defaults = {name: parameters[name]["defaultValue"] for name in SECTIONS}
    assert whole(defaults) == read_params(ROOT / "params.yaml")
    assert not any(name in json.dumps(sorted(parameters)).lower() for name in ("mlflow", "secret", "token", "password"))


def test_artifacts_are_typed_for_kubeflows_page(spec: dict[str, Any]) -> None:
    kinds = {
        f"{name}.{output}": definition["artifactType"]["schemaTitle"].removeprefix("system.")
        for name in STEPS
        for output, definition in spec["components"][f"comp-{name}"]["outputDefinitions"].get("artifacts", {}).items()
    }
    assert kinds == {
        "ingest.raw": "Dataset",
        "validate.validation": "Artifact",
        "validate.summary": "Markdown",
        "preprocess.arrays": "Dataset",
        "preprocess.splits": "Dataset",
        "train.model": "Model",
        "train.training": "Metrics",
        "evaluate.evaluation": "Artifact",
        "evaluate.test": "Metrics",
        "evaluate.roc": "ClassificationMetrics",
        "gather.gathered": "Artifact",
        "report.folder": "Artifact",
        "report.page": "HTML",
        "report.tables": "Markdown",
        "register.version": "Artifact",
        "promote.champion": "Markdown",
        "outcome.summary": "Markdown",
    }


def test_wrong_parameters_compile_to_nothing(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text((ROOT / "params.yaml").read_text().replace("batch_size: 8", "batch_size: eight"))
    done = compile_pipeline(tmp_path / "pipeline.yaml", "--params", path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: {path}: 1 value(s) to correct\n  train.batch_size: ")
    assert list(tmp_path.iterdir()) == [path]


# --- what the steps ask of the cluster ------------------------------------------------------------------------------


def test_a_training_gets_what_it_needs(spec: dict[str, Any], asked: dict[str, dict[str, Any]]) -> None:
    resources = container(spec, "train")["resources"]
    assert {name: value for name, value in resources.items() if name.startswith("resource")} == {
        "resourceCpuRequest": "4",
        "resourceCpuLimit": "8",
        "resourceMemoryRequest": "16Gi",
        "resourceMemoryLimit": "32Gi",
    }
    gpu = {"resourceType": "nvidia.com/gpu", "resourceCount": "1"}
    assert gpu.items() <= resources["accelerator"].items()
    assert container(spec, "train")["env"] == [{"name": "TRAIN_PROCESSES", "value": "1"}]
    assert tasks(spec)["train"]["retryPolicy"] == {
        "maxRetryCount": 5,
        "backoffDuration": "60s",
        "backoffFactor": 2.0,
        "backoffMaxDuration": "604800s",
    }
    train = asked["train"]
    assert train["activeDeadlineSeconds"] == "86400"
    assert train["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    (shared,) = train["emptyDirMounts"]
    assert shared == {
        "volumeName": "shared-memory",
        "mountPath": "/dev/shm",  # noqa: S108
        "medium": "Memory",
        "sizeLimit": "4Gi",
    }
    # Another attempt finds the full state of the one before, in S3.
    assert "pvcMount" not in train
    assert spec["root"]["inputDefinitions"]["parameters"]["checkpoints"]["defaultValue"] == "s3://data/states"


def test_the_loop_the_run_and_every_step_are_bounded(
    package: Path, spec: dict[str, Any], asked: dict[str, dict[str, Any]]
) -> None:
    assert tasks(spec)["for-loop-2"]["iteratorPolicy"] == {"parallelismLimit": 4}
    _, platform = yaml.safe_load_all(package.read_text())
    assert platform["platforms"]["kubernetes"]["pipelineConfig"] == {"activeDeadlineSeconds": 604800}
    assert set(asked) == STEPS
    for name in STEPS:
        assert int(asked[name]["activeDeadlineSeconds"]) > 0
        assert asked[name]["imagePullPolicy"] == "IfNotPresent"
        assert asked[name]["podMetadata"]["labels"]["cost-center"] == "unassigned"
        assert {"resourceCpuRequest", "resourceMemoryLimit"} <= set(container(spec, name)["resources"])
        assert tasks(spec)[name]["retryPolicy"]["maxRetryCount"] == (5 if name == "train" else 2)
        if name != "train":
            assert "accelerator" not in container(spec, name)["resources"]
            assert not {"emptyDirMounts", "tolerations", "pvcMount"} & set(asked[name])


def test_secrets_are_named_and_reach_no_step_that_has_no_use_for_them(asked: dict[str, dict[str, Any]]) -> None:
    s3 = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    mlflow = {"MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"}
    given = {
        name: {entry["envVar"] for secret in values.get("secretAsEnv", ()) for entry in secret["keyToEnv"]}
        for name, values in asked.items()
    }
    tracked = ("train", "evaluate", "register", "promote")
    stored = ("ingest", "validate", "train")
    assert given == {name: (s3 if name in stored else set()) | (mlflow if name in tracked else set()) for name in STEPS}
    (address,) = asked["register"]["configMapAsEnv"]
    assert (address["configMapName"], address["optional"]) == ("lung-segmentation", False)
    assert address["keyToEnv"] == [{"configMapKey": "mlflow-tracking-uri", "envVar": "MLFLOW_TRACKING_URI"}]


@pytest.mark.slow
def test_other_settings_reach_the_pods() -> None:
    values = read_yaml(CLUSTER)
    values["image_pull_secrets"], values["parallelism"] = ["registry", "mirror"], 2
    values["every_step"]["node_selector"] = {"pool": "cpu"}
    values["steps"]["train"] |= {
        "node_selector": {"cloud.google.com/gke-accelerator": "nvidia-l4"},
        "tolerations": [{"operator": "Exists", "effect": "NoExecute", "seconds": 60}],
        "gpus": {"resource": "amd.com/gpu", "count": 4},
        "retries": {"count": 0, "wait": 0, "factor": 1, "within": 1},
    }

    text = compiled(read_params(ROOT / "params.yaml"), cluster=check_cluster(values, "here"))

    spec, asked = next(yaml.safe_load_all(text)), placement(text)
    assert tasks(spec)["for-loop-2"]["iteratorPolicy"] == {"parallelismLimit": 2}
    assert container(spec, "train")["resources"]["accelerator"]["resourceCount"] == "4"
    assert container(spec, "train")["resources"]["accelerator"]["resourceType"] == "amd.com/gpu"
    assert container(spec, "train")["env"] == [{"name": "TRAIN_PROCESSES", "value": "4"}]
    assert "retryPolicy" not in tasks(spec)["train"]
    assert asked["train"]["nodeSelector"] == {"labels": {"cloud.google.com/gke-accelerator": "nvidia-l4"}}
    assert asked["train"]["tolerations"] == [{"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": "60"}]
    for name in STEPS - {"train"}:
        assert asked[name]["nodeSelector"] == {"labels": {"pool": "cpu"}}
        assert [secret["secretName"] for secret in asked[name]["imagePullSecret"]] == ["registry", "mirror"]


PIN = "deps:\n- path: {source}\nouts:\n- md5: 0123456789abcdef0123456789abcdef.dir\n  path: data\n"


@pytest.mark.parametrize("source", ["s3://bucket/cxr", "samples"])
def test_source_and_md5_have_defaults_where_a_cluster_can_read_what_is_pinned(tmp_path: Path, source: str) -> None:
    (tmp_path / "data.dvc").write_text(PIN.format(source=source))
    files = ("--params", ROOT / "params.yaml", "--cluster", CLUSTER)
    done = compile_pipeline(tmp_path / "pipeline.yaml", *files, here=tmp_path)
    assert done.returncode == 0, done.stderr
    content = next(yaml.safe_load_all((tmp_path / "pipeline.yaml").read_text()))
    parameters = content["root"]["inputDefinitions"]["parameters"]
    found = [
        (parameters[name].get("defaultValue"), parameters[name].get("isOptional")) for name in ("source", "data_md5")
    ]
    if source == "samples":  # the MD5 alone would be taken for that of whatever source a person fills in
        assert found == [(None, None), (None, None)]
        assert "fill in source and data_md5: data.dvc pins no s3:// address" in done.stdout
    else:
        assert found == [(source, True), ("0123456789abcdef0123456789abcdef.dir", True)]
        assert f"source {source}, data_md5 0123456789abcdef0123456789abcdef.dir" in done.stdout
    assert "defunet submit" in done.stdout


def test_wrong_settings_compile_to_nothing_and_are_told_one_a_line(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    text = CLUSTER.read_text().replace("parallelism: 4", "parallelism: 0").replace("shared_memory: 4Gi", "shm: 4Gi")
    path.write_text(text.replace("memory: {request: 8Gi, limit: 16Gi}", "memory: {request: 8GB, limit: 16Gi}"))

    done = compile_pipeline(tmp_path / "pipeline.yaml", "--cluster", path)

    assert (done.returncode, done.stdout) == (1, "")
    first, *problems = done.stderr.splitlines()
    assert first == f"error: {path}: 3 value(s) to correct"
    assert [line.partition(":")[0].strip() for line in problems] == [
        "parallelism",
        "steps.train.shm",
        "steps.evaluate.memory.request",
    ]
    assert list(tmp_path.iterdir()) == [path]


# --- each step alone ------------------------------------------------------------------------------------------------


def test_every_step_is_a_component_that_others_can_load(package: Path) -> None:
    folder = package.parent / "components"
    assert {path.stem for path in folder.iterdir()} == STEPS
    for path in folder.iterdir():
        loaded = components.load_component_from_file(str(path))
        own = getattr(steps, path.stem).component_spec
        assert loaded.name == own.name
        assert loaded.description.startswith(own.description)
        assert set(loaded.component_spec.inputs or {}) == set(own.inputs or {})
        assert set(loaded.component_spec.outputs) == set(own.outputs)
        assert loaded.component_spec.implementation.container.image == read_cluster(CLUSTER).image


def test_a_component_alone_runs_in_the_image_that_was_said(tmp_path: Path) -> None:
    line = ("--components", tmp_path / "components", "--image", "registry.example/python-lungs:2")
    assert compile_pipeline(tmp_path / "pipeline.yaml", *line).returncode == 0
    for path in (tmp_path / "components").iterdir():
        loaded = components.load_component_from_file(str(path))
        assert loaded.component_spec.implementation.container.image == "registry.example/python-lungs:2"
    # What is compiled next is not touched by it.
    assert steps.train.component_spec.implementation.container.image == IMAGE
