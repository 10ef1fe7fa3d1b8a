"""An HTTP server that speaks the part of Kubeflow Pipelines' REST API which ``defunet`` uses, and fails on demand.

Paths, fields, states and error bodies are those that a real server of Kubeflow Pipelines 2.17.0 sent (``recorded/``).
Recorded runs are answered as they were; other runs are played, and each look at one takes it one stage further.
``python -m tests.pipelines.kfp_server --port 8890 --end FAILED`` starts one by itself.
"""

from __future__ import annotations

import argparse
import json
import re
import socket
import struct
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

from tests.pipelines.kfp_workflow import STEPS, pod_of, recorded, tasks, workflow

EPOCH = "1970-01-01T00:00:00Z"
ENDED = ("SUCCEEDED", "FAILED")  # a cancelled run ends as FAILED
NO_LOG = {"error_message": "BadRequestError: Failed to read logs for run", "error_details": "NoSuchKey"}
API = "/apis/v2beta1"


@dataclass
class Fault:
    """What goes wrong with the next ``times`` requests of a method whose path holds ``path``."""

    method: str
    path: str
    kind: str  # a status, or: reset, lost (done, but the answer is), slow, page, redirect
    times: int = 1
    body: Any = None
    seconds: float = 0


class Refused(Exception):  # noqa: N818
    def __init__(self, status: int, code: int, message: str) -> None:
        details = [{"@type": "type.googleapis.com/google.rpc.Status", "code": code, "message": message}]
        self.status, self.body = status, {"code": code, "message": f"Failed: {message}", "details": details}


