"""The registered version runs anywhere MLflow does, says where it comes from, and holds no pickle."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from components.evaluate import CODE as EVALUATION_CODE
from components.register import register
from components.register.description import EXPERIMENT, LONGEST, MODEL, SECTIONS, WHOLE, abridged
from components.train import CODE as TRAINING_CODE
from core.cell import ROWS, SUMMARY, Cell
from core.cohort import Arrays, read_split
from core.errors import UserError
from core.files import sha256
from core.inputs import code_digest, code_files
from core.params import params_hash, read_params
from model.weights import CONFIG, WEIGHTS
from registry import history
from registry.fetch import fetch
from registry.packages import load
from registry.seal import PACKAGE_TAG
from registry.versions import splits_digest
from tests.conftest import CELL, DATA_MD5, Project, Trained, elsewhere, refused

NAME = "lung-segmentation"
SHAPES = [(32, 32), (40, 57), (121, 90), (1, 9)]

# Run where the project is not: only MLflow knows where the model is.
ELSEWHERE = """
import importlib.util
import mlflow, numpy as np
assert not any(importlib.util.find_spec(name) for name in ("components", "model", "tests")), sys.path
model = mlflow.pyfunc.load_model("models:/lung-segmentation@challenger")
images = np.load("images.npz")
masks = {}
for name, image in images.items():
    masks[name] = model.predict(image)
    masks[name + " low"] = model.predict(image, params={"threshold": 0.1})
    masks[name + " high"] = model.predict(image, params={"threshold": 0.9})
np.savez("masks.npz", **masks)
"""


def add_cell(project: Project, seed: int, validation: float, test: float) -> Cell:
    """Add a cell that differs from the trained one by its seed and its figures."""
    cell = Cell(CELL.network, CELL.scenario, seed)
    for kind in ("models", "evaluations"):
        shutil.copytree(project.root / kind / CELL.folder, project.root / kind / cell.folder)
    config = project.root / "models" / cell.folder / CONFIG
    config.write_text(json.dumps(json.loads(config.read_text()) | {"seed": seed}))
    summary = project.root / "evaluations" / cell.folder / SUMMARY
    figures = json.loads(summary.read_text())
    figures["validation"]["original"]["dice"], figures["test"]["original"]["dice"] = validation, test
    summary.write_text(json.dumps(figures))
    return cell


@pytest.fixture(scope="module")
def registered(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose two cells are equally good, of which one has been registered; not to be changed."""
    project = trained.copy(tmp_path_factory.mktemp("registered"))
    figures = json.loads((project.evaluation / SUMMARY).read_text())
    add_cell(project, 1, figures["validation"]["original"]["dice"], 0.99)
    project.write_params(matrix={"seeds": [0, 1]})
    done = project.spawn(project.register_line())
    assert done.returncode == 0, done.stderr
    # MLflow's own two lines, and no warning.
    said = "Successfully registered model 'lung-segmentation'.\nCreated version '1' of model 'lung-segmentation'.\n"
    assert done.stderr == said
    assert done.stdout.splitlines()[-2:] == [
        "defu_net/mixed/seed-0 is registered as lung-segmentation version 1",
        "lung-segmentation version 1 is challenger: there was none; models:/lung-segmentation@challenger",
    ]
    return project


def artifact(project: Project) -> Path:
    version = project.client().get_model_version_by_alias(NAME, "challenger")
    logged = project.client().get_logged_model(version.source.removeprefix("models:/"))
    return Path(logged.artifact_location.removeprefix("file://"))


