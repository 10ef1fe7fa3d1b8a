"""Which network is called better, on which X-rays and seeds, and where a reader finds it: page, Markdown, terminal."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from components.report import COMPARISONS, MARKDOWN, PAGE
from components.report.paired import BETTER, NEITHER, WORSE, Pair
from core.cell import CASES, RUN, Cell
from tests.components.written_run import REPOSITORY, SCENARIOS, Page, command, make, write_run
from tests.conftest import Launcher
from tests.daily import daily

TABLE = "paired-mixed"


def dice_of(root: Path, network: str, masks: str = "original", scenario: str = "mixed", seed: int = 0) -> pd.Series:
    """Dice of every test image by id, as evaluate left it."""
    cases = pd.read_csv(root / "evaluations" / Cell(network, scenario, seed).folder / CASES)
    return cases[(cases["split"] == "test") & (cases["masks"] == masks)].set_index("id")["dice"]


def change(root: Path, cell: Cell, what: Any) -> None:
    """Write a cell's cases anew, as ``what`` returns them of the old ones."""
    path = root / "evaluations" / cell.folder / CASES
    what(pd.read_csv(path)).to_csv(path, index=False)


def compared(root: Path, *cells: Cell, **bootstrap: int) -> list[Pair]:
    make(root, root / "reports", list(cells) or None, **bootstrap)
    pairs: list[Pair] = json.loads((root / "reports" / COMPARISONS).read_text())
    return pairs


def page_of(root: Path) -> Page:
    return Page((root / "reports" / PAGE).read_text())


def caption(root: Path, table: str = TABLE) -> str:
    """The caption of a table in the Markdown file; it is the page's too."""
    title = "Paired comparison: " + " → ".join(part.capitalize() for part in table[len("paired-") :].split("-to-"))
    found = (root / "reports" / MARKDOWN).read_text().split(f"## {title}\n\n")[1].split("\n")[0]
    assert found in page_of(root).text()
    return found


@pytest.fixture
def two(tmp_path: Path, empty_store: Path) -> Path:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return write_run(tmp_path, ["defu_net", "unet"], ["mixed"])


def test_defu_net_is_held_against_every_other_network(tmp_path: Path) -> None:
    run = write_run(tmp_path, ["defu_net", "unet", "r2_unet"], list(SCENARIOS))
    pairs = compared(run, resamples=4000)

    assert [(p["scenario"], p["reference"], p["other"], p["masks"]) for p in pairs] == [
        (scenario, "defu_net", other, masks)
        for scenario, other, masks in product(SCENARIOS, ("unet", "r2_unet"), ("original", "dilated"))
    ]
    random = np.random.default_rng(9)
    for pair in pairs:
        ours, theirs = (dice_of(run, pair[side], pair["masks"], pair["scenario"]) for side in ("reference", "other"))
        difference = (ours - theirs).to_numpy()
        n = len(difference)
        assert pair["n_images"] == n == {"mixed": 8, "montgomery-to-shenzhen": 32}.get(pair["scenario"], 20)
        assert (pair["dice_reference"], pair["dice_other"]) == pytest.approx((ours.mean(), theirs.mean()))
        assert pair["difference"] == pytest.approx(difference.mean())
        drawn = difference[random.integers(0, n, (4000, n))].mean(axis=1)
        assert pair["ci95"] == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.15 * np.std(drawn))
        low, high = pair["ci95"] or (0, 0)
        assert pair["verdict"] == (BETTER if low > 0 else WORSE if high < 0 else NEITHER)
    assert {pair["verdict"] for pair in pairs} >= {BETTER, NEITHER}


