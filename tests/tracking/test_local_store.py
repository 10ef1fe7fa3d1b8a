"""Where no server is named, runs and models go into the clone's own store, wherever the clone lies and came from."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from components.register import register
from core.errors import UserError
from core.params import read_params
from registry.fetch import fetch
from registry.versions import read_version
from tests.conftest import ROOT, Project, files
from tools.show import registry_lines
from tracking.local_store import adopt, workspace
from tracking.store import connect, make_experiment, store_address, store_name

NAME = "lung-segmentation"


@pytest.fixture
def clone(registered: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A clone whose model is registered in its own mlflow.db."""
    root = tmp_path / "clone"
    shutil.copytree(registered.root, root)
    adopt(root)
    enter(root, monkeypatch)
    return Project(root, registered.launcher)


def enter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Go into a folder as a new process would be there: MLflow sets the variable to the URI that it uses."""
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def offer(root: Path) -> int:
    evaluation, arrays = root / "evaluations", root / "artifacts/arrays"
    params = read_params(root / "params.yaml")
    return register(root / "models", evaluation, arrays, params, root / "registered.json").version


@pytest.mark.full
def test_several_processes_begin_a_store_at_once(tmp_path: Path) -> None:
    line = [sys.executable, "-c", "from tracking.store import connect; connect('one')"]
    environment = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}", "PYTHONPATH": str(ROOT)}
    begun = [subprocess.Popen(line, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    told = [process.communicate()[1] for process in begun]
    assert [process.returncode for process in begun] == [0, 0, 0], told
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"]


@pytest.mark.full
def test_a_copied_clone_uses_its_own_artifacts(
    clone: Project, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    copy = tmp_path_factory.mktemp("copied") / "clone with a space"
    shutil.copytree(clone.root, copy)
    before = files(clone.root)
    enter(copy, monkeypatch)
    rows = copy / "evaluations/defu_net/mixed/seed-0/rows.json"
    rows.write_text(rows.read_text() + " ")
    assert offer(copy) == 2
    assert files(clone.root) == before, "the original's store is none of the copy's"
    shutil.rmtree(clone.root)
    for number in (1, 2):
        version = read_version(connect(existing=True), NAME, number)
        assert fetch(version.uri, tmp_path / str(number)).is_dir()


def test_a_renamed_clone_finds_its_artifacts(
    clone: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    renamed = clone.root.with_name(clone.root.name + "-renamed")
    clone.root.rename(renamed)
    enter(renamed, monkeypatch)
    capsys.readouterr()
    client = connect(existing=True)
    assert capsys.readouterr().err == (
        f"note: {renamed}/mlflow.db came from {clone.root}; the addresses of its artifacts now name {renamed}/mlruns\n"
    )
    assert fetch(read_version(client, NAME, 1).uri, tmp_path).is_dir()
    connect(existing=True)
    assert capsys.readouterr().err == "", "it is settled"


def test_a_database_without_its_artifacts_is_refused(clone: Project, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    shutil.copy(clone.root / "mlflow.db", elsewhere)
    with pytest.raises(UserError, match=r"came from .* without its artifacts; copy .*mlruns here too, or remove"):
        adopt(elsewhere)


def test_a_damaged_database_is_told_in_one_line(scored: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    (scored.root / "mlflow.db").write_bytes(b"not a database" * 100)
    enter(scored.root, monkeypatch)
    with pytest.raises(UserError, match=r"MLflow, sqlite:///mlflow\.db: .*check MLFLOW_TRACKING_URI"):
        connect(existing=True)


def test_a_store_that_a_temporary_experiment_began_is_the_workspaces(
    scored: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in scored.root.glob("mlflow.db*"):
        path.unlink()
    folder = scored.root / ".dvc/tmp/exps/temp/tmpxyz"
    folder.mkdir(parents=True)
    enter(folder, monkeypatch)
    connect("lung-segmentation")
    shutil.rmtree(folder)
    enter(scored.root, monkeypatch)
    capsys.readouterr()
    client = connect("another")
    assert capsys.readouterr().err == ""
    places = {each.artifact_location for each in client.search_experiments()}
    assert all(place.startswith(f"{scored.root}/mlruns/") for place in places), places


@pytest.mark.full
def test_an_experiment_in_a_temporary_folder_of_dvc_logs_to_the_workspace(
    clone: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    for queue in ("standalone", "temp"):
        folder = clone.root / ".dvc/tmp/exps" / queue / "tmpabc123"
        folder.mkdir(parents=True)
        assert workspace(folder) == clone.root
        enter(folder, monkeypatch)
        assert store_address() == f"sqlite:///{clone.root}/mlflow.db"
        assert read_version(connect(existing=True), NAME, 1).number == 1
        client = connect()
        make_experiment(client, f"new in {queue}")
        place = client.get_experiment_by_name(f"new in {queue}").artifact_location
        assert place == str(clone.root / "mlruns" / f"new in {queue}")
        assert list(folder.iterdir()) == []
    enter(clone.root, monkeypatch)
    assert (store_name(), store_address()) == ("sqlite:///mlflow.db", f"sqlite:///{clone.root}/mlflow.db")


def test_the_closing_line_names_a_version_only_if_the_store_has_it_with_this_run(
    clone: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    registered = json.loads((clone.root / "registered.json").read_text())
    model, browse, runs = registry_lines(registered)
    assert model == (
        f"model    {NAME} version 1 @challenger @champion (defu_net, mixed, seed 0): "
        f'mlflow.pyfunc.load_model("models:/{NAME}/1")'
    )
    assert browse == "browse   mlflow ui --backend-store-uri sqlite:///mlflow.db"
    where = connect(existing=True).get_run(registered["run_id"]).info.experiment_id
    assert runs == f"runs     http://127.0.0.1:5000/#/experiments/{where}/runs?workflowType=machine_learning"
    model, _ = registry_lines(registered | {"run_id": "of another machine"})
    assert f"{NAME} version 1 of this run (defu_net, mixed, seed 0) is not in sqlite:///mlflow.db" in model
    assert "register it with `dvc repro --force --single-item register`" in model
    model, _ = registry_lines(registered | {"version": 7})
    assert "version 7 of this run" in model
    assert "load_model" not in model
    other = f"sqlite:///{tmp_path}/other.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", other)
    model, browse = registry_lines(registered)
    assert f"version 1 (defu_net, mixed, seed 0) could not be looked up: MLflow, {other}: there is no store" in model
    assert browse == f"browse   mlflow ui --backend-store-uri {other}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    model, browse = registry_lines(registered)
    assert "could not be looked up: MLflow, http://user:***@127.0.0.1:9: " in model
    assert browse == "browse   http://user:***@127.0.0.1:9"