def test_version_says_where_it_comes_from(registered: Project, trained: Trained) -> None:
    version = registered.client().get_model_version_by_alias(NAME, "challenger")
    figures = json.loads((registered.evaluation / SUMMARY).read_text())
    (run,) = registered.runs()
    written = json.loads((registered.root / "registered.json").read_text())
    assert written == {
        "name": NAME,
        "version": 1,
        "alias": "challenger",
        "uri": "models:/lung-segmentation@challenger",
        "run_id": run.info.run_id,
        "network": "defu_net",
        "scenario": "mixed",
        "seed": 0,  # the first of equals
        "validation_dice": figures["validation"]["original"]["dice"],
        "test_dice": figures["test"]["original"]["dice"],
    }
    assert int(version.version) == 1
    assert version.run_id == run.info.run_id
    weights = (registered.model / WEIGHTS).read_bytes()
    rows = (registered.evaluation / ROWS).read_bytes()
    assert len(version.tags[PACKAGE_TAG]) == 64
    assert {name: value for name, value in version.tags.items() if name != PACKAGE_TAG} == {
        "git.commit": "c0ffee",
        "git.dirty": "false",
        "data.md5": DATA_MD5,
        "params.hash": params_hash(read_params(registered.root / "params.yaml")),
        "code.train": code_digest(code_files(TRAINING_CODE)),
        "code.evaluate": code_digest(code_files(EVALUATION_CODE)),
        "split.sha256": sha256(registered.split),
        "images.sha256": sha256(registered.arrays / "images.npy"),
        "image": "none",
        "kubeflow.run": "none",
        "run_id": run.info.run_id,
        "network": "defu_net",
        "scenario": "mixed",
        "seed": "0",
        "cohort": "synthetic-sample",
        "synthetic": "true",
        "weights.sha256": hashlib.sha256(weights).hexdigest(),
        "evaluation.rows_sha256": hashlib.sha256(rows).hexdigest(),
        "splits.sha256": splits_digest(read_split(registered.split)),
        "manifest.sha256": Arrays(registered.arrays).info["manifest_sha256"],
        **{
            f"evaluation.{split}.{kind}.dice": f"{figures[split][kind]['dice']:.6f}"
            for split in ("validation", "test")
            for kind in ("original", "dilated")
        },
    }
    assert run.info.status == "FINISHED"
    (before,) = trained.project.runs()
    assert run.info.end_time == before.info.end_time  # registering is none of the training's time


def test_the_registrys_pages_show_the_card_and_say_what_they_are(
    registered: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registered.store)
    client = registered.client()
    version = client.get_model_version(NAME, "1")
    card = (fetch(f"models:/{NAME}/1", tmp_path) / "README.md").read_text()
    shown = version.description
    assert shown == abridged(card)
    (dice,) = [line for line in card.splitlines() if line.startswith("| original | all | all |")]
    assert dice in shown
    assert shown.startswith(f"# {NAME}: defu_net, mixed, seed 0\n")
    for absent in ("pipeline_tag", "```python"):
        assert absent in card
        assert absent not in shown
    assert client.get_registered_model(NAME).description == MODEL
    run = client.get_run(version.run_id)
    assert client.get_experiment(run.info.experiment_id).tags["mlflow.note.content"] == EXPERIMENT


@given(st.lists(st.integers(0, 3000), min_size=len(SECTIONS), max_size=len(SECTIONS)))
def test_a_description_fits_and_begins_with_the_figures(lengths: list[int]) -> None:
    sections = dict(zip(sorted(SECTIONS), lengths, strict=True))
    card = "---\ntags: []\n---\n\n# name\n\nIn a sentence.\n\n## Use\n\ncode\n\n" + "\n\n".join(
        f"## {name}\n\n{'x' * length}" for name, length in sections.items()
    )
    shown = abridged(card)
    assert len(shown) <= LONGEST
    assert shown.startswith("# name\n\nIn a sentence.\n\n## How good it is")
    assert shown.endswith(WHOLE)
    left_out = [name for name in SECTIONS if f"## {name}" not in shown]
    assert all(len(shown) + len(name) + sections[name] + 7 > LONGEST for name in left_out)


