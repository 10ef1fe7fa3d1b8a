"""The gate before production: which versions pass, which do not, and what the registry records."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient

from components.promote import Promotion, promote, rollback
from core.errors import UserError
from core.params import Params
from model.inference.package import CONTRACT
from registry import history
from registry.models import decisions, models
from registry.seal import PACKAGE_TAG, seal
from registry.versions import MANIFEST_TAG, SPLITS_TAG, splits_digest
from tests.conftest import Project, refused
from tests.registry.registered import BETTER, GATE, NAME, TWIN, WORSE
from tracking.local_store import adopt


@pytest.fixture
def store(three: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """The three versions in a registry that a test may change, with no champion."""
    shutil.copytree(three.root, tmp_path, dirs_exist_ok=True)
    adopt(tmp_path)  # its artifacts are its own, too
    project = Project(tmp_path, three.launcher)
    monkeypatch.chdir(project.root)
    # MLflow's own setting, which another test of this process may have made, takes precedence over the variable.
    mlflow.set_tracking_uri(project.store)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", project.store)
    monkeypatch.delenv("KUBEFLOW_RUN_ID", raising=False)
    return project


def champion(project: Project) -> int | None:
    found = project.client().get_registered_model(NAME).aliases.get("champion")
    return None if found is None else int(found)


def crown(project: Project, version: int) -> None:
    """Set the alias by hand, past the history."""
    project.client().set_registered_model_alias(NAME, "champion", str(version))


def params(project: Project, **gate: Any) -> Params:
    return project.write_params(promotion=GATE | gate)


def decide(project: Project, version: int | None = None, gate: dict[str, Any] | None = None, **how: Any) -> Promotion:
    return promote(params(project, **(gate or {})), project.arrays, project.split.parent, version, **how)


def tags(project: Project, version: int) -> dict[str, str]:
    given = project.client().get_model_version(NAME, str(version)).tags
    return {name.removeprefix("promotion."): value for name, value in given.items() if name.startswith("promotion.")}


def page_of(project: Project, version: int, folder: Path) -> str:
    import mlflow

    return Path(mlflow.artifacts.download_artifacts(tags(project, version)["page"], dst_path=str(folder))).read_text()


def test_the_first_passes_the_floor_alone_and_a_better_one_all_rules(
    store: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = decide(store, WORSE, {"floor": 0.0})
    assert (first.passed, first.champion, champion(store)) == (True, WORSE, WORSE)
    assert {name for name in tags(store, WORSE) if name in ("floor", "gain", "comparable")} == {"floor"}

    second = decide(store, BETTER)
    assert (second.passed, second.previous, champion(store)) == (True, WORSE, BETTER)
    printed = capsys.readouterr().out
    assert f"{NAME} version 2 is champion (before: 1)" in printed
    for rule in ("comparable", "gain", "margin.montgomery.abnormal", "margin.shenzhen.normal"):
        assert rule in printed
        assert tags(store, BETTER)[rule].startswith("met: ")
    assert tags(store, BETTER)["verdict"] == "passed"
    page = page_of(store, BETTER, tmp_path)
    assert page == second.page
    assert page.startswith("# lung-segmentation version 2: is champion (before: 1)\n")
    # The same images and the same functions as the evaluate step's: the same figure to the last digit.
    evaluated = json.loads((store.evaluation / "metrics.json").read_text())["test"]["original"]["dice"]
    past = decisions(params(store))
    scored = past[0].figures["challenger_dice"]
    assert scored == pytest.approx(evaluated, abs=0.002)  # the engine of production computes in bfloat16, if at all
    assert f"{scored:.4f}" in page
    assert [(each.state, each.previous, each.version) for each in past] == [("done", 1, 2), ("done", None, 1)]


def with_contract(project: Project, **changes: Any) -> int:
    """Register the better version's files once more, its contract changed; return the new version."""
    client, as_before = project.client(), project.client().get_model_version(NAME, str(BETTER))
    files = Path(mlflow.artifacts.download_artifacts(f"models:/{NAME}/{BETTER}", dst_path=str(project.root / "again")))
    (contract,) = files.rglob(CONTRACT)
    contract.write_text(json.dumps(json.loads(contract.read_text()) | changes))
    tags = {**as_before.tags, PACKAGE_TAG: seal(contract.parent)}
    made = client.create_model_version(NAME, f"file://{files}", as_before.run_id, tags=tags)
    return int(made.version)


