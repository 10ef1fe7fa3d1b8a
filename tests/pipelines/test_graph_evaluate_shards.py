"""Evaluate in shards inside the graph: what Kubeflow would read, its size, its steps alone, its rows and its end."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

from core.errors import UserError
from core.params import read_params, read_yaml
from pipelines.archives import pack, unpack
from pipelines.client.render import cells_done, render_run
from pipelines.client.runs import Run
from pipelines.outcome import sentence
from pipelines.shape import Shape
from pipelines.size import estimate, require_fit
from pipelines.trainjob_spec import JOB
from pipelines.workflow import Row, rows_of
from tests.conftest import CELL, Project, files
from tests.pipelines.test_compile import CLUSTER, ROOT, container, placement
from tests.pipelines.test_graph_shards import CELLS, MATRIX, guarded, in_loop, manifest, package
from tests.pipelines.test_step import artifact, call, message, told

NEW = {"evaluate-shard", "merge-evaluation"}


@pytest.fixture(scope="module")
def text() -> str:
    """The graph in two shards and three evaluate shards, with its own settings for evaluate and its merge."""
    values = read_yaml(CLUSTER)
    gpu = {"gpus": {"resource": "nvidia.com/gpu", "count": 1}, "tolerations": [{"operator": "Exists"}]}
    steps = values["steps"] | {"evaluate": values["steps"]["evaluate"] | gpu}
    steps |= {"merge-evaluation": {"memory": {"request": "2Gi", "limit": "6Gi"}}}
    return package(2, evaluate_shards=3, steps=steps)


@pytest.fixture(scope="module")
def spec(text: str) -> dict[str, Any]:
    return next(yaml.safe_load_all(text))


def cell_loop(spec: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the tasks of the loop over cells."""
    (name,) = (
        name
        for name, task in guarded(spec).items()
        if "inputParameter" in task.get("parameterIterator", {}).get("items", {})
    )
    return dict(spec["components"][f"comp-{name}"]["dag"]["tasks"])


def test_kubeflow_reads_a_loop_over_shards_in_the_loop_over_cells(spec: dict[str, Any]) -> None:
    json_format.ParseDict(spec, pipeline_spec_pb2.PipelineSpec())
    tasks = cell_loop(spec)
    (loop,) = set(tasks) - {"train", "merge-evaluation"}
    assert json.loads(tasks[loop]["parameterIterator"]["items"]["raw"]) == ["1/3", "2/3", "3/3"]
    assert tasks[loop]["iteratorPolicy"] == {"parallelismLimit": 4}
    after = {name: set(task.get("dependentTasks", ())) for name, task in tasks.items()}
    assert after == {"train": set(), loop: {"train"}, "merge-evaluation": {loop, "train"}}
    assert set(spec["components"][f"comp-{loop}"]["dag"]["tasks"]) == {"evaluate-shard"}
    parts = tasks["merge-evaluation"]["inputs"]["artifacts"]["parts"]["taskOutputArtifact"]
    assert parts == {"producerTask": loop, "outputArtifactKey": "pipelinechannel--evaluate-shard-part"}
    gathered = guarded(spec)["gather"]["inputs"]["artifacts"]["evaluations"]["taskOutputArtifact"]
    assert gathered["outputArtifactKey"] == "pipelinechannel--merge-evaluation-evaluation"
    assert "comp-evaluate" not in spec["components"]


def test_a_shard_asks_for_what_evaluate_asks_and_the_merge_for_its_own(spec: dict[str, Any], text: str) -> None:
    asked = placement(text)
    assert {name: container(spec, name)["resources"]["resourceMemoryLimit"] for name in NEW} == {
        "evaluate-shard": "16Gi",
        "merge-evaluation": "6Gi",
    }
    assert container(spec, "evaluate-shard")["resources"]["accelerator"]["resourceCount"] == "1"
    assert "accelerator" not in container(spec, "merge-evaluation")["resources"]
    assert {name: "tolerations" in asked[name] for name in NEW} == {"evaluate-shard": True, "merge-evaluation": False}
    # The merge logs to MLflow, and so has the variables of evaluate.
    for name in NEW:
        assert [each["configMapName"] for each in asked[name]["configMapAsEnv"]] == ["lung-segmentation"]
    every = [*cell_loop(spec).items(), *spec["components"]["comp-for-loop-6"]["dag"]["tasks"].items()]
    for name, task in every:
        if name in NEW:
            assert task["retryPolicy"]["maxRetryCount"] == 2
            assert task["cachingOptions"] == {"enableCache": True}


