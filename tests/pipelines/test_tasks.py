"""What stands around a step in a Kubeflow task: parameters as text, last words, cells gathered into a tree."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.promote import Promotion
from core.errors import UserError
from core.params import EvaluateParams, check, read_params
from model.threads import PASSIVE, SHORT, share
from model.training.recipe import TrainParams
from pipelines import steps
from pipelines.tasks import (
    from_json,
    in_processes,
    promoted,
    reference,
    section,
    sections,
    task,
    to_json,
    whole,
)
from tests.model.test_threads import environment

PARAMS = read_params(Path(__file__).resolve().parents[2] / "params.yaml")


@given(seed=st.integers(0, 2**70), rate=st.floats(1e-300, 1e300))
def test_numbers_arrive_as_they_left(seed: int, rate: float) -> None:
    values = PARAMS.model_dump(by_alias=True)
    values["preprocess"]["seed"], values["train"]["learning_rate"] = seed, rate
    params = check(values, "here")

    back = whole(sections(params))

    assert back == params
    assert (type(back.preprocess.seed), back.preprocess.seed) == (int, seed)
    assert back.train.learning_rate.hex() == rate.hex()


def test_the_splits_keep_their_order() -> None:
    # It decides ties between splits.
    assert list(whole(sections(PARAMS)).preprocess.splits) == list(PARAMS.preprocess.splits)
    assert list(PARAMS.preprocess.splits) == ["train", "validation", "test"]


def test_a_wrong_section_is_told_in_one_error() -> None:
    values = PARAMS.train.model_dump(mode="json") | {"epochs": 2.5, "unknown": 1}
    with pytest.raises(UserError, match=r"pipeline parameter train: 2 value\(s\) to correct") as caught:
        section(TrainParams, to_json(values), "train")
    assert [problem.partition(":")[0] for problem in caught.value.problems] == ["epochs", "unknown"]
    with pytest.raises(UserError, match="pipeline parameter train: not valid JSON"):
        from_json("epochs: 3", "train")


@given(
    epochs=st.integers(1, 500), rate=st.floats(1e-6, 1.0), turn=st.floats(0, 45), bottom=st.sampled_from([512, 1024])
)
def test_a_section_by_reference_is_the_section(epochs: int, rate: float, turn: float, bottom: int) -> None:
    values = PARAMS.train.model_dump(mode="json", by_alias=True)
    values["epochs"], values["learning_rate"], values["augmentation"]["rotation"] = epochs, rate, turn
    values["defu_net"]["bottom"] = bottom
    text = reference(to_json(values), "train")
    assert section(TrainParams, text, "train") == section(TrainParams, to_json(values), "train")
    assert len(text) < 250


def test_another_value_is_another_reference_and_so_another_cache_key() -> None:
    shipped = PARAMS.train.model_dump(mode="json", by_alias=True)
    texts = {reference(to_json(shipped | {"epochs": epochs}), "train") for epochs in range(1, 20)}
    assert len(texts) == 19
    assert reference(to_json(shipped), "train") == reference(to_json(dict(shipped)), "train")


@pytest.mark.parametrize(
    ("name", "change", "outputs"),
    [
        ("train", {"epochs": 3}, {"training"}),
        ("evaluate", {"threshold": 0.4}, {"scoring"}),
        ("register", {"experiment": "another"}, {"experiment"}),
        ("register", {"challenger": "always"}, set()),
        ("validate", {"large_component": 0.02}, set()),
        ("promotion", {"floor": 0.5}, set()),
        ("matrix", {"seeds": [0, 1]}, {"Output"}),
    ],
)
def test_a_changed_value_runs_those_steps_again_that_read_it(
    name: str, change: dict[str, object], outputs: set[str]
) -> None:
    # The cache key of a step holds what plan gives it. params is for register and promote, which are never cached.
    values = PARAMS.model_dump(mode="json", by_alias=True)
    values[name] = values[name] | change
    before, after = steps.plan(**sections(PARAMS)), steps.plan(**sections(check(values, "here")))
    changed = {key for key in before._fields if getattr(before, key) != getattr(after, key)}
    assert changed == outputs | {"params"}


def test_a_section_in_another_order_or_with_other_keys_stays_as_it_is() -> None:
    shipped = PARAMS.train.model_dump(mode="json", by_alias=True)
    for values in (dict(reversed(shipped.items())), {"width": 0.5}):
        assert json.loads(reference(to_json(values), "train")) == values


def test_a_reference_to_another_file_is_refused() -> None:
    text = json.dumps({"sha256": "0" * 16, "changes": {"epochs": 3}})
    with pytest.raises(UserError, match=r"pipeline parameter train: refers to another params\.yaml than "):
        section(TrainParams, text, "train")


def test_the_plan_lists_the_cells_and_no_more_scenarios_than_they_need() -> None:
    values = PARAMS.model_dump(by_alias=True)
    values["matrix"] = {"networks": ["defu_net"], "scenarios": ["mixed"], "seeds": [0, 3]}

    cells, scenarios, training, scoring, experiment, params = steps.plan(**sections(check(values, "here")))

    assert experiment == PARAMS.register_.experiment
    assert section(TrainParams, training, "train") == PARAMS.train
    assert section(EvaluateParams, scoring, "evaluate") == PARAMS.evaluate
    assert cells == ["defu_net/mixed/seed-0", "defu_net/mixed/seed-3"]
    assert list(json.loads(scenarios)) == ["mixed"]
    assert check(json.loads(params), "back") == check(values, "here")


def test_the_plan_refuses_wrong_parameters_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "termination-log"
    log.touch()
    monkeypatch.setenv("TERMINATION_LOG", str(log))
    parts = sections(PARAMS)
    parts["train"] = to_json(json.loads(parts["train"]) | {"epochs": 0})
    parts["matrix"] = to_json(json.loads(parts["matrix"]) | {"networks": ["no_net"]})

    with pytest.raises(SystemExit) as ended, task():
        steps.plan(**parts)

    assert ended.value.code == 1
    told = capsys.readouterr().err
    assert told.startswith("error: pipeline parameters: 2 value(s) to correct\n")
    assert "train.epochs" in told
    assert "unknown no_net" in told
    assert log.read_text() == told.removeprefix("error: ")


def test_last_words_fit_what_kubernetes_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "termination-log"
    log.touch()
    monkeypatch.setenv("TERMINATION_LOG", str(log))
    with pytest.raises(SystemExit), task():
        raise UserError("many files", [f"file {n}" for n in range(10_000)])
    assert len(log.read_bytes()) == 4096
    assert log.read_text().startswith("many files\n  file 0\n")


def test_a_bug_is_no_users_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "termination-log"
    log.touch()
    monkeypatch.setenv("TERMINATION_LOG", str(log))
    with pytest.raises(ZeroDivisionError), task():
        1 / 0  # noqa: B018
    assert log.read_text() == ""


def who(folder: Path, fails: bool) -> tuple[int, int]:
    """Return this process's number and how many there are, or fail as a step does; found by its name from afar."""
    rank, size = (int(os.environ.get(name, "0")) for name in ("RANK", "WORLD_SIZE"))
    if fails and rank == 0:
        raise UserError("the disk is full; free some space")
    (folder / str(rank)).touch()
    return rank, size


