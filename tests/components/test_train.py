"""A training killed at any moment ends as if it had not been; what goes wrong is told in one line."""

from __future__ import annotations

import json
import os
import pty
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from components.errors import UserError
from components.results import CONFIG, HISTORY, RUN, Cell
from components.train import train
from model.predictor import WEIGHTS, Predictor, save_weights
from tests.conftest import CELL, DATA_MD5, EPOCHS, Project, Trained, refused

TIMES = ["seconds", "images_per_second"]
EPOCH_LINE = (
    r"epoch {n}/{of}  loss -0\.\d{{4}}  dice 0\.\d{{4}}  validation loss -0\.\d{{4}}  dice 0\.\d{{4}}  \d+\.\d images/s"
)


def states(project: Project) -> Path:
    return project.root / "checkpoints" / CELL.folder


def state(project: Project) -> dict[str, Any]:
    loaded: dict[str, Any] = torch.load(states(project) / "state.pt", weights_only=True)
    return loaded


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def only_run(project: Project) -> Any:
    (run,) = project.runs()
    return run


def logged_epochs(project: Project, metric: str = "train_loss") -> list[int]:
    # An epoch that a kill kept from being logged comes last, under its own step.
    entries = project.client().get_metric_history(only_run(project).info.run_id, metric)
    return sorted(entry.step for entry in entries)


def assert_as_uninterrupted(project: Project, trained: Trained) -> None:
    assert (project.model / WEIGHTS).read_bytes() == (trained.project.model / WEIGHTS).read_bytes()
    assert (project.model / CONFIG).read_bytes() == (trained.project.model / CONFIG).read_bytes()
    here, there = (pd.read_csv(p.model / HISTORY).drop(columns=TIMES) for p in (project, trained.project))
    pd.testing.assert_frame_equal(here, there, check_exact=True)
    assert only_run(project).info.status == "FINISHED"
    for metric in ("train_loss", "validation_dice", "learning_rate"):
        assert logged_epochs(project, metric) == list(range(1, EPOCHS + 1)), metric
    assert json.loads((project.model / RUN).read_text())["mlflow_run_id"] == only_run(project).info.run_id
    assert len(only_run(project).inputs.dataset_inputs) == 2
    assert files(project.model.parent) == {project.model.name, f".{project.model.name}.lock"}


# --- what is left ---------------------------------------------------------------------------------------------------


def test_output_is_one_plain_line_an_epoch(trained: Trained) -> None:
    first, *epochs, last = trained.train.stdout.splitlines()
    assert first == f"train defu_net mixed seed 0: {EPOCHS} epochs of 3 batches"
    assert len(epochs) == EPOCHS
    for number, line in enumerate(epochs, 1):
        assert re.fullmatch(EPOCH_LINE.format(n=number, of=EPOCHS), line), line
    assert re.fullmatch(r"train .*: best validation Dice 0\.\d{4} in epoch \d; wrote .*/seed-0", last)
    assert trained.train.stderr == ""


def test_files_say_what_was_trained(trained: Trained) -> None:
    model = trained.project.model
    assert files(model) == {WEIGHTS, CONFIG, HISTORY, RUN}
    config = json.loads((model / CONFIG).read_text())
    assert (config["network"], config["scenario"], config["seed"], config["width"]) == ("defu_net", "mixed", 0, 0.125)
    assert config["cohort"]["synthetic"] is True
    network = Predictor.load(model).network
    assert sum(p.numel() for p in network.parameters()) == config["parameters"]
    history = pd.read_csv(model / HISTORY)
    assert history["epoch"].tolist() == list(range(1, EPOCHS + 1))
    run = json.loads((model / RUN).read_text())
    best = int(history["validation_loss"].idxmin()) + 1
    assert (run["commit"], run["dirty"], run["epochs"], run["best_epoch"]) == ("c0ffee", False, EPOCHS, best)
    assert run["resumed_from"] == 0
    assert run["training_seconds"] == pytest.approx(history["seconds"].sum(), abs=0.01)
    assert (
        run["versions"]["torch"] == torch.__version__.partition("+")[0] or run["versions"]["torch"] in torch.__version__
    )


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