def test_a_training_over_several_nodes_feeds_the_shards() -> None:
    values = read_yaml(CLUSTER)
    steps = values["steps"] | {"train": values["steps"]["train"] | {"nodes": 2}}
    spec = next(yaml.safe_load_all(package(1, evaluate_shards=2, steps=steps)))
    tasks = cell_loop(spec)
    (loop,) = set(tasks) - {"train", "merge-evaluation"}
    made = {"producerTask": "train", "outputArtifactKey": "model"}
    assert tasks[loop]["inputs"]["artifacts"]["pipelinechannel--train-model"]["taskOutputArtifact"] == made
    assert tasks["merge-evaluation"]["inputs"]["artifacts"]["model"]["taskOutputArtifact"] == made
    sends = [name for name in ("train", *NEW) if JOB in json.dumps(container(spec, name))]
    assert sends == ["train"]


@pytest.mark.full
@pytest.mark.slow
def test_every_evaluate_shard_counts_in_the_size_of_a_run() -> None:
    whole, two, four = (estimate(package(1, evaluate_shards=shards), CELLS) for shards in (1, 2, 4))
    # A shard of a cell is one step, and a cell without shards is two: train and evaluate.
    a_shard = (four.nodes - two.nodes) / 2 / len(CELLS)
    a_cell = (estimate(package(1), CELLS * 2).nodes - whole.nodes) / len(CELLS)
    assert a_shard == pytest.approx(a_cell / 2, rel=0.25)
    assert whole.most > 2 * two.most > 2 * four.most > 40
    assert str(four).startswith("2 cells of 4 evaluate shards: about ")


@pytest.mark.full
@pytest.mark.slow
def test_evaluate_shards_that_do_not_fit_are_told() -> None:
    text = package(2, evaluate_shards=8)
    with pytest.raises(UserError) as caught:
        require_fit(text, [f"defu_net/mixed/seed-{number}" for number in range(30)])
    assert str(caught.value).startswith("30 cells of 8 evaluate shards do not fit into one run beside 2 shards, ")
    assert str(caught.value).endswith("or set fewer evaluate_shards in cluster.yaml, with which more cells fit")
    with pytest.raises(UserError, match=r"^200 evaluate shards of a cell do not fit .* set fewer evaluate_shards in"):
        require_fit(package(1, evaluate_shards=200), CELLS[:1])


# The steps alone, as Kubeflow's launcher calls them


@pytest.mark.full
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_shard_runs_again_alone_and_the_merge_is_the_evaluation(scored: Project, tmp_path: Path) -> None:
    for name, folder in (("arrays", "artifacts/arrays"), ("splits", "artifacts/splits")):
        (tmp_path / "whole").mkdir(exist_ok=True)
        (scored.root / folder).rename(tmp_path / "whole" / name)
    pack(tmp_path / "whole", tmp_path / "arrays.tar")
    pack(scored.raw, tmp_path / "raw.tar")
    params = {"params": json.dumps(read_params(scored.root / "params.yaml").evaluate.model_dump(mode="json"))}
    model = artifact(scored.model, cell=CELL.folder.as_posix())
    inputs = {"model": model, "arrays": artifact(tmp_path / "arrays.tar")}
    raw = artifact(tmp_path / "raw.tar")
    shards = ("1/2", "2/2")
    given = {
        shard: message(tmp_path / shard[0], params | {"shard": shard}, ("part",), raw=raw, **inputs) for shard in shards
    }

    line = [sys.executable, "-m", "pipelines.step", "evaluate_shard", "--executor_input", json.dumps(given["1/2"])]
    out = Path(given["1/2"]["outputs"]["outputFile"]).parent
    with subprocess.Popen(line, cwd=ROOT, stdout=subprocess.DEVNULL) as job:
        limit = time.monotonic() + 60
        while not any(out.glob(".work-*/part")) and not any(out.glob(".work-*/.part.partial-*")):
            assert job.poll() is None
            assert time.monotonic() < limit
            time.sleep(0.01)
        job.kill()
    assert [path.name for path in out.iterdir() if not path.name.startswith(".work-")] == []

    # It asks no server. The evaluation was made with one thread; more add up in another order.
    variables = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "OMP_NUM_THREADS": "1"}
    for shard in shards:  # of which the first one begins anew
        done = call("evaluate_shard", given[shard], **variables)
        assert done.returncode == 0, done.stderr
    parts = [told(given[shard])["artifacts"]["part"]["artifacts"][0] for shard in reversed(shards)]
    assert [part["metadata"]["shard"] for part in parts] == ["2/2", "1/2"]
    made = ("evaluation", "test", "roc")
    merging = message(tmp_path / "m", params, made, parts={"artifacts": parts}, **inputs)
    done = call("merge_evaluation", merging, MLFLOW_TRACKING_URI=scored.store)
    assert done.returncode == 0, done.stderr

    outputs = {name: told(merging)["artifacts"][name]["artifacts"][0] for name in made}
    unpack(Path(outputs["evaluation"]["uri"]), tmp_path / "made")
    assert files(tmp_path / "made/evaluations" / CELL.folder) == files(scored.evaluation)
    assert files(tmp_path / "made/models" / CELL.folder) == files(scored.model)
    summary = json.loads((scored.evaluation / "metrics.json").read_text())["test"]["original"]
    assert outputs["test"]["metadata"]["dice, original masks"] == summary["dice"]
    assert len(outputs["roc"]["metadata"]["confidenceMetrics"]) > 100
    (run,) = scored.runs()
    assert len(scored.client().get_metric_history(run.info.run_id, "test.original.dice")) == 2  # again by the merge

    del merging["inputs"]["artifacts"]["parts"]["artifacts"][0]
    done = call("merge_evaluation", merging, MLFLOW_TRACKING_URI=scored.store)
    assert (done.returncode, done.stderr) == (1, "error: 1 of 2 shards are missing: 2/2; run them, then merge\n")