def test_one_process_needs_no_launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRAIN_PROCESSES", raising=False)
    assert in_processes(who, tmp_path, False) == (0, 0)
    with pytest.raises(UserError):
        in_processes(who, tmp_path, True)


@pytest.mark.full
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_several_processes_give_what_the_first_one_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAIN_PROCESSES", "2")
    assert in_processes(who, tmp_path, False) == (0, 2)
    assert {path.name for path in tmp_path.iterdir()} == {"0", "1"}


def threads() -> tuple[int, int]:
    """Return how many threads this process was told to take, and takes."""
    import torch

    return int(os.environ["OMP_NUM_THREADS"]), torch.get_num_threads()


SEVERAL = """
from pipelines.tasks import in_processes, task
from tests.pipelines.test_tasks import threads
if __name__ == "__main__":
    with task():
        print(*in_processes(threads))
"""


@pytest.mark.full
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_several_processes_share_the_cores_and_do_not_spin_for_long(tmp_path: Path) -> None:
    program = tmp_path / "several.py"
    program.write_text(SEVERAL)
    given = environment(TRAIN_PROCESSES="2")
    done = subprocess.run([sys.executable, program], env=given, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(share(2)[0])] * 2
    spins = re.findall(r"GOMP_SPINCOUNT = '(\d+)'", done.stderr)
    assert len(spins) == 3  # both processes, and the one that starts them
    assert set(spins) <= {PASSIVE["GOMP_SPINCOUNT"], SHORT["GOMP_SPINCOUNT"]}


@pytest.mark.full
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_users_error_in_one_of_several_processes_is_told(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "termination-log"
    log.touch()
    monkeypatch.setenv("TERMINATION_LOG", str(log))
    monkeypatch.setenv("TRAIN_PROCESSES", "2")
    with pytest.raises(SystemExit) as stopped, task():
        in_processes(who, tmp_path, True)
    assert stopped.value.code == 1
    assert "error: the disk is full; free some space" in capfd.readouterr().err
    assert log.read_text() == "the disk is full; free some space\n"


def test_a_version_is_promoted_only_where_that_is_wanted(tmp_path: Path) -> None:
    version = tmp_path / "version"
    version.write_text(to_json({"name": "lungs", "version": 3, "alias": "challenger"}))
    asked = []

    def promote(number: int) -> Promotion:
        asked.append(number)
        return Promotion("lungs", number, 2, 2, "a line", passed=False, page="# a page\n")

    assert promoted(version, None).startswith("lungs: version 3 is registered")
    assert asked == []
    assert promoted(version, promote) == "# a page\n"
    assert asked == [3]


def takes() -> str | None:
    return os.environ.get("TRAIN_TAKES_SINCE")


@pytest.mark.parametrize(("attempt", "taken"), [("0", None), ("1", "0")])
def test_another_attempt_takes_what_the_one_before_has_finished(
    monkeypatch: pytest.MonkeyPatch, attempt: str, taken: str | None
) -> None:
    monkeypatch.setenv("KFP_RETRY_INDEX", attempt)
    assert in_processes(takes) == taken
