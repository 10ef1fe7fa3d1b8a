"""What the page says of targets, folds, robustness and cost."""

from __future__ import annotations

import json
import re
import shutil

import pandas as pd
import pytest

from tests.conftest import Project
from tests.tools.kept_study import (
    CELL,
    STUDY,
    assert_refused,
    corrupt,
    keep,
    learn_dilated,
    price,
    read,
    rename,
    written,
)
from tools.publish import scores, targets
from tools.publish.studies import Study, read_studies


def target(study: Study, **other: object) -> dict[str, object]:
    known = {"size": study.size, "width": study.width, "scenario": "mixed", "masks": "original", "at": "network"}
    return {"label": "x", "at_least": 0.5, **known, **other}


def test_a_target_is_reached_when_its_interval_is(kept: Project) -> None:
    study = read(kept, "", lambda study: None)
    score = scores.scores(study)[0]
    assert score.interval is not None
    low, high = score.interval
    assert low < score.dice < high
    lines = [
        target(study, at_least=low),
        target(study, at_least=score.dice),  # the mean alone is not enough
        target(study, at_least=min(1.0, high + 1e-6)),
        target(study, at="stored"),
        target(study, masks="dilated"),
        target(study, size=2 * study.size),
        target(study, folds=5),
        target(study, scenario="shenzhen-to-montgomery"),
    ]
    (kept.root / "results/targets.yaml").write_text(json.dumps(lines))
    found = targets.reach(targets.read_targets(kept.root / "results"), [study])
    states = ["reached", "not shown", "**missed**", "not scored", *["not run"] * 4]
    assert [row.state for row in found] == states
    text = written(kept)
    assert [line.split("|")[-2].strip() for line in text.splitlines() if re.match(r"\| (\[x\]|x)", line)] == states
    for data in study.cells:
        data.cases["stored_dice"] = 0.75
    stored = targets.reach([targets.Target(**target(study, at="stored"))], [study])[0]  # type: ignore[arg-type]
    assert stored.score is not None
    assert (stored.score.dice, stored.state) == (0.75, "reached")


def test_a_study_of_one_kind_of_masks_leaves_the_targets_of_the_other_open(kept: Project) -> None:
    """Once, one study of any kind of masks took away all rows that said "not run"."""
    study = read(kept, "", lambda study: None)
    lines = [target(study, label=masks, masks=masks, paper=masks == "dilated") for masks in ("original", "dilated")]
    (kept.root / "results/targets.yaml").write_text(json.dumps(lines))
    text = written(kept)
    assert re.search(
        r"\| dilated \| Mixed \| dilated \| \d+ pixels \| 0\.5000 \| 0\.9667 \(paper\) \| .* \| not run \|", text
    )
    assert re.search(r"\| \[original\]\(results/tiny.md\) .* \| (reached|\*\*missed\*\*|not shown) \|", text)
    learn_dilated(kept.root / "results/tiny" / CELL)
    text = written(kept)
    assert re.search(r"\| original \| .* \| not run \|", text)
    assert re.search(r"\| \[dilated\]\(results/tiny.md\) .* \| (reached|\*\*missed\*\*|not shown) \|", text)
    (kept.root / "results/targets.yaml").write_text("- {label: x, reach: 2}\n")
    assert_refused(kept, "targets.yaml, target 1")
    (kept.root / "results/targets.yaml").write_text("label: x\n")
    assert_refused(kept, "not a list of targets")


