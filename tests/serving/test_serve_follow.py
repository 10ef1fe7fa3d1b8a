"""A service follows its registry, and loses nothing when versions or processes change."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from registry.fetch import fetch
from tests.conftest import Job, Project, Trained
from tests.serving.serving import CHAMPION, NAME, Served, chest, launch, png, ready


class Traffic:
    """Clients that send one request after the other, as a load balancer does: refused connections are tried again."""

    def __init__(self, url: str, clients: int = 4) -> None:
        self.url, self.data = url, png(chest())
        self.answers: list[httpx.Response] = []
        self.lost: list[Exception] = []
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(clients)
        for _ in range(clients):
            self._pool.submit(self._run)

    def _run(self) -> None:
        client = httpx.Client(timeout=60)
        while not self._stop.is_set():
            try:
                self.answers.append(client.post(f"{self.url}/predict", content=self.data))
            except httpx.ConnectError:
                time.sleep(0.05)
            except Exception as error:
                self.lost.append(error)

    def end(self) -> Counter[int]:
        self._stop.set()
        self._pool.shutdown()
        assert self.lost == []
        return Counter(answer.status_code for answer in self.answers)


def told(service: Served) -> dict[str, Any]:
    return dict(httpx.get(f"{service.url}/ready", timeout=30).json())


def uses(service: Served, version: str) -> bool:
    return bool(told(service)["model"]["version"] == version)


def register_again(project: Project) -> str:
    """Register the model once more and return the new version."""
    client = project.client()
    return str(client.create_model_version(NAME, client.get_model_version_download_uri(NAME, "1")).version)


@pytest.mark.slow
def test_a_promotion_is_followed_while_requests_flow_and_none_is_lost(registry: Project) -> None:
    service = ready(launch(registry, CHAMPION, "--poll", 0.2))
    assert told(service)["model"]["version"] == "1"
    traffic = Traffic(service.url)
    second = register_again(registry)
    registry.client().set_registered_model_alias(NAME, "champion", second)
    assert service.job.until(lambda: uses(service, second))
    registry.client().set_registered_model_alias(NAME, "champion", "1")  # and back: a rollback
    assert service.job.until(lambda: uses(service, "1"))
    seen = len(traffic.answers)
    assert service.job.until(lambda: len(traffic.answers) > seen + 5)
    assert set(traffic.end()) == {200}
    versions = [answer.headers["x-model-version"] for answer in traffic.answers]
    assert {"1", second} == set(versions)
    assert service.metric("defunet_model_swaps_total") == 3
    assert service.stop().returncode == 0


@pytest.mark.full
@pytest.mark.slow
def test_of_what_it_has_downloaded_the_version_in_use_and_the_one_before_it_are_kept(
    registry: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registry.store)
    cache = tmp_path / "cache"
    fetch(f"models:/{NAME}/1", cache)  # by another process than the service
    service = ready(launch(registry, CHAMPION, "--poll", 0.2, "--cache", cache))

    def kept() -> list[str]:
        return sorted(path.name.partition("-")[0] for path in (cache / NAME).iterdir() if path.name[0] != ".")

    for expected in (["1", "2"], ["1", "2", "3"], ["1", "3", "4"]):
        version = register_again(registry)
        registry.client().set_registered_model_alias(NAME, "champion", version)
        assert service.job.until(lambda v=version: uses(service, v))  # type: ignore[misc]
        assert service.job.until(lambda e=expected: kept() == e, 20), kept()  # type: ignore[misc]
    assert service.predict(png(chest())).headers["x-model-version"] == "4"
    registry.client().set_registered_model_alias(NAME, "champion", "2")  # which is downloaded again
    assert service.job.until(lambda: uses(service, "2"))
    assert service.stop().returncode == 0


@pytest.mark.full
@pytest.mark.slow
def test_what_killed_services_leave_is_removed_and_what_living_ones_use_is_not(
    registry: Project, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"

    def begin(version: str) -> Served:
        return ready(launch(registry, f"models:/{NAME}/{version}", "--cache", cache))

    def kept() -> list[str]:
        return sorted(path.name.partition("-")[0] for path in (cache / NAME).iterdir() if path.name[0] != ".")

    living, killed = begin("1"), begin(register_again(registry))
    assert kept() == ["1", "2"]
    killed.job.kill()
    killed.stop()
    (cache / NAME / ".9-m.fetch.lock").touch()  # as it is left by one that is killed while it downloads
    for unfinished in (".9-m.fetch-abc", ".9-m.partial-7"):
        (cache / NAME / unfinished / "artifacts").mkdir(parents=True)
    third = begin(register_again(registry))
    assert third.job.until(lambda: kept() == ["1", "3"], 20), kept()
    assert third.job.until(lambda: not [*(cache / NAME).glob(".9-m.fetch-*"), *(cache / NAME).glob("*.partial-*")], 20)
    again = begin("2")
    assert kept() == ["1", "2", "3"]
    for service in (living, third, again):
        assert service.predict(png(chest())).status_code == 200
        assert service.stop().returncode == 0
    begin("2").stop()
    assert kept() == ["2"]


@pytest.mark.full
@pytest.mark.slow
def test_a_version_that_does_not_load_is_not_taken(registry: Project, tmp_path: Path) -> None:
    service = ready(launch(registry, CHAMPION, "--poll", 0.2))
    client = registry.client()
    (tmp_path / "broken").mkdir()
    broken = str(client.create_model_version(NAME, f"file://{tmp_path / 'broken'}").version)
    client.set_registered_model_alias(NAME, "champion", broken)
    assert service.job.until(lambda: told(service)["failed"] is not None)
    state = told(service)
    assert (state["ready"], state["model"]["version"], state["failed"]["version"]) == (True, "1", broken)
    assert state["failed"]["error"]
    assert service.metric("defunet_model_load_failures_total") >= 1
    assert service.predict(png(chest())).headers["x-model-version"] == "1"
    sound = register_again(registry)
    client.set_registered_model_alias(NAME, "champion", sound)
    assert service.job.until(lambda: uses(service, sound))
    assert told(service)["failed"] is None
    assert service.stop().returncode == 0


@contextmanager
def mlflow_server(project: Project) -> Iterator[tuple[str, Job]]:
    """Run a registry of the project's database as a server."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    options = ("server", "--backend-store-uri", project.store, "--port", str(port), "--workers", "1")
    job = project.start([sys.executable, "-m", "mlflow", *options])

    def answers() -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/health", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    try:
        assert job.until(answers, 100), job.output
        yield f"http://127.0.0.1:{port}", job
    finally:
        with suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)