def test_each_is_scored_as_its_own_package_says(store: Project) -> None:
    crown(store, BETTER)
    cleaning = {"largest_components": 0, "least_component": 0.0, "fill_holes": False}
    strict = with_contract(store, threshold=0.9999, flip=False, **cleaning)
    choices = store.write_params(
        promotion=GATE | {"floor": 0.0}, evaluate={"threshold": 0.0001, "flip": False, **cleaning}
    )
    told = promote(choices, store.arrays, store.split.parent, strict)
    assert (told.passed, champion(store)) == (False, BETTER)
    assert "- challenger: threshold 0.9999, one prediction, all components\n" in told.page
    assert "- champion: threshold 0.5, mean with the mirrored prediction, 2 components" in told.page
    assert " components of at least 0.2 of the largest, holes filled\n" in told.page
    figures = decisions(choices)[0].figures
    evaluated = json.loads((store.evaluation / "metrics.json").read_text())["test"]["original"]["dice"]
    assert figures["champion_dice"] == pytest.approx(
        evaluated, abs=0.002
    )  # by its package, not by the parameters of today
    assert figures["challenger_dice"] < evaluated  # the same weights


def test_a_version_that_is_no_package_is_not_scored(store: Project) -> None:
    bare = with_contract(store)
    (contract,) = (store.root / "again").rglob(CONTRACT)
    contract.unlink()
    with pytest.raises(UserError, match=rf"models:/{NAME}/{bare}: has no model package; register the model again"):
        decide(store, bare)
    contract.write_text("{}")
    with pytest.raises(UserError, match=rf"{CONTRACT} is not the file that was registered"):
        decide(store, bare)
    store.client().set_model_version_tag(NAME, str(bare), PACKAGE_TAG, seal(contract.parent))
    with pytest.raises(UserError, match=rf"version {bare}: does not load with this code"):
        decide(store, bare)
    assert champion(store) is None


@pytest.mark.full
def test_no_gain_and_too_great_a_loss_are_refused_and_remembered(store: Project, tmp_path: Path) -> None:
    crown(store, BETTER)
    twin = decide(store, gate={"margin": 0.0})  # the challenger is the last one registered
    assert (twin.version, twin.passed, champion(store)) == (TWIN, False, BETTER)
    # Nothing lost anywhere, nothing gained: the interval is 0 to 0 and must lie above 0.
    assert tags(store, TWIN)["gain"].startswith("NOT MET: +0.0000")
    assert tags(store, TWIN)["margin.shenzhen.normal"].startswith("met: +0.0000")

    worse = decide(store, WORSE, {"floor": 0.0, "margin": 0.001})
    assert (worse.passed, champion(store)) == (False, BETTER)
    assert tags(store, WORSE)["verdict"] == "refused"
    assert "NOT MET" in tags(store, WORSE)["gain"]
    assert any(text.startswith("NOT MET") for name, text in tags(store, WORSE).items() if name.startswith("margin."))
    assert "does not pass the gate" in page_of(store, WORSE, tmp_path)
    assert [(each.state, each.version) for each in decisions(params(store))] == [("refused", WORSE), ("refused", TWIN)]

    high = decide(store, TWIN, {"floor": 0.999})
    assert "floor" in high.line
    assert champion(store) == BETTER


@pytest.mark.full
def test_a_dry_run_changes_nothing_and_force_needs_a_reason_that_is_kept(store: Project) -> None:
    crown(store, BETTER)
    before = (store.root / "mlflow.db").read_bytes()
    assert decide(store, WORSE, dry_run=True).passed is False
    assert decide(store, WORSE, dry_run=True, force=True, reason="a test").champion == BETTER
    assert (store.root / "mlflow.db").read_bytes() == before
    with pytest.raises(UserError, match="give the reason with --reason"):
        decide(store, WORSE, force=True, reason="  ")

    forced = decide(store, WORSE, force=True, reason="the scanner | was\nreplaced")
    assert (forced.passed, champion(store)) == (False, WORSE)
    (told,) = decisions(params(store))
    assert (told.forced, told.reason, told.state) == (True, "the scanner | was\nreplaced", "done")
    assert tags(store, WORSE)["verdict"] == "forced"
    assert r"- reason: the scanner \| was replaced" in forced.page

    again = decide(store, WORSE)
    assert (again.passed, "is champion already" in again.line) == (None, True)
    assert len(decisions(params(store))) == 1


def test_other_data_and_images_seen_in_training_are_refused(store: Project) -> None:
    store.client().set_model_version_tag(NAME, str(WORSE), "data.md5", "f" * 32 + ".dir")
    with pytest.raises(UserError, match=r"version 1: trained on other data \(data md5 f{32}\.dir\) than "):
        decide(store, WORSE)
    info = store.arrays / "arrays.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | {"manifest_sha256": "0" * 64}))
    with pytest.raises(UserError, match=r"version 2: trained on other data \(manifest [0-9a-f]{64}\) than"):
        decide(store, BETTER)
    assert champion(store) is None


