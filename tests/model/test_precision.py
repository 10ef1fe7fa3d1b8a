"""``precision: auto`` is measured once a machine, and the same for every network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from model.training import precision
from model.training.distributed import DistributedContext
from model.training.precision import CACHE, GAIN, choose_precision

ALONE = DistributedContext(0, 1, torch.device("cpu"))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of its own, on a CPU that says it computes in bfloat16."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    return tmp_path / "defunet" / CACHE


@pytest.mark.parametrize(("gain", "dtype"), [(GAIN, torch.bfloat16), (GAIN - 0.01, torch.float32)])
def test_what_was_measured_once_decides_from_then_on(
    cache: Path, monkeypatch: pytest.MonkeyPatch, gain: float, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(precision, "measure_gain", lambda: gain)
    first = choose_precision("auto", ALONE)
    assert first.dtype == dtype
    assert f"{gain:.2f} times as fast as in float32" in first.reason
    assert list(json.loads(cache.read_text()).values()) == [gain]

    # A busy moment later: the measurement would now say the opposite.
    monkeypatch.setattr(precision, "measure_gain", lambda: 2 * GAIN - gain + 0.1)
    assert choose_precision("auto", ALONE) == first


@pytest.mark.full
def test_the_measurement_does_not_depend_on_the_threads_and_leaves_no_trace(cache: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    threads = torch.get_num_threads()
    assert 0.1 < precision.measure_gain() < 20
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.rand(4), expected)
    choose_precision("auto", ALONE)
    measured = cache.read_bytes()
    torch.set_num_threads(threads + 1)
    try:
        choose_precision("auto", ALONE)
    finally:
        torch.set_num_threads(threads)
    assert cache.read_bytes() == measured


def test_a_damaged_cache_is_measured_anew_and_one_that_cannot_be_written_is_no_error(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "measure_gain", lambda: 1.5)
    cache.parent.mkdir()
    cache.write_text("[")
    assert choose_precision("auto", ALONE).dtype == torch.bfloat16
    assert list(json.loads(cache.read_text()).values()) == [1.5]
    cache.unlink()
    cache.mkdir()
    assert choose_precision("auto", ALONE).dtype == torch.bfloat16


def test_a_cpu_without_the_instructions_is_not_measured(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    assert choose_precision("auto", ALONE).dtype == torch.float32
    assert choose_precision("bfloat16", ALONE).dtype == torch.bfloat16
    assert not cache.exists()
