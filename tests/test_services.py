"""``make services`` for a person, ``compose.yaml`` against what it runs, and MLflow on PostgreSQL."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from pipelines.components import IMAGE
from tests.conftest import ROOT, refused
from tests.engine import compose_program
from tests.services import KEYS, LOOK, TRACK, Bucket, environment, postgres, python, without_keys
from tools.services import ARTIFACTS, DATA, Keys, mlflow, mlflow_command, mlflow_environment, s3_client, s3_command
from tools.services.checks import free_ports

pytestmark = pytest.mark.timeout(600)  # several servers start; on a busy machine each takes half a minute

REGISTER = """
pathlib.Path("double.py").write_text('''
import mlflow
class Double(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return [2 * value for value in model_input]
mlflow.models.set_model(Double())
''')
with mlflow.start_run():
    info = mlflow.pyfunc.log_model(name="model", python_model="double.py", pip_requirements=[])
version = mlflow.register_model(info.model_uri, "double", tags={"git.commit": "c0ffee"})
client.set_registered_model_alias("double", "champion", version.version)
(found,) = client.search_model_versions("name = 'double'")
(alias,) = client.get_model_version_by_alias("double", "champion").aliases
print(found.version, mlflow.pyfunc.load_model("models:/double@champion").predict([1.0, 2.0]), alias)
"""


@dataclass
class Person:
    """Someone who starts the services in one shell and reads what it prints."""

    folder: Path
    s3_port: int
    mlflow_port: int
    process: subprocess.Popen[str] = field(init=False)
    printed: str = ""

    def line(self, *options: object) -> list[str]:
        ports = ("--s3-port", self.s3_port, "--mlflow-port", self.mlflow_port)
        words = ("--folder", self.folder, *ports, *options)
        return [sys.executable, "-m", "tools.services", *map(str, words)]

    def start(self) -> dict[str, str]:
        """Start them and return what is to be exported, once it stands there."""
        self.process = subprocess.Popen(
            self.line(), cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.printed = ""
        while "Ctrl+C" not in self.printed:
            text = self.process.stdout.readline()
            assert text, self.process.communicate()
            self.printed += text
        return dict(re.findall(r"^export (\w+)=(\S+)$", self.printed, re.MULTILINE))

    def ended(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err

    def refused(self, *options: object, **settings: str) -> str:
        return refused(
            subprocess.run(
                self.line(*options),
                cwd=ROOT,
                env=environment(**settings),
                capture_output=True,
                text=True,
                check=False,
                timeout=60,
            )
        )


@pytest.fixture
def person(tmp_path: Path, empty_store: Path) -> Iterator[Person]:
    folder = tmp_path / "services"
    folder.mkdir()
    shutil.copy(empty_store, folder / "mlflow.db")
    one = Person(folder, *free_ports(2))
    yield one
    process = getattr(one, "process", None)
    if process is not None and process.poll() is None:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


def listens(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.full
@pytest.mark.slow
def test_a_person_starts_uses_stops_and_starts_them_again(person: Person, tmp_path: Path) -> None:
    exported = person.start()
    assert sorted(exported) == ["AWS_ACCESS_KEY_ID", "AWS_ENDPOINT_URL", "AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_URI"]
    assert f"dvc remote add --local --default services s3://{DATA}/dvc" in person.printed
    # MLflow's clients need no key of S3: the server passes artifacts on.
    tracking = environment(MLFLOW_TRACKING_URI=exported["MLFLOW_TRACKING_URI"], **without_keys(tmp_path))
    run = python(TRACK, tmp_path, tracking).split()[-1]
    put = f"import boto3; boto3.client('s3').put_object(Bucket='{DATA}', Key='a/b', Body=b'c')"
    python(put, tmp_path, environment(**exported))
    assert "already" in person.refused("--s3-port", free_ports(1)[0])
    assert f"S3: port {person.s3_port} is taken" in person.refused("--folder", tmp_path / "other")
    assert not (tmp_path / "other").exists()

    person.process.send_signal(signal.SIGINT)
    code, out, err = person.ended()
    assert (code, err) == (0, "")
    assert out == f"stopping both, which may take some seconds ...\nstopped; their data are in {person.folder}\n"
    assert not listens(person.s3_port)
    assert not listens(person.mlflow_port)
    assert (person.folder / ".gitignore").read_text() == "*\n"

    assert person.start() == exported
    assert python(LOOK, tmp_path, tracking).split()[-4:] == [run, "FINISHED", "0.125", "kept"]
    client = s3_client(
        exported["AWS_ENDPOINT_URL"], Keys(exported["AWS_ACCESS_KEY_ID"], exported["AWS_SECRET_ACCESS_KEY"])
    )
    assert Bucket(DATA, client).names() == ["a/b"]
    assert [key for key in Bucket(ARTIFACTS, client).names() if key.endswith(f"{run}/artifacts/notes/note.txt")]

    # Killed outright, it leaves no server behind (by Linux's doing).
    person.process.kill()
    person.process.communicate(timeout=60)
    limit = time.monotonic() + 60
    while listens(person.s3_port) or listens(person.mlflow_port):
        assert time.monotonic() < limit
        time.sleep(0.1)


@pytest.mark.full
@pytest.mark.slow
def test_a_server_that_ends_by_itself_ends_the_other_and_is_told(person: Person) -> None:
    person.start()
    (weed,) = [pid for pid in children(person.process.pid) if "weed" in Path(f"/proc/{pid}/cmdline").read_text()]
    os.kill(weed, signal.SIGKILL)
    code, _, err = person.ended()
    assert code == 1
    assert err.startswith("error: S3: ended with code -9")
    assert err.count("\n") == 1
    assert not listens(person.mlflow_port)


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in found.split()]


def test_a_missing_program_is_told_in_one_line(person: Person, tmp_path: Path) -> None:
    # The same Python and its packages, without the programs that lie beside it.
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python").symlink_to(Path(sys.executable).resolve())
    line = [str(tmp_path / "bin/python"), *person.line()[1:]]
    there = environment(PYTHONPATH=os.pathsep.join(path for path in sys.path if path), PATH="/usr/bin:/bin")
    done = subprocess.run(line, cwd=ROOT, env=there, capture_output=True, text=True, check=False, timeout=60)
    assert refused(done) == "error: weed: not found; `make setup` installs it"


@pytest.mark.parametrize(
    ("database", "told"),
    [
        ("postgresql+pg8000://me:hidden@127.0.0.1:1/x", "error: postgresql+pg8000://me:***@127.0.0.1:1/x: "),
        (
            "postgresql://me:hidden@127.0.0.1:1/x",
            "error: postgresql://me:***@127.0.0.1:1/x: its driver, psycopg, is not",
        ),
        ("nonsense", "error: not the URI of a database; say postgresql+pg8000://user:password@host/name"),
    ],
)
def test_a_database_that_cannot_be_had_is_told_without_its_password(tmp_path: Path, database: str, told: str) -> None:
    person = Person(tmp_path, *free_ports(2))
    said = person.refused(MLFLOW_BACKEND_STORE_URI=database)
    assert said.startswith(told)
    assert "hidden" not in said
    assert not listens(person.s3_port)


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """``compose.yaml`` with its defaults in place of variables, as Compose reads it without an ``.env``."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", (ROOT / "compose.yaml").read_text())
    assert "$" not in text
    read: dict[str, Any] = yaml.safe_load(text)
    return read


