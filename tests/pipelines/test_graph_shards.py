"""The graph in shards as Kubeflow would read it, its size, its steps alone, and its rows in ``defunet status``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

from core.cohort import COHORT, MANIFEST
from core.errors import UserError
from core.params import read_params, read_yaml
from pipelines.archives import pack, unpack
from pipelines.client.render import cells_done, render_run
from pipelines.client.runs import Run
from pipelines.cluster import check_cluster
from pipelines.compile import compiled
from pipelines.shape import Shape
from pipelines.size import estimate, require_fit
from pipelines.tasks import sections
from pipelines.workflow import rows_of
from tests.components.sharded import shards as shards_of_raw
from tests.components.tiny_cohort import PREPROCESS, SCENARIOS
from tests.conftest import files
from tests.pipelines.test_compile import CLUSTER, ROOT, container, placement
from tests.pipelines.test_step import artifact, call, message, told

PARAMS = read_params(ROOT / "params.yaml")
CELLS = ["defu_net/mixed/seed-0", "defu_net/mixed/seed-1"]
MATRIX = {"matrix": json.dumps({"networks": ["defu_net"], "scenarios": ["mixed"], "seeds": [0, 1]})}
NEW = {"ingest-shard", "preprocess-shard", "merge-cohort", "merge-arrays"}


def package(shards: int, **changes: Any) -> str:
    values = read_yaml(CLUSTER) | {"shards": shards} | changes
    return compiled(PARAMS, cluster=check_cluster(values, "here"))


@pytest.fixture(scope="module")
def text() -> str:
    """The graph in four shards, in which merge-arrays asks for more memory than the others."""
    values = read_yaml(CLUSTER)
    steps = values["steps"] | {"merge-arrays": {"memory": {"request": "2Gi", "limit": "6Gi"}}}
    return package(4, steps=steps | {"ingest": {"memory": {"request": "3Gi", "limit": "5Gi"}}})


@pytest.fixture(scope="module")
def spec(text: str) -> dict[str, Any]:
    return next(yaml.safe_load_all(text))


def guarded(spec: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return dict(spec["components"]["comp-exit-handler-1"]["dag"]["tasks"])


def loops(spec: dict[str, Any]) -> tuple[str, str]:
    """Return the names of the loops over shards and over cells."""
    found = {name: task["parameterIterator"]["items"] for name, task in guarded(spec).items() if "for-loop" in name}
    (shards,) = (name for name, items in found.items() if "raw" in items)
    (cells,) = (name for name, items in found.items() if "raw" not in items)
    return shards, cells


def test_one_shard_is_the_graph_without_shards() -> None:
    assert package(1, evaluate_shards=1) == compiled(PARAMS, cluster=check_cluster(read_yaml(CLUSTER), "here"))


def test_kubeflow_reads_a_loop_over_shards_and_two_merges(spec: dict[str, Any]) -> None:
    json_format.ParseDict(spec, pipeline_spec_pb2.PipelineSpec())
    shards, cells = loops(spec)
    tasks = guarded(spec)
    assert json.loads(tasks[shards]["parameterIterator"]["items"]["raw"]) == ["1/4", "2/4", "3/4", "4/4"]
    assert tasks[shards]["iteratorPolicy"] == {"parallelismLimit": 4}
    after = {name: set(task.get("dependentTasks", ())) for name, task in tasks.items()}
    assert {name: after[name] for name in (shards, cells, "validate", "merge-cohort", "merge-arrays")} == {
        shards: {"plan"},
        "merge-cohort": {shards},
        "validate": {"merge-cohort"},
        "merge-arrays": {"plan", shards, "merge-cohort", "validate"},
        cells: {"plan", "merge-cohort", "merge-arrays"},
    }
    inner = spec["components"][f"comp-{shards}"]["dag"]["tasks"]
    assert {name: task.get("dependentTasks", []) for name, task in inner.items()} == {
        "ingest-shard": [],
        "preprocess-shard": ["ingest-shard"],
    }
    assert not {"ingest", "preprocess"} & set(tasks)


def test_pictures_go_to_no_step_that_does_not_read_them(spec: dict[str, Any]) -> None:
    given = {
        name: {key: one["taskOutputArtifact"] for key, one in task["inputs"].get("artifacts", {}).items()}
        for name, task in guarded(spec).items()
        if name in (*NEW, "validate", loops(spec)[1])
    }
    users = {name for name, sources in given.items() for one in sources.values() if one["outputArtifactKey"] == "raw"}
    assert users == {"validate"}
    assert given["merge-arrays"]["cohort"] == {"producerTask": "merge-cohort", "outputArtifactKey": "cohort"}
    (masks,) = [one for one in given[loops(spec)[1]].values() if one["producerTask"] == "merge-cohort"]
    assert masks["outputArtifactKey"] == "masks"


def test_every_shard_is_a_task_with_its_own_cache_key_and_retries(spec: dict[str, Any], text: str) -> None:
    inner = spec["components"][f"comp-{loops(spec)[0]}"]["dag"]["tasks"]
    for task in inner.values():
        assert task["retryPolicy"]["maxRetryCount"] == 2
        assert task["cachingOptions"] == {"enableCache": True}
        assert "loop-item" in task["inputs"]["parameters"]["shard"]["componentInputParameter"]
    assert {"source", "data_md5", "git_commit", "image_digest"} <= set(inner["ingest-shard"]["inputs"]["parameters"])
    for name in ("merge-cohort", "merge-arrays"):
        assert guarded(spec)[name]["retryPolicy"]["maxRetryCount"] == 2
    asked = placement(text)
    assert all(int(asked[name]["activeDeadlineSeconds"]) > 0 for name in NEW)
    # A shard's ingest takes the settings and the variables of ingest; each merge has its own settings.
    memory = {name: container(spec, name)["resources"]["resourceMemoryLimit"] for name in NEW}
    assert memory == {"ingest-shard": "5Gi", "preprocess-shard": "4Gi", "merge-cohort": "4Gi", "merge-arrays": "6Gi"}
    named = {name: [secret["secretName"] for secret in asked[name].get("secretAsEnv", ())] for name in NEW}
    assert named == {name: ["lung-segmentation-s3"] if name == "ingest-shard" else [] for name in NEW}


@pytest.mark.parametrize("key", ["shards", "evaluate_shards"])
@pytest.mark.parametrize("shards", [0, 257, 1.5, "four"])
def test_a_wrong_number_of_shards_is_told(key: str, shards: Any) -> None:
    with pytest.raises(UserError) as caught:
        check_cluster(read_yaml(CLUSTER) | {key: shards}, "cluster.yaml")
    assert [problem.partition(":")[0] for problem in caught.value.problems] == [key]


@pytest.mark.full
@pytest.mark.slow
def test_every_shard_counts_in_the_size_of_a_run() -> None:
    sizes = [estimate(package(shards), CELLS) for shards in (1, 4, 8)]
    nodes = [size.nodes for size in sizes]
    # Two steps a shard, as a cell has; the merges and the loop are there once.
    a_shard, a_cell = (nodes[2] - nodes[1]) / 4, (estimate(package(1), CELLS * 2).nodes - nodes[0]) / 2
    assert a_shard == pytest.approx(a_cell, rel=0.25)
    assert [size.most for size in sizes] == sorted((size.most for size in sizes), reverse=True)
    assert str(sizes[1]).startswith("2 cells and 4 shards: about ")
    assert str(sizes[0]).startswith("2 cells: about ")


@pytest.mark.full
@pytest.mark.slow
def test_shards_that_do_not_fit_are_told() -> None:
    with pytest.raises(UserError, match=r"^200 shards do not fit into one run.*set fewer shards in cluster.yaml"):
        require_fit(package(200), CELLS)
    with pytest.raises(UserError, match=r"^100 cells do not fit into one run beside 16 shards"):
        require_fit(package(16), CELLS * 50)


# The steps alone, as Kubeflow's launcher calls them


@pytest.mark.full
@pytest.mark.slow
def test_the_steps_give_the_cohort_and_the_arrays_of_one_run(place: Path, tmp_path: Path) -> None:
    ingest, preprocess = sections(PARAMS)["ingest"], json.dumps(PREPROCESS)
    scenarios = json.dumps({name: scenario.model_dump() for name, scenario in SCENARIOS.items()})
    parts: dict[str, list[dict[str, Any]]] = {"raw": [], "arrays": []}
    for number in (1, 2):
        shard, folder = f"{number}/2", tmp_path / str(number)
        given = message(
            folder, {"shard": shard, "source": str(place / "data"), "params": ingest, "data_md5": ""}, ("raw",)
        )
        assert call("ingest_shard", given).returncode == 0
        (raw,) = told(given)["artifacts"]["raw"]["artifacts"]
        assert raw["metadata"]["shard"] == shard
        given = message(folder / "a", {"shard": shard, "params": preprocess}, ("arrays",), raw={"artifacts": [raw]})
        done = call("preprocess_shard", given)
        assert done.returncode == 0, done.stderr
        parts["raw"].append(raw)
        parts["arrays"] += told(given)["artifacts"]["arrays"]["artifacts"]
    given = message(tmp_path / "m", {}, ("raw", "masks", "cohort"), parts={"artifacts": parts["raw"][::-1]})
    done = call("merge_cohort", given)
    assert done.returncode == 0, done.stderr
    made = {name: one["artifacts"][0]["uri"] for name, one in told(given)["artifacts"].items()}
    for name, uri in made.items():
        unpack(Path(uri), tmp_path / "made" / name)
    whole = files(place / "raw")
    assert files(tmp_path / "made/raw") == whole
    assert files(tmp_path / "made/masks") == {name: text for name, text in whole.items() if "images/" not in name}
    assert files(tmp_path / "made/cohort") == {name: whole[name] for name in (MANIFEST, COHORT)}

    given = message(
        tmp_path / "n",
        {"params": preprocess, "scenarios": scenarios},
        ("arrays", "splits"),
        parts={"artifacts": parts["arrays"][::-1]},
        cohort={"artifacts": [{"name": "c", "uri": made["cohort"], "metadata": {}}]},
        validation=artifact(place / "validation"),
    )
    done = call("merge_arrays", given)
    assert done.returncode == 0, done.stderr
    unpack(Path(told(given)["artifacts"]["arrays"]["artifacts"][0]["uri"]), tmp_path / "made/a")
    assert files(tmp_path / "made/a/arrays") == files(place / "arrays")
    assert files(tmp_path / "made/a/splits") == files(place / "splits")


def test_parts_that_do_not_fit_together_end_the_step_in_one_line(place: Path, tmp_path: Path) -> None:
    three, two, one = shards_of_raw(place / "data", tmp_path, 3)
    for part in (one, two, three):
        pack(part, part.with_suffix(".tar"))
        shutil.rmtree(part)
    listed = [{"name": "p", "uri": str(part.with_suffix(".tar")), "metadata": {}} for part in (one, two)]
    done = call("merge_cohort", message(tmp_path, {}, ("raw", "masks", "cohort"), parts={"artifacts": listed}))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: 1 of 3 shards are missing: 3/3; run them, then merge\n"


# defunet status


def manifest(*steps: tuple[str, str]) -> dict[str, Any]:
    """Return a workflow with a pod for each step (with its loop) in a phase, named as Kubeflow's stock settings do."""
    nodes = {}
    for number, (path, phase) in enumerate(steps):
        name = f"w(0).root(0).exit-handler-1(0).{path}(0).executor(0)"
        times = {"startedAt": "2026-11-29T05:00:00Z", "finishedAt": "2026-11-29T05:00:10Z"}
        node = {"id": f"w-{number}", "name": name, "type": "Pod", "templateName": "t", "phase": phase, **times}
        nodes[node["id"]] = node | ({"message": "main: OOMKilled (exit code 137)"} if phase == "Failed" else {})
    return {"metadata": {"name": "w"}, "status": {"nodes": nodes}}