# --- killed ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_killed_at_every_tender_moment(untrained: Project, trained: Trained) -> None:
    folder, model = states(untrained), untrained.model
    chance = random.Random(0)
    at: list[tuple[str, Callable[[str], bool], float]] = [
        ("its note is there, its run perhaps not", lambda _: (folder / "mlflow.json").exists(), 0),
        ("the first epoch", lambda out: "3 batches" in out, chance.uniform(0, 0.2)),
        ("the first state is being written", lambda _: (folder / ".state.pt.partial").exists(), 0),
        ("the second epoch", lambda out: "epoch 1/" in out or "after epoch 1" in out, chance.uniform(0, 0.2)),
        ("another state is being written", lambda _: (folder / ".state.pt.partial").exists(), 0.005),
        ("the result is being written", lambda _: bool(list(model.parent.glob(".seed-0.partial-*"))), 0),
        ("the result is written, the run is open", lambda _: model.exists(), 0),
    ]
    killed = []
    for name, moment, delay in at:
        job = untrained.start(untrained.train_line())
        if job.until(lambda moment=moment, job=job: moment(job.output)):  # type: ignore[misc]
            time.sleep(delay)
            job.kill()
            done = job.wait([])
            assert done.returncode in (-signal.SIGKILL, 0), done.stderr
            killed += [name] if done.returncode else []
    assert len(killed) >= 5, killed
    untrained.do(untrained.train_line())
    assert_as_uninterrupted(untrained, trained)


@pytest.mark.slow
def test_killed_at_random_moments(untrained: Project, trained: Trained) -> None:
    chance, kills = random.Random(1), 0
    started = time.monotonic()
    probe = untrained.start(untrained.train_line())
    assert probe.until(lambda: "epoch 1/" in probe.output)
    until_first_epoch = time.monotonic() - started
    probe.kill()
    probe.wait([])
    for _ in range(30):
        job = untrained.start(untrained.train_line())
        limit = time.monotonic() + chance.uniform(0.2, 1.3) * until_first_epoch
        while time.monotonic() < limit and not job.ended:
            time.sleep(0.002)
        if job.ended:
            assert job.wait([]).returncode == 0
            break
        job.kill()
        kills += job.wait([]).returncode == -signal.SIGKILL
        if untrained.runs() and only_run(untrained).info.status == "FINISHED":
            break  # it was over, all but its exit
        if kills == 6:
            untrained.do(untrained.train_line())
            break
    assert kills >= 1
    assert_as_uninterrupted(untrained, trained)


def test_an_epoch_learnt_again_is_logged_once(untrained: Project) -> None:
    untrained.write_params(train={"checkpoint_every": 2})
    job = untrained.start(untrained.train_line())
    # Epoch 1 is logged, and the first state comes after epoch 2.
    assert job.until(lambda: logged_or_none(untrained) >= 1)
    job.kill()
    job.wait([])
    untrained.do(untrained.train_line())
    assert logged_epochs(untrained) == [1, 2, 3]


def logged_or_none(project: Project) -> int:
    runs = project.runs()
    return len(project.client().get_metric_history(runs[0].info.run_id, "train_loss")) if runs else 0


def test_interrupted_from_the_keyboard(untrained: Project, trained: Trained) -> None:
    job = untrained.start(untrained.train_line())
    assert job.until(lambda: "epoch 1/" in job.output)
    job.kill(signal.SIGINT)
    done = job.wait([])
    assert done.returncode == 130
    assert done.stderr == "interrupted: nothing half-written was left; run again to go on\n"
    assert only_run(untrained).info.status == "KILLED"
    assert not untrained.model.exists()
    assert "going on after epoch" in untrained.do(untrained.train_line())
    assert_as_uninterrupted(untrained, trained)