def test_compose_runs_what_make_services_runs(compose: dict[str, Any]) -> None:
    services, keys = compose["services"], Keys()
    s3 = services["s3"]
    assert s3["entrypoint"] + s3["command"] == s3_command("weed", "/data", "127.0.0.1", "0.0.0.0", {"s3.port": 8333})
    assert s3["environment"] == keys.environment
    server = services["mlflow"]
    assert server["command"] == mlflow_command("mlflow", "0.0.0.0", 5000, ("127.0.0.1", "localhost", "mlflow"), 2)
    user = services["database"]["environment"]
    address = f"{user['POSTGRES_USER']}:{user['POSTGRES_PASSWORD']}@database:5432/{user['POSTGRES_DB']}"
    database = f"postgresql+pg8000://{address}"
    assert server["environment"] == mlflow_environment(database, "http://s3:8333", keys)
    step = services["step"]
    assert step["environment"].items() >= {"MLFLOW_TRACKING_URI": "http://mlflow:5000"}.items()
    assert step["environment"].items() >= (keys.environment | {"AWS_ENDPOINT_URL": "http://s3:8333"}).items()
    assert server["image"] == step["image"] == IMAGE


def test_compose_lets_only_this_machine_in_and_waits_for_health(compose: dict[str, Any]) -> None:
    services = compose["services"]
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert published == ["127.0.0.1:8333:8333", "127.0.0.1:5000:5000"]
    for name in ("s3", "database", "mlflow"):
        assert services[name]["healthcheck"]["test"][0] == "CMD"
        assert services[name]["restart"] == "unless-stopped"
    awaited = {name: sorted(service.get("depends_on", {})) for name, service in services.items()}
    assert awaited == {"s3": [], "database": [], "mlflow": ["database", "s3"], "step": ["mlflow", "s3"]}
    named = {volume.split(":")[0] for name in ("s3", "database") for volume in services[name]["volumes"]}
    assert named == set(compose["volumes"])
    assert services["step"]["profiles"] == ["step"]


