"""A step as Kubeflow's launcher calls it, in a process of its own: what it reads, leaves and says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest

from core.params import check, read_params
from pipelines.archives import pack, unpack
from pipelines.artifacts import (
    Archive,
    Artifact,
    ClassificationMetrics,
    Dataset,
    Input,
    Metrics,
    Model,
    Output,
    Status,
)
from pipelines.nodes import SESSION
from pipelines.step import execute
from pipelines.tasks import sections
from tests.project import SMALL, sample
from tests.services import Bucket

ROOT = Path(__file__).resolve().parents[2]
PARAMS = read_params(ROOT / "params.yaml")


def artifact(path: Path, **metadata: Any) -> dict[str, Any]:
    return {"artifacts": [{"name": path.name, "uri": str(path), "metadata": metadata}]}


def message(folder: Path, values: dict[str, Any], made: tuple[str, ...] = (), **artifacts: Any) -> dict[str, Any]:
    """Return an executor input like the launcher's."""
    task = folder / "run-1/a-step/execution-1"
    return {
        "inputs": {"parameterValues": values, "artifacts": artifacts},
        "outputs": {
            "artifacts": {name: artifact(task / name) for name in made},
            "outputFile": str(task / "output_metadata.json"),
        },
    }


def call(name: str, given: dict[str, Any], **variables: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "pipelines.step", name, "--executor_input", json.dumps(given)]
    return subprocess.run(line, cwd=ROOT, env=os.environ | variables, capture_output=True, text=True, check=False)


def members(archive: str) -> list[str]:
    with tarfile.open(archive) as tar:
        return tar.getnames()


def told(given: dict[str, Any]) -> Any:
    return json.loads(Path(given["outputs"]["outputFile"]).read_text())


