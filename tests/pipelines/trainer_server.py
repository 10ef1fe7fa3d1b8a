"""A small Kubernetes over HTTP with Kubeflow Trainer: its pods are processes of this machine.

It answers in the form of the objects that Kubernetes 1.36.1 with Trainer 2.3.0 and JobSet 0.12.0 answered with
(``recorded_trainjob.json``), and starts all pods anew where one is lost, as JobSet does with ``maxRestarts``.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psutil

from tools.services.checks import free_ports

RECORDED: dict[str, Any] = json.loads(Path(__file__).with_name("recorded_trainjob.json").read_text())
JOBS = "/apis/trainer.kubeflow.org/v1alpha1/namespaces/kubeflow/trainjobs"
PODS = "/api/v1/namespaces/kubeflow/pods"
RESTARTS = 3


@dataclass
class Pod:
    """A process with its log."""

    name: str
    index: int
    process: subprocess.Popen[str]
    log: list[tuple[str, str]] = field(default_factory=list)
    ended: bool = False  # its log too

    def read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.log.append((datetime.now(UTC).isoformat(timespec="microseconds"), line))
        self.ended = True

    @property
    def document(self) -> dict[str, Any]:
        """The pod as the API shows it: the recorded one with this one's names."""
        pod = json.loads(json.dumps(RECORDED["pod"]))
        pod["metadata"] |= {"name": self.name, "creationTimestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}
        return dict(pod)


@dataclass
class Trainer:
    """The cluster.

    Attributes:
        cwd, env: of the pods.
        installed: whether there are TrainJobs.
        shared: whether the pods see the step's folder, as one on a volume.
        refuses: status and message of what creating one is answered with; None: it is created.
        sent: every TrainJob that was created.
        deleted: the names of those that were deleted.
        pods: of all attempts, oldest first.
    """

    cwd: Path
    env: dict[str, str]
    installed: bool = True
    shared: bool = True
    refuses: tuple[int, str] | None = None
    url: str = ""
    sent: list[dict[str, Any]] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    pods: list[Pod] = field(default_factory=list)
    status: dict[str, Any] | None = None
    restarts: int = 0
    reported: list[dict[str, Any]] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)

    def create(self, job: dict[str, Any]) -> None:
        self.sent.append(job)
        self.status, self._over = {}, threading.Event()
        threading.Thread(target=self._run, args=(job, self._over), daemon=True).start()

    def _start(self, job: dict[str, Any]) -> list[Pod]:
        trainer, port = job["spec"]["trainer"], free_ports(1)[0]
        line = [sys.executable if word == "python" else word for word in trainer["command"]] + trainer["args"]
        nodes, made = trainer["numNodes"], []
        for index in range(nodes):
            given = {variable["name"]: variable["value"] for variable in trainer["env"] if "value" in variable}
            given |= {"PET_NNODES": str(nodes), "PET_NPROC_PER_NODE": str(trainer["numProcPerNode"])}
            given |= {"PET_NODE_RANK": str(index), "PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": str(port)}
            given |= {"KUBEFLOW_TRAINER_SERVER_URL": f"{self.url}/status", "PYTHONUNBUFFERED": "1"}
            process = subprocess.Popen(
                line,
                cwd=self._folder(index),
                env=self.env | given,
                stdout=-1,
                stderr=-2,
                text=True,
                start_new_session=True,
            )
            pod = Pod(f"{job['metadata']['name']}-node-0-{index}-r{self.restarts}", index, process)
            threading.Thread(target=pod.read, daemon=True).start()
            made.append(pod)
        self.pods += made
        return made

    def _folder(self, index: int) -> Path:
        """Return the folder of a pod's own, empty in every attempt, where the files it sees come from elsewhere."""
        if self.shared:
            return self.cwd
        folder = self.cwd / f"pod-{index}-{self.restarts}"
        folder.mkdir()
        return folder

    def _run(self, job: dict[str, Any], over: threading.Event) -> None:
        pods = self._start(job)
        while not over.is_set():
            codes = [pod.process.poll() for pod in pods]
            if any(codes):
                stop(pods)
                if self.restarts == RESTARTS:
                    self.status = RECORDED["failed"]
                    return
                self.restarts += 1
                pods = self._start(job)
            elif all(code == 0 for code in codes):
                self.status = {"conditions": [{"type": "Complete", "status": "True"}], **self._jobs(0, len(pods))}
                return
            else:
                self.status = self._jobs(len(pods), 0)
            time.sleep(0.05)
        stop(pods)

    def _jobs(self, active: int, succeeded: int) -> dict[str, Any]:
        (node,) = RECORDED["trainjob"]["status"]["jobsStatus"]
        return {"jobsStatus": [node | {"active": active, "ready": active, "succeeded": succeeded}]}

    def delete(self, name: str) -> None:
        self.deleted.append(name)
        self.status = None
        self._over.set()


