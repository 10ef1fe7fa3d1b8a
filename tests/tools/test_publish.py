"""Keeping finished cells as a study, and publishing studies: by the commands, on a cell that was really trained."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import cv2
import pandas as pd
import pytest

from tests.conftest import ROOT, Project, refused
from tests.tools.kept_study import CELL, assert_refused, corrupt, keep, price, publish, publish_line, worst_ids


def test_what_is_kept_is_what_was_evaluated(kept: Project) -> None:
    study, cell = kept.root / "results/tiny", Path("defu_net/mixed/seed-0")
    names = {str(path.relative_to(study)) for path in study.rglob("*") if path.is_file() and path.suffix != ".lock"}
    files = {
        f"{cell}/{name}"
        for name in (
            *("rows.json", "cases.csv", "history.csv", "config.json", "run.json", "reliability.csv"),
            *("provenance.json", "scored.json"),
        )
    }
    pictures = {f"figures/{name}.jpg" for name in ("figure-5-shenzhen", "figure-6-montgomery", "worst-mixed")}
    assert names == files | pictures | {"study.yaml", "worst.csv"}
    ours, theirs = (pd.read_csv(folder / cell / "cases.csv") for folder in (study, kept.root / "evaluations"))
    pd.testing.assert_frame_equal(ours, theirs[list(ours)], atol=1e-5)
    for name in pictures:
        assert cv2.imread(str(study / name)) is not None


def test_the_page_states_the_rows_of_the_cells(kept: Project) -> None:
    text = publish(kept)
    rows = pd.read_json(kept.root / "evaluations" / CELL / "rows.json")
    row = rows[(rows.split == "test") & (rows.site == "all") & (rows.label == "all") & (rows.reduction == "per_image")]
    dice = float(row[row.masks == "original"].dice.iloc[0])
    assert re.search(rf"\| DEFU-Net \| [\d,]+ \| 1 \| {dice:.4f} \(0\.\d+ to 0\.\d+\) \| 0\.9667 \| images \|\n", text)
    assert text.startswith("# Results\n\n![")
    assert "## In short" not in text
    (kept.root / "results/summary.md").write_text("Little, [one](../docs/results/tiny.md).\n")
    assert "## In short\n\nLittle, [one](results/tiny.md).\n" in publish(kept)
    page = (kept.root / "docs/results/tiny.md").read_text()
    assert page.startswith("# A tiny study\n\nTwo sentences. Of the sample.\n")
    assert "## Table III: test result" in page
    assert [id for id in worst_ids(kept.root / "results/tiny") if f"| {id} |" not in page] == []
    bins = pd.read_csv(kept.root / "evaluations" / CELL / "reliability.csv").query("pixels > 0")
    error = ((bins["observed"] - bins["predicted"]).abs() * bins["pixels"]).sum() / bins["pixels"].sum()
    assert re.search(rf"## Expected calibration error\n(.*\n)+\| DEFU-Net \| {error:.4f} \|", page)
    for document in ("results.md", "results/tiny.md", "results/method.md", "results/comparisons.md"):
        path = kept.root / "docs" / document
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text()):
            if "own-data" not in target:
                assert (path.parent / target).exists(), (document, target)


def test_equal_rows_give_equal_bytes(kept: Project) -> None:
    corrupt(kept.root / "results/tiny")
    price(kept.root / "results")

    def files() -> dict[str, bytes]:
        publish(kept)  # a process of its own, whose sets have another order
        docs = kept.root / "docs"
        return {str(path.relative_to(docs)): path.read_bytes() for path in docs.rglob("*") if path.is_file()}

    first = files()
    drawn = {name for name in first if name.endswith(".svg")}
    assert drawn == {f"results/figures/{name}.svg" for name in ("forest", "robustness", "cost")}
    assert files() == first
    assert not [name for name in drawn if b"<dc:date>" in first[name] or b"<metadata>" in first[name]]


def test_one_study_is_the_first_of_the_page(kept: Project) -> None:
    studies = kept.root / "results"
    shutil.copytree(studies / "tiny", studies / "tiny-2")
    assert_refused(kept, "one study must have `headline: true`")
    for name in ("tiny", "tiny-2"):
        (studies / name / "study.yaml").write_text("title: x\ntext: x\n")
    assert_refused(kept, "0 do")


def test_a_worst_image_without_a_remark_and_a_stale_remark_are_refused(kept: Project) -> None:
    path = kept.root / "results/tiny/worst.csv"
    remarks = pd.read_csv(path)
    line = publish_line(kept)
    remarks.iloc[1:].to_csv(path, index=False)
    assert f"no line for mixed, {remarks['id'][0]}" in refused(kept.call(line))
    extra = pd.DataFrame([{"scenario": "mixed", "id": "CHNCXR_9999_0", "cause": "label", "remark": "gone"}])
    pd.concat([remarks, extra]).to_csv(path, index=False)
    done = kept.call(line)
    assert done.returncode == 1
    assert "mixed, CHNCXR_9999_0" in done.stderr
    assert not (kept.root / "docs/results.md").exists()


def test_damaged_or_missing_files_are_named(kept: Project) -> None:
    cell = kept.root / "results/tiny/defu_net/mixed/seed-0"
    (cell / "rows.json").write_text("[{}]")
    done = kept.call(publish_line(kept))
    assert done.returncode == 1
    assert "keys missing or unknown" in done.stderr
    assert "no study found" in refused(kept.call(publish_line(kept, "docs")))


def test_a_training_of_which_nothing_is_recorded_here_is_not_kept(scored: Project) -> None:
    run = scored.root / "models/defu_net/mixed/seed-0/run.json"
    run.write_text(json.dumps(json.loads(run.read_text()) | {"weights": "0" * 64}))
    done = scored.call(keep(scored))
    assert done.returncode == 1
    first, cell = done.stderr.splitlines()
    assert first.startswith("error: run.json, what a training took and where, is not recorded here for these weights")
    assert cell.strip() == "models/defu_net/mixed/seed-0"
    assert not (scored.root / "results").exists()


def test_the_history_that_is_kept_has_the_times(kept: Project) -> None:
    history = pd.read_csv(kept.root / "results/tiny/defu_net/mixed/seed-0/history.csv")
    times = json.loads((kept.root / "models/defu_net/mixed/seed-0/run.json").read_text())["per_epoch"]
    assert history[["epoch", "seconds", "images_per_second"]].to_dict("records") == times


def test_masks_that_are_not_those_evaluated_are_not_drawn(scored: Project) -> None:
    path = scored.root / "evaluations/defu_net/mixed/seed-0/cases.csv"
    cases = pd.read_csv(path)
    cases["dice"] = 0.5
    cases.to_csv(path, index=False)
    assert "predicted again, its Dice is" in refused(scored.call(keep(scored, "--arrays", str(scored.arrays))))


@pytest.mark.full
@pytest.mark.slow
def test_the_committed_documents_are_those_of_the_committed_rows(scored: Project) -> None:
    done = scored.call(publish_line(scored, ROOT / "results"))
    assert done.returncode == 0, done.stderr
    relative = re.compile(r"\]\((?:\.\./)*[^)]*results/")  # where the rows lie seen from the document

    def written(root: Path) -> dict[str, str]:
        docs = [root / "docs/results.md", *(path for path in (root / "docs/results").rglob("*") if path.is_file())]
        return {str(path.relative_to(root)): relative.sub("](results/", path.read_text()) for path in docs}

    ours, theirs = written(ROOT), written(scored.root)
    assert {name for name in ours if ours[name] != theirs.get(name)} == set()
    assert set(ours) == set(theirs)
    assert len((ROOT / "docs/results.md").read_text().splitlines()) <= 150
