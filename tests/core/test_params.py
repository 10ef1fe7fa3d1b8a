"""``params.yaml``: all mistakes are reported at once, one line each, before anything runs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from core.errors import UserError
from core.params import check, params_hash, read_params, read_yaml

ROOT = Path(__file__).parents[2]
SHIPPED: dict[str, Any] = read_yaml(ROOT / "params.yaml")


def changed(path: str, value: Any) -> dict[str, Any]:
    values = copy.deepcopy(SHIPPED)
    *sections, key = path.split(".")
    place = values
    for section in sections:
        place = place[section]
    place[key] = value
    return values


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("trian", {}, "trian: Extra inputs are not permitted"),
        ("train.epohcs", 3, "train.epohcs: Extra inputs are not permitted"),
        ("train.epochs", 0, "train.epochs: Input should be greater than or equal to 1 (got 0)"),
        ("train.epochs", "12", "train.epochs: Input should be a valid integer (got '12')"),
        ("train.epochs", 1.5, "train.epochs: Input should be a valid integer (got 1.5)"),
        ("train.width", True, "train.width: Input should be a valid number (got True)"),
        ("train.schedule", "one-cycle", "train.schedule: Input should be 'cosine' or 'plateau' (got 'one-cycle')"),
        ("train.accumulation", 3, "train: batch_size 8 cannot be computed in 3 equal parts"),
        ("train.loss", {"dice": 0.0, "cross_entropy": 0.0}, "train.loss: at least one of dice and cross_entropy must"),
        ("train.defu_net.bottom", 700, "train.defu_net.bottom: Input should be 512 or 1024 (got 700)"),
        ("evaluate.largest_components", -1, "evaluate.largest_components: Input should be greater than or equal to 0"),
        (
            "evaluate.least_component",
            1.5,
            "evaluate.least_component: Input should be less than or equal to 1",
        ),
        ("evaluate.splits", ["validation"], "evaluate: splits: must include test"),
        ("evaluate.splits", [], "evaluate: splits: must include test"),
        ("evaluate.splits", ["test", "test"], "evaluate: splits: has a duplicate"),
        ("train.augmentation.flip", 1.5, "train.augmentation.flip: Input should be less than or equal to 1 (got 1.5)"),
        ("preprocess.size", 100, "preprocess.size: Input should be a multiple of 16 (got 100)"),
        ("preprocess.splits", {"train": 0.9, "validation": 0.1, "test": 0.1}, "preprocess: splits: the three shares"),
        ("preprocess.splits", {"train": 0.9, "test": 0.1}, "preprocess: splits: needs train, validation and test"),
        ("preprocess.intensity_percentiles", [99, 1], "preprocess: intensity_percentiles: the first value must be"),
        ("validate.lung_fraction", [0.6, 0.1], "lung_fraction: the first value must not be above the second"),
        (
            "validate.expected",
            {"montgomery": {"images": -1, "masks": 0}},
            "expected.montgomery.images: Input should be",
        ),
        ("matrix.networks", ["defu"], "matrix: networks: unknown defu; known are "),
        ("matrix.scenarios", ["mixd"], "matrix.scenarios: not defined under scenarios: mixd"),
        ("register.scenario", "none", "register.scenario: not defined under scenarios: none"),
        ("scenarios.odd", {"train": ["a"], "test": ["a", "b"]}, "scenarios.odd: train and test must have the same"),
        ("evaluate.threshold", float("nan"), "evaluate.threshold: Input should be a finite number (got nan)"),
    ],
)
def test_a_mistake_is_named_with_its_place(path: str, value: Any, message: str) -> None:
    with pytest.raises(UserError) as caught:
        check(changed(path, value), "params.yaml")
    (problem,) = caught.value.problems
    assert message in problem


def test_all_mistakes_at_once_through_a_command(command: Callable[..., Any], tmp_path: Path, cohort: Path) -> None:
    values = changed("train.epochs", -1)
    values["nonsense"] = 1
    file = tmp_path / "params.yaml"
    YAML().dump(values, file)
    done = command("components.ingest", cohort, "--params", file, "--out", tmp_path / "raw")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"error: {file}: 2 value(s) to correct",
        "  train.epochs: Input should be greater than or equal to 1 (got -1)",
        "  nonsense: Extra inputs are not permitted",
    ]
    assert not (tmp_path / "raw").exists()


def test_a_missing_section_and_a_file_that_holds_none(tmp_path: Path) -> None:
    values = copy.deepcopy(SHIPPED)
    del values["train"]
    with pytest.raises(UserError, match="train: Field required"):
        check(values, "params.yaml")
    (tmp_path / "list.yaml").write_text("[1, 2]")
    with pytest.raises(UserError, match=r"list\.yaml: 1 value"):
        read_params(tmp_path / "list.yaml")
    (tmp_path / "broken.yaml").write_text("train: [1, 2")
    with pytest.raises(UserError, match=r"broken\.yaml: not valid YAML"):
        read_params(tmp_path / "broken.yaml")
    with pytest.raises(UserError, match=r"none\.yaml: not found; run from the project's folder"):
        read_params(tmp_path / "none.yaml")


def test_the_hash_is_of_the_values_alone(tmp_path: Path) -> None:
    rewritten = tmp_path / "params.yaml"
    YAML(typ="safe").dump(dict(reversed(SHIPPED.items())), rewritten)
    assert rewritten.read_text() != (ROOT / "params.yaml").read_text()
    assert params_hash(read_params(rewritten)) == params_hash(read_params(ROOT / "params.yaml"))
    other = check(changed("train.epochs", 13), "")
    assert params_hash(other) != params_hash(read_params(rewritten))


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(junk, st.sampled_from(sorted(SHIPPED)))
def test_nothing_but_a_user_error_comes_of_junk(value: Any, section: str) -> None:
    with pytest.raises(UserError) as caught:
        check({**SHIPPED, section: value}, "params.yaml")
    assert caught.value.problems
    assert all(section in problem for problem in caught.value.problems)
