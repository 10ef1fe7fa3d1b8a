"""The check of Argo's retry policy, against an HTTP server that answers as Kubernetes' API does."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml

from core.errors import UserError
from tests.conftest import ROOT
from tools.check import check
from tools.check.argo import retry_policy
from tools.services.checks import free_ports

PATH = "/api/v1/namespaces/kubeflow/configmaps/workflow-controller-configmap"
STOCK = "spec:\n  templateDefaults:\n    retryStrategy:\n      limit: '2'\n      retryPolicy: OnError\n"
Answer = Callable[[int, dict[str, Any]], None]


def kubeconfig(path: Path, server: str) -> Path:
    document = {
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    path.write_text(json.dumps(document))
    return path


@pytest.fixture
def answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Answer]:
    """Set what the API server answers to the request of the ConfigMap."""
    given: list[tuple[int, dict[str, Any]]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            code, body = given[-1] if self.path == PATH else (404, {})
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *_: Any) -> None:
            """Print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        file = kubeconfig(tmp_path / "kubeconfig", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("KUBECONFIG", str(file))
        yield lambda code, body: given.append((code, body))
        server.shutdown()


def config_map(defaults: str | None) -> dict[str, Any]:
    data = {"executor": "imagePullPolicy: IfNotPresent\n"} | ({"workflowDefaults": defaults} if defaults else {})
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "workflow-controller-configmap"},
        "data": data,
    }


def test_the_shipped_patch_passes(answer: Answer) -> None:
    patch = yaml.safe_load((ROOT / "pipelines/manifests/argo-retries.yaml").read_text())
    answer(200, config_map(patch["data"]["workflowDefaults"]))
    *_, found = check(None, None, 0, "kubeflow")
    assert (found.name, found.good) == ("retries", True)
    assert found.text == "kubeflow/workflow-controller-configmap: retryPolicy Always"


@pytest.mark.parametrize(
    ("defaults", "policy", "missed"),
    [
        (STOCK, "OnError", "a step that fails is not retried"),
        (None, "OnFailure", "a step whose pod is lost is not retried"),
        ("spec:\n  templateDefaults: {}\n", "OnFailure", "a step whose pod is lost is not retried"),
    ],
)
def test_another_policy_fails_with_what_it_misses(
    answer: Answer, defaults: str | None, policy: str, missed: str
) -> None:
    answer(200, config_map(defaults))
    with pytest.raises(UserError) as caught:
        retry_policy("kubeflow")
    assert str(caught.value) == (
        f"kubeflow/workflow-controller-configmap: retryPolicy {policy}: {missed}; "
        "apply pipelines/manifests/argo-retries.yaml"
    )


def test_a_config_map_that_cannot_be_read_is_one_line(
    answer: Answer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(403, {"kind": "Status", "code": 403})
    with pytest.raises(UserError, match=r"cannot be read \(403 Forbidden\); use an account that may$"):
        retry_policy("kubeflow")
    answer(200, config_map("spec: ["))
    with pytest.raises(UserError, match="workflowDefaults is not valid YAML; apply "):
        retry_policy("kubeflow")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(UserError, match=r"no access to a cluster \(.*\); set KUBECONFIG$"):
        retry_policy("kubeflow")
    nobody = kubeconfig(tmp_path / "nobody", f"http://127.0.0.1:{free_ports(1)[0]}")
    monkeypatch.setenv("KUBECONFIG", str(nobody))
    with pytest.raises(UserError, match="Kubernetes does not answer") as caught:
        retry_policy("kubeflow")
    assert "\n" not in str(caught.value)
