"""The manifests: valid by Kubernetes' own schemas, and what ``cluster.yaml`` and the steps' code ask for."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from core.params import read_yaml
from pipelines.cluster import check_cluster, read_cluster
from pipelines.rules import cores, mebibytes
from tests.conftest import ROOT

MANIFESTS = ROOT / "pipelines/manifests"
STANDALONE = ROOT / "pipelines/manifests-standalone"
# Kinds that Kubernetes itself does not know: Kustomize's own, Karpenter's, Kueue's and Trainer's.
OTHERS = {"kustomization.yaml", "gpu-nodes.yaml", "kueue.yaml", "training-runtime.yaml"}
VERSIONS = ["1.29", "1.33", "1.37"]
CLUSTER = read_cluster(ROOT / "pipelines/cluster.yaml")


def documents(path: Path) -> Iterator[dict[str, Any]]:
    yield from yaml.safe_load_all(path.read_text())


def kinds() -> dict[tuple[str, str], dict[str, Any]]:
    """Every object of every manifest, by kind and name."""
    found = [document for path in MANIFESTS.glob("*.yaml") if path.name not in OTHERS for document in documents(path)]
    return {(document["kind"], document["metadata"]["name"]): document for document in found}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", sorted(path.name for path in MANIFESTS.glob("*.yaml") if path.name not in OTHERS))
def test_kubernetes_takes_them(name: str, version: str) -> None:
    for document in documents(MANIFESTS / name):
        kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("spoil", ["metadat", "template", "backoffLimit"])
def test_a_mistake_would_be_found(spoil: str) -> None:
    (job,) = documents(MANIFESTS / "check.yaml")
    if spoil == "metadat":
        job["metadat"] = {}
    elif spoil == "template":
        job["spec"]["template"]["spec"]["containers"][0]["imagePullPolizy"] = "Always"
    else:
        job["spec"]["backoffLimit"] = "none"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, VERSIONS[-1], strict=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_pods_of_the_service_are_pods(version: str) -> None:
    """KServe's own kind has no schema here; its predictor holds the fields of a pod beside KServe's."""
    (service,) = documents(ROOT / "deploy/kserve.yaml")
    kserves = {"minReplicas", "maxReplicas", "scaleMetric", "scaleTarget", "deploymentStrategy"}
    predictor = service["spec"]["predictor"]
    pod = {name: value for name, value in predictor.items() if name not in kserves}
    about = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": pod}
    kubernetes_validate.validate(about, version, strict=True)
    strategy = predictor["deploymentStrategy"]
    selector = {"matchLabels": {"a": "b"}}
    template = {"metadata": {"labels": {"a": "b"}}, "spec": pod}
    deployment = {"selector": selector, "template": template, "strategy": strategy}
    about = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "x"}, "spec": deployment}
    kubernetes_validate.validate(about, version, strict=True)


def test_they_hold_what_cluster_yaml_asks_for() -> None:
    there = kinds()
    for reference in CLUSTER.secrets:
        assert {*reference.variables.values()} <= {*there["Secret", reference.name]["stringData"]}
    for reference in CLUSTER.config_maps:
        assert {*reference.variables.values()} <= {*there["ConfigMap", reference.name]["data"]}
    # The volume is for those who keep their checkpoints on one; as shipped they are in S3.
    assert not CLUSTER.step("train").volumes
    applied = yaml.safe_load((MANIFESTS / "kustomization.yaml").read_text())["resources"]
    assert "checkpoints.yaml" not in applied
    labels = yaml.safe_load((MANIFESTS / "kustomization.yaml").read_text())["labels"][0]["pairs"]
    assert labels.items() <= CLUSTER.labels.items()


def test_secrets_hold_no_secret_and_are_not_applied() -> None:
    for (kind, _), document in kinds().items():
        if kind == "Secret":
            assert {*document["stringData"].values()} == {"CHANGE-ME"}
    applied = yaml.safe_load((MANIFESTS / "kustomization.yaml").read_text())["resources"]
    # They change objects of others, or of the whole cluster.
    alone = {"argo-retries.yaml", "launcher.yaml", "kueue.yaml", "training-runtime.yaml"}
    assert {"secrets.example.yaml", "check.yaml", "checkpoints.yaml", "gpu-nodes.yaml", *alone} == {
        path.name for path in MANIFESTS.glob("*.yaml")
    } - {*applied, "kustomization.yaml"}


def test_the_checks_pod_gets_what_train_gets() -> None:
    pod = kinds()["Job", "lung-segmentation-check"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    train = CLUSTER.step("train")
    given = {}
    for variable in container["env"]:
        ((how, reference),) = variable["valueFrom"].items()
        given[variable["name"]] = (how, reference["name"], reference["key"], reference.get("optional", False))
    expected = {
        name: (how, reference.name, key, reference.optional)
        for how, references in (("secretKeyRef", CLUSTER.secrets), ("configMapKeyRef", CLUSTER.config_maps))
        for reference in references
        if "train" in reference.steps
        for name, key in reference.variables.items()
    }
    assert given == expected
    assert pod["tolerations"] == [t.model_dump(exclude_none=True, exclude={"seconds"}) for t in train.tolerations]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    claims = {
        v["persistentVolumeClaim"]["claimName"]: mounts[v["name"]]
        for v in pod["volumes"]
        if len(v) == 2 and "persistentVolumeClaim" in v
    }
    assert claims == {volume.claim: volume.path for volume in train.volumes}
    assert train.gpus is not None
    assert container["resources"]["limits"][train.gpus.resource] == str(train.gpus.count)
    assert container["args"][-2:] == ["--gpus", str(train.gpus.count)]
    assert container["args"][container["args"].index("--checkpoints") + 1] == CLUSTER.checkpoints


def test_the_gpu_nodes_taint_is_tolerated_by_train_alone() -> None:
    (pool,) = documents(MANIFESTS / "gpu-nodes.yaml")
    (taint,) = pool["spec"]["template"]["spec"]["taints"]
    tolerating = [
        step
        for step in (*CLUSTER.steps, "validate")
        if any(
            t.key == taint["key"] and t.effect in (None, taint["effect"]) and t.operator == "Exists"
            for t in CLUSTER.step(step).tolerations
        )
    ]
    assert tolerating == ["train"]
    gpus = CLUSTER.step("train").gpus
    assert gpus is not None
    assert pool["spec"]["limits"] == {gpus.resource: CLUSTER.parallelism * gpus.count}
    hours = int(re.fullmatch(r"(\d+)h", pool["spec"]["template"]["spec"]["expireAfter"])[1])  # type: ignore[index]
    retries = CLUSTER.step("train").retries
    assert retries is not None
    assert hours * 3600 >= retries.within


def test_rights_are_bound_to_the_accounts_that_need_them() -> None:
    there = kinds()
    accounts = {name for kind, name in there if kind == "ServiceAccount"}
    assert accounts == {"lung-segmentation", "lung-segmentation-submitter"}
    for (kind, name), binding in there.items():
        if kind == "RoleBinding":
            role = there[binding["roleRef"]["kind"], binding["roleRef"]["name"]]
            assert role["metadata"]["name"] == name
            assert {subject["name"] for subject in binding["subjects"]} <= accounts
    for (kind, name), role in there.items():
        if kind == "Role":
            assert ("RoleBinding", name) in there
            for rule in role["rules"]:
                assert "*" not in json.dumps(rule)
                # Reading every secret of the namespace would be the rights of all its users.
                assert rule["resources"] != ["secrets"] or rule["resourceNames"]


def test_the_check_has_no_rights_on_a_volume_that_steps_lack() -> None:
    """Kubeflow sets neither an fsGroup nor a user; with them the check would pass on volumes where steps fail."""
    pod = kinds()["Job", "lung-segmentation-check"]["spec"]["template"]["spec"]
    assert "fsGroup" not in pod["securityContext"]


def test_retries_are_asked_for_both_kinds_of_failure() -> None:
    defaults = yaml.safe_load(kinds()["ConfigMap", "workflow-controller-configmap"]["data"]["workflowDefaults"])
    retries = defaults["spec"]["templateDefaults"]["retryStrategy"]
    # Recorded from Argo 4.0.5: a failed pod has a message and a failed DAG has none. Without the expression a DAG that
    # fails would run all its steps again.
    assert (retries["retryPolicy"], retries["expression"]) == ("Always", 'lastRetry.message != ""')


def test_the_launcher_opens_the_store_of_the_steps_with_their_keys() -> None:
    launcher, addresses = (kinds()["ConfigMap", name]["data"] for name in ("kfp-launcher", "lung-segmentation"))
    store = yaml.safe_load(launcher["providers"])["s3"]["default"]
    scheme, _, host = addresses["s3-endpoint-url"].partition("://")
    assert (store["endpoint"], store["region"]) == (host, addresses["s3-region"])
    assert store["disableSSL"] is (scheme == "http")
    assert launcher["defaultPipelineRoot"].startswith("s3://")
    reference = store["credentials"]["secretRef"]
    keys = kinds()["Secret", reference["secretName"]]["stringData"]
    assert {reference["accessKeyKey"], reference["secretKeyKey"]} == {*keys}
    rules = kinds()["Role", "lung-segmentation-steps"]["rules"]
    readable = {name for rule in rules if rule["resources"] == ["secrets"] for name in rule["resourceNames"]}
    assert reference["secretName"] in readable


def test_the_queues_quota_fits_what_trains_at_a_time() -> None:
    flavor, cluster_queue, local_queue = documents(MANIFESTS / "kueue.yaml")
    assert local_queue["spec"]["clusterQueue"] == cluster_queue["metadata"]["name"]
    values = read_yaml(ROOT / "pipelines/cluster.yaml")
    assert check_cluster(values | {"queue": local_queue["metadata"]["name"]}, "cluster.yaml").queue
    selected = cluster_queue["spec"]["namespaceSelector"]["matchLabels"]
    assert selected == {"kubernetes.io/metadata.name": local_queue["metadata"]["namespace"]}
    (group,) = cluster_queue["spec"]["resourceGroups"]
    (quota,) = group["flavors"]
    assert quota["name"] == flavor["metadata"]["name"]
    train = CLUSTER.step("train")
    assert train.gpus
    assert train.cpu
    assert train.memory
    amounts = {item["name"]: item["nominalQuota"] for item in quota["resources"]}
    # Kueue admits no pod that requests a resource without quota.
    assert [*amounts] == group["coveredResources"] == ["cpu", "memory", train.gpus.resource]
    assert int(amounts[train.gpus.resource]) == CLUSTER.parallelism * train.gpus.count
    assert cores(amounts["cpu"]) >= CLUSTER.parallelism * cores(train.cpu.request)
    assert mebibytes(amounts["memory"]) >= CLUSTER.parallelism * mebibytes(train.memory.request)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed: the kustomization is not built")
@pytest.mark.parametrize(("folder", "namespace"), [(MANIFESTS, "lung-segmentation"), (STANDALONE, "kubeflow")])
def test_kustomize_builds_them_in_the_namespace(folder: Path, namespace: str, tmp_path: Path) -> None:
    line = ["kubectl", "kustomize", str(folder)]
    environment = {"HOME": str(tmp_path), "PATH": str(Path(shutil.which("kubectl") or "").parent)}
    done = subprocess.run(line, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    built = list(yaml.safe_load_all(done.stdout))
    listed = yaml.safe_load((MANIFESTS / "kustomization.yaml").read_text())["resources"]
    expected = {(d["kind"], d["metadata"]["name"]) for name in listed for d in documents(MANIFESTS / name)}
    if folder == STANDALONE:  # without users there is nobody to check
        expected = {(kind, name) for kind, name in expected if "submitter" not in name}
    assert {(document["kind"], document["metadata"]["name"]) for document in built} == expected
    for document in built:
        kubernetes_validate.validate(document, VERSIONS[-1], strict=True)
        assert document["metadata"]["namespace"] == namespace
        for subject in document.get("subjects", []):
            assert subject["namespace"] == namespace