# defunet status, and the end of a run


def in_cell(cell: int, step: str) -> str:
    return in_loop(4, cell, step)


def in_shard(cell: int, shard: int) -> str:
    return in_cell(cell, in_loop(6, shard, "evaluate-shard"))


SEEN = manifest(
    ("plan", "Succeeded"),
    (in_loop(3, 1, "ingest-shard"), "Succeeded"),
    (in_cell(0, "train"), "Succeeded"),
    (in_cell(1, "train"), "Succeeded"),
    (in_shard(0, 0), "Succeeded"),
    (in_shard(0, 2), "Running"),
    (in_shard(1, 1), "Failed"),
)


def names(rows: list[Row] | None) -> list[str]:
    return [row.name for row in rows or []]


def test_status_has_a_row_for_each_cell_and_shard(spec: dict[str, Any]) -> None:
    rows = rows_of(SEEN, Shape.of(MATRIX, spec), False, False) or []
    cells = [
        [
            f"train defu_net mixed seed {seed}",
            *(f"evaluate-shard {number}/3 defu_net mixed seed {seed}" for number in (1, 2, 3)),
            f"merge-evaluation defu_net mixed seed {seed}",
        ]
        for seed in (0, 1)
    ]
    ends = ["gather", "report", "register", "promote", "outcome"]
    assert names(rows)[-15:] == [*cells[0], *cells[1], *ends]
    assert names(rows)[:3] == ["plan", "ingest-shard 1/2", "ingest-shard 2/2"]
    assert {row.name: row.state for row in rows if row.state not in ("NOT STARTED", "SUCCEEDED")} == {
        "evaluate-shard 3/3 defu_net mixed seed 0": "RUNNING",
        "evaluate-shard 2/3 defu_net mixed seed 1": "FAILED",
    }
    run = Run("id", "name", "FAILED", None, None, rows=tuple(rows), detailed=True)
    assert cells_done(run) == (0, 2)
    told = render_run(run).splitlines()[-1]
    assert told.startswith("failed: evaluate-shard 2/3 defu_net mixed seed 1: OOMKilled; raise steps.evaluate.memory")


def test_status_knows_the_inner_loop_by_its_nodes_alone() -> None:
    seen = names(rows_of(SEEN, Shape(), False, False))
    assert seen[-15:-5] == [
        "train cell 1",
        *(f"evaluate-shard {number} cell 1" for number in (1, 2, 3)),
        "merge-evaluation cell 1",
        "train cell 2",
        *(f"evaluate-shard {number} cell 2" for number in (1, 2, 3)),
        "merge-evaluation cell 2",
    ]
    # Only evaluate is in shards: ingest and preprocess are whole.
    alone = manifest((in_shard(0, 1), "Succeeded"))
    assert names(rows_of(alone, Shape(), False, False))[:4] == ["plan", "ingest", "validate", "preprocess"]


def test_the_end_of_a_run_names_the_shard(spec: dict[str, Any]) -> None:
    ended = json.loads(json.dumps(SEEN))
    handler = {"id": "w-h", "name": "w(0).root(0).exit-handler-1(0)", "displayName": "exit-handler-1(0)"}
    ended["status"]["nodes"]["w-h"] = handler | {"type": "DAG", "phase": "Failed"}
    run = {"runtime_config": {"parameters": MATRIX}, "pipeline_spec": spec}
    assert sentence(ended, run) == "failed: evaluate-shard 2/3 defu_net mixed seed 1: OOMKilled"
