"""What the registry tells of its versions: the list, the history, and the proof of where one comes from."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
from click.testing import Result
from hypothesis import given
from hypothesis import strategies as st
from mlflow.store.entities import PagedList
from typer.testing import CliRunner

from components.evaluate import CODE as EVALUATION_CODE
from components.train import CODE as TRAINING_CODE
from core.errors import UserError
from defunet.__main__ import app
from defunet.registry import COMMANDS
from registry.history import PROMOTE, ROLLBACK, Decision, _settled, line_of_champions
from registry.lock import promotion_lock, tickets
from registry.versions import splits_digest
from tests.conftest import DATA_MD5, ROOT, Project, refused
from tests.daily import daily
from tests.registry.registered import BETTER, GATE, NAME, TWIN, WORSE
from tracking.local_store import adopt


def defunet(*arguments: object) -> Result:
    app = typer.Typer(pretty_exceptions_enable=False)
    for command in COMMANDS:
        app.command()(command)
    return CliRunner().invoke(app, list(map(str, arguments)))


def git(*arguments: str) -> str:
    who = ("-c", "user.name=A Test", "-c", "user.email=test@example.org")
    return subprocess.run(["git", *who, *arguments], check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def store(three: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """The three versions, registered from a commit of the repository that they stand in."""
    shutil.copytree(three.root, tmp_path, dirs_exist_ok=True)
    adopt(tmp_path)  # its artifacts are its own, too
    project = Project(tmp_path, three.launcher)
    monkeypatch.chdir(project.root)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", project.store)
    monkeypatch.delenv("GIT_DIR", raising=False)
    git("init", "--quiet")
    code = sorted({*TRAINING_CODE, *EVALUATION_CODE})
    for place in code:
        copy = shutil.copytree if (ROOT / place).is_dir() else shutil.copy
        (project.root / place).parent.mkdir(parents=True, exist_ok=True)
        copy(ROOT / place, project.root / place)
    git("add", "params.yaml", "data.dvc", *code)
    git("commit", "--quiet", "--message", "What was registered")
    for version in (WORSE, BETTER, TWIN):
        tag(project, version, **{"git.commit": git("rev-parse", "HEAD")})
    return project


def tag(project: Project, version: int, **tags: str) -> None:
    for name, value in tags.items():
        project.client().set_model_version_tag(NAME, str(version), name, value)


NO_STORE = (
    "error: MLflow, sqlite:///mlflow.db: there is no store here; run in the project's folder after `make run`, "
    "or set MLFLOW_TRACKING_URI"
)


@pytest.fixture
def bare(prepared: Project, tmp_path: Path) -> Project:
    """A folder with parameters and a picture, in which nothing has been run."""
    shutil.copy(prepared.root / "params.yaml", tmp_path)
    (tmp_path / "x.png").touch()
    return Project(tmp_path, prepared.launcher)


@pytest.mark.parametrize(
    "words",
    [
        *("models", "models --history", "lineage 1", "promote --dry-run", "promote", "rollback"),
        "predict x.png --out found --model models:/lung-segmentation@champion",
    ],
)
def test_who_reads_makes_no_store_where_there_is_none(
    bare: Project, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    monkeypatch.chdir(bare.root)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    done = CliRunner().invoke(app, words.split())
    *loading, error = done.stderr.splitlines()
    assert (done.exit_code, done.stdout, error) == (1, "", NO_STORE)
    assert loading == ["loading models:/lung-segmentation@champion ..."] * words.startswith("predict")
    assert sorted(path.name for path in bare.root.iterdir()) == ["params.yaml", "x.png"]


def test_a_service_makes_no_store_where_there_is_none(bare: Project) -> None:
    line = [sys.executable, "-m", "defunet", "serve", "--port", "0", "--model", "models:/lung-segmentation@champion"]
    assert refused(bare.call(line, MLFLOW_TRACKING_URI="")) == NO_STORE
    assert sorted(path.name for path in bare.root.iterdir()) == ["params.yaml", "x.png"]


def test_versions_are_listed_newest_first_with_where_they_come_from(store: Project) -> None:
    tag(store, BETTER, **{"image": "registry.example/lungs@sha256:1", "kubeflow.run": "run-1", "git.dirty": "true"})
    store.client().set_registered_model_alias(NAME, "champion", str(BETTER))
    done = defunet("models", "--json")
    assert done.exit_code == 0, done.output
    newest, second, _ = json.loads(done.stdout)
    assert [each["version"] for each in json.loads(done.stdout)] == [TWIN, BETTER, WORSE]
    assert (newest["aliases"], second["aliases"]) == (["challenger"], ["champion"])
    figures = json.loads((store.evaluation / "metrics.json").read_text())
    assert newest["figures"]["test.original"] == pytest.approx(figures["test"]["original"]["dice"], abs=1e-6)
    assert set(newest["figures"]) == {f"{s}.{k}" for s in figures for k in ("original", "dilated")}
    assert newest["lineage"]["data.md5"] == DATA_MD5
    assert newest["lineage"]["git.commit"] == git("rev-parse", "HEAD")
    assert second["lineage"]["image"] == "registry.example/lungs@sha256:1"
    assert second["lineage"]["kubeflow.run"] == "run-1"

    table = defunet("models").stdout
    assert table.index("│ 3 ") < table.index("│ 2 ") < table.index("│ 1 ")
    assert f"{git('rev-parse', 'HEAD')[:8]} +changes" in table


HOSTILE = "[/red][bold]\x1b[2J\x1b]0;title\x07\r\nversion 9 is champion"


@pytest.mark.full
def test_what_stands_in_tags_does_not_steer_a_terminal(store: Project) -> None:
    store.write_params(promotion=GATE | {"floor": 0.0})
    tag(store, BETTER, **{"evaluation.test.original.dice": "many", "image": HOSTILE, "network": HOSTILE})
    tag(store, BETTER, **{"promotion.verdict": HOSTILE, "evaluation.train.original.dice": "nan"})
    assert "champion" in defunet("promote", "--version", WORSE).stdout
    reason = "it's [/nothing] \x1b[31mred"
    defunet("promote", "--version", TWIN, "--force", "--reason", reason)
    for arguments in (["models"], ["models", "--history"], ["lineage", BETTER]):
        done = defunet(*arguments)
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        assert not {"\x1b", "\x07", "\r"} & set(done.output)
    assert "[/nothing]" in defunet("models", "--history").stdout
    assert "[/red]" in defunet("models").stdout
    figures = json.loads(defunet("models", "--json").stdout)[1]["figures"]
    assert "validation.original" in figures
    assert not {"test.original", "train.original"} & set(figures)


@pytest.mark.full
def test_a_rollback_waits_moments_for_who_made_its_champion_and_died(
    store: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write_params(promotion=GATE | {"floor": 0.0, "lock": 600})
    defunet("promote", "--version", WORSE)
    with monkeypatch.context() as died:  # after the alias has moved, before the decision's end and the lock's
        died.setattr("registry.history.close", lambda *_: None)
        died.setattr("registry.lock._release", lambda *_: None)
        assert "is champion" in defunet("promote", "--version", BETTER).stdout
    assert "is moving the champion right now" in str(defunet("rollback").exception)  # a lost request may be repeated
    monkeypatch.setattr("registry.lock.LATE", 0)
    refused_one = defunet("promote", "--version", TWIN, "--force", "--reason", "another")
    assert "is moving the champion right now" in str(refused_one.exception)
    done = defunet("rollback", "--reason", "complaints")
    assert done.stdout == f"{NAME} version 1 is champion again (before: 2)\n", done.exception
    newest, before, *_ = json.loads(defunet("models", "--history", "--json").stdout)
    assert (newest["kind"], newest["state"], before["state"]) == ("rollback", "done", "done")


def test_the_commands_promote_roll_back_and_tell_the_history(store: Project) -> None:
    store.write_params(promotion=GATE | {"floor": 0.0})
    assert json.loads(defunet("models", "--history", "--json").stdout) == []
    assert f"{NAME} version 1 is champion" in defunet("promote", "--version", WORSE).stdout
    assert f"{NAME} version 2 is champion (before: 1)" in defunet("promote", "--version", BETTER).stdout
    assert "dry run" in defunet("rollback", "--dry-run").stdout
    done = defunet("rollback", "--reason", "complaints")
    assert done.stdout == f"{NAME} version 1 is champion again (before: 2)\n"
    newest, *others = json.loads(defunet("models", "--history", "--json").stdout)
    assert (newest["kind"], newest["previous"], newest["version"], newest["reason"]) == ("rollback", 2, 1, "complaints")
    assert "@" in newest["who"]
    assert others[0]["figures"]["difference"] > 0
    assert "complaints" in defunet("models", "--history").stdout


def numbers() -> list[int]:
    return [each["number"] for each in json.loads(defunet("models", "--history", "--json").stdout)]


@pytest.mark.full
def test_a_lock_is_among_the_experiments_while_it_is_held_and_never_among_the_models(store: Project) -> None:
    store.write_params(promotion=GATE | {"floor": 0.0})
    client = store.client()
    titles = {each.name for each in client.search_experiments()} | {f"{NAME}-promotions"}
    with promotion_lock(client, NAME, 60) as held:
        (shown,) = [each for each in client.search_experiments() if each.name not in titles]
        assert (shown.name, held.number) == (f"{NAME}-promotion-lock-1", 1)
        assert "The right to move a model's champion" in shown.tags["mlflow.note.content"]
        blocked = defunet("promote", "--version", WORSE)
        assert f"{shown.tags['who']} is moving the champion right now (lock 1)" in str(blocked.exception)
    defunet("promote", "--version", WORSE)
    defunet("promote", "--version", BETTER)
    defunet("rollback")
    assert {each.name for each in client.search_experiments()} == titles
    assert [each.name for each in client.search_registered_models()] == [NAME]
    assert numbers() == [5, 4, 3]


def remove_for_good(store: Project) -> None:
    """Do what `mlflow gc` does with the experiments that were deleted."""
    from mlflow.entities import ViewType
    from mlflow.tracking._tracking_service.utils import _get_store

    for each in store.client().search_experiments(ViewType.DELETED_ONLY):
        _get_store(store.store)._hard_delete_experiment(each.experiment_id)


@pytest.mark.full
def test_numbers_increase_though_the_names_of_released_locks_are_removed(store: Project) -> None:
    store.write_params(promotion=GATE | {"floor": 0.0})
    defunet("promote", "--version", WORSE)
    defunet("promote", "--version", BETTER)
    remove_for_good(store)
    defunet("rollback")
    assert numbers() == [3, 2, 1]


def test_who_was_shown_no_names_takes_a_lower_number_and_not_the_lock(
    store: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = store.client()
    client.create_experiment(f"{NAME}-promotion-lock-7", tags={"who": "another@host"})
    time.sleep(0.01)  # the server's time has milliseconds
    shown, first = client.search_experiments, [PagedList([], None)]  # before 7 was created, after `mlflow gc`
    monkeypatch.setattr(client, "search_experiments", lambda *a, **b: first.pop() if first else shown(*a, **b))
    with (
        pytest.raises(UserError, match=r"another@host is moving the champion right now \(lock 7\)"),
        promotion_lock(client, NAME, 60),
    ):
        pytest.fail("two have the lock")
    assert [each.number for each in tickets(client, NAME)] == [7]
    assert client.get_experiment_by_name(f"{NAME}-promotion-lock-1").lifecycle_stage == "deleted"


def proofs(store: Project, version: int) -> tuple[int, dict[str, tuple[bool, bool, str]]]:
    from core.params import read_params
    from registry.lineage import lineage

    _, facts = lineage(read_params(Path("params.yaml")), version)
    done = defunet("lineage", version)
    for fact in facts:
        assert fact.says in done.stdout
    proved = all(fact.proved for fact in facts)
    assert (done.exception is None) == proved
    return done.exit_code, {fact.name: (fact.proved, fact.found) for fact in facts}


def test_a_lineage_is_proved_from_git_and_the_registry_alone(store: Project) -> None:
    head = git("rev-parse", "HEAD")
    code, facts = proofs(store, BETTER)
    assert code == 0
    assert all(proved for proved, _ in facts.values())
    assert facts["commit"][1].endswith("What was registered)")
    assert facts["data"][1].startswith(f"data.dvc at {head[:8]} pins it; its files are not in DVC's cache")

    # Later commits, and a changed file, take nothing away: the version says which commit it is of.
    store.write_params(promotion=GATE)
    git("commit", "--quiet", "--all", "--message", "Another gate")
    tag(store, TWIN, **{"git.commit": git("rev-parse", "HEAD")})
    found = proofs(store, TWIN)[1]["parameters"]  # registered later, by a hash that an earlier commit has
    assert found[0] is True
    assert found[1].startswith(f"section train at {git('rev-parse', 'HEAD')[:8]} is that of its training; ")
    store.write_params(promotion=GATE, train={"epochs": 9})
    Path("data.dvc").write_text("outs:\n- md5: 11111111111111111111111111111111.dir\n  path: data\n")
    git("commit", "--quiet", "--all", "--message", "Later")
    assert proofs(store, BETTER)[0] == 0
    assert git("status", "--porcelain", "--untracked-files=no") == ""

    # A version that names the later commit with the earlier data and parameters is caught in both.
    tag(store, TWIN, **{"git.commit": git("rev-parse", "HEAD")})
    code, facts = proofs(store, TWIN)
    assert code == 1
    assert facts["data"][0] is False
    assert f"pins 11111111111111111111111111111111.dir, not this; data.dvc at {head[:8]} pins it" in facts["data"][1]
    assert facts["parameters"][0] is False


@pytest.mark.parametrize(
    ("tags", "fact", "found"),
    daily(
        [
            ({"git.commit": "0" * 40}, "commit", "not in this repository"),
            ({"git.commit": "unknown"}, "commit", "not recorded"),
            ({"git.dirty": "true"}, "commit", "with uncommitted changes"),
            ({"data.md5": "not pinned"}, "data", "no data.dvc pinned it"),
            ({"data.md5": "2" * 32 + ".dir"}, "data", "no data.dvc in this repository's history pins it"),
            ({"params.hash": "0" * 12}, "parameters", "params.yaml now has"),
            ({"weights.sha256": "0" * 64}, "weights", "the registry's file has"),
            ({"code.train": "0" * 64}, "code", "the files at"),
            ({"split.sha256": "0" * 64}, "training", "its package's record differs from the version in: split"),
        ],
        0,
        4,
        7,
    ),
)
def test_what_does_not_match_is_named(store: Project, tags: dict[str, str], fact: str, found: str) -> None:
    tag(store, BETTER, **tags)
    code, facts = proofs(store, BETTER)
    assert code == 1
    assert facts[fact][0] is False
    assert found in facts[fact][1]
    # The record of the training lies in the package too, and contradicts a tag of code that was changed; without its
    # commit there is no code to compare with.
    also = {"code.train": {"training"}, "git.commit": {"code"}}.get(next(iter(tags)), set())
    assert {name for name, (proved, _) in facts.items() if not proved} == {fact} | also


@pytest.mark.full
def test_data_in_dvcs_cache_is_available(store: Project) -> None:
    subprocess.run(["dvc", "init", "--quiet"], check=True, capture_output=True)
    entry = Path(".dvc/cache/files/md5") / DATA_MD5[:2] / DATA_MD5[2:]
    entry.parent.mkdir(parents=True)
    entry.write_text("[]")
    proved, found = proofs(store, BETTER)[1]["data"]
    assert proved
    assert "its files are in DVC's cache" in found


# --- pure ----------------------------------------------------------------------------------------------------------


def decided(number: int, kind: str, previous: int | None, version: int, state: str = "done") -> Decision:
    made = {"id": str(number), "when": f"{number:03}", "who": "a@b"}
    return Decision(number=number, kind=kind, state=state, previous=previous, version=version, closed=True, **made)


@given(st.lists(st.integers(1, 5) | st.none(), max_size=20))
def test_a_rollback_always_returns_to_the_champion_before_the_last_promotion(moves: list[int | None]) -> None:
    """Against a plain stack: a number promotes that version, None rolls back."""
    stack: list[int] = []
    made: list[Decision] = []
    for move in moves:
        champion = stack[-1] if stack else None
        if move is None:
            if len(stack) < 2:
                continue
            stack.pop()
            made.append(decided(len(made) + 1, ROLLBACK, champion, stack[-1]))
        elif move != champion:
            stack.append(move)
            made.append(decided(len(made) + 1, PROMOTE, champion, move))
        assert line_of_champions(made, stack[-1] if stack else None) == stack


@given(st.lists(st.tuples(st.integers(1, 5), st.booleans(), st.booleans()), max_size=20))
def test_every_unclosed_decision_is_judged_by_what_was_found_next(moves: list[tuple[int, bool, bool]]) -> None:
    champion: int | None = None
    made, truth = [], []
    for number, (version, moved, closed) in enumerate(moves, 1):
        if version == champion:
            continue
        state = ("done" if moved else "failed") if closed else "intended"
        made.append(decided(number, PROMOTE, champion, version, state))
        truth.append("done" if moved else "failed")
        champion = version if moved else champion
    assert [each.state for each in _settled(made, champion)] == truth


def test_the_digest_of_splits_is_of_who_is_where() -> None:
    one = {"train": ["a", "b"], "validation": ["c"], "test": ["d"]}
    assert splits_digest(one) == splits_digest({"test": ["d"], "validation": ["c"], "train": ["b", "a"]})
    assert splits_digest(one) != splits_digest({"train": ["a", "d"], "validation": ["c"], "test": ["b"]})
