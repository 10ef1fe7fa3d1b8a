"""``auto`` measures the engines that are allowed, once a machine, and takes the fastest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.inference import choice
from model.inference.choice import CACHE, GAIN, ROUNDS, SECONDS, describe, measure, pick
from model.inference.engines import BATCH, EXACT, FASTEST, Pictures, Plain, Probabilities, start
from model.inference.predictor import Predictor
from model.weights import CONFIG
from tests.daily import daily
from tests.model.test_engines import ROOT, written
from tests.model.test_predictor import pictures

ORDER = (FASTEST, *EXACT)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("choice"), "unet")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a cache folder of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "defunet" / CACHE


def kept(cache: Path) -> dict[str, dict[str, float]]:
    return json.loads(cache.read_text())  # type: ignore[no-any-return]


def rewrite(cache: Path, times: dict[str, float]) -> None:
    """Put other times into the one entry of the cache, as if they had been measured."""
    (key,) = kept(cache)
    cache.write_text(json.dumps({key: times}))


# --- real engines ---------------------------------------------------------------------------------------------------


def test_all_that_are_allowed_are_timed_and_the_fastest_is_taken(folder: Path, cache: Path) -> None:
    engine = start(folder, threads=1, order=ORDER)
    (times,) = kept(cache).values()
    assert set(times) == set(ORDER)
    assert all(value > 0 for value in times.values())
    assert engine.name == pick((*EXACT, FASTEST), times)
    assert engine.reason == describe(engine.name, ORDER, times)
    # It was timed with single pictures, and takes batches.
    images = pictures(BATCH + 1)
    np.testing.assert_allclose(engine.probabilities(images), Predictor.load(folder).probabilities(images), atol=0.03)


@pytest.mark.parametrize("fastest", daily(ORDER, 0))
def test_what_was_measured_once_decides_from_then_on(folder: Path, cache: Path, fastest: str) -> None:
    start(folder, threads=1, order=ORDER)
    rewrite(cache, {name: 1.0 if name == fastest else 9.0 for name in ORDER})
    before = cache.read_bytes()
    engine = start(folder, threads=1, order=ORDER)
    assert engine.name == fastest
    assert engine.reason.startswith("1.0 ms of processor time per image; ")
    assert cache.read_bytes() == before
    images = pictures(BATCH + 1)
    np.testing.assert_allclose(engine.probabilities(images), Predictor.load(folder).probabilities(images), atol=0.03)


@pytest.mark.full
def test_the_measurement_belongs_to_network_size_threads_and_what_is_allowed(
    folder: Path, cache: Path, tmp_path: Path
) -> None:
    start(folder, threads=1)
    start(folder, threads=1)
    assert len(kept(cache)) == 1
    start(folder, threads=2)
    start(folder, threads=1, order=ORDER)
    other = tmp_path / "other"
    other.mkdir()
    start(written(other, "res_unet"), threads=1)
    config = json.loads((folder / CONFIG).read_text())
    for name in ("model.onnx", "weights.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / CONFIG).write_text(json.dumps(config | {"input": config["input"] | {"size": 48}}))
    start(tmp_path, threads=1)
    assert len(kept(cache)) == 5
    assert len({key for key in kept(cache) if '"unet"' in key and " at 48" in key}) == 1


def test_a_less_exact_engine_than_allowed_is_neither_timed_nor_taken(folder: Path, cache: Path) -> None:
    start(folder, threads=1, order=ORDER)
    rewrite(cache, {name: 0.001 if name == FASTEST else 9.0 for name in ORDER})
    assert start(folder, threads=1, order=ORDER).name == FASTEST
    engine = start(folder, threads=1, order=EXACT)
    assert engine.name in EXACT
    assert [set(times) for times in kept(cache).values()] == [set(ORDER), set(EXACT)]


def test_where_one_alone_is_allowed_or_named_nothing_is_measured(folder: Path, cache: Path) -> None:
    engine = start(folder, threads=1, order=("onnxruntime",))
    assert (engine.name, engine.reason) == ("onnxruntime", "nothing else to choose from")
    engine = start(folder, "openvino", threads=1, order=ORDER)
    assert (engine.name, engine.reason) == ("openvino", "chosen by name")
    assert not cache.exists()


def test_what_cannot_be_kept_is_measured_again(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.parent.parent.joinpath("defunet").write_text("a file where the folder would be")
    turns = []

    def measured(*arguments: Any) -> dict[str, float]:
        turns.append(arguments)
        return measure(*arguments)

    monkeypatch.setattr(choice, "measure", measured)
    for count in (1, 2):
        assert start(folder, threads=1).name in EXACT
        assert len(turns) == count


@pytest.mark.parametrize("damaged", daily(["[", "[]", '{"KEY": 1}', '{"KEY": {}}', '{"KEY": {"openvino": "fast"}}'], 4))
def test_a_damaged_cache_is_measured_anew(folder: Path, cache: Path, damaged: str) -> None:
    start(folder, threads=1)
    (key,) = kept(cache)
    cache.write_text(damaged.replace('"KEY"', json.dumps(key)))
    assert start(folder, threads=1).name in EXACT
    assert set(kept(cache)[key]) == set(EXACT)


COMMAND = """
import sys
from pathlib import Path
from model.inference.engines import EXACT, FASTEST, start
engine = start(Path(sys.argv[1]), threads=1, order=(FASTEST, *EXACT))
print(engine.name, "torch" in sys.modules, engine.reason, sep="; ")
"""


def test_a_process_without_pytorch_does_not_import_it_to_measure(folder: Path, cache: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    line = [sys.executable, "-c", COMMAND, str(folder)]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=True)
    name, imported, reason = done.stdout.strip().split("; ", 2)
    (times,) = kept(cache).values()
    assert (set(times), imported) == ({FASTEST, "openvino", "onnxruntime"}, "False")
    assert reason == describe(name, (FASTEST, "openvino", "onnxruntime"), times)


# --- how it is measured: engines of a made-up clock -----------------------------------------------------------------


class Timed(Plain):
    """An engine whose calls take the given times, one after the other."""

    def __init__(self, name: str, clock: list[float], turns: list[float], log: list[str]) -> None:
        self.name, self.clock, self.turns, self.log = name, clock, iter(turns), log

    def probabilities(self, images: Pictures) -> Probabilities:
        assert (images.dtype, images.shape) == (np.uint8, (1, 24, 24))
        self.log.append(self.name)
        self.clock[0] += next(self.turns)
        return images.astype(np.float32)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The processor's time of this process, seconds."""
    now = [7.0]
    monkeypatch.setattr("time.process_time", lambda: now[0])
    return now


