"""Who may ask the service, how, and how slowly: hosts, keys, TLS, ambiguous lengths, long headers, stalled bodies."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from core.errors import UserError
from serving.http.guard import Guard, make_guard
from serving.http.server import MAX_HEADERS
from serving.http.settings import Settings
from tests.conftest import Trained
from tests.serving.serving import Served, chest, launch, png, ready

KEY = "0123456789abcdef0123456789abcdef"


def spoken(service: Served, text: bytes, seconds: float = 10) -> bytes:
    """Send bytes as they are and return the whole answer."""
    with socket.create_connection(("127.0.0.1", service.port), seconds) as connection:
        connection.sendall(text)
        return received(connection)


def received(connection: socket.socket) -> bytes:
    found = b""
    while chunk := connection.recv(65536):
        found += chunk
    return found


def test_two_lengths_are_refused_and_the_connection_is_closed(service: Served) -> None:
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = spoken(service, head + b"0\r\n\r\nGET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"Content-Length and Transfer-Encoding" in answer
    assert answer.count(b"HTTP/1.1 ") == 1  # what follows is not taken for a request


def test_long_headers_are_refused_also_when_they_come_at_once(service: Served) -> None:
    head = b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * (MAX_HEADERS + 1) + b"\r\n\r\n"
    assert spoken(service, head).split(b"\r\n")[0].split()[1] in (b"431", b"400")
    assert service.predict(png(chest())).status_code == 200


@pytest.mark.parametrize(("host", "status"), [("localhost", 200), ("127.0.0.1:1", 200), ("evil.example", 400)])
def test_a_page_elsewhere_cannot_use_a_name_of_its_own(service: Served, host: str, status: int) -> None:
    assert httpx.get(f"{service.url}/health", headers={"Host": host}).status_code == status


def test_a_form_of_70_megabytes_reads_its_413(service: Served) -> None:
    answer = httpx.post(f"{service.url}/predict", files={"file": ("x.png", b"\0" * 70_000_000)}, timeout=60)
    assert answer.status_code == 413
    assert "larger than the 2 MB allowed" in answer.json()["detail"]


@pytest.mark.full
def test_a_stalled_body_is_given_up_early(trained: Trained, package: Path) -> None:
    slow = ready(launch(trained.project, package, "--stall-timeout", 3, "--max-mb-a-client", 1, "--max-mb-at-once", 4))
    with socket.create_connection(("127.0.0.1", slow.port), 20) as connection:
        connection.sendall(
            b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900000\r\n\r\n" + b"x" * 800_000
        )
        time.sleep(0.2)
        # One client has no more than its share; it is free again once the body is given up.
        assert slow.predict(b"x" * 500_000).status_code == 503
        assert b"paused for more than 3 s" in received(connection)
    assert slow.job.until(lambda: slow.predict(png(chest())).status_code == 200)
    assert slow.stop().returncode == 0


@pytest.mark.full
def test_a_body_that_trickles_is_given_up(trained: Trained, package: Path) -> None:
    slow = ready(launch(trained.project, package, "--stall-timeout", 1, "--least-kb-a-second", 100))

    def trickle() -> Iterator[bytes]:
        for _ in range(300):
            yield b"x" * 100
            time.sleep(0.1)

    began = time.monotonic()
    answer = httpx.post(f"{slow.url}/predict", content=trickle(), timeout=30)
    assert answer.status_code == 408
    assert "less than 100 kB a second" in answer.json()["detail"]
    assert time.monotonic() - began < 20
    assert slow.stop().returncode == 0


def test_keys_and_tls(trained: Trained, package: Path, tmp_path: Path) -> None:
    if not shutil.which("openssl"):
        pytest.skip("no openssl to make a certificate with")
    keys, key, cert = tmp_path / "keys", tmp_path / "key.pem", tmp_path / "cert.pem"
    keys.write_text(f"{KEY}\n")
    line = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    subprocess.run([*line.split(), "-keyout", key, "-out", cert], check=True, capture_output=True)
    where = ("--api-key-file", keys, "--tls-cert", cert, "--tls-key", key)
    safe = launch(trained.project, package, *where)
    trust = ssl.create_default_context(cafile=str(cert))
    with httpx.Client(base_url=f"https://127.0.0.1:{safe.port}", verify=trust, timeout=60) as client:

        def is_ready() -> bool:
            try:
                return client.get("/ready").status_code == 200
            except httpx.TransportError:
                return False

        assert safe.job.until(is_ready, 90)
        assert client.get("/metrics").status_code == 401
        refused = client.post("/predict", content=png(chest()))
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"].startswith("Basic ")
        bearer = {"Authorization": f"Bearer {KEY}"}
        assert client.post("/predict", content=png(chest()), headers=bearer).status_code == 200
        assert client.get("/", auth=("anybody", KEY)).status_code == 200  # as a browser sends it
        assert client.get("/", auth=("anybody", KEY[:-1])).status_code == 401
    assert KEY not in safe.job.output
    assert safe.stop().returncode == 0


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"host": "0.0.0.0"}, "listens beyond this machine; name --api-key-file, --tls-cert and --tls-key"),
        ({"host": "0.0.0.0", "api_key_file": Path("keys")}, "listens beyond this machine"),
        ({"tls_cert": Path("cert.pem")}, "name both or neither"),
        ({"api_key_file": Path("nowhere")}, "nowhere: the keys cannot be read"),
        ({"api_key_file": Path("short")}, "short: one key a line, of at least 16 characters"),
    ],
)
def test_an_open_door_is_refused(
    settings: dict[str, object], part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("short").write_text("abc\n")
    with pytest.raises(UserError, match=part):
        make_guard(Settings(model="x", **settings))  # type: ignore[arg-type]


def test_behind_a_proxy_and_on_a_name_of_its_own() -> None:
    assert make_guard(Settings(model="x", host="0.0.0.0", behind_proxy=True))

    def refused(guard: Guard, host: str) -> bool:
        return guard.refusal({"headers": [(b"host", host.encode())], "path": "/"}) is not None

    assert not refused(make_guard(Settings(model="x", host="0.0.0.0", behind_proxy=True)), "anything")
    named = make_guard(Settings(model="x", allowed_hosts=("lungs.example",)))
    assert [refused(named, host) for host in ("lungs.example", "LUNGS.example:443", "localhost", "")] == [
        False,
        False,
        True,
        True,
    ]
    assert not refused(make_guard(Settings(model="x", host="::1")), "[::1]:8080")
