"""An engine and the image once a session.

The engine that is there, or one of our own where these tests are root and ``dockerd`` is installed; without either,
nothing is tested in containers, and a warning says so.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.engine import PLANTED, SECRET, Engine, Image, answers, options, skip


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """The engine that is there, else one for as long as these tests run."""
    # The oldest way to build is the one that every engine has.
    engine = Engine(os.environ | {"DOCKER_BUILDKIT": "0"})
    if shutil.which("docker") is None:
        skip("docker is not installed (Debian: apt-get install docker.io)")
    if answers(engine):
        yield engine
        return
    if os.geteuid() != 0 or shutil.which("dockerd") is None:
        skip("no Docker engine answers, and none can be started here: that takes root and dockerd (Debian: docker.io)")
    # With a short path, since a socket's has at most 107 characters.
    with tempfile.TemporaryDirectory(prefix="dockerd-") as folder:
        run = Path(folder)
        socket = f"unix://{run / 'docker.sock'}"
        line = ["dockerd", "--host", socket, "--pidfile", run / "pid", "--exec-root", run / "exec"]
        # The machine's network stays as it is: containers of these tests have that one or none.
        line += ["--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false"]
        with (run / "log").open("w") as log:
            daemon = subprocess.Popen([*map(str, line)], stdout=log, stderr=log)
        try:
            engine = Engine(engine.environment | {"DOCKER_HOST": socket})
            limit = time.monotonic() + 120
            while not answers(engine):
                if daemon.poll() is not None or time.monotonic() > limit:
                    said = (run / "log").read_text().splitlines()[-3:]
                    skip(f"dockerd does not start here: {' | '.join(said)}")
                time.sleep(0.5)
            yield engine
        finally:
            daemon.terminate()
            daemon.wait(60)
            # It leaves the network namespace of its containers mounted.
            mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
            for mount in reversed([mount for mount in mounts if mount.startswith(folder)]):
                subprocess.run(["umount", mount], check=False)


@pytest.fixture(scope="session")
def base(engine: Engine) -> str:
    """The Dockerfile's base image: here, pulled, or made of Debian's packages."""
    (name,) = re.findall(r"^ARG BASE=(.+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    present = engine.run("docker", "image", "inspect", name, check=False).returncode == 0
    if not present and engine.run("docker", "pull", "--quiet", name, check=False).returncode:
        if os.geteuid() != 0 or shutil.which("debootstrap") is None:
            skip(f"{name} can neither be pulled nor made here: that takes root and debootstrap")
        made = engine.run("tools/base-image.sh", name, check=False)
        if made.returncode:
            skip(f"{name} can neither be pulled nor made: {made.stderr.splitlines()[-1:]}")
    return str(name)


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone with all that a build must not take, planted."""
    root = tmp_path_factory.mktemp("checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    for name in filter(None, listed):
        if (ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, root / name)
    identity = ["-c", "user.name=A User", "-c", "user.email=user@example.org"]
    for line in (["init", "--quiet"], ["add", "--all"], [*identity, "commit", "--quiet", "--message", "Start"]):
        subprocess.run(["git", *line], cwd=root, check=True)
    for name in PLANTED:
        assert not (root / name).exists(), name
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(SECRET)
    return root


@pytest.fixture(scope="session")
def image(engine: Engine, base: str, checkout: Path) -> Iterator[Image]:
    name, latest = f"defu-net-pipeline-python:test-{os.getpid()}", "defu-net-pipeline-python:test"
    before = engine.run("docker", "images", "--quiet", "--no-trunc", latest).stdout.strip()
    started = time.monotonic()
    engine.run(
        "make", "image", f"IMAGE={name}", f"BASE={base}", "DOCKER_FLAGS=--network host", *options(), cwd=checkout
    )
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=checkout, capture_output=True, text=True, check=True)
    yield Image(name, engine, head.stdout.strip(), time.monotonic() - started)
    # The layers of the last image stay, since the next build starts from them; those of the image before it go.
    engine.run("docker", "tag", name, latest)
    engine.run("docker", "rmi", name)
    if before and before != engine.run("docker", "images", "--quiet", "--no-trunc", latest).stdout.strip():
        engine.run("docker", "rmi", before, check=False)  # refused while a container uses it