def test_compose_is_accepted_by_docker_compose(tmp_path: Path) -> None:
    program = compose_program()
    if program is None:
        pytest.skip("neither `docker compose` nor docker-compose is installed")
    (tmp_path / ".env").write_text("POSTGRES_PASSWORD=of-my-own\nS3_PORT=18333\n")
    line = [*program, "--project-directory", str(tmp_path), "--file", str(ROOT / "compose.yaml"), "config"]
    done = subprocess.run(line, capture_output=True, text=True, check=False, env=environment(), timeout=60)
    assert done.returncode == 0, done.stderr
    services = yaml.safe_load(done.stdout)["services"]
    assert services["database"]["environment"]["POSTGRES_PASSWORD"] == "of-my-own"
    assert ":of-my-own@database" in services["mlflow"]["environment"]["MLFLOW_BACKEND_STORE_URI"]
    assert "18333" in str(services["s3"]["ports"])


def test_the_health_checks_of_compose_pass_on_the_real_servers(
    compose: dict[str, Any], s3_server: str, mlflow_server: str
) -> None:
    address = next(word for word in compose["services"]["s3"]["healthcheck"]["test"] if word.startswith("http"))
    assert httpx.get(address.replace("http://127.0.0.1:8333", s3_server)).status_code == 200
    words = compose["services"]["mlflow"]["healthcheck"]["test"][1:]
    line = [sys.executable, *(word.replace("http://127.0.0.1:5000", mlflow_server) for word in words[1:])]
    subprocess.run(line, check=True)
    gone = [word.replace(mlflow_server, f"http://127.0.0.1:{free_ports(1)[0]}") for word in line]
    assert subprocess.run(gone, check=False, capture_output=True).returncode == 1


def test_a_call_under_another_name_is_refused(mlflow_server: str) -> None:
    """A page elsewhere cannot reach the server by a name of its own that leads here."""
    list_call = f"{mlflow_server}/api/2.0/mlflow-artifacts/artifacts"
    assert httpx.get(list_call).status_code == 200
    assert httpx.get(list_call, headers={"Host": "evil.example.org"}).status_code == 403


@pytest.mark.full
@pytest.mark.slow
def test_a_client_that_cannot_reach_s3_gets_files_through_the_server(
    tmp_path: Path, empty_store: Path, s3_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with ``compose.yaml`` and on a cluster: S3 has a name that only the server's side can resolve."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    with monkeypatch.context() as inside:
        # SeaweedFS takes what is sent to it as to a proxy for what it is.
        inside.setenv("HTTP_PROXY", s3_server)
        for name in ("NO_PROXY", "no_proxy", "http_proxy"):
            inside.delenv(name, raising=False)
        port, database = free_ports(1)[0], f"sqlite:///{tmp_path / 'mlflow.db'}"
        with mlflow(tmp_path, database, "http://s3.invalid:8333", KEYS, port) as server:
            inside.delenv("HTTP_PROXY")
            there = environment(MLFLOW_TRACKING_URI=server.url, PYTHONPATH=str(ROOT), **without_keys(tmp_path))
            fetched = "from tracking.store import connect; connect()\n" + TRACK + LOOK
            assert python(fetched, tmp_path, there).splitlines()[-1].endswith("FINISHED 0.125 kept")


@pytest.mark.full
@pytest.mark.slow
def test_mlflow_on_postgresql(tmp_path: Path, s3_server: str) -> None:
    with postgres() as database, mlflow(tmp_path, database, s3_server, KEYS, free_ports(1)[0]) as server:
        there = environment(MLFLOW_TRACKING_URI=server.url, **without_keys(tmp_path))
        printed = python(TRACK + LOOK + REGISTER, tmp_path, there).splitlines()
        run = printed[-3]
        assert printed[-2:] == [f"{run} FINISHED 0.125 kept", "1 [2.0, 4.0] champion"]
        command = Path(f"/proc/{server.process.pid}/cmdline").read_text()
        assert "a-secret" not in command  # the address with the password is in the environment alone