def test_folds_are_one_test_of_all_their_images(kept: Project) -> None:
    study, folds = kept.root / "results/tiny", 3
    cases = pd.read_csv(study / CELL / "cases.csv")
    ids = sorted(cases["id"].unique())
    for number in range(1, folds + 1):
        name = f"mixed-fold-{number}"
        shutil.copytree(study / "defu_net/mixed", study / "defu_net" / name)
        rename(study / "defu_net" / name, name)
        held = cases["id"].isin(ids[number - 1 :: folds])
        fold = cases.assign(split=held.map({True: "test", False: "train"}), dice=0.9 + 0.01 * number)
        fold.loc[fold["site"] == "montgomery", "dice"] += 0.05
        fold.to_csv(study / "defu_net" / name / "seed-0/cases.csv", index=False)
    shutil.rmtree(study / "defu_net/mixed")
    (study / "worst.csv").unlink()
    (study / "study.yaml").write_text(STUDY + f"folds: {folds}\n")
    (found,) = read_studies(kept.root / "results")
    lines = {score.site: score for score in scores.folded(found)}
    assert list(lines) == ["all", "montgomery", "shenzhen"]
    one = cases.drop_duplicates("id").set_index("id")["site"]
    expected = pd.Series(
        [0.9 + 0.01 * (1 + place % folds) + 0.05 * (one[id] == "montgomery") for place, id in enumerate(ids)]
    )
    assert lines["all"].dice == pytest.approx(expected.mean())
    sites = pd.Series([one[id] for id in ids])
    for site in ("montgomery", "shenzhen"):
        assert lines[site].dice == pytest.approx(expected[sites == site].mean())
        assert lines[site].n_images == (sites == site).sum()
    assert (lines["all"].n_images, lines["all"].over, lines["all"].paper) == (len(ids), "images", 0.9667)
    (kept.root / "results/targets.yaml").write_text(json.dumps([target(found, site="montgomery", folds=folds)]))
    text = written(kept)
    assert "Mixed, Montgomery, 3 folds" in text
    assert f"| {lines['montgomery'].dice:.4f} |" in text
    assert re.search(rf"\| DEFU-Net \| Mixed \| Shenzhen \| {lines['shenzhen'].n_images} \| 1 \|", text)
    second = study / "defu_net/mixed-fold-2/seed-0/cases.csv"
    whole = second.read_text()
    pd.read_csv(second).assign(split="test").to_csv(second, index=False)
    assert_refused(kept, "tested in two folds")
    second.write_text(whole)
    shutil.rmtree(study / "defu_net/mixed-fold-2")
    assert_refused(kept, "not every fold has the same seeds")


def test_robustness_and_cost_are_drawn_where_they_were_measured(kept: Project) -> None:
    text = written(kept)
    assert "## Robustness" not in text
    assert "## Cost" not in text
    frame = corrupt(kept.root / "results/tiny")
    price(kept.root / "results")
    text = written(kept)
    assert "results/figures/robustness.svg" in text
    assert "1 core of an abacus;" in text
    assert "another" not in text
    assert (kept.root / "docs/results/figures/cost.svg").stat().st_size > 5000
    path = kept.root / "results/tiny" / CELL / "robustness.csv"
    shutil.move(path, kept.root / "evaluations" / CELL)
    assert kept.call(keep(kept)).returncode == 0
    pd.testing.assert_frame_equal(pd.read_csv(path), frame)
    for broken, message in (
        (frame.assign(severity=6), "a severity is not a whole number"),
        (frame.assign(corruption="fog"), "unknown corruption"),
        (frame.assign(dice="high"), "has a value that is not a number"),
        (frame.drop(columns="low"), "columns missing: low"),
        (pd.concat([frame, frame]), "occur twice"),
    ):
        broken.to_csv(path, index=False)
        assert_refused(kept, message)
    frame.to_csv(path, index=False)
    (kept.root / "results/cost.csv").write_text("network,hardware\n")
    assert_refused(kept, "cost.csv: columns missing: width")


def test_a_size_that_was_not_scored_is_refused(kept: Project) -> None:
    (kept.root / "results/tiny/study.yaml").write_text(STUDY + "at: stored\n")
    assert_refused(kept, "cases.csv: no column stored_dice")
    cases = pd.read_csv(kept.root / "results/tiny" / CELL / "cases.csv").assign(stored_dice=0.625)
    cases.to_csv(kept.root / "results/tiny" / CELL / "cases.csv", index=False)
    text = written(kept)
    assert "Test Dice at the size at which each X-ray is stored" in text
    assert "| 0.6250 (" in text
