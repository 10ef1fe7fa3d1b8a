"""A small cohort in the publishers' layouts, and a real S3 server."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import cv2
import numpy as np
import pytest
from botocore.exceptions import BotoCoreError, ClientError

MONTGOMERY_READING = "Patient's Sex: F\nPatient's Age: 033Y\nnormal\n"
SHENZHEN_READING = "male 45yrs\nSTB in the right upper field\n"


def xray(height: int, width: int, seed: int, dtype: type = np.uint8) -> np.ndarray:
    """A grey picture (H, W) with a bright frame round two dark lungs."""
    picture = np.random.default_rng(seed).integers(100, 140, (height, width))
    picture[lungs(height, width) > 0] -= 80
    return (picture * (np.iinfo(dtype).max // 255)).astype(dtype)


def lungs(height: int, width: int, sides: str = "left right") -> np.ndarray:
    """A mask (H, W), uint8 of 0 and 255; the patient's left lung is on the right of the picture."""
    mask = np.zeros((height, width), np.uint8)
    for side, x in (("right", width // 4), ("left", 3 * width // 4)):
        if side in sides:
            cv2.ellipse(mask, (x, height // 2), (width // 8, height // 3), 0, 0, 360, 255, -1)
    return mask


def put(path: Path, picture: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    done, data = cv2.imencode(".png", picture)
    assert done
    path.write_bytes(data.tobytes())


def put_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def write_cohort(root: Path, montgomery: int = 2, shenzhen: int = 3) -> Path:
    """Write a cohort in the publishers' layouts: 16-bit grey upright and sideways, RGB that is grey.

    Every second X-ray is abnormal, the last of Shenzhen has no mask, the first of each site has a reading.
    """
    for number in range(1, montgomery + 1):
        name, size = f"MCUCXR_{number:04}_{number % 2}", (96, 80) if number % 2 else (80, 96)
        put(root / f"MontgomerySet/CXR_png/{name}.png", xray(*size, number, np.uint16))
        for side in ("left", "right"):
            put(root / f"MontgomerySet/ManualMask/{side}Mask/{name}.png", lungs(*size, side))
    for number in range(1, shenzhen + 1):
        name = f"CHNCXR_{number:04}_{number % 2}"
        put(root / f"ChinaSet_AllFiles/CXR_png/{name}.png", np.dstack([xray(72, 72, 100 + number)] * 3))
        if number < shenzhen:
            put(root / f"ChinaSet_AllFiles/mask/{name}_mask.png", lungs(72, 72))
    put_text(root / "MontgomerySet/ClinicalReadings/MCUCXR_0001_1.txt", MONTGOMERY_READING)
    put_text(root / "ChinaSet_AllFiles/ClinicalReadings/CHNCXR_0001_1.txt", SHENZHEN_READING)
    return root


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    """A fresh cohort of 2 + 3 X-rays that a test may spoil."""
    return write_cohort(tmp_path / "cohort")


@pytest.fixture(scope="session")
def command() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run ``python -m <module> <arguments>`` in the project's folder, as a user does."""

    def call(module: str, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", module, *map(str, arguments)]
        return subprocess.run(line, capture_output=True, text=True, timeout=60, check=False, **options)

    return call


@dataclass(frozen=True)
class Bucket:
    """An empty bucket on the test's S3 server, and a client of its owner."""

    name: str
    client: Any

    def upload(self, folder: Path, prefix: str = "") -> None:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.client.put_object(
                    Bucket=self.name, Key=prefix + path.relative_to(folder).as_posix(), Body=path.read_bytes()
                )


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a SeaweedFS that runs for the session."""
    folder = tmp_path_factory.mktemp("s3")
    kinds = ("s3.port", "s3.port.grpc", "master.port", "master.port.grpc", "volume.port", "volume.port.grpc")
    kinds += ("filer.port", "filer.port.grpc", "admin.port", "admin.port.grpc")
    ports = dict(zip(kinds, free_ports(len(kinds)), strict=True))
    line = [str(Path(sys.executable).with_name("weed")), "mini", f"-dir={folder}", "-ip=127.0.0.1"]
    line += ["-ip.bind=127.0.0.1", "-admin.ui=false", "-webdav=false", "-master.telemetry=false"]
    line += ["-s3.port.iceberg=0", "-s3.port.lance=0", *(f"-{kind}={port}" for kind, port in ports.items())]
    keys = {"AWS_ACCESS_KEY_ID": "owner", "AWS_SECRET_ACCESS_KEY": "secret"}
    endpoint = f"http://127.0.0.1:{ports['s3.port']}"
    log = (folder.parent / "s3.log").open("wb")
    with log, subprocess.Popen(line, env=os.environ | keys, stdout=log, stderr=log, cwd=folder) as server:
        try:
            client = _client(endpoint)
            deadline = time.monotonic() + 30
            while True:
                try:
                    client.list_buckets()
                    break
                except (BotoCoreError, ClientError):
                    assert server.poll() is None, f"the S3 server ended: {Path(log.name).read_text()[-2000:]}"
                    assert time.monotonic() < deadline, "the S3 server does not answer"
                    time.sleep(0.1)
            yield endpoint
        finally:
            server.kill()


def _client(endpoint: str) -> Any:
    keys = {"aws_access_key_id": "owner", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
    return boto3.client("s3", endpoint_url=endpoint, **keys)


@pytest.fixture
def bucket(s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """An empty bucket; the environment has the owner's credentials and knows nothing else of S3."""
    settings = {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "owner",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    name = f"test-{uuid.uuid4().hex[:12]}"
    client = _client(s3_server)
    client.create_bucket(Bucket=name)
    return Bucket(name, client)
