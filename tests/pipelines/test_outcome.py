"""How a run ended, in each case that real servers answered, and over a real connection."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from pipelines.artifacts import Status
from pipelines.outcome import asked, ended, sentence
from tests.pipelines.kfp_workflow import recorded

VALIDATION = "run failed: validate: 1 of 21 expectations failed; correct these images, or the bounds under validate in"
LOCK = (
    "run failed: train defu_net mixed seed 0: /checkpoints/defu_net/mixed/seed-0: another run is writing here; wait "
    "until it ends, or choose another --out"
)
ENDS = {
    "stock-succeeds": "run succeeded",
    "stock-all-cached": "run succeeded",
    "stock-three-cells-compressed": "run succeeded",
    "plain-three-cells": "run succeeded",
    "stock-cancelled": "run cancelled",
    "stock-cancelled-while-pending": "run cancelled",
    "stock-pod-deleted-then-cancelled": "run cancelled",
    "plain-cancelled-twice": "run cancelled",
    "stock-step-exits-1": VALIDATION,
    "plain-step-exits-1": VALIDATION,
    "plain-factor-1.5": (
        "run failed: validate: value '1.5' cannot be resolved to an int, after: 1 of 21 expectations failed; correct"
    ),
    "stock-lock-held": LOCK,
    "stock-volume-not-writable": "run failed: train defu_net mixed seed 0: exit code 1, without a message",
    "plain-no-files": (
        "run failed: ingest: s3://data/nothing: there are no files in it; give the folder that holds the X-rays"
    ),
    "plain-pod-deleted": "run failed: train defu_net mixed seed 0: pod deleted",
}
RUNNING = ("stock-configmap-missing", "stock-image-missing", "stock-waits-for-gpu", "stock-waits-in-kueue")


def manifest(case: str) -> dict[str, Any]:
    """Return a copy of the Argo workflow of a recorded run."""
    return json.loads(json.dumps(recorded(case)["v1beta1"]["pipeline_runtime"]["workflow_manifest"]))


@contextmanager
def server(case: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Answer for one run as Kubeflow's API does."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answers = {
                "/apis/v1beta1/runs/17": {"pipeline_runtime": {"workflow_manifest": json.dumps(manifest(case))}},
                "/apis/v2beta1/runs/17": recorded(case)["v2beta1"],
            }
            answer = answers.get(self.path)
            self.send_response(200 if answer else 404)
            self.end_headers()
            self.wfile.write(json.dumps(answer or {"code": 5, "message": "no such run"}).encode())

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    monkeypatch.setenv("KUBEFLOW_API", f"http://127.0.0.1:{listening.server_port}/")
    monkeypatch.setenv("KUBEFLOW_RUN_ID", "17")
    try:
        yield
    finally:
        listening.shutdown()
        listening.server_close()


@pytest.mark.parametrize("case", ENDS)
def test_every_recorded_end_is_told(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with server(case, monkeypatch):
        # Whatever the status says: RUNNING came with cached and cancelled runs.
        line, page = ended(Status("RUNNING"), {"source": "s3://b/x", "data": ""})
    assert line.startswith(ENDS[case])
    assert page.splitlines()[0] == f"**{line.capitalize()[0]}{line[1:]}**"
    assert "| source | `s3://b/x` |" in page
    assert "data" not in page.splitlines()[-1]


@pytest.mark.parametrize("case", RUNNING)
def test_of_steps_that_still_run_no_end_is_told(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sentence(manifest(case), recorded(case)["v2beta1"]) is None
    with server(case, monkeypatch):
        assert asked("17", patience=0)[1].endswith("still says that the steps run")


def test_without_the_api_what_is_not_known_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBEFLOW_API", "http://127.0.0.1:9")
    monkeypatch.setenv("KUBEFLOW_RUN_ID", "17")
    assert ended(Status("COMPLETE"), {})[0] == "run succeeded"
    unsure, _ = ended(Status("RUNNING"), {})
    assert unsure.startswith(
        "run not known: Kubeflow says RUNNING, which it says of cancelled and of cached runs too (http://"
    )
    assert unsure.endswith("`defunet status 17` tells it")
    failed, _ = ended(Status("FAILED"), {})
    assert failed.startswith("run failed; the reason could not be read (http://127.0.0.1:9: ")


def test_on_one_machine_the_status_says_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBEFLOW_RUN_ID", raising=False)
    assert ended(Status("SUCCEEDED"), {}) == ("run succeeded", "**Run succeeded**\n")
    assert ended(Status("FAILED", "Task train\nfailed."), {})[0] == "run failed: Task train failed."


def test_an_unknown_run_is_told_as_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    with server("stock-succeeds", monkeypatch):
        monkeypatch.setenv("KUBEFLOW_RUN_ID", "18")
        assert "404" in ended(Status("RUNNING"), {})[0]
