"""A challenger in shadow and as a canary: what goes out, what is counted, and what the promotion gate makes of it."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import mlflow
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.promote import promote
from registry.shadow import PREFIX, Agreement, read
from serving.http.app import make_app
from serving.http.canary import LEAST, LEAST_ERRORS, WINDOW, Canary, Seen
from serving.http.guard import make_guard
from serving.http.service import Service
from serving.http.settings import Settings
from tests.conftest import ROOT, Project, Trained, refused
from tests.registry.registered import BETTER, GATE, NAME, TWIN, WORSE
from tests.serving.serving import CHAMPION, Served, chest, launch, png, ready
from tracking.local_store import adopt

CHALLENGER = f"models:/{NAME}@challenger"
XRAYS = sorted((ROOT / "samples").rglob("*.png"))


@pytest.fixture
def store(three: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A registry of three versions of which the better one is champion."""
    shutil.copytree(three.root, tmp_path, dirs_exist_ok=True)
    adopt(tmp_path)
    project = Project(tmp_path, three.launcher)
    monkeypatch.chdir(project.root)  # where the promotions' pages are kept
    mlflow.set_tracking_uri(project.store)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", project.store)
    project.client().set_registered_model_alias(NAME, "champion", str(BETTER))
    return project


def xrays(count: int) -> list[bytes]:
    """Return X-rays of the sample, no masks."""
    found = [path for path in XRAYS if "mask" not in str(path).lower()]
    assert len(found) >= count
    return [path.read_bytes() for path in found[:count]]


def challenge(project: Project, version: int) -> None:
    project.client().set_registered_model_alias(NAME, "challenger", str(version))


def serve(project: Project, *options: object) -> Served:
    service = ready(launch(project, CHAMPION, "--shadow", CHALLENGER, "--poll", 0.2, *options))
    assert service.job.until(lambda: state(service)["model"] is not None), service.job.output
    return service


def state(service: Served) -> dict[str, Any]:
    return dict(httpx.get(f"{service.url}/ready", timeout=30).json()["shadow"])


def ask(service: Served, pictures: list[bytes]) -> Counter[str]:
    """Send pictures one by one, and return how often each version answered."""
    answers = [service.predict(each) for each in pictures]
    assert {answer.status_code for answer in answers} == {200}
    for model in (answer.json()["model"] for answer in answers):
        assert model["canary"] == (model["version"] != str(BETTER)), "BETTER is the champion"
    return Counter(answer.headers["x-model-version"] for answer in answers)


def counted(project: Project, version: int) -> Agreement:
    return read(project.client().get_model_version(NAME, str(version)).tags, BETTER)


def gate(project: Project, version: int, **asked: Any) -> str:
    """Return what the gate says of the rule on the shadow."""
    params = project.write_params(promotion=GATE | {"shadow": {"agreement": 0.97, "at_least": 12} | asked})
    promote(params, project.arrays, project.split.parent, version)
    return str(project.client().get_model_version(NAME, str(version)).tags["promotion.shadow"])


@pytest.mark.slow
@pytest.mark.full
def test_in_shadow_the_champion_answers_and_the_gate_reads_the_agreement(store: Project) -> None:
    assert gate(store, TWIN).startswith("NOT MET: no X-ray")
    challenge(store, TWIN)
    service = serve(store)
    assert ask(service, xrays(12)) == {str(BETTER): 12}
    assert service.job.until(lambda: state(service)["compared"]["pictures"] >= 12 - waiting(service))
    pictures = state(service)["compared"]["pictures"]
    assert service.metric("defunet_shadow_agreement_count") == pictures
    assert service.metric("defunet_shadow_agreement_sum") == pytest.approx(
        pictures, rel=1e-4
    )  # they draw the same masks
    assert service.metric("defunet_canary_answers_total") == 0
    assert service.stop().returncode == 0
    seen = counted(store, TWIN)
    assert (seen.pictures, seen.errors, seen.withdrawn) == (pictures, 0, "")
    assert gate(store, TWIN, at_least=pictures) == f"met: 1.0000 on {pictures} X-rays"
    assert gate(store, TWIN, at_least=pictures + 1).startswith("NOT MET: ")


def waiting(service: Served) -> float:
    return service.metric("defunet_shadow_skipped_total")


@pytest.mark.slow
@pytest.mark.full
def test_a_bad_canary_is_taken_back_and_stays_so(store: Project) -> None:
    challenge(store, WORSE)
    service = serve(store, "--canary", 50)
    pictures = xrays(2 * LEAST)
    first = ask(service, pictures)
    assert first[str(WORSE)] > 0, first
    assert first[str(BETTER)] > 0, first
    assert "flags on" in state(service)["withdrawn"]
    (line,) = service.log("canary taken back")
    assert (line["version"], line["reason"]) == (str(WORSE), state(service)["withdrawn"])
    assert service.metric("defunet_canary_withdrawn") == 1
    assert service.metric("defunet_canary_answers_total") == first[str(WORSE)]
    assert ask(service, pictures) == {str(BETTER): len(pictures)}
    assert service.stop().returncode == 0
    assert counted(store, WORSE).withdrawn == line["reason"]
    again = serve(store, "--canary", 100)  # another process, which reads it in the registry
    assert ask(again, pictures[:4]) == {str(BETTER): 4}
    assert again.stop().returncode == 0
    assert f"canary taken back: {line['reason']}" in gate(store, WORSE, agreement=0.0, at_least=1)