@pytest.mark.parametrize(
    ("shift", "verdict", "shown"),
    [
        (-0.01, BETTER, "+0.0100 +0.0100 to +0.0100"),
        (0.01, WORSE, "−0.0100 −0.0100 to −0.0100"),
        (0.0, NEITHER, "0.0000 0.0000 to 0.0000"),
    ],
)
def test_verdict_is_what_the_interval_says(two: Path, shift: float, verdict: str, shown: str) -> None:
    ours = pd.read_csv(two / "evaluations" / Cell("defu_net", "mixed", 0).folder / CASES)
    # In another order: an image is found by its id.
    change(two, Cell("unet", "mixed", 0), lambda cases: ours.assign(dice=ours["dice"] + shift).sample(frac=1))

    pairs = compared(two)

    assert [pair["verdict"] for pair in pairs] == [verdict] * 2
    (line,) = [row for row in page_of(two).rows(TABLE) if row[0] == "U-Net"]
    assert line[3:5] == line[7:9] == [shown, verdict]
    mean = dice_of(two, "defu_net").mean()
    assert line[1:3] == [f"{mean:.4f}", f"{mean + shift:.4f}"]
    markdown = re.sub(r"(\S+) (\S+) to (\S+)", r"\1 [\2, \3]", shown)
    assert f"| {markdown} | {verdict} |" in (two / "reports" / MARKDOWN).read_text()


def test_a_difference_that_four_digits_do_not_show_gets_more(two: Path) -> None:
    ours = pd.read_csv(two / "evaluations" / Cell("defu_net", "mixed", 0).folder / CASES)
    change(two, Cell("unet", "mixed", 0), lambda cases: ours.assign(dice=ours["dice"] + 1e-6))
    compared(two)
    line = next(row for row in page_of(two).rows(TABLE) if row[0] == "U-Net")
    assert line[3:5] == ["−0.000001 −0.000001 to −0.000001", WORSE]


def test_without_defu_net_the_papers_first_network_is_the_reference(tmp_path: Path) -> None:
    run = write_run(tmp_path, ["att_r2_unet", "res_unet", "my_net"], ["mixed"])
    assert {(pair["reference"], pair["other"]) for pair in compared(run)} == {
        ("res_unet", "att_r2_unet"), ("res_unet", "my_net"),
    }  # fmt: skip
    assert page_of(run).rows(TABLE)[1][1:5] == ["Res-U-Net", "Other", "Difference", "Res-U-Net is"]


def test_one_network_alone_is_compared_with_nothing(tmp_path: Path) -> None:
    run = write_run(tmp_path, ["defu_net", "unet"], ["mixed", "montgomery-to-shenzhen"])
    alone = [Cell("defu_net", scenario, 0) for scenario in ("mixed", "montgomery-to-shenzhen")]
    assert compared(run, *alone) == []
    assert "Paired comparison" not in (run / "reports" / PAGE).read_text()
    assert "Paired comparison" not in (run / "reports" / MARKDOWN).read_text()
    assert {pair["scenario"] for pair in compared(run, *alone, Cell("unet", "mixed", 0))} == {"mixed"}
    assert "paired-montgomery-to-shenzhen" not in page_of(run).tables


def test_section_stands_with_what_compares_and_before_the_tables(two: Path) -> None:
    compared(two)
    html = (two / "reports" / PAGE).read_text()
    places = [html.index(f' id="{name}"') for name in ("compare", "paired", "paired-mixed", "tables", "all", "paper")]
    assert places == sorted(places)
    titles = re.findall(r"(?m)^## (.*)$", (two / "reports" / MARKDOWN).read_text())
    assert titles[3:6] == ["Table III: test result", "Paired comparison: Mixed", "Mixed: by site and label"]


