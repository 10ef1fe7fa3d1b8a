"""A Docker engine, the project's image, and how tests build it."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests.conftest import ROOT

# What must enter neither the build nor the image.
PLANTED = (
    *(".env", ".aws/credentials", "mlflow.db", "data/patient.png", "models/weights.safetensors", "notes.py"),
    *("components/.env", "components/train/key.pem", "components/train/patient.png", "pipelines/token.json"),
    *("model/__pycache__/networks.cpython-311.pyc", "profiles/secret.txt", "tools/upload.sh", "build/pipeline.yaml"),
    *("build/image/notes.txt", "components/.ssh/stolen.py", "components/.cache/page.html"),
    *("components/report/templates/patient.png", "components/report/templates/page.html.orig", "pipelines/page.html"),
    *("model/page.js", "page.html.j2", "docs/style.css"),
)
SECRET = "planted-7c1f"


@dataclass(frozen=True)
class Engine:
    """A Docker engine."""

    environment: dict[str, str]

    def run(self, *line: object, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
        words = [str(word) for word in line]
        given: dict[str, Any] = {"env": self.environment, "capture_output": True, "text": True, "cwd": ROOT}
        done = subprocess.run(words, check=False, **(given | options))
        assert not check or done.returncode == 0, f"{shlex.join(words)}\n{done.stdout[-6000:]}\n{done.stderr[-6000:]}"
        return done


def skip(reason: str) -> NoReturn:
    warnings.warn(f"NOTHING IS TESTED IN CONTAINERS: {reason}", stacklevel=2)
    pytest.skip(reason)


def answers(engine: Engine) -> bool:
    return engine.run("docker", "info", check=False).returncode == 0


def compose_program() -> list[str] | None:
    """Return how Compose is called here: Docker's plugin, else the older program of its own, None for neither."""
    line = ["docker", "compose"]
    if shutil.which("docker") and not subprocess.run([*line, "version"], capture_output=True, check=False).returncode:
        return line
    return ["docker-compose"] if shutil.which("docker-compose") else None


def pip_setting(name: str) -> str:
    """Return pip's settings on this machine, from its environment and files."""
    line = [sys.executable, "-m", "pip", "config", "list"]
    told = subprocess.run(line, capture_output=True, text=True, check=True).stdout
    found = dict(re.findall(r"^(\S+)='(.*)'$", told, re.MULTILINE))
    return next(
        (found[f"{place}.{name}"] for place in (":env:", "install", "global") if f"{place}.{name}" in found), ""
    )


def options() -> list[str]:
    """Return the options with which an installation inside a build reaches what one on this machine reaches."""
    given = {
        "CA_BUNDLE": pip_setting("cert") or os.environ.get("SSL_CERT_FILE", ""),
        "INDEX_URL": pip_setting("index-url"),
        "WHEELS": next((f for f in pip_setting("find-links").split() if list(Path(f).glob("torch-*.whl"))), ""),
        "TORCH_INDEX_URL": os.environ.get("TORCH_INDEX_URL", ""),
    }
    return [f"{name}={value}" for name, value in given.items() if value]


@dataclass(frozen=True)
class Image:
    """The image, as ``make image`` left it."""

    name: str
    engine: Engine
    commit: str
    seconds: float

    def run(self, *words: object, options: tuple[object, ...] = (), check: bool = True) -> str:
        """Run a command in a container without network and return what it printed."""
        line = ("docker", "run", "--rm", "--network", "none", *options, self.name, *words)
        return self.engine.run(*line, check=check).stdout

    def inspect(self) -> dict[str, Any]:
        (found,) = json.loads(self.engine.run("docker", "image", "inspect", self.name).stdout)
        return dict(found)