@pytest.mark.slow
def test_a_good_canary_answers_its_share_and_the_same_picture_always(store: Project) -> None:
    challenge(store, TWIN)
    service = serve(store, "--canary", 30)
    pictures = xrays(30)
    each = [ask(service, [picture]) for picture in pictures]
    assert [ask(service, [picture]) for picture in pictures[:10]] == each[:10]
    versions = sum(each, Counter())
    assert set(versions) == {str(BETTER), str(TWIN)}
    assert versions[str(TWIN)] < versions[str(BETTER)]
    assert state(service)["withdrawn"] == ""
    assert service.stop().returncode == 0


@pytest.mark.full
@pytest.mark.slow
def test_a_challenger_may_come_and_go(store: Project) -> None:
    store.client().delete_registered_model_alias(NAME, "challenger")
    service = ready(launch(store, CHAMPION, "--shadow", CHALLENGER, "--canary", 100, "--poll", 0.2))
    assert state(service)["model"] is None
    assert ask(service, xrays(2)) == {str(BETTER): 2}
    challenge(store, TWIN)
    assert service.job.until(lambda: state(service)["model"] is not None)
    assert ask(service, xrays(2)) == {str(TWIN): 2}
    challenge(store, BETTER)  # the champion itself: nothing to compare
    assert service.job.until(lambda: state(service)["model"]["version"] == str(BETTER))
    before = service.metric("defunet_shadow_agreement_count")
    assert ask(service, xrays(2)) == {str(BETTER): 2}
    assert service.metric("defunet_shadow_agreement_count") == before
    store.client().delete_registered_model_alias(NAME, "challenger")
    assert service.job.until(lambda: state(service)["model"] is None)
    assert ask(service, xrays(2)) == {str(BETTER): 2}
    assert service.stop().returncode == 0


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.anyio
async def test_errors_of_a_canary_never_go_out(trained: Trained, package: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(package, other)
    settings = Settings(
        str(package), shadow=str(other), canary=100, engine="onnxruntime", threads=1, allowed_hosts=("*",)
    )
    service = Service(settings)
    assert service.shadow
    service.loader.first()
    service.shadow.loader.first()
    one = service.shadow.loader.current()
    broken = replace(one, version="another", package=Broken(one.package))
    service.shadow.loader._model = broken
    try:
        transport = httpx.ASGITransport(make_app(service, make_guard(settings)))  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=60) as client:
            for number in range(LEAST_ERRORS + 1):
                assert service.shadow.status()["withdrawn"] == ("3 errors on the last 3 X-rays" if number == 3 else "")
                answer = await client.post("/predict", content=png(chest(seed=number)))
                assert (answer.status_code, answer.headers["x-model-version"]) == (
                    200,
                    service.loader.current().version,
                )
    finally:
        service.close()
    assert service.shadow.status()["compared"] == {"pictures": 0, "agreement": None, "errors": LEAST_ERRORS + 1}


class Broken:
    """A package whose engine fails."""

    def __init__(self, package: Any) -> None:
        self._package = package

    def __getattr__(self, name: str) -> Any:
        return getattr(self._package, name)

    def segment(self, images: list[np.ndarray]) -> None:
        raise MemoryError("no memory for the engine")


def test_a_canary_without_a_model_is_refused(trained: Trained, package: Path) -> None:
    done = trained.project.call(trained.project.line("serve", "--model", package, "--canary", 5))
    assert done.returncode == 2
    assert "add --shadow" in done.stderr
    assert "no model package" in refused(
        trained.project.call(trained.project.line("serve", "--model", package, "--port", 0, "--shadow", "nowhere"))
    )


@given(st.floats(0, 100), st.integers(0, 2**32))
def test_a_canary_takes_its_share_of_pictures(percent: float, seed: int) -> None:
    canary = Canary(percent, 0.05, 0.01)
    pictures = np.random.default_rng(seed).integers(0, 255, (400, 4, 4), np.uint8)
    taken = [canary.takes(each) for each in pictures]
    assert taken == [canary.takes(each) for each in pictures]
    share, spread = percent / 100, 400**-0.5
    assert abs(np.mean(taken) - share) <= 6 * spread * (share * (1 - share)) ** 0.5 + 2 / 400


@given(st.lists(st.booleans(), max_size=300))
def test_equal_flags_never_take_a_canary_back(flags: list[bool]) -> None:
    canary = Canary(5, 0.0, 0.0)
    assert [canary.add(Seen(False, flag, flag)) for flag in flags] == [""] * len(flags)


def test_a_canary_looks_back_on_its_last_pictures() -> None:
    canary = Canary(5, 0.05, 0.01)
    for _ in range(10 * WINDOW):
        assert canary.add(Seen(False, False, False)) == ""
    worse = [canary.add(Seen(False, True, False)) for _ in range(11)]
    assert worse[:10] == [""] * 10
    assert worse[10] == "flags on 11 of the last 200 X-rays, the champion's on 0"
    assert canary.add(Seen(False, True, False)) == ""  # it is said once
    failing = Canary(5, 0.05, 0.01)
    assert [failing.add(Seen(True, False, False)) for _ in range(LEAST_ERRORS)][-1] == "3 errors on the last 3 X-rays"


def test_counts_of_services_add_up_and_other_tags_count_nothing() -> None:
    one = Agreement(against=2, pictures=10, dice=9.5, errors=1)
    tags = {
        f"{PREFIX}a": one.model_dump_json(),
        f"{PREFIX}b": Agreement(against=2, pictures=30, dice=27).model_dump_json(),
        f"{PREFIX}c": Agreement(against=1, pictures=500, dice=500).model_dump_json(),  # beside another champion
        f"{PREFIX}d": "{}",
        f"{PREFIX}e": '{"against": 2, "pictures": 1, "dice": 400}',
        f"{PREFIX}f": "<b>",
        "weights.sha256": "0",
    }
    found = read(tags, 2)
    assert (found.pictures, found.errors, found.mean) == (40, 1, pytest.approx(36.5 / 40))
    assert read({}, 2).mean is None
