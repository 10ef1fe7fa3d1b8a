"""Real services on free ports, what they are asked with, and what they say."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import psutil
import pytest

from tests.conftest import Job, Project

NAME = "lung-segmentation"
CHAMPION = f"models:/{NAME}@champion"


@dataclass
class Served:
    """A service that runs."""

    job: Job
    line: list[str]
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, **({"timeout": 60} | options))

    def log(self, event: str | None = None) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.job.output.splitlines()]
        return [line for line in lines if event in (None, line["event"])]

    def predict(self, data: bytes, **options: Any) -> httpx.Response:
        with self.client() as client:
            return client.post("/predict", content=data, **options)

    def metric(self, start: str) -> float:
        """Return the value of the one metric line that starts so."""
        with self.client() as client:
            lines = client.get("/metrics").text.splitlines()
        (found,) = [line for line in lines if line.startswith(start)]
        return float(found.rpartition(" ")[2])

    def memory(self) -> int:
        """Return the resident memory of all its processes in bytes, and count the peak anew from here.

        Where the kernel does not let the peak be counted anew, the test is skipped.
        """
        try:
            for each in self.processes():
                Path(f"/proc/{each.pid}/clear_refs").write_text("5")  # proc(5): VmHWM becomes VmRSS
        except OSError as error:
            pytest.skip(f"the peak of the memory cannot be reset here: {error}")
        return self._status("VmRSS")

    def processes(self) -> list[psutil.Process]:
        """Return its own process, and those that read files for it."""
        own = psutil.Process(self.job.pid)
        return [own, *own.children()]

    def peak(self) -> int:
        """Return the most resident memory, in bytes, since :meth:`memory` was asked."""
        return self._status("VmHWM")

    def _status(self, name: str) -> int:
        every = [Path(f"/proc/{each.pid}/status").read_text() for each in self.processes()]
        return 1024 * sum(int(re.findall(rf"^{name}:\s*(\d+)", text, re.MULTILINE)[0]) for text in every)

    def stop(self) -> subprocess.CompletedProcess[str]:
        """Tell it to stop, as Kubernetes does, and return how it ended."""
        if not self.job.ended:
            self.job.kill(signal.SIGTERM)
        return self.job.wait(self.line)


def launch(project: Project, model: str | Path, *options: object, port: int = 0, **environment: str) -> Served:
    """Start a service and wait until it listens."""
    where = ("--model", model, "--port", port, "--engine", "onnxruntime", "--threads", "1")
    line = project.line("serve", *where, *options)
    job = project.start(line, 0, **environment)
    heard = job.until(lambda: any('"listening"' in each for each in job.output.split("\n")[:-1]), 100)
    assert heard, job.errors
    (first,) = [line for line in map(json.loads, job.output.splitlines()) if line["event"] == "listening"]
    return Served(job, line, first["port"])


def ready(service: Served, seconds: float = 90) -> Served:
    """Wait until it has a model."""

    def has_model() -> bool:
        try:
            return httpx.get(f"{service.url}/ready", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    assert service.job.until(has_model, seconds), service.job.errors
    return service


def png(picture: np.ndarray) -> bytes:
    done, data = cv2.imencode(".png", picture)
    assert done
    return data.tobytes()


def pixels_of(data: bytes) -> np.ndarray:
    """Return the pixels of an encoded picture."""
    return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED))


def chest(height: int = 120, width: int = 100, dtype: type = np.uint8, seed: int = 0) -> np.ndarray:
    """Return something like a chest: two dark lungs in a bright body."""
    picture = np.random.default_rng(seed).integers(140, 170, (height, width)).astype(np.uint8)
    for x in (width // 4, 3 * width // 4):
        cv2.ellipse(picture, (x, height // 2), (width // 7, height // 3), 0, 0, 360, 50, -1)
    return picture.astype(dtype) * (np.iinfo(dtype).max // 255)
