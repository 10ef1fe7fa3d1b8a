"""From a cohort in S3 to a mask from the registry: real SeaweedFS and MLflow servers, the commands, two machines."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from model.inference.postprocessing import at_size
from model.inference.predictor import Predictor
from model.preprocessing import standardise
from model.training.checkpoint import STATE
from model.weights import CONFIG, WEIGHTS
from tests.conftest import CELL, Launcher, Project, elsewhere
from tests.project import Project as Checkout
from tests.services import Bucket, without_keys

pytestmark = [
    pytest.mark.slow,
    pytest.mark.full,
    pytest.mark.timeout(600),
]  # servers and some twenty commands; minutes where it is busy

LONG = 20  # epochs, so that a training is under way still when its first state has come to S3

# Where the project is not, by someone who knows the server's address and has no key of S3.
ELSEWHERE = """
import importlib.util, os
import mlflow, numpy as np
assert not any(importlib.util.find_spec(name) for name in ("components", "model", "tests")), sys.path
assert not [name for name in os.environ if name.startswith("AWS_ACCESS") or name.startswith("AWS_SECRET")]
model = mlflow.pyfunc.load_model("models:/lung-segmentation@challenger")
np.save("mask.npy", model.predict(np.load("xray.npy")))
"""


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_from_the_cohort_in_s3_to_a_mask_from_the_registry(
    bucket: Bucket,
    mlflow_server: str,
    launcher: Launcher,
    pinned: Callable[[Path], Checkout],
    empty_store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checkout = pinned(tmp_path / "one")
    one = Project(checkout.root, launcher)
    one.write_params(train={"epochs": LONG})
    s3 = f"s3://{bucket.name}"

    # The cohort goes to S3 and comes back from nowhere else.
    data = checkout.root / "data"
    before = digests(data)
    checkout.run("dvc", "remote", "add", "--local", "--default", "services", f"{s3}/dvc")
    checkout.run("dvc", "push", "data.dvc")
    assert bucket.names("dvc/")
    for name in ("data", "samples", ".dvc/cache"):
        shutil.rmtree(checkout.root / name)
    checkout.run("dvc", "pull", "data.dvc")
    assert digests(data) == before

    # A cohort that lies in S3 is read as one on the disk.
    bucket.upload(data, "cxr/")
    one.do(one.line("ingest", data, "--out", "artifacts/local"))
    one.do(one.line("ingest", f"{s3}/cxr", "--out", "artifacts/raw"))
    fetched, local = (digests(one.root / "artifacts" / name) for name in ("raw", "local"))
    assert {name for name in fetched | local if fetched.get(name) != local.get(name)} == {"cohort.json"}  # its source
    assert json.loads((one.root / "artifacts/raw/cohort.json").read_text())["source"] == f"{s3}/cxr"
    one.do(one.line("validate", "artifacts/raw", "--out", "artifacts/validation"))
    where = ("--validation", "artifacts/validation", "--out", one.arrays, "--splits", one.split.parent)
    one.do(one.line("preprocess", "artifacts/raw", *where))

    # Two more machines: one that is left alone, and one that takes over from S3 when the first is lost.
    alone, other = (Project(tmp_path / name, launcher) for name in ("alone", "other"))
    for project in (alone, other):
        for name in ("arrays", "raw", "splits"):
            shutil.copytree(one.root / "artifacts" / name, project.root / "artifacts" / name)
        for name in ("params.yaml", "data.dvc"):
            shutil.copy(one.root / name, project.root / name)
    shutil.copy(empty_store, alone.root / "mlflow.db")
    alone.do(alone.train_line())

    tracked = {"MLFLOW_TRACKING_URI": mlflow_server}
    checkpoints = ("--checkpoints", f"{s3}/states")
    job = one.start(one.train_line(*checkpoints), **tracked)
    assert job.until(lambda: any(name.endswith(f"/{STATE}") for name in bucket.names("states/")))
    job.kill()
    job.wait([])
    assert not one.model.exists()

    printed = other.do(other.train_line(*checkpoints), **tracked)
    assert "resuming after epoch" in printed
    assert (other.model / WEIGHTS).read_bytes() == (alone.model / WEIGHTS).read_bytes()
    assert (other.model / CONFIG).read_bytes() == (alone.model / CONFIG).read_bytes()

    # One run for all of it, from its first epoch to its registered version.
    other.do(other.evaluate_line(), **tracked)
    other.do(other.register_line(), **tracked)
    from mlflow import MlflowClient

    client = MlflowClient(mlflow_server, mlflow_server)
    experiment = client.get_experiment_by_name("lung-segmentation")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    losses = client.get_metric_history(run.info.run_id, "train_loss")
    assert [metric.step for metric in losses] == list(range(1, LONG + 1))
    assert run.data.tags["data.md5"] == "not pinned"  # it was ingested from S3, and data.dvc pins a folder
    registered = json.loads((other.root / "registered.json").read_text())
    version = client.get_model_version_by_alias("lung-segmentation", "challenger")
    assert (int(version.version), version.run_id) == (registered["version"], run.info.run_id)
    assert registered["run_id"] == run.info.run_id

    # The model comes over HTTP to where there is neither project nor key, and draws what the trained network draws.
    picture = next((data / "MontgomerySet/CXR_png").glob("*.png"))
    xray = cv2.imread(str(picture), cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH)
    assert xray is not None
    away = tmp_path / "elsewhere"
    away.mkdir()
    np.save(away / "xray.npy", xray.astype(np.float32))
    hidden = ("AWS_", "MLFLOW_", "PYTHONPATH")
    there = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    there |= tracked | without_keys(tmp_path) | {"OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
    line = elsewhere(ELSEWHERE)
    done = subprocess.run(line, cwd=away, env=there, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    evaluate = one.write_params().evaluate
    predictor = Predictor.load(other.model)
    taken = predictor.input_config
    grey = standardise(xray, taken.size, taken.interpolation, taken.intensity_percentiles)
    probabilities = at_size(predictor.probabilities(grey[None], flip=evaluate.flip)[0], xray.shape)
    expected = evaluate.to_masks(probabilities[None])[0]
    mask = np.load(away / "mask.npy")
    assert mask.shape == xray.shape
    assert 0 < mask.mean() < 1
    # The package may choose an engine that computes in bfloat16: pixels of the outline may change sides.
    assert 2 * (mask & expected).sum() / (mask.sum() + expected.sum()) > 0.98
    assert CELL.network == registered["network"]