def test_signature_and_input_example(registered: Project) -> None:
    import mlflow

    folder = artifact(registered)
    loaded = mlflow.models.Model.load(str(folder))
    assert loaded.signature is not None
    signature = loaded.signature.to_dict()
    tensor = [{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, -1]}}]
    assert json.loads(signature["inputs"]) == tensor
    assert json.loads(signature["outputs"]) == [
        {"type": "tensor", "tensor-spec": {"dtype": "uint8", "shape": [-1, -1]}}
    ]
    (given,) = json.loads(signature["params"])
    assert (given["name"], given["type"], given["default"]) == ("threshold", "double", 0.5)
    example = loaded.load_input_example(str(folder))
    assert (example.shape, example.max() > 1) == ((32, 32), True)


def test_the_artifact_holds_no_pickle_and_all_it_needs(registered: Project) -> None:
    folder = artifact(registered)
    # Loading it from where it lies leaves Python's own caches there.
    files = {
        str(path.relative_to(folder)): path
        for path in folder.rglob("*")
        if path.is_file() and path.parent.name != "__pycache__"
    }
    package = "artifacts/package"
    assert {"code/model/inference/predictor.py", f"{package}/README.md", f"{package}/contract.json"} <= set(files)
    assert sum(name.endswith(WEIGHTS) for name in files) == 1
    allowed = {"", ".py", ".json", ".yaml", ".txt", ".csv", ".md", ".j2", ".safetensors", ".onnx", ".png"}
    assert {Path(name).suffix for name in files} <= allowed, sorted(files)
    for name, path in files.items():
        if not name.endswith((".safetensors", ".onnx", ".png")):
            path.read_text()  # a pickle is no text
        assert not path.read_bytes().startswith((b"\x80", b"PK")), name  # a pickle, PyTorch's zip of pickles
    flavors = yaml.safe_load((folder / "MLmodel").read_text())["flavors"]
    assert set(flavors) == {"python_function"}
    assert flavors["python_function"]["model_code_path"].endswith("pyfunc_model.py")
    assert "python_model" not in flavors["python_function"]
    requirements = (folder / "requirements.txt").read_text()
    assert "torch==" in requirements
    assert "openvino==" in requirements
    assert "+cpu" not in requirements


@pytest.mark.full
@pytest.mark.slow
def test_it_runs_where_the_project_is_not(registered: Project, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    images = {f"{h} x {w}": random.uniform(0, 4095, (h, w)).astype(np.float32) for h, w in SHAPES}
    np.savez(tmp_path / "images.npz", **images)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"MLFLOW_TRACKING_URI": registered.store, "OMP_NUM_THREADS": "1"}
    line = elsewhere(ELSEWHERE)
    done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    masks = np.load(tmp_path / "masks.npz")
    package = load(artifact(registered) / "artifacts/package")
    for name, image in images.items():
        for suffix, threshold in (("", 0.5), (" low", 0.1), (" high", 0.9)):
            mask = masks[name + suffix]
            assert mask.dtype == np.uint8
            assert mask.shape == image.shape
            (expected,) = package.segment([image], threshold)
            # Threads add up in another order, which moves a probability by a millionth.
            clear = np.abs(expected.probabilities - threshold) > 1e-4
            np.testing.assert_array_equal(mask[clear], expected.mask[clear])
        assert masks[name + " low"].sum() >= masks[name].sum() >= masks[name + " high"].sum()


def test_it_is_fetched_once_by_alias_or_version(
    registered: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registered.store)
    folder = fetch(f"models:/{NAME}@challenger", tmp_path)
    assert (folder / WEIGHTS).read_bytes() == (registered.model / WEIGHTS).read_bytes()
    assert load(folder, "onnxruntime").card["name"] == NAME
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert fetch(f"models:/{NAME}/1", tmp_path) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert [path for path in folder.parent.iterdir() if path.is_dir()] == [folder]
    for unknown, says in (("/7", "MLflow, "), ("@nobody", "no version is nobody yet")):
        with pytest.raises(UserError, match=says):
            fetch(f"models:/{NAME}{unknown}", tmp_path)
    with pytest.raises(UserError, match="MLflow, "):
        fetch("models:/nothing/1", tmp_path)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.full
