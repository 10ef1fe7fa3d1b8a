"""What a service must not choke on: each is answered by a clear 4xx, and the next request is served."""

from __future__ import annotations

import gzip
import io
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    generate_uid,
)

from tests.serving.serving import Served, chest, png


def dicom(syntax: str = ExplicitVRLittleEndian, **changes: Any) -> bytes:
    """Return a digital X-ray as DICOM; a change of None leaves an element out."""
    picture = chest(96, 80)
    values: dict[str, Any] = {
        "SOPClassUID": DigitalXRayImageStorageForPresentation,
        "SOPInstanceUID": generate_uid(),
        "Modality": "DX",
        "PatientName": "Doe^Jane",
        "Rows": 96,
        "Columns": 80,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 8,
        "BitsStored": 8,
        "HighBit": 7,
        "PixelRepresentation": 0,
        "PixelSpacing": [2.0, 2.0],
        "PixelData": picture.tobytes(),
    } | changes
    data = Dataset()
    for name, value in values.items():
        if value is not None:
            setattr(data, name, value)
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = UID(syntax)
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    out = io.BytesIO()
    dcmwrite(out, data, enforce_file_format=True)
    return out.getvalue()


def empty_png(width: int, height: int) -> bytes:
    """Return a PNG of a size that its few bytes do not let one suspect."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes((width + 7) // 8 + 1)) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def colour() -> bytes:
    return png(np.random.default_rng(0).integers(0, 255, (80, 80, 3)).astype(np.uint8))


def bomb() -> bytes:
    """Return 300 kB that unpack to 300 MB."""
    packer = zlib.compressobj(9, wbits=31)
    return b"".join(packer.compress(bytes(1_000_000)) for _ in range(300)) + packer.flush()


BAD: dict[str, tuple[Callable[[], bytes], int, str]] = {
    "nothing": (lambda: b"", 422, "empty"),
    "a PDF named .dcm": (lambda: b"%PDF-1.7\n%%EOF\n", 422, "PDF"),
    "a colour photograph": (colour, 422, "colour"),
    "an all-black picture": (lambda: png(np.zeros((100, 100), np.uint8)), 422, "same grey value"),
    "1 x 1": (lambda: png(np.full((1, 1), 9, np.uint8)), 422, "too few"),
    "30,000 x 30,000": (lambda: empty_png(30_000, 30_000), 413, "megapixels"),
    "a picture cut short": (lambda: png(chest())[:-40], 422, "truncated"),
    "a zip bomb": (bomb, 422, "not a PNG"),
    "a DICOM without pixels": (lambda: dicom(PixelData=None), 422, "pixel"),
    "a DICOM of several frames": (
        lambda: dicom(NumberOfFrames=3, PixelData=chest(96, 80).tobytes() * 3),
        422,
        "frames",
    ),
    "a CT slice": (lambda: dicom(SOPClassUID=CTImageStorage, Modality="CT"), 422, "CT"),
    "a DICOM bomb": (
        lambda: dicom(DeflatedExplicitVRLittleEndian, PatientComments=None, PixelData=bytes(200_000_000)),
        422,
        "unpacks",
    ),
    "a DICOM of 30,000 x 30,000": (lambda: dicom(Rows=30_000, Columns=30_000), 413, "megapixels"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_in_one_line_and_the_next_is_served(service: Served, name: str) -> None:
    make, status, word = BAD[name]
    before = service.memory()
    with service.client() as client:
        answer = client.post("/predict", files={"file": ("x.dcm", make(), "application/dicom")})
        detail = answer.json()["detail"]
        grown = service.peak() - before
        assert (answer.status_code, word in detail, "\n" in detail) == (status, True, False), detail
        assert client.post("/predict", content=png(chest())).status_code == 200
    assert grown < 100e6  # less than any of the bombs unpacks to


def test_a_dicom_is_served(service: Served) -> None:
    told = service.predict(dicom(), params={"include": "image"}).json()
    assert told["picture"] == {"kind": "dicom", "width": 80, "height": 96}
    assert told["findings"]["lungs"]["cm2"] == pytest.approx(told["findings"]["lungs"]["pixels"] * 0.04)
    assert told["image"]
    assert "Doe" not in str(told) + service.job.output


FORMS = {
    "no boundary": ("multipart/form-data", b"--x\r\n\r\n--x--\r\n"),
    "no part": ("multipart/form-data; boundary=x", b""),
    "rubbish": ("multipart/form-data; boundary=x", b"\x00\xff" * 500),
    "no end": (
        "multipart/form-data; boundary=x",
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + png(chest()),
    ),
    "no name": ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data\r\n\r\nhi\r\n--x--\r\n"),
    "no file": (
        "multipart/form-data; boundary=x",
        b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\nhi\r\n--x--\r\n',
    ),
    "a field of a megabyte": (
        "multipart/form-data; boundary=x",
        b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n' + b"z" * 1_000_000 + b"\r\n--x--\r\n",
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_a_malformed_form_is_a_400(service: Served, name: str) -> None:
    kind, body = FORMS[name]
    answer = service.predict(body, headers={"Content-Type": kind})
    assert (answer.status_code, "form" in answer.json()["detail"]) == (400, True)
    assert service.predict(png(chest())).status_code == 200


def test_two_files_are_a_400(service: Served) -> None:
    with service.client() as client:
        answer = client.post("/predict", files=[("file", ("a", png(chest()))), ("file", ("b", png(chest())))])
    assert (answer.status_code, "files" in answer.json()["detail"]) == (400, True)


def test_a_packed_body_is_not_unpacked(service: Served) -> None:
    answer = service.predict(gzip.compress(png(chest())), headers={"Content-Encoding": "gzip"})
    assert (answer.status_code, "gzip" in answer.json()["detail"]) == (415, True)
    assert service.predict(bomb(), headers={"Content-Encoding": "gzip"}).status_code == 415


@pytest.mark.parametrize(
    "path", ["/static/../app.py", "/static/..%2f..%2fapp.py", "/static/%2e%2e/settings.py", "/static//etc/passwd"]
)
def test_no_path_leads_out_of_the_folder(service: Served, path: str) -> None:
    answer = raw(service, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 404")
    assert b"import" not in answer


def test_a_file_name_that_climbs_writes_nothing(service: Served, tmp_path: Path) -> None:
    target = tmp_path / "written.png"
    with service.client() as client:
        answer = client.post("/predict", files={"file": (f"../../../../..{target}", png(chest()), "image/png")})
    assert answer.status_code == 200
    assert not target.exists()


def raw(service: Served, data: bytes, seconds: float = 30) -> bytes:
    """Send bytes over a socket and return all that comes back until the other side closes."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=seconds) as sock:
        sock.sendall(data)
        return b"".join(iter(lambda: sock.recv(65536), b""))


