"""``compose.yaml`` for real: started, used, killed, stopped and started again, and removed."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import yaml

from tests.conftest import ROOT
from tests.engine import Engine, Image, compose_program, skip
from tests.project import sample
from tests.services import LOOK, TRACK, Bucket, environment, python, without_keys
from tools.services import ARTIFACTS, DATA, Keys, s3_client
from tools.services.checks import find_program, free_ports

# The first that needs the image builds it: minutes on an idle machine, and many times as long on a busy one.
pytestmark = [pytest.mark.slow, pytest.mark.full, pytest.mark.timeout(3000)]

STAND_INS = Path(__file__).parent / "stand_ins"
SERVERS = ("s3", "database", "mlflow")
STRANGER = 54321  # a user that neither the image nor this machine knows
CONNECT = "from tracking.store import connect; connect()\n"  # as every step does first


@dataclass(frozen=True)
class Services:
    """What ``compose.yaml`` describes, as a project of its own in a folder that stands for a checkout."""

    engine: Engine
    line: list[str]
    folder: Path
    keys: Keys
    s3_url: str
    mlflow_url: str

    def run(self, *words: object, check: bool = True) -> str:
        return self.engine.run(*self.line, *words, check=check, cwd=self.folder).stdout

    def inspect(self, name: str, what: str) -> str:
        container = self.run("ps", "--quiet", name).strip()
        return self.engine.run("docker", "inspect", "--format", f"{{{{{what}}}}}", container).stdout.strip()

    def up(self) -> None:
        """Start them and wait until all are healthy, as ``up --wait`` of newer versions does."""
        self.run("up", "--detach")
        self.wait()

    def wait(self) -> None:
        limit = time.monotonic() + 300
        while (states := {name: self.inspect(name, ".State.Health.Status") for name in SERVERS}) != dict.fromkeys(
            SERVERS, "healthy"
        ):
            assert time.monotonic() < limit, f"{states}\n{self.run('logs', '--tail', '20')}"
            time.sleep(1)

    def volumes(self) -> list[str]:
        label = f"label=com.docker.compose.project={self.line[self.line.index('--project-name') + 1]}"
        return self.engine.run("docker", "volume", "ls", "--quiet", "--filter", label).stdout.split()


def published_or_stand_in(engine: Engine, base: str, name: str, folder: Path) -> str:
    """Return the image that ``compose.yaml`` names where it is here or can be pulled, else one that we make."""
    if engine.run("docker", "image", "inspect", name, check=False).returncode == 0:
        return name
    if engine.run("docker", "pull", "--quiet", name, check=False).returncode == 0:
        return name
    kind = re.split(r"[/:]", name.removeprefix("chrislusf/"))[0]
    for path in STAND_INS.glob(f"{kind}.*"):
        shutil.copy2(path, folder)
    if kind == "seaweedfs":
        shutil.copy2(find_program("weed"), folder / "weed")
    # Never under the published name: what a person starts here later is not to be ours.
    ours = f"defu-net-stand-in-{kind}:test"
    words = ("--network", "host", "--build-arg", f"BASE={base}", "--file", folder / f"{kind}.Dockerfile")
    made = engine.run("docker", "build", "--quiet", "--tag", ours, *words, folder, check=False)
    if made.returncode:
        skip(f"{name} can neither be pulled nor replaced: {made.stderr.splitlines()[-1:]}")
    return ours


@pytest.fixture(scope="module")
def services(engine: Engine, base: str, image: Image, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    program = compose_program()
    if program is None:
        pytest.skip("neither `docker compose` nor docker-compose is installed")
    folder, context = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("context")
    for name in ("compose.yaml", "params.yaml"):
        shutil.copy(ROOT / name, folder)
    named = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    used = {name: {"image": published_or_stand_in(engine, base, named[name]["image"], context)} for name in SERVERS[:2]}
    (folder / "images.yaml").write_text(json.dumps({"services": used}))  # JSON is YAML
    uid = STRANGER if os.geteuid() == 0 else os.geteuid()
    os.chown(folder, uid, -1)
    keys, ports = Keys("compose", "of-the-test"), free_ports(2)
    settings = {"S3_PORT": str(ports[0]), "MLFLOW_PORT": str(ports[1]), "POSTGRES_PASSWORD": "of-the-test"}
    settings |= {"S3_ACCESS_KEY_ID": keys.access, "S3_SECRET_ACCESS_KEY": keys.secret}
    settings |= {"IMAGE": image.name, "STEP_USER": f"{uid}:{os.getegid()}"}
    line = [
        *program,
        "--project-name",
        f"defu-net-test-{os.getpid()}",
        "--file",
        "compose.yaml",
        "--file",
        "images.yaml",
    ]
    urls = [f"http://127.0.0.1:{port}" for port in ports]
    one = Services(Engine(engine.environment | settings), line, folder, keys, *urls)
    try:
        one.up()
        yield one
    finally:
        one.run("down", "--volumes", "--timeout", "20", check=False)


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone kills what runs in containers")
def test_one_that_is_killed_is_started_again(services: Services) -> None:
    for name in SERVERS:
        pid = int(services.inspect(name, ".State.Pid"))
        if not Path(f"/proc/{pid}").exists():
            pytest.skip("the Docker engine is on another machine")
        os.kill(pid, signal.SIGKILL)
    limit = time.monotonic() + 60
    while {services.inspect(name, ".RestartCount") for name in SERVERS} != {"1"}:
        assert time.monotonic() < limit
        time.sleep(0.5)
    services.wait()
    assert httpx.get(services.mlflow_url).status_code == 200


def test_they_are_used_stopped_started_again_and_removed(services: Services, tmp_path: Path) -> None:
    client = s3_client(services.s3_url, services.keys)
    assert sorted(bucket["Name"] for bucket in client.list_buckets()["Buckets"]) == sorted([DATA, ARTIFACTS])
    assert httpx.get(services.mlflow_url).status_code == 200

    # From this machine, with the server's address alone: no key of S3, and no way to the name it has for the server.
    there = environment(MLFLOW_TRACKING_URI=services.mlflow_url, PYTHONPATH=str(ROOT), **without_keys(tmp_path))
    run = python(CONNECT + TRACK, tmp_path, there).split()[-1]
    seen = [run, "FINISHED", "0.125", "kept"]
    assert python(CONNECT + LOOK, tmp_path, there).split()[-4:] == seen

    # A step in the image beside them reads a cohort from the bucket, and leaves what it leaves without containers.
    cohort = sample(tmp_path / "cohort")
    Bucket(DATA, client).upload(cohort, "cxr/")
    said = services.run(
        "run", "-T", "--rm", "step", "python", "-m", "components.ingest", f"s3://{DATA}/cxr", "--out", "raw"
    )
    assert "montgomery: 12 X-rays" in said
    assert "shenzhen: 16 X-rays" in said
    assert (services.folder / "raw").stat().st_uid == services.folder.stat().st_uid
    assert len(list((services.folder / "raw/images").rglob("*.png"))) == 28

    # Stopped and started again, they have what they had.
    services.run("down")
    assert len(services.volumes()) == 2
    services.up()
    assert python(CONNECT + LOOK, tmp_path, there).split()[-4:] == seen
    assert len(Bucket(DATA, client).names("cxr/")) == len([path for path in cohort.rglob("*") if path.is_file()])

    # Gone with their volumes.
    services.run("down", "--volumes")
    assert services.volumes() == []