@pytest.mark.parametrize(
    ("ours", "theirs", "seeds", "other_seeds", "said"),
    daily([
        ((0, 1), (0, 1), [0, 1], [0, 1], "over the seeds that both networks have (0, 1)"),
        ((0, 1, 2), (1, 2, 3), [1, 2], [1, 2], "over the seeds that both networks have (1, 2)"),
        ((0, 1), (2,), [0, 1], [2], "its mean over each network’s own, 0, 1 and 2"),
        ((0,), (0,), [0], [0], None),
    ], 0, 3),
)  # fmt: skip
def test_an_images_dice_is_averaged_over_seeds_first(
    tmp_path: Path,
    ours: tuple[int, ...],
    theirs: tuple[int, ...],
    seeds: list[int],
    other_seeds: list[int],
    said: str | None,
) -> None:
    write_run(tmp_path, ["defu_net", "unet"], ["mixed"], seeds=tuple({*ours, *theirs}))
    cells = [Cell("defu_net", "mixed", seed) for seed in ours] + [Cell("unet", "mixed", seed) for seed in theirs]

    pair = compared(tmp_path, *cells)[0]

    assert (pair["seeds"], pair["other_seeds"]) == (seeds, other_seeds)
    means = [
        pd.concat([dice_of(tmp_path, network, seed=seed) for seed in numbers], axis=1).mean(axis=1)
        for network, numbers in (("defu_net", seeds), ("unet", other_seeds))
    ]
    assert pair["difference"] == pytest.approx((means[0] - means[1]).mean())
    # Averaged before the images are drawn: as many images as one seed has, not as many as all of them.
    assert pair["n_images"] == 8
    drawn = (means[0] - means[1]).to_numpy()[np.random.default_rng(1).integers(0, 8, (4000, 8))].mean(axis=1)
    low, high = compared(tmp_path, *cells, resamples=4000)[0]["ci95"] or (0, 0)
    assert (low, high) == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.15 * np.std(drawn))
    assert (said or "") in caption(tmp_path)
    assert ("seed" in caption(tmp_path)) == (said is not None)


def test_only_images_of_both_count_and_the_caption_says_how_many(two: Path) -> None:
    kept = sorted(dice_of(two, "unet").index)[:6]
    change(two, Cell("unet", "mixed", 0), lambda c: c[(c["split"] != "test") | c["id"].isin(kept)])

    pair = compared(two)[0]

    assert (pair["n_images"], pair["n_images_reference"], pair["n_images_other"]) == (6, 8, 6)
    ours, theirs = dice_of(two, "defu_net").loc[kept], dice_of(two, "unet").loc[kept]
    assert (pair["dice_reference"], pair["dice_other"]) == pytest.approx((ours.mean(), theirs.mean()))
    assert "over the 6 test images of both" in caption(two)
    assert "the common ones count: U-Net 6 of its 6 and of DEFU-Net’s 8" in caption(two)


@pytest.mark.parametrize("common", [1, 0])
def test_too_few_common_images_for_an_interval(two: Path, common: int) -> None:
    ids = sorted(dice_of(two, "unet").index)
    change(two, Cell("unet", "mixed", 0), lambda c: c[(c["split"] != "test") | c["id"].isin(ids[: 4 + common])])
    change(two, Cell("defu_net", "mixed", 0), lambda c: c[(c["split"] != "test") | c["id"].isin(ids[4:])])

    pair = compared(two)[0]

    assert (pair["n_images"], pair["ci95"], pair["verdict"]) == (common, None, None)
    assert (pair["difference"] is None) == (common == 0)
    line = next(row for row in page_of(two).rows(TABLE) if row[0] == "U-Net")
    assert line[4] == "–"
    assert (line[3] == "–") == (common == 0)
    assert not re.search(r"\b(nan|None)\b", page_of(two).text())


@pytest.mark.full
def test_caption_owns_to_what_the_interval_leaves_out(tmp_path: Path) -> None:
    run = write_run(tmp_path, ["defu_net", "unet", "r2_unet"], ["mixed", "montgomery-to-shenzhen"])
    compared(run)
    assert "Two comparisons with no correction for their number" in caption(run)
    assert "not the randomness of training" in caption(run)
    assert "somewhat too narrow" in caption(run)
    assert "too narrow" not in caption(run, "paired-montgomery-to-shenzhen"), "32 images are enough"
    compared(run, Cell("defu_net", "mixed", 0), Cell("unet", "mixed", 0))
    assert "correction" not in caption(run)