def test_10_gb_announced_are_refused_before_they_are_sent(service: Served) -> None:
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10000000000\r\n\r\n"
    answer = raw(service, head)
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"2 MB allowed" in answer


def test_a_body_without_an_end_is_cut_at_the_limit(service: Served) -> None:
    sent, before = 0, service.memory()

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while sent < 500_000_000:
            yield bytes(100_000)
            sent += 100_000

    with service.client() as client:
        try:
            answer = client.post("/predict", content=endless())
            assert answer.status_code == 413
        except httpx.TransportError:  # the client was still sending when the connection was closed
            assert service.log("request")[-1]["status"] == 413
    assert sent < 500_000_000
    assert service.peak() - before < 50e6
    assert service.predict(png(chest())).status_code == 200


def test_headers_without_an_end_are_refused(service: Served) -> None:
    answer = raw(service, b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100_000)
    assert answer.startswith(b"HTTP/1.1 400")


def received(client: socket.socket) -> bytes:
    """Return what comes until the connection is closed; nothing where it was reset."""
    answer = bytearray()
    try:
        while part := client.recv(4096):
            answer += part
    except ConnectionResetError:
        return b""
    return bytes(answer)


@pytest.mark.full
@pytest.mark.slow
def test_200_slow_clients_stop_nobody_and_are_cut(service: Served) -> None:
    """A hundred dribble their headers, a hundred their bodies; the limits are 3 and 4 s."""
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n"
    with ExitStack() as stack:
        clients = [
            stack.enter_context(socket.create_connection(("127.0.0.1", service.port), timeout=30)) for _ in range(200)
        ]
        alive = set(clients)
        stopped = threading.Event()

        def dribble() -> None:
            for step in range(10_000):
                for number, client in enumerate(clients):
                    piece = head if step == 0 and number % 2 else head[step : step + 1] or b"x"
                    if client in alive:
                        try:
                            client.sendall(piece)
                        except OSError:
                            alive.discard(client)
                if not alive or stopped.wait(0.3):
                    return

        thread = threading.Thread(target=dribble)
        thread.start()
        try:
            for _ in range(5):
                assert service.predict(png(chest())).status_code == 200
            answers = [received(client) for client in clients]
        finally:
            stopped.set()
            thread.join()
    slow = [answer for answer in answers if answer.startswith(b"HTTP/1.1 408")]
    # Who is still sending when the connection is closed may lose the answer, never the others' service.
    assert len(slow) > 100
    assert all(answer == b"" or answer in slow for answer in answers)
    assert service.predict(png(chest())).status_code == 200


def test_a_client_that_leaves_in_the_middle_leaves_nothing_behind(service: Served) -> None:
    with socket.create_connection(("127.0.0.1", service.port)) as sock:
        sock.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n" + bytes(5000))
    limit = time.monotonic() + 20
    while service.log("request")[-1]["bytes_in"] != 5000:
        assert time.monotonic() < limit
        time.sleep(0.05)
    assert service.metric("defunet_predictions_in_flight") == 0
    assert service.predict(png(chest())).status_code == 200
