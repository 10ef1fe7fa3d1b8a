"""A training says with how many threads it computes and how they wait; weights follow from the former alone."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks.waiting import neighbours
from core.cell import RUN
from model.threads import affinity
from model.weights import WEIGHTS
from tests.conftest import EPOCHS, Project, fresh
from tests.model.test_threads import ONE, begun, environment

pytestmark = [pytest.mark.full, pytest.mark.slow, pytest.mark.timeout(600)]


def trained(project: Project, *before: str, **given: str) -> tuple[dict[str, Any], str, str]:
    """Train in a process of its own, as a user who has set no more than what is given; its record, and what it said."""
    with started(project, *before, **given) as process:
        said, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return json.loads((project.model / RUN).read_text()), said, errors


def started(project: Project, *before: str, **given: str) -> subprocess.Popen[str]:
    own = {name: value for name, value in project.environment.items() if name != "OMP_NUM_THREADS"}
    line = [*before, *project.train_line()]
    return subprocess.Popen(line, cwd=project.root, env=own | environment(**given), stdout=-1, stderr=-1, text=True)


@pytest.fixture(scope="module")
def passive(prepared: Project, tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, dict[str, Any], str, str]:
    """Trained with two threads and nothing said of their waiting, where other processes compute at the start."""
    project = fresh(prepared, tmp_path_factory.mktemp("passive"))
    with neighbours(len(affinity())):
        process = started(project, OMP_NUM_THREADS="2")
        assert process.stderr is not None
        # OpenMP tells its settings once they are taken, and nothing of the neighbours matters any more. What readline
        # has read ahead is lost to communicate.
        told = ""
        while "GOMP_SPINCOUNT" not in told:
            line = process.stderr.readline()
            assert line, told
            told += line
    said, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return project, json.loads((project.model / RUN).read_text()), said, told + errors


def test_the_environment_of_a_training_has_passive_waiting_and_the_record_says_so(
    passive: tuple[Project, dict[str, Any], str, str],
) -> None:
    _, record, said, errors = passive
    assert begun(errors)["GOMP_SPINCOUNT"] == "0"
    assert (record["threads"], record["threads_reason"], record["waiting"]) == (2, "OMP_NUM_THREADS", "passive")
    assert record["waiting_reason"] == "other processes computed when it began"
    policy = f"OpenMP wait policy: passive ({record['waiting_reason']})"
    line = f"2 threads (OMP_NUM_THREADS); {policy}; load {record['load']:.1f}"
    assert said.splitlines()[1] == f"train defu_net mixed seed 0: {line}"


def test_weights_are_equal_with_either_waiting(
    passive: tuple[Project, dict[str, Any], str, str], untrained: Project
) -> None:
    record, _, errors = trained(untrained, OMP_NUM_THREADS="2", GOMP_SPINCOUNT="300000")
    assert begun(errors)["GOMP_SPINCOUNT"] == "300000"
    assert record["waiting"] == "GOMP_SPINCOUNT=300000"
    assert (untrained.model / WEIGHTS).read_bytes() == (passive[0].model / WEIGHTS).read_bytes()


@pytest.fixture(scope="module")
def killed(prepared: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Killed after its first epoch, with two threads."""
    project = fresh(prepared, tmp_path_factory.mktemp("killed"))
    own = project.environment | environment(OMP_NUM_THREADS="2")
    with psutil.Popen(project.train_line(), cwd=project.root, env=own, stdout=-1, stderr=-3, text=True) as process:
        assert any(line.startswith("epoch 1/") for line in process.stdout)
        process.send_signal(signal.SIGKILL)
    assert not project.model.exists()
    return project


def copied(project: Project, root: Path) -> Project:
    shutil.copytree(project.root, root, dirs_exist_ok=True)
    return Project(root, project.launcher)


def test_a_resumed_training_keeps_its_threads_and_so_its_weights(
    passive: tuple[Project, dict[str, Any], str, str], killed: Project, tmp_path: Path
) -> None:
    project = copied(killed, tmp_path)
    record, said, _ = trained(project, "taskset", "-c", ONE)
    assert 1 <= record["resumed_from"] < EPOCHS
    assert (record["threads"], record["threads_reason"]) == (2, "as the run began: OMP_NUM_THREADS")
    assert "2 threads (as the run began: OMP_NUM_THREADS)" in said
    assert (project.model / WEIGHTS).read_bytes() == (passive[0].model / WEIGHTS).read_bytes()


def test_what_the_user_sets_wins_over_what_the_run_began_with(killed: Project, tmp_path: Path) -> None:
    project = copied(killed, tmp_path)
    record, said, _ = trained(project, OMP_NUM_THREADS="1")
    reason = "OMP_NUM_THREADS; the run began with 2, so that its weights differ in the last digits"
    assert (record["threads"], record["threads_reason"]) == (1, reason)
    assert f"1 thread ({reason})" in said