def swap(project: Project) -> str:
    """Exchange a training image for a test image in the split; return the one that is tested on now."""
    split = json.loads(project.split.read_text())
    split["train"][0], split["test"][0] = split["test"][0], split["train"][0]
    project.split.write_text(json.dumps(split))
    return str(split["test"][0])


def test_a_test_image_from_training_is_a_leak_for_either(store: Project) -> None:
    seen = swap(store)
    with pytest.raises(UserError, match=rf"version 2: trained on 1 of the \d+ test images, the first {seen}"):
        decide(store, BETTER)


def forget_the_run(project: Project, version: int, **given: str) -> None:
    """Make a version one that was tracked in another store; its tags tell of its data what is given and no more."""
    import sqlite3

    with sqlite3.connect(project.root / "mlflow.db") as database:
        database.execute("UPDATE model_versions SET run_id = ? WHERE version = ?", ("0" * 32, version))
        for name in (MANIFEST_TAG, SPLITS_TAG):
            database.execute("DELETE FROM model_version_tags WHERE version = ? AND key = ?", (version, name))
    for name, value in given.items():
        project.client().set_model_version_tag(NAME, str(version), name.replace("_", "."), value)


@pytest.mark.full
def test_a_champion_that_cannot_be_compared_stops_all_but_force(store: Project) -> None:
    crown(store, WORSE)
    forget_the_run(store, WORSE)
    unknown = decide(store, BETTER)
    assert unknown.passed is False
    assert "the registry has no record of its training images" in tags(store, BETTER)["comparable"]

    split = {name: json.loads(store.split.read_text())[name] for name in ("train", "validation", "test")}
    forget_the_run(store, WORSE, splits_sha256=splits_digest(split))
    assert decide(store, BETTER, dry_run=True).passed is True
    forget_the_run(store, WORSE, splits_sha256="0" * 64)
    assert "trained with other splits" in decide(store, BETTER, dry_run=True).page

    # A champion whose files are gone: told, and overridden by force alone.
    client = store.client()
    client.delete_registered_model_alias(NAME, "challenger")
    client.create_model_version(NAME, f"file://{store.root}/nowhere", tags={"scenario": "mixed"})
    crown(store, 4)
    gone = decide(store, BETTER)
    assert gone.passed is False
    assert f"models:/{NAME}/4: has no model package" in gone.page
    assert champion(store) == 4
    assert decide(store, BETTER, force=True, reason="the champion is lost").champion == BETTER


def test_a_challenger_of_unknown_origin_is_refused(store: Project) -> None:
    forget_the_run(store, BETTER, data_md5="not pinned")
    with pytest.raises(UserError, match="the registry has no record of its training data"):
        decide(store, BETTER)


@pytest.mark.full
def test_rollbacks_go_back_one_by_one_and_never_to_what_was_rolled_back(store: Project) -> None:
    choices = params(store, floor=0.0)
    with pytest.raises(UserError, match="there is no champion in the history"):
        rollback(choices)
    where = (store.arrays, store.split.parent)
    promote(choices, *where, WORSE)
    with pytest.raises(UserError, match="version 1 is the first champion in the history"):
        rollback(choices)
    promote(choices, *where, BETTER)
    promote(choices, *where, TWIN, force=True, reason="a third")
    assert rollback(choices, dry_run=True).champion == TWIN
    assert champion(store) == TWIN
    assert (rollback(choices, reason="complaints").champion, champion(store)) == (BETTER, BETTER)
    assert (rollback(choices).champion, champion(store)) == (WORSE, WORSE)
    with pytest.raises(UserError, match="version 1 is the first champion"):
        rollback(choices)
    promote(choices, *where, TWIN, force=True, reason="mended")
    crown(store, BETTER)  # by hand: its predecessor is the history's last
    assert rollback(choices).champion == TWIN
    assert [each.kind for each in decisions(choices)] == [
        *("rollback", "promote", "rollback", "rollback", "promote", "promote", "promote")
    ]
    store.client().delete_model_version(NAME, str(WORSE))
    with pytest.raises(UserError, match=r"not found"):
        rollback(choices)
    assert champion(store) == TWIN


