"""Further attacks: damaged checkpoints, pydicom's test files, and damaged requests to a service."""

from __future__ import annotations

import random
import re
import socket
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pydicom
import torch

from benchmarks.attack.corpus import flipped, seeds
from benchmarks.attack.counts import Counts
from benchmarks.serving import is_ready, started
from core.errors import UserError
from core.terminal import tracked
from model.networks import build
from model.training.checkpoint import STATE, CheckpointError, load_state, save_state
from serving.xray.decoding import Decoders
from tools.services.checks import free_ports

CONTINUE = re.compile(rb"HTTP/1\.[01] 1\d\d ")
ANSWER = re.compile(rb"HTTP/1\.[01] (\d{3}) ")
SERVER_ERRORS = range(500, 600)
ALLOWED = {503, 504}  # busy, and timeout of a decoder
SECONDS = 20.0  # timeout of one response
BOUNDARY = "attack"


def checkpoints(count: int, seed: int) -> Counts:
    """Flip one bit in each of ``count`` copies of a checkpoint; each must be refused, or load unchanged."""
    counts, chance = Counts(), random.Random(seed)
    torch.manual_seed(0)
    whole: dict[str, Any] = {"fingerprint": "attack", "epoch": 3, "network": build("res_unet", 1 / 16).state_dict()}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        save_state(folder, whole)
        content = (folder / STATE).read_bytes()
        for _ in tracked("damaged checkpoints", range(count)):
            (folder / STATE).write_bytes(flipped(content, chance))
            counts.add(_loads(folder, whole))
    return counts


def _loads(folder: Path, whole: dict[str, Any]) -> str:
    try:
        found = load_state(folder, "attack")
    except CheckpointError as error:
        return "refused" if "\n" not in str(error) else "a message of several lines"
    except Exception as error:  # any other exception is a failure
        return f"raises {type(error).__name__}"
    if found is None:
        return "taken for that of another training"
    same = found["epoch"] == 3 and all(torch.equal(found["network"][k], v) for k, v in whole["network"].items())
    return "read" if same else "loads as something else"


def dicoms(outcome: Callable[[Decoders, bytes], str], *folders: Path) -> Counts:
    """Read all files that pydicom ships for its tests, many of them unusual or broken, and all files in ``folders``.

    Raises:
        UserError: a folder has no file.
    """
    counts = Counts()
    with closing(Decoders(1, 60.0)) as decoders:
        for root in (Path(pydicom.__file__).parent / "data", *folders):
            found = sorted(path for path in root.rglob("*") if path.is_file() and path.suffix != ".py")
            if not found:
                raise UserError(f"{root}: holds no file")
            for path in tracked(f"DICOMs of {root.name}", found):
                counts.add(outcome(decoders, path.read_bytes()))
    return counts


def requests(count: int, seed: int, package: Path) -> Counts:
    """Send ``count`` damaged requests to a service; it must respond or close the connection, and stay ready.

    Raises:
        UserError: the service does not start.
    """
    counts, chance = Counts(), random.Random(seed)
    pictures = [data for kind in seeds().values() for data in kind]
    (port,) = free_ports(1)
    with tempfile.TemporaryDirectory() as scratch, Path(scratch, "log").open("wb") as log:
        with started(str(package), "auto", port, "--cache", scratch, output=log) as service:
            for _ in tracked("damaged requests", range(count)):
                counts.add(_answer(port, _damaged(chance, chance.choice(pictures))))
            if not is_ready(service):
                counts.add("is not ready any more")
        if "Traceback" in Path(log.name).read_text():
            counts.add("a traceback in the log")
    return counts


def _damaged(chance: random.Random, picture: bytes) -> bytes:
    """Return a request for the mask of an image, with damage in its head or body."""
    head = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="x.png"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    ).encode()
    body = head + picture + f"\r\n--{BOUNDARY}--\r\n".encode()
    lines = [
        chance.choice(
            [b"POST /predict HTTP/1.1"] * 6 + [b"GET / HTTP/1.1", b"PUT /predict HTTP/1.1", b"POST /x HTTP/9.9"]
        ),
        b"Host: 127.0.0.1",
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}".encode(),
        f"Content-Length: {len(body) + chance.choice([0] * 8 + [-7, 9, 10**12])}".encode(),
        b"Connection: close",
    ]
    if chance.random() < 0.1:
        lines.append(chance.choice([b"Transfer-Encoding: chunked", b"Expect: 100-continue", b"X: " + b"y" * 20_000]))
    whole = bytearray(b"\r\n".join(lines) + b"\r\n\r\n" + body)
    # Damage mostly the head and the form, before the pixels.
    edge = len(whole) - len(picture) if chance.random() < 0.7 else len(whole)
    for _ in range(chance.choice([0, 1, 1, 2, 4, 16])):
        at = chance.randrange(min(edge, len(whole)))
        if chance.random() < 0.2:
            del whole[at : at + chance.randrange(1, 40)]
        else:
            whole[at] = chance.randrange(256)
    return bytes(whole[: chance.randrange(1, len(whole))] if chance.random() < 0.1 else whole)


def _answer(port: int, request: bytes) -> str:
    """Send a request and return ``read``, ``refused``, or how the service failed."""
    answer = b""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as connection:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(65536):
                answer += part
    except TimeoutError:
        return "no answer"
    except ConnectionRefusedError:
        return "no service"
    except OSError:
        pass  # the service closed the connection during sendall()
    while CONTINUE.match(answer):
        answer = answer.partition(b"\r\n\r\n")[2]
    found = ANSWER.match(answer)
    if found is None:
        return "refused" if not answer else "an answer that is no HTTP"
    status = int(found[1])
    if status in SERVER_ERRORS and status not in ALLOWED:
        return f"answers {status}"
    return "read" if status < 300 else "refused"