@dataclass
class State:
    """What the server knows, and how it is to behave."""

    token: str | None = None
    multi_user: bool = False
    namespaces: tuple[str, ...] = ("team-a",)
    end: str = "SUCCEEDED"
    failing: str = "train"
    experiments: list[dict[str, Any]] = field(default_factory=list)
    runs: list[dict[str, Any]] = field(default_factory=list)
    recurring: list[dict[str, Any]] = field(default_factory=list)
    stages: dict[str, int] = field(default_factory=dict)
    logs: dict[str, str] = field(default_factory=dict)
    recorded: dict[str, str] = field(default_factory=dict)  # cases by the ids of their runs
    manifests: dict[str, dict[str, Any]] = field(default_factory=dict)
    v1beta1: bool = True
    pages: bool = True  # whether it is the web page's server, which forwards to the API
    gone: bool = False  # whether Kubernetes has lost the workflows
    kubernetes: dict[str, Any] = field(default_factory=dict)  # its answers by a part of the path
    faults: list[Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        self.add_experiment("Default", self.namespaces[0] if self.multi_user else "")

    def add_experiment(self, name: str, namespace: str) -> dict[str, Any]:
        made = {
            "experiment_id": str(uuid.uuid4()),
            "display_name": name,
            "namespace": namespace,
            "created_at": _now(),
            "storage_state": "AVAILABLE",
        }
        self.experiments.append(made)
        return made

    def add_run(self, body: dict[str, Any], experiment: dict[str, Any]) -> dict[str, Any]:
        run = {
            "experiment_id": experiment["experiment_id"],
            "run_id": str(uuid.uuid4()),
            "display_name": body["display_name"],
            "description": body.get("description", ""),
            "storage_state": "AVAILABLE",
            "pipeline_spec": body["pipeline_spec"],
            "runtime_config": body.get("runtime_config", {}),
            "service_account": body.get("service_account", "pipeline-runner"),
            "created_at": _now(),
            "scheduled_at": _now(),
            "finished_at": EPOCH,
            "state": "PENDING",
            "state_history": [{"update_time": _now(), "state": "PENDING"}],
        }
        self.runs.insert(0, run)
        self.stages[run["run_id"]] = 0
        return run

    def add_recorded(self, case: str) -> str:
        run = recorded(case)["v2beta1"]
        self.runs.insert(0, {**run, "experiment_id": self.experiments[0]["experiment_id"]})
        self.recorded[run["run_id"]] = case
        self.logs |= {path.split("/")[-2]: text for path, text in recorded(case)["logs"].items()}
        return str(run["run_id"])

    def advance(self, run: dict[str, Any]) -> dict[str, Any]:
        """Return the run as it is now, and take it one stage further."""
        if run["run_id"] in self.recorded:
            return run
        stage = self.stages[run["run_id"]]
        if run["state"] not in ENDED and stage:
            done, stopped = stage - 1, run["state"] == "CANCELING"
            broken = self.end == "FAILED" and done >= STEPS.index(self.failing)
            phase = "Failed" if stopped or broken else "Succeeded" if done >= len(STEPS) else "Running"
            _go(run, phase.upper())
            run["finished_at"] = _now() if run["state"] in ENDED else EPOCH
            manifest = self.manifests[run["run_id"]] = workflow(run, done, phase, stopped)
            run["run_details"] = {"task_details": tasks(manifest)}
        self.stages[run["run_id"]] = stage + 1
        return run

    def manifest(self, run_id: str) -> dict[str, Any]:
        """Return the run as the v1beta1 API does, with its workflow as text."""
        run = _found(self.runs, "run_id", run_id, "Run")
        if case := self.recorded.get(run_id):
            found = recorded(case)["v1beta1"]["pipeline_runtime"]["workflow_manifest"]
        else:
            found = self.manifests.get(run_id) or workflow(run, 0, "", False)
        return {"run": {"id": run_id}, "pipeline_runtime": {"workflow_manifest": json.dumps(found)}}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def _any(self) -> None:
        # What Kubernetes puts through to Kubeflow stands behind its own path.
        state, path = self.server.state, unquote(urlsplit(self.path).path).split(":http/proxy")[-1]
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with state.lock:
            state.requests.append(f"{self.command} {unquote(urlsplit(self.path).path)}")
            fault = next((f for f in state.faults if f.times and f.method == self.command and f.path in path), None)
            if fault:
                fault.times -= 1
        if fault and fault.kind == "slow":
            time.sleep(fault.seconds)
            fault = None
        if fault and fault.kind == "reset":
            return self._reset()
        if fault and fault.kind == "page":
            return self._answer(200, b"<html>log in</html>", "text/html")
        if fault and fault.kind == "redirect":
            return self._answer(302, b"", "text/html", {"Location": "https://login.example.org/dex"})
        if fault and fault.kind.isdecimal():
            return self._answer(int(fault.kind), json.dumps(fault.body or {}).encode() if fault.body else b"busy")
        try:
            with state.lock:
                self._authorise(state)
                answer = self._handle(state, path, parse_qs(urlsplit(self.path).query), json.loads(body or b"{}"))
        except Refused as refused:
            return self._answer(refused.status, json.dumps(refused.body).encode())
        if fault and fault.kind == "lost":
            return self._reset()
        if isinstance(answer, str):
            return self._answer(200, answer.encode(), "text/plain")
        return self._answer(200, json.dumps(answer).encode())

    do_GET = do_POST = do_DELETE = _any  # noqa: N815

    def _reset(self) -> None:
        # Without lingering the kernel sends a reset, as a gateway that dies does.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def _answer(
        self, status: int, body: bytes, kind: str = "application/json", more: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **(more or {})}.items():
            self.send_header(name, value)
        with suppress(ConnectionError):  # whoever asked may be gone
            self.end_headers()
            self.wfile.write(body)

    def _authorise(self, state: State) -> None:
        if state.token and self.headers.get("authorization") != f"Bearer {state.token}":
            raise Refused(401, 16, "Unauthenticated: token is expired")

    def _handle(self, state: State, path: str, query: dict[str, list[str]], body: dict[str, Any]) -> Any:
        if state.pages and path == "/":
            return "<!doctype html><html></html>"
        if found := re.fullmatch(r"/apis/v1beta1/runs/([^/]+)", path):
            if not state.v1beta1:
                raise Refused(404, 5, "Not Found")
            return state.manifest(found[1])
        if found := re.match(r"/(api/v1|apis/argoproj.io/v1alpha1|apis/kueue.x-k8s.io/v1beta1)/namespaces/", path):
            return _kubernetes(state, path)
        match self.command, path.removeprefix(API).split("/")[1:]:
            case "GET", ["healthz"]:
                return {"commit_sha": "0", "tag_name": "2.17.0", "multi_user": state.multi_user}
            case "GET", ["experiments"]:
                wanted = self._namespace(state, query)
                found = [each for each in state.experiments if each["namespace"] == wanted]
                for predicate in json.loads(query.get("filter", ["{}"])[0]).get("predicates", ()):
                    assert (predicate["operation"], predicate["key"]) == ("EQUALS", "display_name")
                    found = [each for each in found if each["display_name"] == predicate["stringValue"]]
                return _page(found, query, "experiments") if found else {}
            case "POST", ["experiments"]:
                if not state.multi_user and body.get("namespace"):
                    raise Refused(400, 3, "In single-user mode, CreateExperimentRequest shouldn't contain namespace")
                if any(each["display_name"] == body["display_name"] for each in state.experiments):
                    raise Refused(409, 6, f"Experiment {body['display_name']} already exists")
                return state.add_experiment(body["display_name"], body.get("namespace", ""))
            case "GET", ["runs"]:
                of = self._experiments(state, query)
                assert query["sort_by"] == ["created_at desc"]
                return _page([run for run in state.runs if run["experiment_id"] in of], query, "runs")
            case "POST", ["runs"]:
                return state.add_run(_checked(body), self._experiment(state, body))
            case "GET", ["runs", run]:
                return state.advance(_found(state.runs, "run_id", run, "Run"))
            case "POST", ["runs", action]:
                run, _, verb = action.partition(":")
                return _act(state, _found(state.runs, "run_id", run, "Run"), verb)
            case "GET", ["recurringruns"]:
                return _page(state.recurring, query, "recurringRuns")
            case "POST", ["recurringruns"]:
                return _schedule(state, _checked(body), self._experiment(state, body))
            case "POST", ["recurringruns", action]:
                which, _, verb = action.partition(":")
                made = _found(state.recurring, "recurring_run_id", which, "Job")
                made["status"] = {"enable": "ENABLED", "disable": "DISABLED"}[verb]
                return {}
            case "DELETE", ["recurringruns", which]:
                state.recurring.remove(_found(state.recurring, "recurring_run_id", which, "Job"))
                return {}
        if read := re.fullmatch(r"/apis/v1alpha1/runs/([^/]+)/nodes/([^/]+)/log", path):
            return state.logs.get(read[2]) or json.dumps(NO_LOG)
        raise Refused(404, 5, "Not Found")

    def _namespace(self, state: State, query: dict[str, list[str]]) -> str:
        wanted = query.get("namespace", [""])[0]
        if state.multi_user and wanted not in state.namespaces:
            raise Refused(
                403, 7, f"User 'ann@example.org' is not authorized to list experiments in namespace '{wanted}'"
            )
        return wanted

    def _experiments(self, state: State, query: dict[str, list[str]]) -> set[str]:
        if wanted := query.get("experiment_id"):
            return set(wanted)
        namespace = self._namespace(state, query)
        return {each["experiment_id"] for each in state.experiments if each["namespace"] == namespace}

    def _experiment(self, state: State, body: dict[str, Any]) -> dict[str, Any]:
        return _found(state.experiments, "experiment_id", body.get("experiment_id", ""), "Experiment")

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    state: State

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


