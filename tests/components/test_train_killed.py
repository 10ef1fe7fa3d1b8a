"""A training killed at any moment ends as if it had not been; a full disk spoils nothing."""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from core.cell import HISTORY, RUN
from model.weights import CONFIG, WEIGHTS, save_weights
from tests.components.test_train import files, only_run, states
from tests.conftest import CELL, EPOCHS, LOADING, Project, Trained, refused


def logged_epochs(project: Project, metric: str = "train_loss") -> list[int]:
    # An epoch that a kill kept from being logged comes last, under its own step.
    entries = project.client().get_metric_history(only_run(project).info.run_id, metric)
    return sorted(entry.step for entry in entries)


def assert_as_uninterrupted(project: Project, trained: Trained) -> None:
    assert (project.model / WEIGHTS).read_bytes() == (trained.project.model / WEIGHTS).read_bytes()
    assert (project.model / CONFIG).read_bytes() == (trained.project.model / CONFIG).read_bytes()
    assert (project.model / HISTORY).read_bytes() == (trained.project.model / HISTORY).read_bytes()
    assert only_run(project).info.status == "FINISHED"
    for metric in ("train_loss", "validation_dice", "learning_rate"):
        assert logged_epochs(project, metric) == list(range(1, EPOCHS + 1)), metric
    assert json.loads((project.model / RUN).read_text())["mlflow_run_id"] == only_run(project).info.run_id
    assert len(only_run(project).inputs.dataset_inputs) == 2
    assert files(project.model.parent) == {project.model.name, f".{project.model.name}.lock"}


def recorded_end(folder: Path) -> bool:
    try:
        return any(json.loads(file.read_text())["status"] == "FINISHED" for file in folder.glob("mlflow-*/record.json"))
    except FileNotFoundError:  # it was sent and removed
        return False


@pytest.mark.slow
@pytest.mark.full
def test_killed_at_every_tender_moment(untrained: Project, trained: Trained) -> None:
    model = untrained.model

    def folder() -> Path:
        return states(untrained)

    chance = random.Random(0)
    at: list[tuple[str, Callable[[str], bool], float]] = [
        ("its record is there, its run perhaps not", lambda _: bool(list(folder().glob("mlflow-*/record.json"))), 0),
        ("the first epoch", lambda out: "3 batches" in out, chance.uniform(0, 0.2)),
        ("the first state is being written", lambda _: (folder() / ".state.pt.partial").exists(), 0),
        ("the second epoch", lambda out: "epoch 1/" in out or "after epoch 1" in out, chance.uniform(0, 0.2)),
        ("another state is being written", lambda _: (folder() / ".state.pt.partial").exists(), 0.005),
        ("the result is being written", lambda _: bool(list(model.parent.glob(".seed-0.partial-*"))), 0),
        ("the result is written, the run is open", lambda _: model.exists(), 0),
        ("the record has its end, the run has not", lambda _: recorded_end(folder()), 0),
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


@pytest.mark.full
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


@pytest.mark.full
@pytest.mark.slow
def test_an_epoch_learnt_again_is_logged_once(untrained: Project) -> None:
    untrained.write_params(train={"epochs": 12, "checkpoint_every": 12})
    assert logged_or_none(untrained) == 0  # what asks is imported before it is needed quickly
    job = untrained.start(untrained.train_line())
    # Epoch 1 is logged, and the first state comes after the last one.
    assert job.until(lambda: logged_or_none(untrained) >= 1)
    job.kill()
    assert job.wait([]).returncode == -signal.SIGKILL
    untrained.do(untrained.train_line())
    assert logged_epochs(untrained) == list(range(1, 13))


def logged_or_none(project: Project) -> int:
    runs = project.runs()
    return len(project.client().get_metric_history(runs[0].info.run_id, "train_loss")) if runs else 0


@pytest.mark.slow
def test_interrupted_from_the_keyboard(untrained: Project, trained: Trained) -> None:
    job = untrained.start(untrained.train_line())
    assert job.until(lambda: "epoch 1/" in job.output)
    job.kill(signal.SIGINT)
    done = job.wait([])
    assert done.returncode == 130
    assert done.stderr == LOADING + "interrupted: no partial output was written; run again to resume\n"
    assert only_run(untrained).info.status == "KILLED"
    assert not untrained.model.exists()
    assert "resuming after epoch" in untrained.do(untrained.train_line())
    assert_as_uninterrupted(untrained, trained)


@pytest.mark.slow
def test_trained_again_it_is_a_run_of_its_own_with_the_same_weights(scored: Project, trained: Trained) -> None:
    before = only_run(scored).info.run_id
    (scored.model / "left-over").touch()
    assert "resuming" not in scored.do(scored.train_line())
    assert (scored.model / WEIGHTS).read_bytes() == (trained.project.model / WEIGHTS).read_bytes()
    assert not (scored.model / "left-over").exists()
    runs = scored.runs()
    assert len(runs) == 2
    assert before in {run.info.run_id for run in runs}
    assert {run.info.status for run in runs} == {"FINISHED"}


@pytest.mark.full
@pytest.mark.slow
def test_other_parameters_or_data_do_not_go_on_from_a_state(untrained: Project) -> None:
    job = untrained.start(untrained.train_line())
    assert job.until(lambda: "epoch 1/" in job.output)
    job.kill()
    job.wait([])
    untrained.write_params(train={"epochs": 2})
    assert "resuming" not in untrained.do(untrained.train_line())
    first, second = sorted(untrained.runs(), key=lambda run: run.info.start_time)
    assert (first.info.status, second.info.status) == ("RUNNING", "FINISHED")


# --- a damaged state -------------------------------------------------------------------------------------


@pytest.mark.full
def test_the_state_before_a_damaged_one_is_used(untrained: Project, trained: Trained) -> None:
    job = untrained.start(untrained.train_line())
    assert job.until(lambda: "epoch 2/" in job.output)
    job.kill()
    job.wait([])
    state = states(untrained) / "state.pt"
    content = bytearray(state.read_bytes())
    content[len(content) // 2] ^= 1
    state.write_bytes(content)
    done = untrained.call(untrained.train_line())
    assert done.returncode == 0, done.stderr
    assert "state.pt: damaged (" in done.stderr
    assert "the checkpoint before it is used" in done.stderr
    assert "resuming after epoch" in done.stdout
    assert_as_uninterrupted(untrained, trained)


# --- a full disk ---------------------------------------------------------------------------------------


@pytest.mark.full
@pytest.mark.slow
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
    (record,) = states(untrained).glob("mlflow-*")
    assert files(states(untrained)) - {"state.previous.pt"} == {"state.pt", record.name}
    assert only_run(untrained).info.status == "FAILED"
    assert not untrained.model.exists()
    untrained.do(untrained.train_line())
    assert_as_uninterrupted(untrained, trained)


def test_a_full_disk_under_the_weights_is_an_os_error() -> None:
    with pytest.raises(OSError, match="No space left"):
        save_weights(Path("/dev/full"), {"a": torch.zeros(1000)})
