"""A file that holds its decoder, fills memory or brings it down costs one process, and no other file or request."""

from __future__ import annotations

import io
import json
import signal
import struct
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from core.images import ImageError
from serving.http.service import MOST_READERS
from serving.xray.codestream import MOST_SCANS
from serving.xray.decoding import Decoders
from tests.conftest import Trained
from tests.serving.serving import Served, chest, launch, png, ready


def endless() -> bytes:
    """Return a small JPEG with as many scans as are allowed: its decoder refines the picture for many seconds."""
    file = io.BytesIO()
    grey = np.linspace(90, 110, 64 * 64).astype(np.uint8).reshape(64, 64)
    Image.fromarray(grey).resize((6300, 6300)).save(file, "JPEG", progressive=True, quality=30)
    data = file.getvalue()
    scan = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + (MOST_SCANS - data.count(b"\xff\xda")) * scan + data[-2:]


def in_one_tile(side: int) -> bytes:
    """Return a small TIFF of 64 x 64 pixels whose one tile has ``side`` x ``side``."""
    packer = zlib.compressobj()
    rows = np.zeros((64, side), np.uint8)
    rows[:, :64] = np.arange(64)
    packed = packer.compress(rows.tobytes())
    for _ in range(side - 64):
        packed += packer.compress(bytes(side))
    packed += packer.flush()
    # Width, height, bits, deflate, black is 0, one channel, the tile's sides, where it lies, its length.
    tags = {256: 64, 257: 64, 258: 8, 259: 8, 262: 1, 277: 1, 322: side, 323: side, 324: 0, 325: len(packed)}
    tags[324] = 8 + 2 + 12 * len(tags) + 4
    fields = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + fields + bytes(4) + packed


@pytest.mark.full
@pytest.mark.slow
def test_what_wants_more_memory_than_an_xray_is_refused() -> None:
    data = in_one_tile(40_000)
    assert len(data) < 4_000_000
    small, large = Decoders(1, 1.0), Decoders(1, 60.0)
    try:
        with pytest.raises(ImageError, match=r"^x\.tif: damaged .* cannot be decoded"):
            small.read(data, "x.tif", time.monotonic() + 60)
        assert large.read(data, "x.tif", time.monotonic() + 60).pixels.shape == (64, 64)  # it is memory that it lacked
        assert small.read(png(chest()), "x.png", time.monotonic() + 60).pixels.shape == chest().shape
    finally:
        small.close()
        large.close()


@pytest.mark.slow
def test_predict_gives_up_a_file_without_an_end_and_does_the_rest(
    trained: Trained, package: Path, tmp_path: Path
) -> None:
    ward, out = tmp_path / "ward", tmp_path / "out"
    ward.mkdir()
    (ward / "a.jpg").write_bytes(endless())
    (ward / "b.png").write_bytes(png(chest()))
    line = trained.project.line("predict", ward, "--model", package, "--engine", "onnxruntime", "-o", out)
    done = trained.project.call([*line, "--timeout", "2"])
    assert done.returncode == 1
    told = "a.jpg: not decoded after 2 s; export it again, or raise --timeout"
    assert f"error: {told}\n" in done.stderr
    assert [
        (row["file"], row["status"], row["error"]) for row in json.loads((out / "results.json").read_text())["results"]
    ] == [
        ("a.jpg", "failed", told),
        ("b.png", "ok", ""),
    ]


def decoders(service: Served) -> list[psutil.Process]:
    return service.processes()[1:]


@pytest.mark.full
@pytest.mark.slow
def test_files_without_an_end_are_given_up_and_the_next_are_served(trained: Trained, package: Path) -> None:
    service = ready(launch(trained.project, package, "--request-timeout", 8))
    assert service.predict(png(chest())).status_code == 200
    data, before = endless(), decoders(service)
    assert len(data) < 4_000_000
    with ThreadPoolExecutor(MOST_READERS) as pool:
        answers = list(pool.map(service.predict, [data] * MOST_READERS))
    assert [answer.status_code for answer in answers] == [504] * MOST_READERS
    assert psutil.wait_procs(before, 20)[1] == []
    picture = png(chest())
    assert service.job.until(lambda: service.predict(picture).status_code == 200)  # once others have been started
    with ThreadPoolExecutor(MOST_READERS) as pool:  # as many as there were readers, none of which is held
        answers = list(pool.map(service.predict, [picture] * MOST_READERS))
    assert [answer.status_code for answer in answers] == [200] * MOST_READERS
    assert service.stop().returncode == 0


@pytest.mark.slow
def test_a_decoder_that_goes_down_takes_no_other_request_with_it(trained: Trained, package: Path) -> None:
    service = ready(launch(trained.project, package, "--request-timeout", 60))
    first = service.predict(png(chest()))
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(service.predict, endless())
        assert service.job.until(lambda: any(each.cpu_percent(0.5) > 20 for each in decoders(service)))
        for each in decoders(service):
            each.send_signal(signal.SIGSEGV)
        answer = asked.result()
    assert answer.status_code == 422
    assert answer.json() == {"detail": "the file: damaged: it crashes its decoder; export it again"}
    again = service.predict(png(chest()))
    assert (again.status_code, again.json()) == (200, first.json())
    left = decoders(service)
    service.job.kill()
    service.stop()
    assert psutil.wait_procs(left, 20)[1] == []  # nobody is left to tell them to end


def test_a_signal_to_a_decoder_that_is_starting_is_ignored(capfd: pytest.CaptureFixture[str]) -> None:
    decoders = Decoders(1, 4.0)
    try:
        decoder = psutil.Process(decoders._all[0]._process.pid)
        for _ in range(20):
            decoder.send_signal(signal.SIGINT)
            decoder.send_signal(signal.SIGTERM)
            time.sleep(0.02)
        xray = decoders.read(png(chest()), "x", time.monotonic() + 60)
        np.testing.assert_array_equal(xray.pixels, chest())
        assert decoder.is_running()
    finally:
        decoders.close()
    assert capfd.readouterr().err == ""


def test_a_signal_to_all_processes_ends_no_request(trained: Trained, package: Path) -> None:
    """As Ctrl+C in a terminal and systemd do."""
    service = ready(launch(trained.project, package, "--max-wait", 90, "--request-timeout", 90, "--max-batch", 64))
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(service.predict, png(chest()))
        assert service.job.until(lambda: service.metric("defunet_queue_length") == 1)
        for each in reversed(service.processes()):
            each.send_signal(signal.SIGINT)
        assert asked.result().status_code == 200
    done = service.stop()
    assert (done.returncode, done.stderr) == (0, "")
