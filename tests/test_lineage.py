"""Whatever is edited between and during the steps of a run: no version's lineage is verified and wrong."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, event, example, given, settings
from hypothesis import strategies as st

from components.evaluate import CODE as EVALUATION_CODE
from components.train import CODE as TRAINING_CODE
from core.files import sha256
from core.inputs import code_files
from core.params import check, read_params, read_yaml
from registry.fetch import fetch
from registry.versions import read_version
from tests.conftest import DATA_MD5, ROOMS, ROOT, Launcher, Project, shrunk
from tracking.store import connect

EDITABLE = {"training": "model/training/losses.py", "evaluation": "components/evaluate/scores.py"}
OTHER_MD5 = "e" * 32 + ".dir"

# What a user may do between two steps, or while one runs: (what, a value).
EDITS = st.one_of(
    st.tuples(st.just("epochs"), st.sampled_from([1, 2])),
    st.tuples(st.just("threshold"), st.sampled_from([0.4, 0.5])),
    st.tuples(st.just("code"), st.sampled_from(sorted(EDITABLE))),
    st.tuples(st.just("pin"), st.sampled_from([DATA_MD5, OTHER_MD5])),
    st.tuples(st.just("data"), st.sampled_from(["one", "other"])),
    st.tuples(st.just("put back"), st.just(None)),
    st.tuples(st.just("commit"), st.just(None)),
)
# Before train, while it trains, before evaluate, before register.
STORY = st.tuples(*(st.lists(EDITS, max_size=2) for _ in range(4)))


@dataclass
class World:
    """A repository with code, parameters and a pinned cohort, and what is true of what ran in it."""

    project: Project
    cohorts: dict[str, Path]
    model: str
    number: int = 0
    learnt: dict[str, Any] = field(default_factory=dict)
    scored: dict[str, Any] = field(default_factory=dict)

    @property
    def root(self) -> Path:
        return self.project.root

    def git(self, *arguments: str) -> str:
        author = ["-c", "user.name=A User", "-c", "user.email=user@example.org"]
        line = ["git", *author, *arguments]
        return subprocess.run(line, cwd=self.root, check=True, capture_output=True, text=True).stdout

    def edit(self, what: str, value: Any) -> None:
        self.number += 1
        params = self.root / "params.yaml"
        if what in ("epochs", "threshold"):
            values = json.loads(params.read_text())
            values["train" if what == "epochs" else "evaluate"][what] = value
            params.write_text(json.dumps(values))
        elif what == "code":
            with (self.root / EDITABLE[value]).open("a") as file:
                file.write(f"# edit {self.number}\n")
        elif what == "pin":
            (self.root / "data.dvc").write_text(f"outs:\n- md5: {value}\n  path: data\n")
        elif what == "data":
            shutil.rmtree(self.root / "artifacts")
            shutil.copytree(self.cohorts[value], self.root / "artifacts")
        elif what == "put back":
            self.git("checkout", "--quiet", "--", ".")
        else:
            self.git("commit", "--quiet", "--all", "--allow-empty", "--message", f"Edit {self.number}")

    def run(self, line: list[str], meanwhile: list[tuple[str, Any]]) -> bool:
        """Run a command, with edits as soon as it has printed its first epoch; return whether it succeeded."""
        environment = {name: text for name, text in self.project.environment.items() if not name.startswith("GIT_")}
        environment["PYTHONPATH"] = str(self.root)
        job = self.project.launcher.start(line, self.root, environment)
        if meanwhile:
            job.until(lambda: "epoch 1/" in job.output)
        for each in meanwhile:
            self.edit(*each)
        return job.wait(line).returncode == 0

    def train(self, meanwhile: list[tuple[str, Any]]) -> bool:
        """Train; what it learnt from is what was there when it began."""
        truth = {
            "params": read_params(self.root / "params.yaml").train.model_dump(mode="json"),
            "code": code_files(TRAINING_CODE, self.root),
            "md5": json.loads((self.project.arrays / "arrays.json").read_text())["data_md5"],
        }
        shutil.rmtree(self.root / "checkpoints", ignore_errors=True)
        if done := self.run(self.project.train_line(), meanwhile):
            self.learnt = truth | {"weights": sha256(self.project.model / "weights.safetensors")}
        return done

    def evaluate(self) -> bool:
        truth = {
            "params": read_params(self.root / "params.yaml").evaluate.model_dump(mode="json"),
            "code": code_files(EVALUATION_CODE, self.root),
        }
        if done := self.run(self.project.evaluate_line(), []):
            self.scored = truth
        return done

    def verified(self, number: int) -> bool:
        return self.run([sys.executable, "-m", "defunet.__main__", "lineage", str(number)], [])

    def wrong(self, number: int, scratch: Path) -> list[str]:
        """Return what a version says of its origin that is not so."""
        version = read_version(connect(existing=True), self.model, number)
        commit = version.tags["git.commit"]
        there = scratch / f"commit-{number}"
        there.mkdir(parents=True)
        archive = there / "files.zip"
        self.git("archive", f"--output={archive}", commit)
        shutil.unpack_archive(archive, there)
        then = check(read_yaml(there / "params.yaml"), "at the commit")
        now = read_params(self.root / "params.yaml")
        pinned = read_yaml(there / "data.dvc")["outs"][0]["md5"]
        code = (code_files(TRAINING_CODE, there), code_files(EVALUATION_CODE, there))
        here = code_files(EVALUATION_CODE, self.root)
        pairs = {
            "weights": (sha256(fetch(version.uri, scratch / "files") / "weights.safetensors"), self.learnt["weights"]),
            "parameters of training": (then.train.model_dump(mode="json"), self.learnt["params"]),
            "code of training": (code[0], self.learnt["code"]),
            "data": (pinned, self.learnt["md5"]),
        }
        found = [name for name, (says, is_so) in pairs.items() if says != is_so]
        # Evaluated later than trained: by the code of the commit or by what is here; its parameters have a hash.
        if self.scored["code"] not in (code[1], here):
            found.append("code of evaluation")
        if self.scored["params"] != now.evaluate.model_dump(mode="json"):
            found.append("parameters of evaluation")
        return found


@pytest.fixture(scope="module")
def origin(prepared: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The repository before any edit, and two cohorts of it."""
    root = tmp_path_factory.mktemp("origin")
    for name in ROOMS:
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(prepared.root / "data.dvc", root)
    shutil.copy(prepared.root / "mlflow.db", root)
    (root / "params.yaml").write_text(
        json.dumps(shrunk(train={"epochs": 2, "width": 0.0625}, register={"challenger": "always"}))
    )
    (root / ".gitignore").write_text(
        "artifacts\nmodels\nevaluations\ncheckpoints\nmlruns\nmlflow.db\nregistered.json\n__pycache__\n"
    )
    cohorts = {name: root.with_name(f"cohort-{name}") for name in ("one", "other")}
    for name, folder in cohorts.items():
        shutil.copytree(prepared.root / "artifacts", folder)
        if name == "other":  # as if it had been made of another pin
            info = folder / "arrays/arrays.json"
            info.write_text(json.dumps(json.loads(info.read_text()) | {"data_md5": OTHER_MD5}))
    launcher = Launcher(tmp_path_factory.mktemp("lineage-commands"), root)
    world = World(Project(root, launcher), cohorts, "lungs")
    world.git("init", "--quiet")
    world.git("add", "--all")
    world.git("commit", "--quiet", "--message", "Start")
    yield world
    launcher.process.communicate()