def test_mlflow_serves_it(registered: Project, tmp_path: Path) -> None:
    port = free_port()
    line = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", f"models:/{NAME}@challenger"]
    line += ["--port", str(port), "--env-manager", "local"]
    environment = {name: value for name, value in registered.environment.items() if name != "PYTHONPATH"}
    # The command starts others by their name.
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    log = tmp_path / "log"
    with log.open("w") as file:
        server = subprocess.Popen(
            line, cwd=tmp_path, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        url, limit = f"http://127.0.0.1:{port}", time.monotonic() + 350
        while True:
            try:
                if httpx.get(f"{url}/ping", timeout=10).status_code == 200:
                    break
            except httpx.TransportError:
                assert server.poll() is None, log.read_text()
            assert time.monotonic() < limit, log.read_text()
            time.sleep(0.3)
        image = np.random.default_rng(0).uniform(0, 4095, (40, 57)).astype(np.float32)
        answer = httpx.post(f"{url}/invocations", json={"inputs": image.tolist()}, timeout=60)
        assert answer.status_code == 200, answer.text
        mask = np.array(answer.json()["predictions"])
        (expected,) = load(artifact(registered) / "artifacts/package").segment([image])
        assert mask.shape == image.shape
        clear = np.abs(expected.probabilities - 0.5) > 1e-4
        np.testing.assert_array_equal(mask[clear], expected.mask[clear])
        assert clear.sum() > 0
        bad = httpx.post(f"{url}/invocations", json={"inputs": "an X-ray"}, timeout=60)
        assert bad.status_code == 400
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()


@pytest.fixture
def here(scored: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(scored.root)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", scored.store)
    return scored


def offer(project: Project) -> Any:
    root = project.root
    params = read_params(root / "params.yaml")
    return register(root / "models", root / "evaluations", project.arrays, params, root / "registered.json")


def challenger(project: Project) -> int:
    return int(project.client().get_model_version_by_alias(NAME, "challenger").version)


def figure(project: Project, cell: Cell, validation: float) -> None:
    """Change a cell's validation Dice and its rows, so that it is another model."""
    summary = project.root / "evaluations" / cell.folder / SUMMARY
    figures = json.loads(summary.read_text())
    figures["validation"]["original"]["dice"] = validation
    summary.write_text(json.dumps(figures))
    rows = project.root / "evaluations" / cell.folder / ROWS
    rows.write_text(rows.read_text() + " ")


@pytest.mark.full
def test_the_best_on_validation_is_offered(here: Project) -> None:
    here.write_params(matrix={"seeds": [0, 1, 2]})
    add_cell(here, 1, validation=0.98, test=0.1)
    add_cell(here, 2, validation=0.01, test=0.99)
    version = offer(here)
    assert (version.seed, version.version, version.validation_dice, version.test_dice) == (1, 1, 0.98, 0.1)
    assert (version.alias, version.uri, challenger(here)) == ("challenger", f"models:/{NAME}@challenger", 1)


@pytest.mark.full
def test_the_alias_moves_to_a_better_version_or_when_asked(here: Project, capsys: pytest.CaptureFixture[str]) -> None:
    figure(here, CELL, 0.9)
    offer(here)
    figure(here, CELL, 0.9)
    worse = offer(here)
    assert (worse.version, worse.alias, worse.uri) == (2, "", f"models:/{NAME}/2")
    assert challenger(here) == 1
    said = capsys.readouterr().out.splitlines()[-1]
    assert said == (
        f"{NAME} version 2 is not challenger: validation Dice 0.9000, version 1 has 0.9000; models:/{NAME}/2"
    )
    here.write_params(register={"challenger": "always"})
    figure(here, CELL, 0.8)
    assert (offer(here).version, challenger(here)) == (3, 3)
    here.write_params()
    figure(here, CELL, 0.81)
    assert (offer(here).version, challenger(here)) == (4, 4)


@pytest.mark.full
def test_what_was_rolled_back_becomes_challenger_only_when_asked(here: Project) -> None:
    figure(here, CELL, 0.9)
    offer(here)
    client = here.client()
    for number, (kind, previous, version) in enumerate((("promote", None, 1), ("rollback", 1, 7)), 1):
        history.write(
            client,
            NAME,
            history.Decision(number=number, kind=kind, state=history.DONE, previous=previous, version=version),
        )
    client.delete_registered_model_alias(NAME, "challenger")
    assert offer(here).alias == ""
    here.write_params(register={"challenger": "always"})
    assert (offer(here).alias, challenger(here)) == ("challenger", 1)
    here.write_params()
    figure(here, CELL, 0.5)
    assert (offer(here).version, challenger(here)) == (2, 2), "a challenger that was rolled back gives way"
    # Made champion by hand: that counts as promoted.
    client.set_registered_model_alias(NAME, "champion", "1")
    assert history.rolled_back(history.read(client, NAME, 1), 1) == {}


@pytest.mark.full
def test_a_challenger_of_other_images_gives_way(here: Project) -> None:
    figure(here, CELL, 0.9)
    offer(here)
    here.client().set_model_version_tag(NAME, "1", "manifest.sha256", "of another cohort")
    figure(here, CELL, 0.5)
    offer(here)
    assert challenger(here) == 2


@pytest.mark.full
def test_the_same_weights_with_the_same_figures_are_one_version(
    here: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    first = offer(here)
    (here.root / "registered.json").unlink()
    capsys.readouterr()
    again = offer(here)
    assert again == first
    assert json.loads((here.root / "registered.json").read_text())["version"] == 1
    assert capsys.readouterr().out.splitlines()[-2:] == [
        f"{CELL.folder} is registered already as {NAME} version 1",
        f"{NAME} version 1 is challenger: it was already; models:/{NAME}@challenger",
    ]
    assert len(here.client().search_model_versions(f"name='{NAME}'")) == 1
    # The first one's commit had changes that nobody has: its lineage verifies nothing, so a clean one is registered.
    here.client().set_model_version_tag(NAME, "1", "git.dirty", "true")
    assert offer(here).version == 2
    assert offer(here).version == 2


@pytest.mark.full
def test_a_model_whose_run_is_elsewhere_gets_a_run_of_its_own(here: Project, empty_store: Path) -> None:
    shutil.copy(empty_store, here.root / "mlflow.db")
    version = offer(here)
    (run,) = here.runs()
    assert run.info.run_id == version.run_id
    assert run.info.run_name == f"register {NAME}"


def test_what_is_missing_is_told(here: Project) -> None:
    here.write_params(matrix={"seeds": [0, 7]})
    with pytest.raises(UserError, match=r"seed-7/metrics\.json: not found; run the step that writes it first"):
        offer(here)
    here.write_params(matrix={"seeds": [0]})
    summary = json.loads((here.evaluation / SUMMARY).read_text())
    (here.evaluation / SUMMARY).write_text(json.dumps({"test": summary["test"]}))
    with pytest.raises(UserError, match=r"seed-0: it has no validation figures.*add validation to"):
        offer(here)
    (here.evaluation / SUMMARY).write_text(json.dumps(summary))
    (here.model / CONFIG).unlink()
    with pytest.raises(UserError, match=r"config\.json: not found"):
        offer(here)
    assert not (here.root / "registered.json").exists()
    assert not here.client().search_registered_models()


def test_a_store_that_cannot_be_reached_is_told(scored: Project) -> None:
    message = refused(scored.call(scored.register_line(), MLFLOW_TRACKING_URI="nonsense://here"))
    assert message.startswith("error: MLflow, nonsense://here: ")
    assert not (scored.root / "registered.json").exists()
