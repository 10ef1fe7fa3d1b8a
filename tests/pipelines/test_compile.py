"""The compiled pipeline: what Kubeflow would read."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import json_format
from kfp import components
from kfp.pipeline_spec import pipeline_spec_pb2

from components.params import read_params
from pipelines.components import IMAGE
from pipelines.tasks import whole

ROOT = Path(__file__).resolve().parents[2]
STEPS = {"plan", "ingest", "validate", "preprocess", "train", "evaluate", "report", "register"}
SECTIONS = {"ingest", "validate", "preprocess", "scenarios", "matrix", "train", "evaluate", "register"}


def compile_pipeline(out: Path, *options: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "pipelines.compile", "--out", out, *options]
    return subprocess.run(list(map(str, line)), cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("compiled") / "build/pipeline.yaml"
    done = compile_pipeline(out)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def spec(package: Path) -> dict[str, Any]:
    return yaml.safe_load(package.read_text())


def tasks(spec: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the tasks of the graph and of its loop by name."""
    return spec["root"]["dag"]["tasks"] | spec["components"]["comp-for-loop-1"]["dag"]["tasks"]


def test_the_same_bytes_twice(package: Path, tmp_path: Path) -> None:
    assert compile_pipeline(tmp_path / "again.yaml").returncode == 0
    assert (tmp_path / "again.yaml").read_bytes() == package.read_bytes()


def test_kubeflow_itself_reads_it(package: Path, spec: dict[str, Any]) -> None:
    loaded = components.load_component_from_text(package.read_text())
    assert loaded.name == "lung-segmentation"
    parsed = json_format.ParseDict(spec, pipeline_spec_pb2.PipelineSpec())
    assert parsed.pipeline_info.display_name == "Chest X-ray lung segmentation"
    assert set(parsed.root.dag.tasks) == STEPS - {"train", "evaluate"} | {"for-loop-1"}


def test_the_graph_is_that_of_dvc_yaml(spec: dict[str, Any]) -> None:
    after = {name: set(task.get("dependentTasks", ())) for name, task in tasks(spec).items()}
    assert after == {
        "plan": set(),
        "ingest": {"plan"},
        "validate": {"ingest"},
        "preprocess": {"plan", "ingest", "validate"},
        "for-loop-1": {"plan", "preprocess"},
        "train": set(),
        "evaluate": {"train"},
        "report": {"plan", "preprocess", "for-loop-1"},
        "register": {"plan", "preprocess", "for-loop-1"},
    }
    assert STEPS - {"plan"} == set(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"])
    loop = tasks(spec)["for-loop-1"]
    assert loop["parameterIterator"]["items"] == {"inputParameter": "pipelinechannel--plan-Output"}


def test_only_register_is_never_cached(spec: dict[str, Any]) -> None:
    cached = {
        name: task["cachingOptions"].get("enableCache", False) for name, task in tasks(spec).items() if name in STEPS
    }
    assert cached == {name: name != "register" for name in STEPS}


def test_other_data_and_other_code_miss_every_cache(spec: dict[str, Any]) -> None:
    inputs = tasks(spec)["ingest"]["inputs"]["parameters"]
    assert {"data_md5", "git_commit"} <= set(inputs)
    # All the others read what ingest left, at first or at second hand.
    for name in ("validate", "preprocess", "report", "register", "for-loop-1"):
        assert tasks(spec)[name]["inputs"]["artifacts"]


def test_a_step_is_given_no_more_than_it_reads(spec: dict[str, Any]) -> None:
    for name in ("ingest", "validate", "preprocess"):
        assert tasks(spec)[name]["inputs"]["parameters"]["params"] == {"componentInputParameter": name}
    for name in ("train", "evaluate"):
        given = tasks(spec)[name]["inputs"]["parameters"]["params"]
        assert given == {"componentInputParameter": f"pipelinechannel--{name}"}


def test_every_step_runs_in_the_image_and_installs_nothing(spec: dict[str, Any], tmp_path: Path) -> None:
    for content, image in ((spec, IMAGE), (_with_image(tmp_path, "registry.example/python-lungs@sha256:1"), None)):
        executors = content["deploymentSpec"]["executors"]
        assert set(executors) == {f"exec-{name}" for name in STEPS}
        images = {executor["container"]["image"] for executor in executors.values()}
        assert images == {image or "registry.example/python-lungs@sha256:1"}
        assert "pip install" not in json.dumps(executors)


def _with_image(folder: Path, image: str) -> dict[str, Any]:
    assert compile_pipeline(folder / "other.yaml", "--image", image).returncode == 0
    return yaml.safe_load((folder / "other.yaml").read_text())


def test_the_parameters_are_those_of_the_file_to_the_last_digit(spec: dict[str, Any]) -> None:
    parameters = spec["root"]["inputDefinitions"]["parameters"]
    assert set(parameters) == SECTIONS | {"source", "data_md5", "git_commit", "checkpoints"}
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
        "report.folder": "Artifact",
        "report.page": "HTML",
        "report.tables": "Markdown",
        "register.version": "Artifact",
    }


def test_wrong_parameters_compile_to_nothing(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text((ROOT / "params.yaml").read_text().replace("batch_size: 8", "batch_size: eight"))
    done = compile_pipeline(tmp_path / "pipeline.yaml", "--params", path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: {path}: 1 value(s) to correct\n  train.batch_size: ")
    assert list(tmp_path.iterdir()) == [path]
