"""``cluster.yaml``: its values, and one line for a mistake before anything is submitted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict

from core.errors import UserError
from core.params import read_params, read_yaml
from pipelines import components as components_module
from pipelines.cluster import STEPS, check_cluster, read_cluster
from pipelines.graph import build
from pipelines.rules import cores, mebibytes

FILE = Path(__file__).resolve().parents[2] / "pipelines/cluster.yaml"


def shipped() -> dict[str, Any]:
    values: dict[str, Any] = read_yaml(FILE)
    return values


def problems(change: Callable[[dict[str, Any]], object]) -> list[str]:
    """Return what is said of the shipped settings after a change."""
    values = shipped()
    change(values)
    with pytest.raises(UserError) as caught:
        check_cluster(values, "cluster.yaml")
    assert str(caught.value).startswith(f"cluster.yaml: {len(caught.value.problems)} value(s) to correct")
    return caught.value.problems


def test_the_steps_are_those_of_the_graph() -> None:
    assert {name for name in STEPS if hasattr(components_module, name)} == set(STEPS)
    assert {*shipped()["steps"]} <= set(STEPS)


def test_a_steps_own_keys_take_the_place_of_everybodys() -> None:
    cluster = read_cluster(FILE)
    everybody, train, report = cluster.every_step, cluster.step("train"), cluster.step("report")
    assert cluster.step("validate") == everybody
    assert (report.memory, report.cpu, report.retries) == (
        cluster.steps["report"].memory,
        everybody.cpu,
        everybody.retries,
    )
    assert train.gpus is not None
    assert (train.gpus.resource, train.gpus.count, everybody.gpus) == ("nvidia.com/gpu", 1, None)
    assert train.timeout == 86400


def test_nothing_secret_stands_in_the_file() -> None:
    for reference in [*read_cluster(FILE).secrets, *read_cluster(FILE).config_maps]:
        for variable, key in reference.variables.items():
            assert variable.isupper()
            assert key == key.lower()
            assert "://" not in key


def test_a_digest_pins_an_image() -> None:
    assert read_cluster(FILE).digest == ""
    digest = f"sha256:{'0f' * 32}"
    pinned = check_cluster(shipped() | {"image": f"registry:5000/lungs@{digest}"}, "here")
    assert pinned.digest == digest


def test_amounts_are_those_of_kubernetes() -> None:
    assert (cores("500m"), cores("0.5"), cores("8")) == (0.5, 0.5, 8)
    assert (mebibytes("512Mi"), mebibytes("2Gi"), mebibytes("1Ti")) == (512, 2048, 2**20)


def test_every_mistake_is_told_at_once_each_in_a_line() -> None:
    def spoil(values: dict[str, Any]) -> None:
        values["image_pull_policy"] = "Sometimes"
        values["parallelism"] = 0
        values["labels"]["cost center"] = "lungs"
        values["steps"]["trian"] = {}
        values["steps"]["train"]["cpu"] = {"request": "9", "limit": "8"}
        values["every_step"]["memory"]["limit"] = "4GB"
        values["secrets"][0]["variables"]["AWS-KEY"] = "key"
        values["config_maps"][0]["steps"] = ["tell"]
        values["gpu"] = 1
        del values["service_account"]

    told = problems(spoil)
    assert {line.partition(":")[0].removesuffix(".[key]") for line in told} == {
        "image_pull_policy",
        "parallelism",
        "labels.cost center",
        "steps.trian",
        "steps.train.cpu",
        "every_step.memory.limit",
        "secrets.0.variables.AWS-KEY",
        "config_maps.0.steps.0",
        "gpu",
        "service_account",
    }
    assert all("\n" not in line for line in told)
    assert "steps.train.cpu: the request, 9, must be above 0 and not above the limit, 8" in told


@pytest.mark.parametrize(
    ("step", "change", "told"),
    [
        ("train", {"shared_memory": "32Gi"}, "steps.train.shared_memory: must be below memory.limit, 32Gi"),
        ("train", {"timeout": 200000}, "steps.train.retries.within: must be 1201860 or more"),
        ("train", {"timeout": None}, "steps.train.timeout: must be given where there are retries"),
        ("report", {"volumes": [{"claim": "a", "path": "/a"}, {"claim": "b", "path": "/a"}]}, "two have the same path"),
        (
            "report",
            {"volumes": [{"claim": "a", "path": "/a"}, {"claim": "a", "path": "/b"}]},
            "two have the same claim",
        ),
    ],
)
def test_settings_that_cannot_go_together_are_told(step: str, change: dict[str, Any], told: str) -> None:
    (line,) = problems(lambda values: values["steps"][step].update(change))
    assert told in line


def test_checkpoints_in_s3_need_no_volume() -> None:
    assert not check_cluster(shipped(), "here").step("train").volumes
    (line,) = problems(lambda values: values.update(checkpoints="/checkpoints"))
    assert line.startswith("checkpoints: /checkpoints is on no volume of train")
    for wrong in ("states", "gs://bucket/states", "/states/", "s3://"):
        (line,) = problems(lambda values, wrong=wrong: values.update(checkpoints=wrong))
        assert line.startswith("checkpoints: ")


def test_everybodys_mistake_is_told_once() -> None:
    (line,) = problems(lambda values: values["every_step"].update(timeout=10000))
    assert line.startswith("every_step.retries.within: must be 30090 or more")


def test_a_cell_in_one_pod_has_no_shards() -> None:
    (line,) = problems(lambda values: values.update(one_pod_per_cell=True, evaluate_shards=2))
    assert line.startswith("evaluate_shards: not with one_pod_per_cell")


def test_two_places_for_one_variable_are_told() -> None:
    def spoil(values: dict[str, Any]) -> None:
        values["config_maps"][1]["variables"]["AWS_ACCESS_KEY_ID"] = "key"

    assert problems(spoil) == [
        "config_maps.1.variables.AWS_ACCESS_KEY_ID: secrets.0 gives it to ingest and validate and train already"
    ]

    def spoil_merge(values: dict[str, Any]) -> None:
        values["evaluate_shards"] = 2  # its merge takes the variables of evaluate
        values["config_maps"][1]["variables"]["MLFLOW_TRACKING_USERNAME"] = "key"
        values["config_maps"][1]["steps"] = ["merge-evaluation"]

    assert problems(spoil_merge) == [
        "config_maps.1.variables.MLFLOW_TRACKING_USERNAME: secrets.1 gives it to merge-evaluation already"
    ]


@pytest.mark.parametrize(
    ("toleration", "told"),
    [
        ({"effect": "NoSchedule"}, "without a key the operator must be Exists"),
        ({"key": "a", "operator": "Exists", "value": "b"}, "with the operator Exists there is no value"),
        ({"key": "a", "value": "b", "seconds": 3}, "seconds go with the effect NoExecute alone"),
    ],
)
def test_tolerations_follow_kubernetes_own_rules(toleration: dict[str, Any], told: str) -> None:
    assert problems(lambda values: values["every_step"].update(tolerations=[toleration])) == [
        f"every_step.tolerations.0: {told}"
    ]


def test_no_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="pass --cluster FILE"):
        read_cluster(tmp_path / "cluster.yaml")


def test_a_factor_that_argo_cannot_parse_is_refused() -> None:
    """Argo answers `value '1.5' cannot be resolved to an int` at the first retry, which ends the run."""
    told = problems(lambda values: values["every_step"]["retries"].update(factor=1.5))
    assert told == ["every_step.retries.factor: Input should be a valid integer (got 1.5)"]


def test_a_queue_is_a_label_of_every_pod() -> None:
    labels = shipped()["labels"]
    assert read_cluster(FILE).pod_labels == labels
    queued = check_cluster(shipped() | {"queue": "lungs"}, "here")
    assert queued.pod_labels == labels | {"kueue.x-k8s.io/queue-name": "lungs"}
    compiled = build(read_params(FILE.parents[1] / "params.yaml"), cluster=queued).platform_spec
    executors = MessageToDict(compiled)["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert executors
    assert {executor["podMetadata"]["labels"]["kueue.x-k8s.io/queue-name"] for executor in executors.values()} == {
        "lungs"
    }
    (line,) = problems(lambda values: values.update(queue="Lungs"))
    assert line.startswith("queue: ")
    (line,) = problems(lambda v: v.update(queue="a", labels={"kueue.x-k8s.io/queue-name": "b"}))
    assert line == "labels.kueue.x-k8s.io/queue-name: the key queue sets this label; remove one of them"
