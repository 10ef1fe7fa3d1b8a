"""The KServe manifest: what a cluster would refuse, and what would not fit the service it starts."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from kubernetes import client
from typer.main import get_command

from core.params import read_yaml
from registry import champion_uri
from serving.http.command import serve
from serving.http.settings import Settings

ROOT = Path(__file__).parents[2]
# KServe v1beta1, ComponentExtensionSpec: what a predictor has besides the fields of a pod.
EXTENSION = {
    "minReplicas",
    "maxReplicas",
    "scaleTarget",
    "scaleMetric",
    "containerConcurrency",
    "timeout",
    "canaryTrafficPercent",
    "deploymentStrategy",
    "labels",
    "annotations",
}


@pytest.fixture
def predictor() -> dict[str, Any]:
    manifest = read_yaml(ROOT / "deploy/kserve.yaml")
    assert (manifest["apiVersion"], manifest["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    assert set(manifest["spec"]) == {"predictor"}
    found: dict[str, Any] = manifest["spec"]["predictor"]
    return found


def through(kind: str, value: Any) -> Any:
    """Return a value as Kubernetes' own classes keep it: what they do not know is gone, what is missing raises."""
    api = client.ApiClient()
    return api.sanitize_for_serialization(api.deserialize(SimpleNamespace(data=json.dumps(value)), kind))


def test_it_holds_nothing_that_kubernetes_does_not_know(predictor: dict[str, Any]) -> None:
    pod = {name: value for name, value in predictor.items() if name not in EXTENSION}
    assert through("V1PodSpec", pod) == pod
    strategy = predictor["deploymentStrategy"]
    assert through("V1DeploymentStrategy", strategy) == strategy
    assert 1 <= predictor["minReplicas"] <= predictor["maxReplicas"]


def test_a_misspelt_field_would_be_seen(predictor: dict[str, Any]) -> None:
    pod = {name: value for name, value in predictor.items() if name not in EXTENSION}
    pod["containers"][0]["readynessProbe"] = pod["containers"][0].pop("readinessProbe")
    assert through("V1PodSpec", pod) != pod


def test_it_starts_the_command_as_the_command_is(predictor: dict[str, Any]) -> None:
    (container,) = predictor["containers"]
    assert container["name"] == "kserve-container"
    assert container["command"] == ["python", "-m", "serving.http"]
    app = typer.Typer()
    app.command()(serve)
    given = get_command(app).make_context("serve", list(container["args"])).params
    assert given["model"] == champion_uri(ROOT / "params.yaml")
    assert given["host"] == "0.0.0.0"
    assert given["behind_proxy"]  # KServe's ingress authenticates and encrypts
    assert container["ports"][0]["containerPort"] == given["port"]
    waits = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert predictor["terminationGracePeriodSeconds"] > given["stop_timeout"] + waits
    for probe, path in (("livenessProbe", "/health"), ("readinessProbe", "/ready"), ("startupProbe", "/ready")):
        assert container[probe]["httpGet"] == {"path": path, "port": given["port"]}
    mounted = [mount["mountPath"] for mount in container["volumeMounts"]]
    (cache,) = [each["value"] for each in container["env"] if each["name"] == "DEFUNET_CACHE"]
    assert any(cache.startswith(path) for path in mounted)


def test_its_names_are_those_of_the_steps(predictor: dict[str, Any]) -> None:
    cluster = read_yaml(ROOT / "pipelines/cluster.yaml")
    groups = [*cluster["secrets"], *cluster["config_maps"]]
    known = {(group["name"], name, key) for group in groups for name, key in group["variables"].items()}
    for each in predictor["containers"][0]["env"]:
        for source in each.get("valueFrom", {}).values():
            assert (source["name"], each["name"], source["key"]) in known


def test_every_setting_is_an_option() -> None:
    options = set(inspect.signature(serve).parameters)
    assert options == set(Settings.__dataclass_fields__)
