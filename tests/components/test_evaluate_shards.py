"""Evaluate in shards: the merge gives the bytes and the MLflow record of one evaluation, and refuses foreign parts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from components.evaluate import Work, evaluate, evaluate_shard
from components.evaluate.merge import merge
from components.evaluate.parts import PART
from core.cell import OVERLAYS, Cell
from core.cohort import read_split
from core.errors import UserError
from core.params import EvaluateParams, read_params
from core.shard import Shard
from model.inputs import one_thread
from model.weights import WEIGHTS, save_weights
from tests.conftest import CELL, Project, Trained, files, refused
from tests.daily import daily

NUMBERS = (1, 2, 3, 7)
SMALL = {"batch_size": 2}  # several batches a split


@pytest.fixture
def here(scored: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """The scored project as the current folder and store of this process."""
    monkeypatch.chdir(scored.root)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", scored.store)
    return scored


def params(project: Project, **changes: Any) -> EvaluateParams:
    return EvaluateParams(**(read_params(project.root / "params.yaml").evaluate.model_dump() | changes))


def work(project: Project, cell: Cell = CELL, **changes: Any) -> Work:
    return Work(cell, project.arrays, project.split, project.model, params(project, **changes))


def whole(project: Project, **changes: Any) -> dict[str, bytes]:
    """Return what one evaluation writes."""
    out = project.root / "whole"
    evaluate(work(project, **changes), project.raw, out)
    return files(out)


def part(project: Project, shard: Shard, cell: Cell = CELL, **changes: Any) -> Path:
    out = project.root / f"parts/{shard.number}"
    evaluate_shard(work(project, cell, **changes), project.raw, shard, out)
    return out


def parts(project: Project, of: int, **changes: Any) -> list[Path]:
    """Score every shard, and return the parts in another order than the shards'."""
    return [part(project, shard, **changes) for shard in Shard.every(of)][::-1]