def test_engines_take_turns_and_the_least_counts(clock: list[float]) -> None:
    log: list[str] = []
    # The second is the faster one, and was disturbed in all turns but one.
    turns = {"a": [0.5, *[0.02] * ROUNDS], "b": [0.5, 0.04, 0.05, 0.01, *[0.06] * (ROUNDS - 3)]}
    found = measure(("a", "b"), lambda name: Timed(name, clock, turns[name], log), 24)
    assert found == pytest.approx({"a": 20, "b": 10})
    assert log == ["a", "b", *(["a", "b", "b", "a"] * ROUNDS)[: 2 * ROUNDS]]
    assert pick(("a", "b"), found) == "b"


@pytest.mark.parametrize(
    ("seconds", "timed"),
    [(SECONDS * 2, ["a"]), (SECONDS * 0.6, ["a", "b"]), (SECONDS * 0.3, ["a", "b", "c", "a"])],
)
def test_a_large_network_is_timed_no_longer_than_allowed(clock: list[float], seconds: float, timed: list[str]) -> None:
    log: list[str] = []
    found = measure("abc", lambda name: Timed(name, clock, [seconds] * 9, log), 24)
    assert log == timed
    assert set(found) == set(timed)
    assert describe("a", "abc", found).count("not timed") == 3 - len(set(timed))


def test_a_near_tie_keeps_the_preferred_one() -> None:
    assert pick("ab", {"a": GAIN - 0.01, "b": 1.0}) == "a"
    assert pick("ab", {"a": GAIN + 0.01, "b": 1.0}) == "b"
    assert pick("abc", {"b": 2.0, "c": 1.0}) == "c"
    said = "1.1 ms of processor time per image; b 1.0, c not timed; preferred, since none is 1.1 times as fast"
    assert describe("a", "abc", {"a": 1.09, "b": 1.0}) == said