def test_trained_again_it_is_a_run_of_its_own_with_the_same_weights(scored: Project, trained: Trained) -> None:
    before = only_run(scored).info.run_id
    (scored.model / "left-over").touch()
    assert "going on" not in scored.do(scored.train_line())
    assert (scored.model / WEIGHTS).read_bytes() == (trained.project.model / WEIGHTS).read_bytes()
    assert not (scored.model / "left-over").exists()
    runs = scored.runs()
    assert len(runs) == 2
    assert before in {run.info.run_id for run in runs}
    assert {run.info.status for run in runs} == {"FINISHED"}


def test_other_parameters_or_data_do_not_go_on_from_a_state(untrained: Project) -> None:
    job = untrained.start(untrained.train_line())
    assert job.until(lambda: "epoch 1/" in job.output)
    job.kill()
    job.wait([])
    untrained.write_params(train={"epochs": 2})
    assert "going on" not in untrained.do(untrained.train_line())
    first, second = sorted(untrained.runs(), key=lambda run: run.info.start_time)
    assert (first.info.status, second.info.status) == ("RUNNING", "FINISHED")


# --- two at once, a full disk ---------------------------------------------------------------------------------------


def test_a_second_training_of_the_cell_is_refused(untrained: Project) -> None:
    untrained.write_params(train={"epochs": 500})
    first = untrained.start(untrained.train_line())
    assert first.until(lambda: "epoch 1/" in first.output)
    message = refused(untrained.call(untrained.train_line()))
    assert message.startswith(f"error: {Path('checkpoints') / CELL.folder}: another run is writing here")
    # The one that goes on is watched meanwhile.
    assert first.until(lambda: any(name.startswith("system/") for name in only_run(untrained).data.metrics), 30)
    first.kill()
    first.wait([])
    assert len(untrained.runs()) == 1


def test_a_full_disk_keeps_the_last_state(untrained: Project, trained: Trained) -> None:
    job = untrained.start(untrained.train_line())
    assert job.until(lambda: "epoch 1/" in job.output)
    job.kill()
    job.wait([])
    before = (states(untrained) / "state.pt").read_bytes()
    # More than the database, less than a state.
    message = refused(untrained.call(untrained.train_line(), largest_file=6 << 20))
    assert "the disk is full" in message
    assert str(Path("checkpoints") / CELL.folder) in message
    assert (states(untrained) / "state.pt").read_bytes() == before
    assert files(states(untrained)) == {"state.pt", "mlflow.json"}
    assert only_run(untrained).info.status == "FAILED"
    assert not untrained.model.exists()
    untrained.do(untrained.train_line())
    assert_as_uninterrupted(untrained, trained)


def test_a_full_disk_under_the_weights_is_an_os_error() -> None:
    with pytest.raises(OSError, match="No space left"):
        save_weights(Path("/dev/full"), {"a": torch.zeros(1000)})


# --- a terminal -----------------------------------------------------------------------------------------------------


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
    whole = [
        bar for bar in bars if re.search(r"\d+/36 .*\d:\d\d:\d\d.* loss -0\.\d+ +dice 0\.\d+ +\d+\.\d images/s", bar)
    ]
    assert whole, bars[:5]
    assert all(len(line) <= 80 for bar in bars for line in bar.splitlines())
    assert len(re.findall(r"epoch \d+/12 ", shown.decode())) == 12


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
    states(untrained).mkdir(parents=True)
    (states(untrained) / "state.pt").write_bytes(b"PK\x03\x04 but no more")
    message = refused(untrained.call(untrained.train_line()))
    assert "state.pt: cannot be read" in message
    assert "remove it" in message


@pytest.mark.parametrize("store", ["nonsense://here", "http://127.0.0.1:1", "sqlite:////proc/none/mlflow.db"])
def test_a_store_that_cannot_be_reached_is_told(untrained: Project, store: str) -> None:
    # MLflow would try for minutes.
    given = {"MLFLOW_TRACKING_URI": store, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    done = untrained.call(untrained.train_line(), **given)
    message = refused(done)
    assert message.startswith(f"error: MLflow, {store}: ")
    assert "check MLFLOW_TRACKING_URI" in message
    assert not untrained.model.exists()