@pytest.fixture(scope="module")
def halves(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The two parts of the shipped settings, scored once; not to be changed."""
    project = trained.copy(tmp_path_factory.mktemp("halves"))
    with pytest.MonkeyPatch.context() as patch, one_thread():  # as the command had: more add up in another order
        patch.chdir(project.root)
        parts(project, 2)
    return project.root / "parts"


@pytest.fixture
def both(halves: Path, here: Project) -> list[Path]:
    """The second and the first part of the shipped settings, to be changed."""
    shutil.copytree(halves, here.root / "parts")
    return [here.root / "parts/2", here.root / "parts/1"]


def merged(project: Project, folders: list[Path], **changes: Any) -> dict[str, bytes]:
    out = project.root / "merged"
    merge(work(project, **changes), folders, out)
    return files(out)


@pytest.mark.parametrize("of", daily(NUMBERS, NUMBERS.index(2)))
def test_merged_shards_are_one_evaluation(of: int, here: Project) -> None:
    # 7 shards are more than the batches of a split.
    once = whole(here, **SMALL)
    ids = read_split(here.split)
    batches = {name: -(-len(ids[name]) // 2) for name in ids}
    assert min(batches.values()) < 7
    assert max(batches.values()) > 7
    assert merged(here, parts(here, of, **SMALL), **SMALL) == once
    assert len(json.loads(once[OVERLAYS])) > 6


def test_shards_of_the_shipped_settings_are_the_evaluation_that_is_there(
    here: Project, both: list[Path], trained: Trained
) -> None:
    there = files(trained.project.evaluation)
    assert merged(here, both) == there


@pytest.mark.full
def test_each_shard_scores_its_own_batches_alone(here: Project, capsys: pytest.CaptureFixture[str]) -> None:
    parts(here, 3, **SMALL)
    said = [line for line in capsys.readouterr().out.splitlines() if "shard" in line]
    ids = read_split(here.split)
    for name in ids:
        counts = [int(line.split(": ")[-1].split()[0]) for line in said if f": {name}, " in line]
        assert len(counts) == 3
        assert sum(counts) == len(ids[name])
        assert max(counts) - min(counts) <= 3  # a batch, and the last one's missing image


@pytest.mark.full
def test_the_commands_give_the_evaluation_that_is_there_and_log_it(scored: Project, trained: Trained) -> None:
    line = scored.evaluate_line()[:-2]  # without --out
    for number in (1, 2):
        said = scored.do([*line, "--out", f"part-{number}", "--shard", f"{number}/2"])
        assert said.splitlines()[-1].startswith(f"part-{number}: ")
    shutil.rmtree(scored.evaluation)
    before = dict(scored.runs()[0].data.metrics)
    where = ("--arrays", scored.arrays, "--model", scored.model, "--split", scored.split, "--out", scored.evaluation)
    said = scored.do(scored.line("evaluate.merge", "part-2", "part-1", *where))
    assert said == trained.evaluate.stdout
    assert files(scored.evaluation) == files(trained.project.evaluation)
    assert scored.runs()[0].data.metrics == before  # logged again, the same
    client, (run,) = scored.client(), scored.runs()
    steps = client.get_metric_history(run.info.run_id, "test.original.dice")
    assert len(steps) == 2

    assert refused(scored.call([*line, "--out", "x", "--shard", "3/2"])).startswith("error: --shard 3/2: not a shard")
    assert refused(scored.call(scored.line("evaluate.merge", "part-1", *where))) == (
        "error: 1 of 2 shards are missing: 2/2; run them, then merge"
    )


def refusal(project: Project, folders: list[Path], **changes: Any) -> UserError:
    with pytest.raises(UserError) as caught:
        merged(project, folders, **changes)
    assert not (project.root / "merged").exists()
    return caught.value


def test_missing_duplicate_and_foreign_parts_are_refused(here: Project, both: list[Path]) -> None:
    two, one = both
    assert str(refusal(here, [two])) == "1 of 2 shards are missing: 1/2; run them, then merge"
    assert str(refusal(here, [one, two, two])) == f"{two}: named twice; give each shard once"
    assert "part.json: not found" in str(refusal(here, [one, here.evaluation]))
    about = json.loads((two / PART).read_text())
    (two / PART).write_text(json.dumps(about | {"cell": "unet/mixed/seed-1"}))
    assert str(refusal(here, both)) == (
        f"{two}: scores of unet/mixed/seed-1, not of defu_net/mixed/seed-0; give the shards of this cell"
    )
    (two / PART).write_text("{}")
    assert "not a part of an evaluation" in str(refusal(here, both))


def spoilt_code(about: dict[str, Any]) -> None:
    about["code"]["model/metrics.py"] = "0" * 64


def spoilt_arrays(about: dict[str, Any]) -> None:
    about["files"]["images"] = "0" * 64


@pytest.mark.parametrize(
    ("spoil", "key"), [(spoilt_code, "code.model/metrics.py: 0000"), (spoilt_arrays, "files.images: 0000")]
)
def test_parts_of_other_code_or_data_are_refused(
    spoil: Callable[[dict[str, Any]], None], key: str, here: Project, both: list[Path]
) -> None:
    two, one = both
    about = json.loads((two / PART).read_text())
    spoil(about["inputs"])
    (two / PART).write_text(json.dumps(about))
    error = refusal(here, [one, two])
    assert str(error).startswith(f"{two}: scored from other inputs than those given; run this shard again\n")
    assert [problem.startswith(key) for problem in error.problems] == [True]


def test_parts_of_other_parameters_and_weights_are_refused(here: Project, both: list[Path]) -> None:
    _, one = both
    two = part(here, Shard.parse("2/2"), threshold=0.4)
    assert refusal(here, [one, two]).problems == ["params.threshold: 0.4 -> 0.5"]
    weights = load_file(here.model / WEIGHTS)
    save_weights(here.model / WEIGHTS, {name: value * 0.5 for name, value in weights.items()})
    here.record_again()
    two = part(here, Shard.parse("2/2"))
    (problem,) = refusal(here, [one, two]).problems
    assert problem.startswith("files.weights: ")


def test_damaged_parts_are_refused(here: Project, both: list[Path]) -> None:
    two, one = both
    for name in ("test.npz", "test-original.parquet"):
        content = (two / name).read_bytes()
        (two / name).write_bytes(content[: len(content) // 2])
        assert str(refusal(here, both)).startswith(f"{two}: damaged (")
        (two / name).unlink()
        assert str(refusal(here, both)).startswith(f"{two}: damaged (")
        (two / name).write_bytes(content)
    shutil.copy(one / "test-original.parquet", two)
    assert "the parts lack images of test against original masks" in str(refusal(here, both))


def test_an_input_that_changes_while_a_shard_runs_stops_it(here: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    from components.evaluate import parts as module

    written = module._write_split

    def and_touched(*arguments: Any) -> int:
        with (here.arrays / "masks-dilated.npy").open("rb+") as file:
            file.seek(-1, 2)
            file.write(b"\1")
        return written(*arguments)

    last = np.load(here.arrays / "masks-dilated.npy")[-1, -1, -1]
    assert last == 0
    monkeypatch.setattr(module, "_write_split", and_touched)
    with pytest.raises(UserError, match="its inputs changed while it ran, so nothing was written"):
        part(here, Shard.parse("1/2"))
    assert not (here.root / "parts/1").exists()
