"""Verdicts of published studies: with enough training runs, image by image, and on the page where they belong."""

from __future__ import annotations

import shutil

import pandas as pd
import pytest

from tests.conftest import Project
from tests.tools.kept_study import CELL, assert_refused, change, keep, learn_dilated, more_runs, read, rename, written
from tools.publish import differences


def verdict(page: str, first: str) -> list[str]:
    """Return the runs, the difference, its interval, what it is over, p and the verdict of a line of a page."""
    line = next(line for line in page.splitlines() if line.startswith(first))
    cells = [cell.strip() for cell in line.split("|")]
    return [cells[3], *cells[-6:-1]]


@pytest.mark.full
def test_an_ablation_has_a_verdict_with_three_runs_a_side_and_no_sooner(kept: Project) -> None:
    study = kept.root / "results/tiny"
    assert kept.call(keep(kept, "--ablation", "no-tone")).returncode == 0
    without = study / "ablations/no-tone" / CELL
    change(without, -0.125)
    assert_refused(kept, "ablations/no-tone: not named under ablations in study.yaml")
    with (study / "study.yaml").open("a") as file:
        file.write("ablations: {no-tone: tone curves}\n")

    def said() -> list[str]:
        assert "results/figures/ablations.svg" in written(kept)
        return verdict((kept.root / "docs/results/tiny.md").read_text(), "| tone curves | Mixed |")

    none = "one training run: no verdict"
    assert said() == ["1 and 1", "−0.1250", "−0.1250 to −0.1250", "images", "–", none]
    history = pd.read_csv(without / "history.csv")
    history["train_loss"] += 1  # else it is the same run, and compared with itself
    history.to_csv(without / "history.csv", index=False)
    more_runs(without.parent)
    assert said()[-3:] == ["images", "–", none]
    more_runs(study / CELL.parent, 2)
    assert said()[-3:] == ["images", "–", "two training runs: no verdict"]
    shutil.rmtree(study / CELL.parent / "seed-1")
    more_runs(study / CELL.parent)
    runs, value, _, over, _, judged = said()
    assert (runs, value, over, judged) == ("3 and 3", "−0.1250", "runs and images", "worse")
    change(study / CELL.parent / "seed-2", -0.3)
    assert said()[-1] == "no difference shown"
    shutil.rmtree(study / CELL.parent)
    shutil.copytree(
        kept.root / "results/tiny/ablations/no-tone" / CELL.parent, study / "defu_net/montgomery-to-shenzhen"
    )
    rename(study / "defu_net/montgomery-to-shenzhen", "montgomery-to-shenzhen")
    (study / "worst.csv").unlink()
    assert_refused(kept, "ablation no-tone has mixed, the study itself has not")


def test_runs_that_share_their_steps_are_compared_with_themselves(kept: Project) -> None:
    study = read(kept, "ablations: {no-mirror: mirroring}\n", lambda study: more_runs(study / CELL.parent))
    for data in study.ablations["no-mirror"]:
        data.cases["dice"] -= 0.0005 * (1 + 0.1 * data.cell.seed)
    found = differences.dropped(study)[0]
    # Each run lost about as much, far less than runs are apart.
    assert (found.runs, found.verdict, found.over) == ((3, 3), "worse", "runs and images")


def test_a_study_of_dilated_masks_is_judged_by_them_and_compared_image_by_image(kept: Project) -> None:
    studies = kept.root / "results"
    other = studies / "tiny-dilated"
    shutil.copytree(studies / "tiny/defu_net", other / "defu_net")
    (other / "study.yaml").write_text("title: Drawn wide\ntext: x\nbeside: {tiny: Learnt wide., gone: x}\n")
    assert_refused(kept, "beside names no study")
    (other / "study.yaml").write_text("title: Drawn wide\ntext: x\nbeside: {tiny: Learnt wide.}\n")
    learn_dilated(other / CELL)
    change(other / CELL, -0.125, "dilated")
    written(kept)
    page = (kept.root / "docs/results/tiny-dilated.md").read_text()
    assert "against dilated masks, mean over test images and training runs" in page
    assert "## Expected calibration error" not in page  # its bins are against original masks
    text = (kept.root / "docs/results/comparisons.md").read_text()
    assert "## Drawn wide, less: A tiny study\n\nLearnt wide. Against dilated masks, at" in text
    runs, *rest = verdict(text, "| Mixed | DEFU-Net |")
    assert (runs, rest[0], rest[-1]) == ("1 and 1", "−0.1250", "one training run: no verdict")
    for cell in (studies / "tiny" / CELL, other / CELL):  # where both have it, the stored size counts
        cases = pd.read_csv(cell / "cases.csv").assign(stored_dice=0.5)
        cases.to_csv(cell / "cases.csv", index=False)
    written(kept)
    text = (kept.root / "docs/results/comparisons.md").read_text()
    assert "at the size at which each X-ray is stored" in text
    assert verdict(text, "| Mixed | DEFU-Net |")[1] == "0.0000"
