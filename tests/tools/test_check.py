"""The check of what the steps need: against real servers, and with each need missing."""

from __future__ import annotations

import http.server
import json
import socket
import threading
from pathlib import Path

import pytest
import torch

from tests.conftest import Project, refused
from tests.services import Bucket
from tools.check import is_open
from tools.services.checks import free_ports


def lines(output: str) -> dict[str, tuple[str, str]]:
    """By what was checked: ok or FAILED, and what is said of it."""
    found = {}
    for line in output.splitlines():
        found[line[8:23].strip()] = (line[:8].strip(), line[23:])
    return found


def test_all_is_there(untrained: Project, mlflow_server: str, bucket: Bucket) -> None:
    bucket.client.put_object(Bucket=bucket.name, Key="cxr/a.png", Body=b"x")
    where = ["--source", f"s3://{bucket.name}/cxr", "--checkpoints", f"s3://{bucket.name}/states"]
    done = untrained.call(untrained.line("check", *where), MLFLOW_TRACKING_URI=mlflow_server)
    assert done.returncode == 0, done.stdout + done.stderr
    found = lines(done.stdout)
    assert {name: state for name, (state, _) in found.items()} == dict.fromkeys(
        ("MLflow", "source", "checkpoints", "GPUs", "shared memory"), "ok"
    )
    assert found["MLflow"][1] == f"{mlflow_server}: answers"
    assert bucket.names() == ["cxr/a.png"]  # nothing is left behind
    done = untrained.call(untrained.line("check", "--source", "artifacts", "--checkpoints", "new/folder"))
    assert done.returncode == 0, done.stdout
    assert list((untrained.root / "new/folder").iterdir()) == []


def test_each_need_that_is_missing_is_told_and_the_others_are_looked_at(untrained: Project, bucket: Bucket) -> None:
    nobody = f"http://127.0.0.1:{free_ports(1)[0]}"
    more = torch.cuda.device_count() + 1
    (untrained.root / "file").write_text("")
    line = untrained.line(
        "check", "--source", f"s3://{bucket.name}/none", "--checkpoints", "file/x", "--gpus", str(more)
    )
    done = untrained.call(line, MLFLOW_TRACKING_URI=nobody, MLFLOW_HTTP_REQUEST_MAX_RETRIES="0")
    assert refused(done).startswith("error: 4 of 5 checks failed")
    found = lines(done.stdout)
    assert {state for name, (state, _) in found.items() if name != "shared memory"} == {"FAILED"}
    assert "check MLFLOW_TRACKING_URI" in found["MLflow"][1]
    assert "no object found" in found["source"][1]
    assert found["checkpoints"][1].startswith("file/x: cannot be written (Not a directory)")
    assert found["GPUs"][1].startswith(f"{more - 1} of {more} found")


class Asks(http.server.BaseHTTPRequestHandler):
    """Answers whoever asks, or asks for a password."""

    status = 200

    def do_GET(self) -> None:
        assert "Authorization" not in self.headers
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(("status", "warned"), [(200, True), (401, False)])
def test_a_server_without_passwords_beyond_this_machine_is_warned_of(
    status: int, warned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Asks, "status", status)
    with http.server.ThreadingHTTPServer(("0.0.0.0", 0), Asks) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_address[1]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("192.0.2.1", 9))  # sends nothing; the address of this machine towards others
            mine = probe.getsockname()[0]
        assert is_open(f"http://user:secret@{mine}:{port}") is warned
        assert not is_open(f"http://127.0.0.1:{port}")
        assert not is_open(f"http://localhost:{port}")
        server.shutdown()
    assert not is_open("sqlite:///mlflow.db")
    assert not is_open("http://no-such-host.invalid:5000")


@pytest.mark.parametrize("action", ["PutObject", "GetObject"])
def test_rights_that_are_missing_are_told(untrained: Project, bucket: Bucket, action: str) -> None:
    statement = {"Effect": "Deny", "Principal": "*", "Action": f"s3:{action}"}
    policy = {"Version": "2012-10-17", "Statement": [statement | {"Resource": [f"arn:aws:s3:::{bucket.name}/*"]}]}
    bucket.client.put_bucket_policy(Bucket=bucket.name, Policy=json.dumps(policy))
    done = untrained.call(untrained.line("check", "--checkpoints", f"s3://{bucket.name}/states"))
    assert refused(done).startswith("error: 1 of 4 checks failed")
    assert lines(done.stdout)["checkpoints"][1].startswith(f"s3://{bucket.name}/states: access denied; ask")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU: its product is not tried")
def test_a_gpu_multiplies(untrained: Project, tmp_path: Path) -> None:
    done = untrained.call(untrained.line("check", "--gpus", "1"))
    assert done.returncode == 0, done.stdout
    assert torch.cuda.get_device_name(0) in lines(done.stdout)["GPUs"][1]