def stop(pods: list[Pod]) -> None:
    """End pods with all of their processes, as Kubernetes ends a container."""
    for pod in pods:
        with suppress(psutil.NoSuchProcess):
            parent = psutil.Process(pod.process.pid)
            # torchrun's workers have sessions of their own.
            processes = [*parent.children(recursive=True), parent]
            for process in processes:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        pod.process.wait()


def _handler(trainer: Trainer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Say nothing."""

        def answer(self, code: int, body: dict[str, Any]) -> None:
            data = json.dumps(body).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def refuse(self, code: int, message: str) -> None:
            self.answer(code, {"kind": "Status", "status": "Failure", "message": message, "code": code})

        def body(self) -> dict[str, Any]:
            return dict(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def do_POST(self) -> None:
            body = self.body()
            if self.path == "/status":
                trainer.reported.append(body["trainerStatus"])
                self.answer(200, {})
            elif trainer.refuses:
                self.refuse(*trainer.refuses)
            elif trainer.status is not None:
                self.refuse(409, f'trainjobs.trainer.kubeflow.org "{body["metadata"]["name"]}" already exists')
            else:
                trainer.create(body)
                self.answer(201, body)

        def do_DELETE(self) -> None:
            name = self.path.rpartition("/")[2]
            if trainer.status is None:
                self.refuse(404, f'trainjobs.trainer.kubeflow.org "{name}" not found')
            else:
                trainer.delete(name)
                self.answer(200, {"kind": "Status", "status": "Success"})

        def do_GET(self) -> None:
            address = urlsplit(self.path)
            asked = {name: values[0] for name, values in parse_qs(address.query).items()}
            if address.path == JOBS and trainer.installed:
                self.answer(200, {"items": []})
            elif address.path.startswith(JOBS) and trainer.status is not None:
                self.answer(200, trainer.sent[-1] | {"status": trainer.status})
            elif address.path == PODS:
                name, index = (part.partition("=")[2] for part in asked["labelSelector"].split(","))
                found = [pod for pod in trainer.pods if pod.name.startswith(f"{name}-node-0-{index}-")]
                self.answer(200, {"kind": "PodList", "items": [pod.document for pod in found[-1:]]})
            elif address.path.startswith(PODS) and address.path.endswith("/log"):
                name = address.path.split("/")[-2]
                self.stream(next(pod for pod in trainer.pods if pod.name == name))
            else:
                self.refuse(404, "404 page not found")

        def stream(self, pod: Pod) -> None:
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            sent = 0
            while True:
                ended = pod.ended
                time.sleep(0.05)
                for moment, line in pod.log[sent:]:
                    data = f"{moment} {line}".encode()
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
                    sent += 1
                self.wfile.flush()
                if ended:
                    self.wfile.write(b"0\r\n\r\n")
                    return

    return Handler


@contextmanager
def serving(trainer: Trainer, folder: Path) -> Iterator[Path]:
    """Serve a cluster; yield the kubeconfig that leads to it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(trainer))
    trainer.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u", "namespace": "kubeflow"}}],
        "clusters": [{"name": "c", "cluster": {"server": trainer.url}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
    }
    (folder / "kubeconfig").write_text(json.dumps(config))
    try:
        yield folder / "kubeconfig"
    finally:
        stop(trainer.pods)
        server.shutdown()