@pytest.mark.slow
@pytest.mark.full
@pytest.mark.timeout(1500)
@settings(
    max_examples=6,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@example(story=([], [], [], []))  # nothing is edited
@example(story=([], [("epochs", 1)], [], []))  # the parameters of the next run, while it trains
@example(story=([("epochs", 1), ("commit", None)], [], [("epochs", 2)], [("put back", None)]))
@example(story=([("code", "training")], [], [("put back", None)], []))
@example(story=([("pin", OTHER_MD5), ("commit", None)], [], [], []))
@given(story=STORY)
def test_no_version_is_verified_and_wrong(
    origin: World, tmp_path_factory: pytest.TempPathFactory, story: tuple[list[tuple[str, Any]], ...]
) -> None:
    # A model of its own: the same weights are not registered twice.
    world = World(origin.project, origin.cohorts, f"lungs-{uuid.uuid4().hex[:8]}")
    untouched = all(not edits for edits in story)
    world.git("reset", "--quiet", "--hard", world.git("rev-list", "--max-parents=0", "HEAD").strip())
    values = json.loads((world.root / "params.yaml").read_text())
    values["register"]["model"] = world.model
    (world.root / "params.yaml").write_text(json.dumps(values))
    world.edit("commit", None)
    for name in ("models", "evaluations", "checkpoints", "artifacts"):
        shutil.rmtree(world.root / name, ignore_errors=True)
    shutil.copytree(world.cohorts["one"], world.root / "artifacts")
    (world.root / "registered.json").unlink(missing_ok=True)

    before, meanwhile, between, after = story
    ran = []
    for edits, step in ((before, "train"), (between, "evaluate"), (after, "register")):
        for each in edits:
            world.edit(*each)
        if step == "train":
            done = world.train(meanwhile)
        elif step == "evaluate":
            done = world.evaluate()
        else:
            done = world.run(world.project.register_line(), [])
        ran.append(done)
        if not done:
            event(f"{step} refused")
            assert not untouched, step
            return
    number = int(json.loads((world.root / "registered.json").read_text())["version"])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(world.root)
        patch.setenv("MLFLOW_TRACKING_URI", world.project.store)
        verified = world.verified(number)
        event("verified" if verified else "registered, not verified")
        assert verified or not untouched
        if verified:
            assert world.wrong(number, tmp_path_factory.mktemp("truth")) == []