def _page(found: list[dict[str, Any]], query: dict[str, list[str]], name: str) -> dict[str, Any]:
    # The real server gives 20 where no size is asked for, and never more than 200.
    start, size = int(query.get("page_token", ["0"])[0] or 0), min(200, int(query.get("page_size", ["20"])[0]))
    more = {"next_page_token": str(start + size)} if start + size < len(found) else {}
    return {name: found[start : start + size], "total_size": len(found), **more}


def _found(those: list[dict[str, Any]], key: str, value: str, kind: str) -> dict[str, Any]:
    for each in those:
        if each[key] == value:
            return each
    raise Refused(404, 5, f"{kind} {value} not found")


def _checked(body: dict[str, Any]) -> dict[str, Any]:
    """Hold a submission to what the real server holds it to."""
    content = body["pipeline_spec"]
    spec = json_format.ParseDict(content.get("pipeline_spec", content), pipeline_spec_pb2.PipelineSpec())
    if "platform_spec" in content:
        json_format.ParseDict(content["platform_spec"], pipeline_spec_pb2.PlatformSpec())
    declared = spec.root.input_definitions.parameters
    given = body.get("runtime_config", {}).get("parameters", {})
    if missing := [name for name, about in declared.items() if not about.is_optional and name not in given]:
        raise Refused(400, 3, f"parameters {missing} are required")
    if unknown := set(given) - set(declared):
        raise Refused(400, 3, f"parameter {sorted(unknown)[0]} is not defined")
    return body


