"""Keeping finished cells as a study, and publishing studies: by the commands, on a cell that was really trained."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import pandas as pd
import pytest

from components.errors import UserError
from components.publish import differences, scores, targets
from components.publish import publish as write
from components.publish.studies import Study, read_studies
from tests.conftest import ROOT, Project, Trained, refused

STUDY = """title: A tiny study
text: Two sentences. Of the sample.
headline: true
"""
CELL = Path("defu_net/mixed/seed-0")


def keep(project: Project, *options: str) -> list[str]:
    where = ["--evaluations", "evaluations", "--models", "models", "--results", "results"]
    return project.line("publish.keep", "tiny", *where, *options)


@pytest.fixture(scope="module")
def kept_once(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A project with one study of one cell, pictures too, and remarks on its worst images; not to be changed."""
    project = trained.copy(tmp_path_factory.mktemp("kept"))
    done = project.call(keep(project, "--arrays", str(project.arrays)))
    assert done.returncode == 0, done.stderr
    study = project.root / "results/tiny"
    (study / "study.yaml").write_text(STUDY)
    ids = worst_ids(study)
    remarks = pd.DataFrame({"scenario": "mixed", "id": ids, "cause": "label", "remark": "seen, and | written down"})
    remarks.to_csv(study / "worst.csv", index=False)
    return replace(trained, project=project)


@pytest.fixture
def kept(kept_once: Trained, tmp_path: Path) -> Project:
    """The same, of the test's own."""
    return kept_once.copy(tmp_path)


def worst_ids(study: Path) -> list[str]:
    cases = pd.read_csv(study / "defu_net/mixed/seed-0/cases.csv")
    test = cases[(cases["split"] == "test") & (cases["masks"] == "original")]
    return list(test.sort_values(["dice", "id"])["id"].head(10))


def publish_line(project: Project, results: Path | str = "results") -> list[str]:
    return project.line("publish", results, "--out", "docs/results.md")


def publish(project: Project) -> str:
    done = project.call(publish_line(project))
    assert done.returncode == 0, done.stderr
    return (project.root / "docs/results.md").read_text()


def written(project: Project) -> str:
    """Publish within this process, which is faster, and return the page."""
    write(project.root / "results", project.root / "docs/results.md")
    return (project.root / "docs/results.md").read_text()


def assert_refused(project: Project, text: str) -> None:
    with pytest.raises(UserError, match=re.escape(text)):
        written(project)


def test_what_is_kept_is_what_was_evaluated(kept: Project) -> None:
    study, cell = kept.root / "results/tiny", Path("defu_net/mixed/seed-0")
    names = {str(path.relative_to(study)) for path in study.rglob("*") if path.is_file() and path.suffix != ".lock"}
    files = {
        f"{cell}/{name}"
        for name in ("rows.json", "cases.csv", "history.csv", "config.json", "run.json", "reliability.csv")
    }
    pictures = {f"figures/{name}.jpg" for name in ("figure-5-shenzhen", "figure-6-montgomery", "worst-mixed")}
    assert names == files | pictures | {"study.yaml", "worst.csv"}
    ours, theirs = (pd.read_csv(folder / cell / "cases.csv") for folder in (study, kept.root / "evaluations"))
    pd.testing.assert_frame_equal(ours, theirs, atol=1e-5)
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
    (kept.root / "results/summary.md").write_text("Little.\n")
    assert "## In short\n\nLittle.\n" in publish(kept)
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
    assert_refused(kept, "one study must say `headline: true`")
    for name in ("tiny", "tiny-2"):
        (studies / name / "study.yaml").write_text("title: x\ntext: x\n")
    assert_refused(kept, "0 do")


def change(cell: Path, by: float, masks: str = "original", column: str = "dice") -> None:
    """Raise Dice of a kept cell."""
    cases = pd.read_csv(cell / "cases.csv")
    cases.loc[cases["masks"] == masks, column] += by
    cases.to_csv(cell / "cases.csv", index=False)


def more_runs(scenario: Path, count: int = 3) -> None:
    """Copy the run of seed 0 so that there are ``count``, .001 apart."""
    for seed in range(1, count):
        again = scenario / f"seed-{seed}"
        shutil.copytree(scenario / "seed-0", again)
        for name in ("rows.json", "config.json"):
            (again / name).write_text((again / name).read_text().replace('"seed": 0', f'"seed": {seed}'))
        change(again, 0.001 * seed)


def verdict(page: str, first: str) -> list[str]:
    """Return the runs, the difference, its interval, what it is over, p and the verdict of a line of a page."""
    line = next(line for line in page.splitlines() if line.startswith(first))
    cells = [cell.strip() for cell in line.split("|")]
    return [cells[3], *cells[-6:-1]]


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


def read(kept: Project, about: str, prepare: Callable[[Path], None]) -> Study:
    """Return the tiny study, with a copy of its cells as the ablation that ``about`` names, if it names one."""
    folder = kept.root / "results/tiny"
    prepare(folder)
    if name := re.search(r"ablations: {([\w-]+):", about):
        shutil.copytree(folder / "defu_net", folder / "ablations" / name[1] / "defu_net")
    (folder / "study.yaml").write_text(STUDY + about)
    return read_studies(kept.root / "results")[0]


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


def learn_dilated(cell: Path) -> None:
    config = json.loads((cell / "config.json").read_text())
    config["train"]["masks"] = "dilated"
    (cell / "config.json").write_text(json.dumps(config))


def rename(scenario: Path, name: str) -> None:
    """Call the cells of a scenario's folder those of another scenario."""
    for path in [*scenario.glob("*/rows.json"), *scenario.glob("*/config.json")]:
        path.write_text(path.read_text().replace('"mixed"', f'"{name}"'))


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


def corrupt(study: Path) -> pd.DataFrame:
    """Write made-up robustness of a study's cell."""
    lines = [
        {"corruption": name, "severity": severity, "site": site, "dice": 0.95 - 0.01 * severity}
        for name in ("noise", "blur", "gamma", "contrast", "jpeg")
        for severity in range(6)
        for site in ("montgomery", "shenzhen")
    ]
    frame = pd.DataFrame(lines).assign(low=lambda x: x["dice"] - 0.01, high=lambda x: x["dice"] + 0.01)
    frame.to_csv(study / CELL / "robustness.csv", index=False)
    return frame


def price(results: Path) -> None:
    """Write made-up cost of two networks, of the study's size and of another."""
    config = json.loads((results / "tiny" / CELL / "config.json").read_text())
    line = {"width": config["width"], "size": config["input"]["size"], "parameters": 1000, "gmac": 0.5}
    line |= {"milliseconds": 3.0, "least": 2.5, "most": 4.0, "hardware": "1 core of an abacus"}
    other = line | {"size": 9, "hardware": "another"}
    lines = [{"network": "defu_net", **line}, {"network": "unet", **line}, {"network": "defu_net", **other}]
    pd.DataFrame(lines).to_csv(results / "cost.csv", index=False)


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
        (frame.assign(dice="high"), "holds something that is no number"),
        (frame.drop(columns="low"), "columns missing: low"),
        (pd.concat([frame, frame]), "stand in it twice"),
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


def test_masks_that_are_not_those_evaluated_are_not_drawn(scored: Project) -> None:
    path = scored.root / "evaluations/defu_net/mixed/seed-0/cases.csv"
    cases = pd.read_csv(path)
    cases["dice"] = 0.5
    cases.to_csv(path, index=False)
    assert "predicted anew its Dice is" in refused(scored.call(keep(scored, "--arrays", str(scored.arrays))))


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