@pytest.mark.full
@pytest.mark.slow
def test_a_registry_that_is_away_leaves_the_model_and_is_told(registry: Project) -> None:
    with mlflow_server(registry) as (address, server):
        service = ready(launch(registry, CHAMPION, "--poll", 0.2, MLFLOW_TRACKING_URI=address))
        assert told(service)["registry"]["ok"] is True
        assert service.metric("defunet_registry_up") == 1
        os.killpg(server.pid, signal.SIGKILL)  # with the workers that it has started
        assert service.job.until(lambda: not told(service)["registry"]["ok"])
    state = told(service)
    assert (state["ready"], state["model"]["version"]) == (True, "1")
    assert state["registry"]["error"]
    assert service.metric("defunet_registry_up") == 0
    assert service.predict(png(chest())).status_code == 200
    assert service.stop().returncode == 0


@pytest.mark.slow
def test_stopping_loses_no_request_that_was_accepted(trained: Trained, package: Path) -> None:
    """Eight wait for a batch, and eight came while the process slept: the kernel had accepted them, it had not."""
    service = ready(launch(trained.project, package, "--max-wait", 90, "--request-timeout", 90, "--max-batch", 64))

    def ask() -> int:
        with service.client(timeout=100) as client:
            return client.post("/predict", content=png(chest())).status_code

    body = png(chest())
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
    with ThreadPoolExecutor(8) as pool, ExitStack() as stack:
        asked = [pool.submit(ask) for _ in range(8)]
        assert service.job.until(lambda: service.metric("defunet_queue_length") == 8)
        service.job.kill(signal.SIGSTOP)
        late = [
            stack.enter_context(socket.create_connection(("127.0.0.1", service.port), timeout=60)) for _ in range(8)
        ]
        for each in late:
            each.sendall(head + body)
        service.job.kill(signal.SIGTERM)
        service.job.kill(signal.SIGCONT)
        assert [future.result() for future in asked] == [200] * 8
        answers = [b"".join(iter(lambda each=each: each.recv(65536), b"")) for each in late]  # type: ignore[misc]
    assert [answer[:12] for answer in answers] == [b"HTTP/1.1 200"] * 8
    assert all(b"connection: close" in answer for answer in answers)
    done = service.stop()
    assert (done.returncode, service.log()[-1]["event"]) == (0, "stopped")
    with pytest.raises(httpx.ConnectError):
        service.predict(body)


@pytest.mark.full
@pytest.mark.slow
def test_a_new_service_takes_over_from_an_old_one_under_load(trained: Trained, package: Path) -> None:
    old = ready(launch(trained.project, package, "--reuse-port"))
    traffic = Traffic(old.url)
    new = launch(trained.project, package, "--reuse-port", port=old.port)
    assert old.job.until(lambda: len(traffic.answers) > 20)
    assert old.stop().returncode == 0
    seen = len(traffic.answers)
    assert new.job.until(lambda: len(traffic.answers) > seen + 10)
    assert set(traffic.end()) == {200}
    assert new.log("request")
    assert new.stop().returncode == 0