def _schedule(state: State, body: dict[str, Any], experiment: dict[str, Any]) -> dict[str, Any]:
    if not 1 <= int(body["max_concurrency"]) <= 10:
        raise Refused(400, 3, "Max concurrency of a recurring run must be at least 1 and at most 10")
    if len(body["trigger"]["cron_schedule"]["cron"].split()) != 6:
        raise Refused(400, 3, "Schedule cron is not a supported format")
    made = {**body, "recurring_run_id": str(uuid.uuid4()), "experiment_id": experiment["experiment_id"]}
    made |= {"status": "ENABLED", "created_at": _now(), "updated_at": _now(), "namespace": experiment["namespace"]}
    state.recurring.insert(0, made)
    return made


def _act(state: State, run: dict[str, Any], verb: str) -> dict[str, Any]:
    if verb == "terminate":
        if run["state"] in ENDED:
            raise Refused(400, 3, f"Failed to terminate a run {run['run_id']}. Row not found")
        _go(run, "CANCELING")
    elif verb == "retry":
        if run["state"] != "FAILED":
            raise Refused(409, 10, "Workflow must be Failed/Error to retry")
        _go(run, "RUNNING")
        run["finished_at"] = EPOCH
        state.stages[run["run_id"]] = STEPS.index(state.failing) + 1
        state.end = "SUCCEEDED"
    else:
        raise Refused(404, 5, "Not Found")
    return {}


def _go(run: dict[str, Any], to: str) -> None:
    if run["state"] != to:
        run["state"] = to
        run["state_history"].append({"update_time": _now(), "state": to})


def _kubernetes(state: State, path: str) -> Any:
    """Answer as Kubernetes' own API does, which a kubeconfig reaches beside Kubeflow's."""
    for part, answer in state.kubernetes.items():
        if part in path:
            return answer
    if "/workflows/" in path and not state.gone:
        return {"metadata": {"name": path.rpartition("/")[2]}}
    raise Refused(404, 5, "not found")


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


@contextmanager
def serving(port: int = 0, **options: Any) -> Iterator[Server]:
    """Serve on a free port of this machine until the block ends."""
    server = Server(("127.0.0.1", port), Handler)
    server.state = State(**options)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--end", default="SUCCEEDED", choices=["SUCCEEDED", "FAILED"])
    parser.add_argument("--token")
    parser.add_argument("--recorded", nargs="*", default=[], help="runs of recorded/ that it holds from the start")
    said = parser.parse_args()
    logs = {pod_of("train"): "epoch 1 of 3\nerror: the GPU ran out of memory\n"}
    with serving(said.port, end=said.end, token=said.token, logs=logs) as server:
        for case in said.recorded:
            print(server.state.add_recorded(case), case, flush=True)
        print(server.url, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
