"""The train command leaves what rebuilds and explains a network; errors are one line."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
import torch

from components.train import CODE as TRAINING_CODE
from components.train import train
from components.train.__main__ import _become_torchrun
from components.train.load import load_images
from core.cell import HISTORY, PROVENANCE, RUN, Cell
from core.cohort import Arrays, read_split
from core.errors import UserError
from core.files import sha256
from core.inputs import code_files
from core.runs import TIMES, read_run
from model.inference.predictor import Predictor
from model.weights import CONFIG, WEIGHTS
from tests.conftest import CELL, DATA_MD5, EPOCHS, LOADING, Project, Trained, refused

EPOCH_LINE = (
    r"epoch {n}/{of}  loss -?\d\.\d{{4}}  dice 0\.\d{{4}}  validation loss -?\d\.\d{{4}}  dice 0\.\d{{4}}  "
    r"\d+\.\d images/s"
)


def states(project: Project) -> Path:
    """The folder of the one training of the cell, or one that is not there."""
    cell = project.root / "checkpoints" / CELL.folder
    return next((path for path in cell.glob("*") if path.is_dir()), cell / "none")


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def only_run(project: Project) -> Any:
    (run,) = project.runs()
    return run


# --- leftover files ---------------------------------------------------------------------------------------------------


def test_output_is_one_plain_line_an_epoch(trained: Trained) -> None:
    precision, threads, first, *epochs, last = trained.train.stdout.splitlines()
    assert re.fullmatch(r"train defu_net mixed seed 0: (bfloat16|float32) \(\w.*\)", precision)
    expected = r"train defu_net mixed seed 0: 1 thread \(.*\); OpenMP wait policy: .* \(.*\); load \d+\.\d"
    assert re.fullmatch(expected, threads)
    assert first == f"train defu_net mixed seed 0: {EPOCHS} epochs of 3 batches"
    assert len(epochs) == EPOCHS
    for number, line in enumerate(epochs, 1):
        assert re.fullmatch(EPOCH_LINE.format(n=number, of=EPOCHS), line), line
    assert re.fullmatch(r"train .*: best validation Dice 0\.\d{4} in epoch \d; wrote .*/seed-0", last)
    assert trained.train.stderr == LOADING


def test_files_say_what_was_trained(trained: Trained) -> None:
    model = trained.project.model
    assert files(model) == {WEIGHTS, CONFIG, HISTORY, PROVENANCE, RUN}
    assert json.loads((model / PROVENANCE).read_text()) == {
        "params": json.loads((model / CONFIG).read_text())["train"],
        "manifest": Arrays(trained.project.arrays).info["manifest_sha256"],
        "files": {
            "images": sha256(trained.project.arrays / "images.npy"),
            "masks": sha256(trained.project.arrays / "masks-original.npy"),
            "split": sha256(trained.project.split),
        },
        "code": code_files(TRAINING_CODE),
        "weights": sha256(model / WEIGHTS),
        "precision": json.loads((model / RUN).read_text())["precision"],
    }
    config = json.loads((model / CONFIG).read_text())
    assert (config["network"], config["scenario"], config["seed"], config["width"]) == ("defu_net", "mixed", 0, 0.125)
    assert config["cohort"]["synthetic"] is True
    assert (config["norm"], config["options"]) == ("batch", config["train"]["defu_net"])
    network = Predictor.load(model).network
    assert sum(p.numel() for p in network.parameters()) == config["parameters"]
    history = pd.read_csv(model / HISTORY)
    assert history["epoch"].tolist() == list(range(1, EPOCHS + 1))
    assert not {*TIMES} & {*history}, "no two runs take as long"
    run = json.loads((model / RUN).read_text())
    best = int(history["validation_loss"].idxmin()) + 1
    assert (run["commit"], run["dirty"], run["epochs"], run["best_epoch"]) == ("c0ffee", False, EPOCHS, best)
    assert run["resumed_from"] == 0
    times = pd.DataFrame(run["per_epoch"])
    assert list(times) == ["epoch", *TIMES]
    assert times["epoch"].tolist() == history["epoch"].tolist()
    assert run["training_seconds"] == pytest.approx(times["seconds"].sum(), abs=0.01)
    # 23 images an epoch in batches of 8, which are always full.
    assert run["images_per_second"] == pytest.approx(EPOCHS * 24 / times["seconds"].sum(), rel=0.01)
    assert (run["precision"] in ("float32", "bfloat16"), run["processes"], run["device"]) == (True, 1, "cpu")
    assert f"{run['precision']} ({run['precision_reason']})" in trained.train.stdout
    assert [(stage["size"], stage["epochs"]) for stage in run["stages"]] == [(32, EPOCHS)]
    assert run["stages"][0]["training_seconds"] == run["training_seconds"] <= run["seconds"]
    assert (run["threads"], run["threads_reason"]) == (1, "OMP_NUM_THREADS")
    assert (
        run["versions"]["torch"] == torch.__version__.partition("+")[0] or run["versions"]["torch"] in torch.__version__
    )


def test_a_record_is_that_of_the_weights_that_are_there_and_of_no_others(scored: Project) -> None:
    model = scored.model
    run = read_run(model)
    assert run["weights"] == sha256(model / WEIGHTS)
    # As after `dvc checkout` of another training: its provenance came with it, a record did not.
    learnt = json.loads((model / PROVENANCE).read_text())
    (model / PROVENANCE).write_text(json.dumps(learnt | {"weights": "0" * 64}))
    assert read_run(model) == {}
    (model / PROVENANCE).write_text(json.dumps(learnt))
    (model / RUN).write_text("[]")
    with pytest.raises(UserError, match=r"run\.json: not an output of the train step; remove it"):
        read_run(model)
    (model / RUN).unlink()
    assert read_run(model) == {}


def test_mlflow_run_has_parameters_curves_data_and_lineage(trained: Trained) -> None:
    project = trained.project
    run = only_run(project)
    assert run.info.status == "FINISHED"
    assert run.data.params["train.augmentation.rotation"] == "10.0"
    assert run.data.params["input.size"] == "32"
    assert run.data.tags["git.commit"] == "c0ffee"
    assert run.data.tags["git.dirty"] == "False"
    assert run.data.tags["data.md5"] == DATA_MD5
    history = pd.read_csv(project.model / HISTORY)
    for name in ("train_loss", "validation_dice", "learning_rate"):
        logged = project.client().get_metric_history(run.info.run_id, name)
        assert [m.value for m in logged] == pytest.approx(history[name].tolist())
    assert run.data.metrics["best_validation_dice"] == pytest.approx(
        history["validation_dice"][history["validation_loss"].idxmin()]
    )
    contexts = {given.tags[0].value: given.dataset for given in run.inputs.dataset_inputs}
    assert set(contexts) == {"train", "validation"}
    assert json.loads(contexts["train"].profile)["num_rows"] == 23
    artifacts = project.client().list_artifacts(run.info.run_id, "training")
    assert {Path(found.path).name for found in artifacts} == {CONFIG, HISTORY, RUN}


@pytest.mark.slow
def test_a_network_of_other_choices_is_rebuilt_from_its_config(untrained: Project) -> None:
    ablated = {"inception": False, "recurrent": True, "shared": True, "bottom": 1024}
    untrained.write_params(train={"epochs": 1, "width": 0.0625, "norm": "group", "defu_net": ablated})
    untrained.do(untrained.train_line())
    config = json.loads((untrained.model / CONFIG).read_text())
    assert (config["norm"], config["options"]) == ("group", ablated)
    network = Predictor.load(untrained.model).network
    kinds = {type(module) for module in network.modules()}
    assert torch.nn.GroupNorm in kinds
    assert torch.nn.BatchNorm2d not in kinds
    assert sum(p.numel() for p in network.parameters()) == config["parameters"]
    assert only_run(untrained).data.params["options.inception"] == "False"
    untrained.do(untrained.evaluate_line())


@pytest.mark.full
def test_where_the_images_are_changes_no_weight(untrained: Project) -> None:
    """In memory and from the files, with a smaller stage before."""
    stage = {"size": 16, "epochs": 1, "learning_rate": 0.002, "batch_size": 4}
    digests = []
    for resident in ("always", "never"):
        untrained.write_params(train={"epochs": 1, "stages": [stage], "resident": resident})
        untrained.do(untrained.train_line())
        digests.append(sha256(untrained.model / WEIGHTS))
    assert digests[0] == digests[1]


@pytest.mark.parametrize(
    ("free", "limit", "used", "kind"),
    [
        (10**9, None, None, "Subset"),
        (10**5, None, None, "MappedSubset"),
        (10**9, "max", "0", "Subset"),
        (10**9, "100000", "5000", "MappedSubset"),
    ],
)
def test_images_stay_in_memory_where_little_of_it_is_taken(
    untrained: Project,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    free: int,
    limit: str | None,
    used: str | None,
    kind: str,
) -> None:
    if limit is not None and used is not None:
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        (tmp_path / "memory.current").write_text(f"{used}\n")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=free))
    monkeypatch.setattr("components.train.load.GROUP", tmp_path)
    cohort = Arrays(untrained.arrays)
    ids = read_split(untrained.split)
    found = load_images(cohort, {"train": ids["train"]}, "original", "auto")["train"]
    assert type(found).__name__ == kind
    assert found.ids == ids["train"]
    assert np.array_equal(found.images[np.array([1])], cohort.images[cohort.rows([ids["train"][1]])])


def test_options_are_of_the_network_that_has_them(untrained: Project) -> None:
    untrained.write_params(train={"epochs": 1, "width": 0.0625})
    line = untrained.train_line()
    line[line.index("defu_net")] = "unet"
    untrained.do(line)
    assert json.loads((untrained.model / CONFIG).read_text())["options"] == {}
    Predictor.load(untrained.model)


# --- a terminal -----------------------------------------------------------------------------------------------------


@pytest.mark.full
@pytest.mark.slow
def test_a_terminal_shows_a_live_bar(untrained: Project) -> None:
    untrained.write_params(train={"epochs": 12})
    main, side = pty.openpty()
    environment = untrained.environment | {"TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
    with subprocess.Popen(
        untrained.train_line(), stdin=side, stdout=side, stderr=side, cwd=untrained.root, env=environment
    ) as process:
        os.close(side)
        shown = b""
        while chunk := read(main):
            shown += chunk
        assert process.wait() == 0, shown.decode()
    os.close(main)
    # A live bar is drawn again and again in place: carriage return, or the cursor moved up.
    frames = re.split(r"\r|\x1b\[\d*A", re.sub(r"\x1b\[[0-9;?]*[mKhl]", "", shown.decode()))
    bars = [frame for frame in frames if "images/s" in frame and "validation" not in frame]
    assert len(bars) > 3, shown.decode()
    whole = [bar for bar in bars if re.search(r"\d+/36 .*\d:\d\d:\d\d.* loss -?\d\.\d+ +\d+\.\d images/s", bar)]
    assert whole, bars[:5]
    assert all(len(line) <= 80 for bar in bars for line in bar.splitlines())
    assert len(re.findall(r"epoch \d+/12 ", shown.decode())) == 12


# --- what changes while it trains -----------------------------------------------------------------------------------


@pytest.mark.parametrize("what", [pytest.param("parameters", marks=pytest.mark.full), "split"])
def test_what_changes_during_a_training_is_refused_and_resumes_when_put_back(untrained: Project, what: str) -> None:
    """DVC would record the new parameters for weights that learnt with the old ones."""
    epochs = 8
    untrained.write_params(train={"epochs": epochs})
    file = untrained.root / "params.yaml" if what == "parameters" else untrained.split
    before = file.read_bytes()
    job = untrained.start(untrained.train_line())
    assert job.until(lambda: "epoch 1/" in job.output)
    job.kill(signal.SIGSTOP)  # on a busy machine the rest of the training could be over before the edit is made
    if what == "parameters":
        untrained.write_params(train={"epochs": 12})
    else:
        file.write_bytes(before + b" ")
    job.kill(signal.SIGCONT)
    done = job.wait([])
    assert done.returncode == 1
    *warnings, error, line = done.stderr.splitlines()
    assert error.startswith(
        "error: train defu_net mixed seed 0: its inputs changed while it ran, so nothing was written"
    )
    assert line == f"  epochs: {epochs} -> 12" if what == "parameters" else line == f"  {file}: has changed"
    assert len([warning for warning in warnings if f"epochs: {epochs} -> 12" in warning]) == (what == "parameters")
    assert not untrained.model.exists()
    file.write_bytes(before)
    again = untrained.do(untrained.train_line())
    assert f"resuming after epoch {epochs}" in again
    assert json.loads((untrained.model / PROVENANCE).read_text())["params"]["epochs"] == epochs


def read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # how Linux says that the other side is closed
        return b""


# --- bad input ------------------------------------------------------------------------------------------------------


def test_a_loss_that_is_no_number_is_told_and_tried_again(untrained: Project) -> None:
    untrained.write_params(train={"learning_rate": 1e38})
    message = refused(untrained.call(untrained.train_line()))
    assert re.match(
        r"error: train defu_net mixed seed 0: epoch 1, batch [23] of 3: the loss is not a number "
        r"\(images (MCU|CHN)CXR_\d{4}_[01](, (MCU|CHN)CXR_\d{4}_[01])+\); lower train.learning_rate \(now 1e\+38\)",
        message,
    )
    assert not untrained.model.exists()
    assert only_run(untrained).info.status == "FAILED"


def split_of(project: Project, **changes: Any) -> None:
    project.split.write_text(json.dumps(json.loads(project.split.read_text()) | changes))


BAD: dict[str, tuple[Callable[[Project], object], str]] = {
    "no split": (lambda p: p.split.unlink(), r"mixed\.json: not found; run the step"),
    "split is no JSON": (lambda p: p.split.write_text("{"), r"mixed\.json: not valid JSON"),
    "split is a list": (lambda p: p.split.write_text("[]"), r"mixed\.json: not a split with images for train, val"),
    "split lacks a part": (lambda p: p.split.write_text('{"train": ["a"]}'), r"mixed\.json: not a split with images"),
    "nobody to validate on": (lambda p: split_of(p, validation=[]), r"mixed\.json: not a split with images"),
    "split of another scenario": (
        lambda p: shutil.copy(p.split.with_name("montgomery-to-shenzhen.json"), p.split),
        r"mixed\.json: the split of scenario montgomery-to-shenzhen, not of mixed",
    ),
    "unknown image": (
        lambda p: split_of(p, train=["NOBODY_0001_0"]),
        r"1 image\(s\) that the arrays lack, the first NOBODY_0001_0",
    ),
    "no arrays": (lambda p: shutil.rmtree(p.arrays), r"manifest\.csv: not found; .*ingest"),
    "no images": (lambda p: (p.arrays / "images.npy").unlink(), r"images\.npy: cannot be read .*preprocess"),
    "images cut short": (
        lambda p: (p.arrays / "images.npy").write_bytes((p.arrays / "images.npy").read_bytes()[:-100]),
        r"images\.npy: cannot be read .*preprocess",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_data_that_do_not_fit_are_told(untrained: Project, name: str) -> None:
    spoil, message = BAD[name]
    params = untrained.write_params().train
    spoil(untrained)
    with pytest.raises(UserError, match=message) as told:
        train(CELL, untrained.arrays, untrained.split, params, "e", untrained.model, states(untrained))
    assert not told.value.problems
    assert "\n" not in str(told.value)
    assert not untrained.model.exists()


def test_an_unknown_network_is_told_before_anything_is_read(tmp_path: Path, untrained: Project) -> None:
    nowhere = tmp_path / "nowhere"
    params = untrained.write_params().train
    with pytest.raises(UserError, match=r"unknown network 'v_net'; known are .*defu_net"):
        train(Cell("v_net", "mixed", 0), nowhere, nowhere, params, "e", nowhere, nowhere)


def test_the_command_refuses_in_one_line(untrained: Project) -> None:
    line = untrained.train_line()
    line[line.index("defu_net")] = "v_net"
    assert refused(untrained.call(line)).startswith("error: unknown network 'v_net'; known are ")
    line = untrained.train_line("--params", "none.yaml")
    assert refused(untrained.call(line)).startswith("error: none.yaml: not found;")
    line = untrained.train_line()
    line[line.index("mixed")] = "shenzhen-to-montgomery"
    assert "the split of scenario mixed, not of shenzhen-to-montgomery" in refused(untrained.call(line))
    assert untrained.runs() == []
    assert not (untrained.root / "models").exists()


def test_a_damaged_state_is_told(untrained: Project) -> None:
    job = untrained.start(untrained.train_line())
    assert job.until(lambda: "epoch 1/" in job.output)
    job.kill()
    job.wait([])
    (states(untrained) / "state.pt").write_bytes(b"PK\x03\x04 but no more")
    message = refused(untrained.call(untrained.train_line()))
    assert "state.pt: cannot be read" in message
    assert "remove its folder" in message


@pytest.mark.parametrize("store", ["nonsense://here", "sqlite:////proc/none/mlflow.db"])
def test_a_store_that_can_never_work_is_refused(untrained: Project, store: str) -> None:
    # MLflow would try for minutes.
    given = {"MLFLOW_TRACKING_URI": store, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    done = untrained.call(untrained.train_line(), **given)
    message = refused(done)
    assert message.startswith(f"error: MLflow, {store}: ")
    assert "check MLFLOW_TRACKING_URI" in message
    assert not untrained.model.exists()


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*line: object) -> None:
        raise AssertionError(f"started {line}")

    monkeypatch.setattr("os.execv", start)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(UserError, match=r"--processes 3: this machine has 2 GPU\(s\)"):
        _become_torchrun(3)
    for gpus in (0, 3):  # processes of a CPU are not counted
        monkeypatch.setattr("torch.cuda.device_count", lambda gpus=gpus: gpus)
        with pytest.raises(AssertionError, match="--nproc-per-node=3"):
            _become_torchrun(3)
