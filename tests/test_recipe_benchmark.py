"""The recipe's benchmark: what stands there is not run again, and only rows of the same measurement are shown."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from benchmarks.recipe import VARIANTS, changed, shifted
from core.params import check, read_yaml
from tests.conftest import ROOT, Project, refused, shrunk

SHIPPED = check(read_yaml(ROOT / "params.yaml"), "shipped").train


def test_every_variant_but_the_first_changes_the_shipped_recipe() -> None:
    recipes = [changed(SHIPPED, changes) for changes in VARIANTS.values()]
    assert recipes[0] == SHIPPED
    assert all(recipe != SHIPPED for recipe in recipes[1:])
    assert len({recipe.model_dump_json() for recipe in recipes}) == len(recipes)


def test_shifts_change_every_image_and_leave_what_they_were_given() -> None:
    images = np.random.default_rng(0).integers(1, 255, (2, 64, 64), np.uint8)
    masks = (images > 128).astype(np.uint8)
    before = images.copy()
    for name, (moved, drawn) in shifted(images, masks).items():
        assert moved.shape == drawn.shape == images.shape, name
        assert moved.dtype == drawn.dtype == np.uint8, name
        assert all((one != other).any() for one, other in zip(moved, images, strict=True)), name
        assert set(np.unique(drawn)) <= {0, 1}, name
    np.testing.assert_array_equal(images, before)


@pytest.mark.slow
@pytest.mark.full
def test_a_row_is_measured_once_and_belongs_to_its_network(untrained: Project) -> None:
    params = untrained.root / "small.json"
    params.write_text(json.dumps(shrunk(train={"epochs": 1, "width": 0.0625})))  # JSON is YAML
    out = untrained.root / "recipe.jsonl"

    def run(*arguments: str) -> Any:
        line = untrained.line("train", untrained.arrays, untrained.split.parent, "--scenario", "mixed", *arguments)
        line[2] = "benchmarks.recipe"
        return untrained.call([*line, "--out", str(out), "--params", str(params)])

    def rows() -> list[dict[str, Any]]:
        return [json.loads(line) for line in out.read_text().splitlines()]

    one = ("--variant", "shipped", "--network", "unet")
    done = run(*one)
    assert done.returncode == 0, done.stderr
    (first,) = rows()
    assert 0 <= first["dice"] <= 1
    assert len([key for key in first if key.startswith("shift: ")]) == 10
    assert run(*one).returncode == 0
    assert rows() == [first]
    assert run("--variant", "shipped", "--network", "res_unet").returncode == 0
    assert [row["network"] for row in rows()] == ["unet", "res_unet"]
    assert "--variant nope: unknown; known are shipped," in refused(run("--variant", "nope"))