@pytest.mark.slow
def test_the_command_tells_and_ends_as_the_gate_says(store: Project) -> None:
    params(store, floor=0.999)
    message = refused(store.call(store.line("promote")))
    assert message == f"error: {NAME} version 3 does not pass the gate (floor); champion stays none"
    params(store)
    assert f"{NAME} version 3 is champion (before: none)\n" in store.do(store.line("promote"))
    assert "is champion already" in store.do(store.line("promote"))
    assert "version=9" in refused(store.call(store.line("promote", "--version", 9)))
    assert store.call(store.line("promote", "--version", 0)).returncode == 2
    assert "is not a cohort" in refused(
        store.call(store.line("promote", "--version", 2, "--arrays", "artifacts/splits"))
    )


@pytest.mark.slow
def test_a_mistake_in_a_section_of_others_holds_up_no_rollback(store: Project) -> None:
    params(store)
    file = store.root / "params.yaml"
    values = json.loads(file.read_text())
    file.write_text(json.dumps(values | {"train": {"epochs": "many"}, "trian": {}}))
    assert "challenger" in store.do([sys.executable, "-m", "defunet", "models"])
    message = refused(store.call([sys.executable, "-m", "defunet", "rollback"]))
    assert message.startswith(f"error: {NAME}: there is no champion in the history")
    file.write_text(json.dumps(values | {"promotion": values["promotion"] | {"lock": "long"}}))
    done = store.call([sys.executable, "-m", "defunet", "rollback"])
    assert done.returncode == 1
    assert done.stderr.startswith("error: params.yaml: 1 value(s) to correct\n  promotion.lock: ")


@pytest.mark.slow
def test_a_store_that_cannot_be_reached_is_told(store: Project) -> None:
    message = refused(store.call(store.line("promote"), MLFLOW_TRACKING_URI="nonsense://here"))
    assert message.startswith("error: MLflow, nonsense://here: ")
    (store.root / "broken.db").write_bytes(b"not a database" * 100)
    message = refused(store.call(store.line("promote"), MLFLOW_TRACKING_URI="sqlite:///broken.db"))
    assert message.startswith("error: MLflow, sqlite:///broken.db: ")


@pytest.mark.full
def test_a_version_that_was_rolled_back_is_told_by_the_gate(store: Project) -> None:
    decide(store, WORSE, {"floor": 0.0})
    assert decide(store, BETTER).passed
    rollback(params(store), reason="left lungs cut off")
    again = decide(store, BETTER)
    assert (again.passed, champion(store)) == (False, WORSE)
    found = tags(store, BETTER)["rolled-back"]
    assert re.fullmatch(r"NOT MET: rolled back \d{4}-\d\d-\d\d by \S+: left lungs cut off", found)
    assert "does not pass the gate (rolled-back)" in again.line
    assert decide(store, BETTER, force=True, reason="the cause was the scanner").champion == BETTER
    rollback(params(store), reason="once more")
    assert tags(store, WORSE)["rolled-back"] == "met: it was not"


def test_no_model_or_no_challenger_is_one_line(store: Project, empty_store: Path) -> None:
    store.client().delete_registered_model_alias(NAME, "challenger")
    with pytest.raises(UserError, match="no version is challenger; run the register step first, or pass --version N"):
        decide(store)
    shutil.copy(empty_store, store.root / "mlflow.db")
    with pytest.raises(UserError, match=r"^lung-segmentation: no version is registered yet in .*; `make run`"):
        decide(store)


@pytest.mark.full
def test_a_decision_that_was_never_closed_is_told_by_what_came_next(
    store: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that dies around the commit point: the alias is the truth, and the next decision writes it down."""
    choices = params(store, floor=0.0)

    really_close = history.close

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    def die_at_the_end(client: MlflowClient, decision: history.Decision, state: str) -> None:
        if state == history.DONE and not decision.closed:
            raise KeyboardInterrupt
        really_close(client, decision, state)

    def killed(where: str, how: Callable[..., None], version: int) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(where, how)
            with pytest.raises(KeyboardInterrupt):
                promote(choices, store.arrays, store.split.parent, version)

    def outcome() -> list[tuple[str, int]]:
        return [(each.state, each.version) for each in decisions(choices)]

    killed("components.promote._set_champion", die, WORSE)
    assert (champion(store), outcome()) == (None, [("failed", WORSE)])
    killed("registry.history.close", die_at_the_end, WORSE)
    assert (champion(store), outcome()) == (WORSE, [("done", WORSE), ("failed", WORSE)])
    assert [each.closed for each in decisions(choices)] == [False, True]
    decide(store, BETTER, {"floor": 0.0})
    assert outcome() == [("done", BETTER), ("done", WORSE), ("failed", WORSE)]
    assert all(each.closed for each in decisions(choices))
    assert history.line_of_champions(decisions(choices), BETTER) == [WORSE, BETTER]
    assert [each.version for each in models(choices)] == [3, 2, 1]
