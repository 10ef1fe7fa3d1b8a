"""What the client says of runs as a real Kubeflow recorded them, word for word (``recorded/``)."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from typer.testing import CliRunner

from defunet.__main__ import app
from pipelines.client import render
from tests.pipelines.kfp_server import Server, serving
from tests.pipelines.kfp_workflow import RECORDED, recorded

NOW = datetime(2026, 11, 29, 6, 40, tzinfo=UTC)  # a few minutes after the last recording
CASES = sorted(path.stem for path in RECORDED.glob("*.json"))


@pytest.fixture(autouse=True)
def _fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setattr(render, "now", lambda: NOW)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


def said(server: Server, *line: str) -> str:
    """Return a command, its output and its exit code, as a shell shows them."""
    done = CliRunner().invoke(app, line, env={"KF_PIPELINES_ENDPOINT": server.url}, prog_name="defunet")
    assert isinstance(done.exception, SystemExit | None), done.exception
    return f"$ defunet {' '.join(line)}\n{done.output}(exit code {done.exit_code})\n"


def all_said(server: Server, case: str) -> str:
    run = server.state.add_recorded(case)
    limits = ("--every", "0.02", "--timeout", "0.01", "--pending-timeout", "60")
    return "\n".join(
        [said(server, "status", run), said(server, "status", run, "--wait", *limits), said(server, "logs", run)]
    )


def test_every_case_is_held() -> None:
    assert len(CASES) == 19
    assert sorted(path.stem for path in RECORDED.glob("*.txt")) == CASES


@pytest.mark.parametrize("case", CASES)
def test_status_wait_logs_and_outcome(server: Server, case: str) -> None:
    assert all_said(server, case) == (RECORDED / f"{case}.txt").read_text()


@pytest.mark.parametrize(("case", "code"), [("stock-cancelled", 4), ("plain-pod-deleted", 3), ("stock-succeeds", 0)])
def test_wait_ends_as_the_run_did(server: Server, case: str, code: int) -> None:
    assert said(server, "status", server.state.add_recorded(case), "--wait").endswith(f"(exit code {code})\n")


def test_without_the_old_api_it_is_said_what_is_unknown(server: Server) -> None:
    server.state.v1beta1 = False
    run = server.state.add_recorded("stock-waits-for-gpu")
    text = said(server, "status", run)
    assert "this server has no v1beta1 API: cells, attempts, nodes and reasons are unknown" in text
    assert [line.split(None, 1)[0] for line in text.split("\n\n")[1].splitlines()[1:]] == [
        "plan",
        "ingest",
        "validate",
        "preprocess",
        "train",
    ]
    assert "the server has no" not in said(server, "logs", run)
    assert "has no v1beta1 API, which alone names the pods" in said(server, "logs", run)


def test_logs_print_the_launchers_lines_only_if_asked(server: Server) -> None:
    run = server.state.add_recorded("stock-cancelled")
    brief, full = said(server, "logs", run), said(server, "logs", run, "--launcher")
    assert "launcher_v2.go" not in brief
    assert "epoch 16/80" in brief
    assert "main.go" in full or "cache.go" in full or "[KFP Executor" in full, full[:2000]


def test_logs_of_a_chosen_cell_and_of_a_cached_step(server: Server) -> None:
    run = server.state.add_recorded("stock-cancelled")
    assert "epoch 16/80" in said(server, "logs", run, "--task", "train defu_net mixed")
    assert said(server, "logs", run, "--task", "ingest").splitlines()[-2:] == [
        f"error: ingest: CACHED, it had no pod and has no log; with access to Kubernetes: kubectl logs -n kubeflow -l "
        f"pipeline/runid={run} -c main --prefix --tail=-1",
        "(exit code 1)",
    ]


def test_a_cell_above_one_mebibyte_is_read(server: Server) -> None:
    status = recorded("stock-three-cells-compressed")["v1beta1"]["pipeline_runtime"]["workflow_manifest"]["status"]
    assert "nodes" not in status
    assert "compressedNodes" in status
    assert "3 of 3 cells" in said(server, "status", server.state.add_recorded("stock-three-cells-compressed"))