@pytest.mark.full
@pytest.mark.slow
def test_command_takes_the_bootstrap_of_params(two: Path) -> None:
    before, after = (REPOSITORY / "params.yaml").read_text().split("\nevaluate:")
    after = re.sub(r"(?m)^  bootstrap: \d+", "  bootstrap: 300", after)
    after = re.sub(r"(?m)^  seed: \d+", "  seed: 5", after, count=1)
    (two / "params.yaml").write_text(f"{before}\nevaluate:{after}")
    cells = [item for name in ("defu_net", "unet") for item in ("--cell", f"{name}/mixed/0")]

    done = command(two, two / "by-command", "--params", str(two / "params.yaml"), *cells)

    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads((two / "by-command" / COMPARISONS).read_text())
    assert found == compared(two, resamples=300, seed=5)
    for resamples, seed in ((300, 0), (1000, 5)):
        other = compared(two, resamples=resamples, seed=seed)
        assert other[0]["difference"] == found[0]["difference"]
        assert other[0]["ci95"] != found[0]["ci95"]


@pytest.fixture
def shown(two: Path, launcher: Launcher) -> Callable[[], str]:
    """Return what returns what ``python -m tools.show`` prints of the report."""
    version = {"name": "lung", "version": 1, "network": "unet", "scenario": "mixed", "seed": 0, "uri": "models:/lung@c"}
    (two / "registered.json").write_text(json.dumps(version))
    call = [sys.executable, "-m", "tools.show", "--reports", str(two / "reports")]
    call += ["--registered", str(two / "registered.json"), "--arrays", str(two / "arrays")]
    call += ["--models", str(two / "models")]
    environment = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{two / 'mlflow.db'}", "PYTHONPATH": str(REPOSITORY)}

    def show() -> str:
        done = launcher.start(call, REPOSITORY, environment).wait(call)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    return show


def test_terminal_shows_the_comparison_where_there_is_one(two: Path, shown: Callable[[], str]) -> None:
    pair = compared(two)[0]
    low, high = pair["ci95"] or (0, 0)
    table = shown().partition("defu_net less the other network: Dice, test images, original masks")[2]
    line = next(line for line in table.splitlines() if line.startswith("│ unet "))
    wanted = ["unet", "mixed", "8", f"{pair['difference']:+.4f}", f"{low:+.4f} to {high:+.4f}"]
    assert [cell.strip() for cell in line.strip("│").split("│")] == [*wanted, pair["verdict"]]
    # No store here has it: tests/tracking/test_local_store.py says what is printed where one has.
    assert "model    lung version 1 of this run (unet, mixed, seed 0) is not in " in shown()

    compared(two, Cell("unet", "mixed", 0))
    assert "less the other network" not in shown()


def costs(text: str) -> list[list[str]]:
    """The lines of the trainings that are shown, and the caption."""
    _, _, told = text.partition(" Training runs ")
    lines = told.partition("The X-rays are synthetic")[0].splitlines()
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in lines if re.search(r"│|Trained", line)]


def test_terminal_shows_what_the_trainings_took(two: Path, shown: Callable[[], str]) -> None:
    compared(two)
    common = ["mixed", "0", "2026-01-02 03:04 UTC", "51 s", "95.0", "0123456789", "5f1c"]
    machine = "Xeon, 2 cores, 8 GiB, float32"
    assert costs(shown()) == [["defu_net", *common], ["unet", *common], [f"Trained on {machine}"]]

    # Another machine, in stages, and a record of other weights than those that are there.
    first, second = (two / "models" / Cell(name, "mixed", 0).folder / RUN for name in ("defu_net", "unet"))
    run = json.loads(first.read_text())
    stages = [{"size": size, "training_seconds": 60.0} for size in (128, 256)]
    other = {"hardware": run["hardware"] | {"cpu": "Epyc", "gpu": "H200"}, "stages": stages, "seconds": 123.0}
    first.write_text(json.dumps(run | other | {"dirty": True}))
    lines = costs(shown())
    times = [line[4] for line in lines if line[4]]  # the last column wraps: lines may go on with that alone
    assert times == ["2 min 03 s", "128 px: 1 min 00 s", "256 px: 1 min 00 s", "51 s"]
    assert any("H200, Epyc" in cell for line in lines for cell in line)
    assert lines[0][6] == "0123456789 +changes"
    second.write_text(json.dumps(run | {"weights": "3" * 64}))
    unknown = ["unet", "mixed", "0", "not recorded", "–", "–", "–", "–"]
    assert unknown in costs(shown())
    second.unlink()
    assert unknown in costs(shown())