def in_loop(loop: int, number: int, step: str) -> str:
    return f"for-loop-{loop}(0).iteration-iterations({number}:{number})(0).iteration-item(0).{step}"


SEEN = manifest(
    ("plan", "Succeeded"),
    (in_loop(3, 0, "ingest-shard"), "Succeeded"),
    (in_loop(3, 1, "ingest-shard"), "Failed"),
    (in_loop(3, 0, "preprocess-shard"), "Running"),
)


def test_status_lists_shards_apart_from_cells(spec: dict[str, Any]) -> None:
    rows = rows_of(SEEN, Shape.of(MATRIX, spec), False, False) or []
    assert [(row.name, row.state) for row in rows if row.state != "NOT STARTED"] == [
        ("plan", "SUCCEEDED"),
        ("ingest-shard 1/4", "SUCCEEDED"),
        ("ingest-shard 2/4", "FAILED"),
        ("preprocess-shard 1/4", "RUNNING"),
    ]
    assert [row.name for row in rows] == [
        "plan",
        *(f"ingest-shard {number}/4" for number in range(1, 5)),
        *(f"preprocess-shard {number}/4" for number in range(1, 5)),
        "merge-cohort",
        "validate",
        "merge-arrays",
        *("train defu_net mixed seed 0", "evaluate defu_net mixed seed 0"),
        *("train defu_net mixed seed 1", "evaluate defu_net mixed seed 1"),
        *("gather", "report", "register", "promote", "outcome"),
    ]
    run = Run("id", "name", "FAILED", None, None, rows=tuple(rows), detailed=True)
    assert cells_done(run) == (0, 2)
    assert "raise steps.ingest.memory.limit in pipelines/cluster.yaml" in render_run(run)


def test_status_knows_a_graph_in_shards_by_its_nodes_alone() -> None:
    rows = rows_of(SEEN, Shape(cells=tuple(CELLS)), False, False) or []
    names = [row.name for row in rows]
    assert names[1:4] == ["ingest-shard 1", "ingest-shard 2", "preprocess-shard 1"]
    assert {"merge-cohort", "merge-arrays"} <= set(names)
    assert not {"ingest", "preprocess"} & set(names)
    unsharded = Shape.of(MATRIX, next(yaml.safe_load_all(package(1))))
    assert (unsharded.cells, unsharded.shards, unsharded.evaluate_shards) == (tuple(CELLS), (), ())