def test_a_step_runs_without_kfp_and_gives_its_values(tmp_path: Path) -> None:
    given = message(tmp_path, dict(sections(PARAMS)))
    script = (
        "import sys, runpy; sys.modules['kfp'] = None\n"
        f"sys.argv = ['step', 'plan', '--executor_input', {json.dumps(given)!r}]\n"
        "runpy.run_module('pipelines.step', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    values = told(given)["parameterValues"]
    assert values["Output"][0] == "defu_net/mixed/seed-0"
    assert check(json.loads(values["params"]), "back") == PARAMS


def body(
    raw: Input[Archive[Dataset]],
    models: Input[list[Model]],
    status: Status,
    count: int,
    made: Output[Archive[Artifact]],
    test: Output[Metrics],
    roc: Output[ClassificationMetrics],
    name: str = "left out",
) -> None:
    """Use every kind of argument there is."""
    folder = Path(made.path)
    folder.mkdir()
    (folder / "text").write_text(f"{(Path(raw.path) / 'a/b.txt').read_text()} {count} {name} {status.state}")
    made.metadata.update({"of": [Path(model.path).name for model in models], "unknown": None})
    test.log_metric("dice", 0.5)
    roc.log_roc_curve([0.0, 1.0], [0.0, 1.0], [1.0, 0.0])


def test_what_kubeflow_reads_is_what_kfps_own_executor_writes(tmp_path: Path) -> None:
    (tmp_path / "tree/a").mkdir(parents=True)
    (tmp_path / "tree/a/b.txt").write_text("hello")
    pack(tmp_path / "tree", tmp_path / "raw")
    models = {"artifacts": artifact(tmp_path / "one")["artifacts"] + artifact(tmp_path / "two")["artifacts"]}
    values = {"count": 3, "status": {"state": "COMPLETE", "pipelineTaskName": "x"}}
    given = message(tmp_path, values, ("made", "test", "roc"), raw=artifact(tmp_path / "raw"), models=models)

    execute(body, given)

    written = {name: one["artifacts"][0] for name, one in told(given)["artifacts"].items()}
    place = tmp_path / "run-1/a-step/execution-1"
    assert {name: one["uri"] for name, one in written.items()} == {
        name: str(place / name) for name in ("made", "test", "roc")
    }
    assert written["made"]["metadata"] == {"of": ["one", "two"]}  # a null would fail the step
    assert written["test"]["metadata"] == {"dice": 0.5}
    assert written["roc"]["metadata"]["confidenceMetrics"][1] == {
        "confidenceThreshold": 0.0,
        "recall": 1.0,
        "falsePositiveRate": 1.0,
    }
    unpack(place / "made", tmp_path / "back")
    assert (tmp_path / "back/text").read_text() == "hello 3 left out COMPLETE"
    assert {path.name for path in place.iterdir()} == {"made", "output_metadata.json"}  # no work is left behind


def test_a_remote_artifact_is_where_the_launcher_puts_it() -> None:
    assert Artifact(uri="minio://bucket/v2/x").path == "/minio/bucket/v2/x"
    assert Artifact(uri="s3://bucket/x").path == "/s3/bucket/x"
    assert Artifact(uri="/here/x").path == "/here/x"


def test_an_unknown_command_line_is_refused() -> None:
    done = subprocess.run([sys.executable, "-m", "pipelines.step", "plan"], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 1
    assert b"usage: python -m pipelines.step NAME" in done.stderr


def test_150_cells_reach_the_later_steps_as_one_artifact(tmp_path: Path) -> None:
    values = PARAMS.model_dump(mode="json", by_alias=True)["matrix"] | {"seeds": list(range(50))}
    cells = [f"defu_net/{scenario}/seed-{seed}" for scenario in values["scenarios"] for seed in range(50)]
    listed = []
    for number, cell in enumerate(reversed(cells)):  # Kubeflow promises no order
        for kind in ("evaluations", "models"):
            (tmp_path / f"tree/{number}" / kind / cell).mkdir(parents=True)
            (tmp_path / f"tree/{number}" / kind / cell / "file").write_text(f"{kind} of {cell}")
        pack(tmp_path / f"tree/{number}", tmp_path / f"stored/{number}/evaluation")
        about = {"display_name": "evaluation", "store_session_info": SESSION}
        listed += artifact(tmp_path / f"stored/{number}/evaluation", **about)["artifacts"]
    matrix = {"matrix": json.dumps(values)}
    given = message(tmp_path, matrix, ("gathered",), evaluations={"artifacts": listed})

    done = call("gather", given)  # one argument of a real process

    assert done.returncode == 0, done.stderr
    unpack(tmp_path / "run-1/a-step/execution-1/gathered", tmp_path / "back")
    assert json.loads((tmp_path / "back/cells.json").read_text()) == cells
    for cell in cells:
        assert (tmp_path / "back/models" / cell / "file").read_text() == f"models of {cell}"
    assert len(list((tmp_path / "back/evaluations").rglob("file"))) == 150


@pytest.mark.full
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_cell_in_one_pod_leaves_what_two_leave(tmp_path: Path) -> None:
    values = PARAMS.model_dump(mode="json", by_alias=True)
    for section, changes in SMALL.items():
        values[section] |= changes
    values["train"]["epochs"] = 1
    params = sections(check(values, "here"))

    def run(name: str, arguments: dict[str, Any], made: tuple[str, ...], **artifacts: Any) -> dict[str, Any]:
        given = message(tmp_path / name, arguments, made, **artifacts)
        done = call(name, given, MLFLOW_TRACKING_URI=f"sqlite:///{tmp_path / 'mlflow.db'}")
        assert done.returncode == 0, done.stderr
        return {key: {"artifacts": one["artifacts"]} for key, one in told(given)["artifacts"].items()}

    source = str(sample(tmp_path / "cohort"))
    raw = run("ingest", {"source": source, "params": params["ingest"], "data_md5": ""}, ("raw",))["raw"]
    checked = run("validate", {"params": params["validate"], "checkpoints": ""}, ("validation", "summary"), raw=raw)[
        "validation"
    ]
    scenarios = json.dumps({"mixed": values["scenarios"]["mixed"]})
    choices = {"params": params["preprocess"], "scenarios": scenarios}
    arrays = run("preprocess", choices, ("arrays", "splits"), raw=raw, validation=checked)["arrays"]
    cell = {"cell": "defu_net/mixed/seed-0", "checkpoints": "", "experiment": "e"}
    training = cell | {"params": params["train"]}

    outputs = ("model", "training", "evaluation", "test", "roc")
    one = run("train_and_evaluate", training | {"scoring": params["evaluate"]}, outputs, arrays=arrays, raw=raw)
    two = run("train", training, outputs[:2], arrays=arrays)
    two |= run("evaluate", {"params": params["evaluate"]}, outputs[2:], model=two["model"], arrays=arrays, raw=raw)

    assert [one[key]["artifacts"][0]["metadata"] for key in outputs] == [
        two[key]["artifacts"][0]["metadata"] for key in outputs
    ]
    names = [members(made["evaluation"]["artifacts"][0]["uri"]) for made in (one, two)]
    assert names[0] == names[1]
    assert "models/defu_net/mixed/seed-0/weights.safetensors" in names[0]
    assert "evaluations/defu_net/mixed/seed-0/rows.json" in names[0]


# --- archives -------------------------------------------------------------------------------------------------------


def tree(folder: Path) -> Path:
    for number in range(3):
        (folder / f"images/{number}").mkdir(parents=True)
        (folder / f"images/{number}/x.png").write_bytes(bytes([number]) * 1000)
    return folder


def test_equal_folders_give_one_file_of_equal_bytes(tmp_path: Path) -> None:
    pack(tree(tmp_path / "one"), tmp_path / "one.tar")
    time.sleep(0.01)
    pack(tree(tmp_path / "two"), tmp_path / "two.tar")
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()
    unpack(tmp_path / "one.tar", tmp_path / "back")
    files = [path.relative_to(tmp_path / "one") for path in sorted((tmp_path / "one").rglob("*.png"))]
    assert [(tmp_path / "back" / name).read_bytes() for name in files] == [bytes([n]) * 1000 for n in range(3)]


def renamed(member: tarfile.TarInfo, name: str) -> tarfile.TarInfo:
    member.name = name
    return member


@pytest.mark.parametrize("name", ["../outside", "a/../../outside"])
def test_a_member_outside_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    from core.errors import UserError

    (tmp_path / "file").write_text("x")
    with tarfile.open(tmp_path / "bad.tar", "w") as tar:
        tar.add(tmp_path / "file", arcname="placeholder", filter=lambda member: renamed(member, name))
    with pytest.raises(UserError, match="not an archive that a step left"):
        unpack(tmp_path / "bad.tar", tmp_path / "in/here")
    assert not list(tmp_path.rglob("outside"))


def test_an_archive_that_is_cut_off_is_one_error(tmp_path: Path) -> None:
    from core.errors import UserError

    pack(tree(tmp_path / "one"), tmp_path / "one.tar")
    (tmp_path / "cut.tar").write_bytes((tmp_path / "one.tar").read_bytes()[:2000])
    with pytest.raises(UserError, match=r"cut\.tar: not an archive"):
        unpack(tmp_path / "cut.tar", tmp_path / "back")


# --- further attempts -----------------------------------------------------------------------------------------------


def wrong_training(folder: Path, checkpoints: object) -> dict[str, Any]:
    pack(tree(folder / "tree"), folder / "arrays")
    values = {"cell": "no-cell", "params": "{}", "experiment": "x", "checkpoints": str(checkpoints)}
    return message(folder, values, ("model", "training"), arrays=artifact(folder / "arrays"))


def test_an_attempt_ends_on_the_error_that_no_retry_can_mend(tmp_path: Path) -> None:
    given = wrong_training(tmp_path, tmp_path / "volume")
    log = tmp_path / "termination-log"
    log.touch()

    first = call("train", given, KFP_RETRY_INDEX="0")
    # Work would read the archive, which is gone.
    (tmp_path / "arrays").unlink()
    second = call("train", given, KFP_RETRY_INDEX="1", TERMINATION_LOG=str(log))

    line = "error: no-cell: not a cell's folder; it must end in <network>/<scenario>/seed-<number>"
    assert (first.returncode, first.stderr.splitlines()[-1]) == (1, line)
    assert second.returncode == 1
    assert second.stderr.splitlines() == [f"{line} (attempt 1 found it; another attempt cannot fix it)"]
    assert log.read_text().startswith("no-cell: not a cell's folder")
    assert log.read_text().splitlines()[1] == "  (no retry can mend this)"
    # Of this task of this run alone.
    text = json.dumps(given).replace("execution-1", "execution-2")
    assert "attempt 1" not in call("train", json.loads(text), KFP_RETRY_INDEX="1").stderr


@pytest.mark.full
def test_without_a_shared_place_or_retries_nothing_is_left(tmp_path: Path) -> None:
    given = wrong_training(tmp_path, "")
    keyless = dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE"), "")
    for number in "01":
        done = call("train", given, KFP_RETRY_INDEX=number, **keyless)
        assert "attempt 1" not in done.stderr
    assert call("train", wrong_training(tmp_path / "b", tmp_path / "volume")).returncode == 1
    assert not (tmp_path / "volume").exists()


@pytest.mark.slow
def test_in_s3_the_mark_lies_under_the_pipeline_root(bucket: Bucket, tmp_path: Path) -> None:
    values = {"source": str(tmp_path / "nothing"), "params": sections(PARAMS)["ingest"], "data_md5": ""}
    given = message(tmp_path, values, ("raw",))
    given["outputs"]["artifacts"]["raw"]["artifacts"][0]["uri"] = f"s3://{bucket.name}/root/run-1/ingest/1/raw"

    first = call("ingest", given, KFP_RETRY_INDEX="0")
    assert bucket.names() == ["root/failed-attempts/run-1/a-step/execution-1/0.txt"], first.stderr
    second = call("ingest", given, KFP_RETRY_INDEX="1")
    assert (first.returncode, second.returncode) == (1, 1)
    assert second.stderr.startswith(first.stderr.splitlines()[0])
    assert "(attempt 1 found it" in second.stderr


@pytest.mark.parametrize("message", ["x: wrong\n  (no retry can mend this)\n  a.png", "S3 cannot be reached", None])
def test_where_nothing_is_shared_the_earlier_pods_message_is_the_mark(message: str | None) -> None:
    import httpx

    from pipelines.attempts import _InCluster

    def pod(name: str, node: str, said: str | None) -> dict[str, Any]:
        ended = {"name": "main", "state": {"terminated": {"exitCode": 1, "message": said}}}
        about = {"workflows.argoproj.io/node-name": f"wf(0).root(0).{node}"}
        labels = {"workflows.argoproj.io/workflow": "wf"}
        status = {"containerStatuses": [{"name": "wait", "state": {}}, ended]}
        return {"metadata": {"name": name, "labels": labels, "annotations": about}, "status": status}

    pods = [
        pod("p1", "ingest(0).executor(0)", message),
        pod("p2", "ingest(0).executor(1)", None),
        pod("p3", "plan(0).executor(0)", "y: wrong\n  (no retry can mend this)"),
    ]

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/pods/p2"):
            return httpx.Response(200, json=pods[1])
        assert request.url.params["labelSelector"] == "workflows.argoproj.io/workflow=wf"
        return httpx.Response(200, json={"items": pods})

    address = "https://kubernetes/api/v1/namespaces/kubeflow/"
    with httpx.Client(base_url=address, transport=httpx.MockTransport(answer)) as client:
        marks = _InCluster(client, "p2")
    assert marks.read(0) == (message if message and "mend" in message else None)


def test_an_error_that_may_pass_leaves_no_mark() -> None:
    import errno

    from botocore.exceptions import ClientError, EndpointConnectionError

    from core.errors import UserError
    from core.s3 import explain
    from pipelines.attempts import lasting

    def raised(cause: Exception, text: str = "x") -> UserError:
        try:
            raise UserError(text) from cause
        except UserError as error:
            return error

    def answered(status: int) -> ClientError:
        content: Any = {"Error": {"Code": "X"}, "ResponseMetadata": {"HTTPStatusCode": status}}
        return ClientError(content, "GetObject")

    assert lasting(UserError("a wrong file"))
    assert lasting(raised(FileNotFoundError("gone")))
    assert lasting(raised(ValueError("not JSON")))
    assert lasting(raised(answered(404)))
    assert not lasting(raised(OSError(errno.ENOSPC, "full")))
    assert not lasting(raised(TimeoutError("locked")))
    assert not lasting(raised(answered(503)))
    unreachable = EndpointConnectionError(endpoint_url="http://here")
    assert not lasting(raised(unreachable, str(explain(unreachable, "s3://x"))))
