"""Promotions over HTTP: two at once, a holder that dies, and a registry that fails at any request."""

from __future__ import annotations

import http.client
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from components.promote import promote, rollback
from core.errors import UserError
from core.params import Params
from registry.lock import tickets
from registry.models import decisions
from tests.conftest import QUIET, Project
from tests.registry.registered import BETTER, GATE, NAME, TWIN, WORSE

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

HASTE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}


@dataclass(frozen=True)
class Served:
    """A project whose registry is a real server's."""

    project: Project
    url: str

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(self.url, self.url)

    @property
    def champion(self) -> int | None:
        found = self.client.get_registered_model(NAME).aliases.get("champion")
        return None if found is None else int(found)

    def crown(self, version: int) -> None:
        self.client.set_registered_model_alias(NAME, "champion", str(version))

    def drop_locks(self) -> None:
        for each in tickets(self.client, NAME):
            self.client.delete_experiment(each.id)


@pytest.fixture(scope="module")
def served(three: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("served")
    shutil.copytree(three.root, root, dirs_exist_ok=True)
    project = Project(root, three.launcher)
    port = free_port()
    line = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", project.store, "--workers", "2"]
    line += ["--artifacts-destination", str(root / "served"), "--host", "127.0.0.1", "--port", str(port)]
    log = (root / "server.log").open("wb")
    with (
        log,
        subprocess.Popen(
            line, env=os.environ | QUIET, stdout=log, stderr=log, cwd=root, start_new_session=True
        ) as server,
    ):
        try:
            deadline = time.monotonic() + 90
            while not answers(port):
                assert server.poll() is None, (root / "server.log").read_text()[-2000:]
                assert time.monotonic() < deadline, "the MLflow server does not answer"
                time.sleep(0.2)
            yield Served(project, f"http://127.0.0.1:{port}")
        finally:
            os.killpg(server.pid, 9)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


@pytest.fixture
def params(served: Served, monkeypatch: pytest.MonkeyPatch) -> Params:
    monkeypatch.chdir(served.project.root)
    for name, value in {**HASTE, "MLFLOW_TRACKING_URI": served.url}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("KUBEFLOW_RUN_ID", raising=False)
    return served.project.write_params(promotion=GATE)


# --- two at once ----------------------------------------------------------------------------------------------------

RACER = """
import io, json, sys
from contextlib import redirect_stdout
from pathlib import Path
from core.errors import UserError
from core.params import read_params
from components.promote import promote
params = read_params(Path("params.yaml"))
print("ready", flush=True)
for line in sys.stdin:
    told = {}
    with redirect_stdout(io.StringIO()):
        try:
            where = Path("artifacts/arrays"), Path("artifacts/splits")
            told["champion"] = promote(params, *where, int(line), force=True, reason="a race").champion
        except UserError as error:
            told["error"] = str(error)
    print(json.dumps(told), flush=True)
"""

COUNTER = """
import sys
from mlflow import MlflowClient
from core.errors import UserError
from registry.lock import promotion_lock
from tracking.store import connect
client, won = connect(), 0
print("ready", flush=True)
sys.stdin.readline()
while won < int(sys.argv[1]):
    try:
        with promotion_lock(client, "counted", 60):
            tags = client.get_registered_model("counted").tags
            client.set_registered_model_tag("counted", "count", int(tags.get("count", 0)) + 1)
            won += 1
    except UserError as error:
        assert "is moving the champion right now" in str(error), error
print(won, flush=True)
"""


def start(served: Served, script: str, *arguments: object) -> subprocess.Popen[str]:
    """Start a script in the project's folder; it has said that it is ready."""
    environment = served.project.environment | HASTE | {"MLFLOW_TRACKING_URI": served.url}
    line = [sys.executable, "-c", script, *map(str, arguments)]
    process = subprocess.Popen(line, cwd=served.project.root, env=environment, stdin=-1, stdout=-1, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def say(process: subprocess.Popen[str], line: object) -> None:
    assert process.stdin is not None
    print(line, file=process.stdin, flush=True)


def hear(process: subprocess.Popen[str]) -> Any:
    assert process.stdout is not None
    return json.loads(process.stdout.readline())


@pytest.mark.full
def test_a_lock_lets_one_in_at_a_time(served: Served) -> None:
    served.client.create_registered_model("counted")
    rounds = 15
    both = [start(served, COUNTER, rounds) for _ in range(2)]
    for process in both:
        say(process, "go")
    for process in both:
        process.communicate(timeout=300)
        assert process.returncode == 0
    # Read, add one, write: two inside at once would lose a count.
    assert served.client.get_registered_model("counted").tags["count"] == str(2 * rounds)
    assert tickets(served.client, "counted") == []


@pytest.mark.full
def test_of_two_promotions_at_once_one_wins_and_the_other_says_so(served: Served, params: Params) -> None:
    both = [start(served, RACER) for _ in range(2)]
    contested = 0
    try:
        for _ in range(5):
            served.crown(WORSE)
            before = len(decisions(params))
            for process, version in zip(both, (BETTER, TWIN), strict=True):
                say(process, version)
            told = [hear(process) for process in both]
            made = [each for each in decisions(params)[: len(decisions(params)) - before] if each.state == "done"][::-1]
            losers = [each["error"] for each in told if "error" in each]
            assert len(made) == len(told) - len(losers) >= 1
            # Each decision was about the very champion that it replaced: none overwrote what it had not seen.
            champions = [WORSE, *(each.version for each in made)]
            assert [each.previous for each in made] == champions[:-1]
            assert served.champion == champions[-1]
            for error in losers:
                contested += 1
                assert "is moving the champion right now" in error or "became champion during" in error
    finally:
        for process in both:
            process.communicate()
    assert contested >= 1


@pytest.mark.full
def test_a_holder_that_died_is_waited_for_and_then_passed_by(served: Served, params: Params) -> None:
    served.crown(BETTER)
    served.drop_locks()
    held = start(
        served, COUNTER.replace('"counted"', f'"{NAME}"').replace("won += 1", "print('in', flush=True); input()"), 1
    )
    say(held, "go")
    assert held.stdout is not None
    assert held.stdout.readline() == "in\n"
    held.kill()
    held.communicate()
    with pytest.raises(UserError, match=r"@.* is moving the champion right now"):
        promote(params, *where(served), WORSE, force=True, reason="a test")
    assert served.champion == BETTER
    (left,) = tickets(served.client, NAME)
    impatient = served.project.write_params(promotion=GATE | {"lock": 12})
    while time.time() - left.created / 1000 < 12:
        time.sleep(0.2)
    assert promote(impatient, *where(served), WORSE, force=True, reason="a test").champion == WORSE
    assert tickets(served.client, NAME) == []


def where(served: Served) -> tuple[Path, Path]:
    return served.project.arrays, served.project.split.parent


# --- a registry that fails ------------------------------------------------------------------------------------------


@dataclass
class Faults:
    """What the proxy does: forwards, until request ``at``; that one it drops, before or after it was forwarded.

    From then on nothing is answered while ``dead``. ``at`` is a number from 0, or a method and path. A request that is
    forwarded without an answer is kept back for ``late`` seconds.
    """

    upstream: int
    at: int | str | None = None
    forward: bool = False
    dead: bool = True
    late: float = 0
    seen: list[str] = field(default_factory=list)
    forwarded: list[str] = field(default_factory=list)
    struck: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def strike(self, at: int | str | None, *, forward: bool, dead: bool) -> None:
        """Begin anew: the next request is number 0."""
        self.at, self.forward, self.dead = at, forward, dead
        self.seen, self.forwarded, self.struck = [], [], False

    def next(self, what: str) -> tuple[bool, bool]:
        """Return whether to forward a request, and whether to answer it."""
        with self.lock:
            number = len(self.seen)
            self.seen.append(what)
            if self.struck:
                forward = answer = not self.dead
            elif self.at in (number, what):
                forward, answer, self.struck = self.forward, False, True
            else:
                forward = answer = True
            if forward:
                self.forwarded.append(what)
            return forward, answer


@pytest.fixture
def faults(served: Served, params: Params, monkeypatch: pytest.MonkeyPatch) -> Iterator[Faults]:
    told = Faults(int(served.url.rpartition(":")[2]))

    class Proxy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.0"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            forward, answer = told.next(f"{self.command} {self.path.partition('?')[0]}")
            if forward:
                time.sleep(0 if answer else told.late)
                connection = http.client.HTTPConnection("127.0.0.1", told.upstream, timeout=60)
                headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
                connection.request(self.command, self.path, body, headers)
                response = connection.getresponse()
                content = response.read()
                if answer:
                    self.send_response(response.status)
                    self.send_header("Content-Type", response.getheader("Content-Type") or "application/json")
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)
                connection.close()
            if not answer:
                self.close_connection = True
                self.connection.close()

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any  # noqa: N815

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

        def finish(self) -> None:
            """Close as much as is still open."""
            try:
                super().finish()
            except (OSError, ValueError):
                return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
    yield told
    server.shutdown()
    server.server_close()


ALIAS = "POST /api/2.0/mlflow/registered-models/alias"


def outcome(served: Served, params: Params, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Return how the newest decisions ended, as a reader sees it who asks the server itself."""
    with monkeypatch.context() as direct:
        direct.setenv("MLFLOW_TRACKING_URI", served.url)
        served.drop_locks()  # as if it had expired
        return [(each.state, each.version) for each in decisions(params)]


@pytest.mark.full
def test_whatever_request_fails_the_champion_is_the_old_or_the_new_and_the_history_knows(
    served: Served, params: Params, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    def attempt() -> bool:
        with redirect_stdout(io.StringIO()):
            try:
                rollback(params, reason="a fault")
            except UserError:
                return False
        return True

    with monkeypatch.context() as direct:
        direct.setenv("MLFLOW_TRACKING_URI", served.url)
        served.drop_locks()
        served.crown(WORSE)
        promote(params, *where(served), BETTER, force=True, reason="to be rolled back")
    assert attempt()
    assert faults.seen.count(ALIAS) == 1
    plan: list[tuple[int | str, bool]] = [(ALIAS, True), ("POST /api/2.0/mlflow/runs/create", True)]
    number, whole = 0, False
    moved = 0
    while not whole:
        at, forward = plan.pop() if plan else (number, False)
        served.crown(BETTER)  # by hand, upon WORSE: the next rollback goes back to that
        before = len(outcome(served, params, monkeypatch))
        faults.strike(at, forward=forward, dead=True)
        succeeded = attempt()
        # What failed last time makes the next attempt longer: the requests are not those of the rehearsal.
        written = ALIAS in faults.forwarded
        moved += written
        told = (at, forward, faults.seen)
        assert served.champion == (WORSE if written else BETTER), told
        assert succeeded == (written and at != ALIAS), told
        made = outcome(served, params, monkeypatch)
        made = made[: len(made) - before]
        if written:
            assert made == [("done", WORSE)], told
        else:
            assert made in ([], [("failed", WORSE)]), told
        whole = not faults.struck
        number += at == number
    assert number > 15
    assert moved > 2  # the server died after the commit, too


@pytest.mark.full
def test_a_lost_answer_to_the_commit_alone_is_looked_up(
    served: Served, params: Params, faults: Faults, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    served.drop_locks()
    served.crown(WORSE)
    assert promote(params, *where(served), BETTER, force=True, reason="a rehearsal").champion == BETTER
    commit = faults.seen.index(ALIAS)
    # Everything that tells of the decision is written before the alias, and nothing but its end after it.
    assert any("model-versions/set-tag" in request for request in faults.seen[:commit])
    assert not any("model-versions/set-tag" in request for request in faults.seen[commit:])

    served.crown(WORSE)
    faults.strike(ALIAS, forward=True, dead=False)
    assert promote(params, *where(served), BETTER, force=True, reason="a lost answer").champion == BETTER
    assert served.champion == BETTER

    served.crown(WORSE)
    faults.strike(ALIAS, forward=False, dead=False)
    with pytest.raises(UserError, match="champion is still 1; the registry did not set version 2"):
        promote(params, *where(served), BETTER, force=True, reason="a lost request")
    assert served.champion == WORSE
    # It may yet arrive: nobody else moves the champion before the lock has expired.
    faults.strike(None, forward=False, dead=False)
    with pytest.raises(UserError, match="is moving the champion right now"):
        promote(params, *where(served), TWIN, force=True, reason="too early")
    assert outcome(served, params, monkeypatch)[0] == ("failed", BETTER)


@pytest.mark.full
def test_a_registry_that_answers_late_leaves_the_champion_until_the_request_arrives(
    served: Served, params: Params, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.drop_locks()
    served.crown(WORSE)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    faults.strike(ALIAS, forward=True, dead=False)
    faults.late = 9
    with pytest.raises(UserError, match="champion is still 1; the registry did not set version 2"):
        promote(params, *where(served), BETTER, force=True, reason="a slow network")
    deadline = time.monotonic() + 60
    while served.champion == WORSE:
        assert time.monotonic() < deadline, "the late request never arrived"
        time.sleep(0.1)
    assert served.champion == BETTER
    assert outcome(served, params, monkeypatch)[0] == ("done", BETTER)
