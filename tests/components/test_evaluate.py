"""Rows say what the cases say, twice the same; overlays show it; what does not belong together is refused."""

from __future__ import annotations

import filecmp
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve
from torchmetrics.functional.classification import binary_calibration_error

from components.evaluate import Work, evaluate
from components.evaluate.calibration import reliability_of, reliability_sums
from components.evaluate.overlays import OPACITY, blend, figure_regions, worst_overlay
from components.report.reliability import expected_calibration_error
from core.cell import (
    CASES,
    HISTORY,
    OVERLAYS,
    PROVENANCE,
    RELIABILITY,
    RISK,
    ROC,
    ROWS,
    RUN,
    SCORED,
    SPLIT,
    SUMMARY,
    Cell,
)
from core.cohort import MANIFEST, SPLITS, Arrays, read_split
from core.errors import UserError
from core.images import read_mask
from core.params import EvaluateParams, read_params, read_yaml
from core.results import DIFFERENCE_COLOURS, FIGURE_COLOURS, METRICS, ROW_METRICS, Row
from model.inference.postprocessing import to_masks
from model.inference.predictor import Predictor
from model.inputs import autocast, one_thread
from model.metrics import confusion, overlap_metrics
from model.surface import gap, tolerance_at
from model.weights import CONFIG, WEIGHTS, save_weights
from tests.conftest import CELL, ROOT, Project, Trained, refused

SHIPPED = read_yaml(ROOT / "params.yaml")["evaluate"]
SHIPPED_DILATION = 48  # of the tests' parameters

POOLED = {"dice", "accuracy", "jaccard", "precision", "recall", "f1", "auc", "paper_iou", "soft_dice"}
COUNTS = ["tp", "fp", "fn", "tn"]
SOFT = ["soft_overlap", "soft_square"]
PLACE = ("site", "label", "sex", "age")
FILES = {ROWS, CASES, SUMMARY, SPLIT, SCORED, ROC, RELIABILITY, RISK, OVERLAYS}


def of_all(row: Row, reduction: str = "per_image") -> bool:
    return [*(dict(row)[name] for name in PLACE), row["reduction"]] == [*["all"] * 4, reduction]


@pytest.fixture(scope="module")
def rows(trained: Trained) -> list[Row]:
    loaded: list[Row] = json.loads((trained.project.evaluation / ROWS).read_text())
    return loaded


@pytest.fixture(scope="module")
def cases(trained: Trained) -> pd.DataFrame:
    return pd.read_csv(trained.project.evaluation / CASES)


@pytest.fixture(scope="module")
def probabilities(trained: Trained) -> dict[str, np.ndarray]:
    """What the trained network says of each image, by its id."""
    arrays, predictor = Arrays(trained.project.arrays), Predictor.load(trained.project.model)
    said = {}
    with one_thread():  # as the command had: more add up in another order
        for ids in read_split(trained.project.split).values():
            images = arrays.images[arrays.rows(ids)]
            said |= dict(zip(ids, predictor.probabilities(images, flip=SHIPPED["flip"]), strict=True))
    return said


def drawn(probability: np.ndarray) -> np.ndarray:
    """The mask that the shipped parameters make of one image's probabilities."""
    rule = (SHIPPED[name] for name in ("threshold", "largest_components", "least_component", "fill_holes"))
    return to_masks(probability[None], *rule)[0]


def group_of(cases: pd.DataFrame, row: Row) -> pd.DataFrame:
    chosen = (cases["split"] == row["split"]) & (cases["masks"] == row["masks"])
    for column in ("site", "label", "sex"):
        if dict(row)[column] != "all":
            chosen &= cases[column] == dict(row)[column]
    ages = {"<18": (0, 17.99), "18-60": (18, 60), ">60": (60.01, 200)}
    if row["age"] != "all":
        chosen &= cases["age"].between(*ages[row["age"]])
    return cases[chosen]


def test_rows_have_the_schema_and_every_group_once(rows: list[Row], cases: pd.DataFrame) -> None:
    for row in rows:
        assert list(row) == list(get_type_hints(Row))
        assert (row["network"], row["scenario"], row["seed"]) == ("defu_net", "mixed", 0)
    keys = [tuple(dict(row)[k] for k in ("split", *PLACE, "masks", "reduction")) for row in rows]
    assert len(set(keys)) == len(keys)
    expected = set()
    for case in cases.itertuples():
        age = float(str(case.age))
        years = "<18" if age < 18 else ">60" if age > 60 else "18-60"
        for site in ("all", case.site):
            whose = [(site, "all", "all", "all"), (site, case.label, "all", "all")]
            whose += [(site, "all", case.sex, "all"), (site, "all", "all", years)]
            expected |= {(case.split, *who, case.masks, r) for who in whose for r in ("pooled", "per_image")}
    assert set(keys) == expected
    assert {row["sex"] for row in rows} == {"all", "F", "M"}
    assert len({row["age"] for row in rows}) > 2, "the sample has several ages"
    assert all(row["few"] == (row["n_images"] < 20) for row in rows)
    assert {row["few"] for row in rows} == {True, False}


def test_cases_are_every_image_of_every_split_against_both_masks(trained: Trained, cases: pd.DataFrame) -> None:
    split = read_split(trained.project.split)
    expected = {(name, kind, image) for name in SPLITS for kind in ("original", "dilated") for image in split[name]}
    assert set(zip(cases["split"], cases["masks"], cases["id"], strict=True)) == expected
    assert len(cases) == len(expected)
    assert list(cases.columns) == ["id", "site", "label", "sex", "age", "split", "masks", *METRICS, *COUNTS, *SOFT]
    people = Arrays(trained.project.arrays).manifest.set_index("id")[["sex", "age"]]
    for case in cases.itertuples():
        assert (case.sex, case.age) == tuple(people.loc[str(case.id)])
    assert (cases[COUNTS].sum(axis=1) == 32 * 32).all()


def test_cases_are_what_the_network_says(
    trained: Trained, cases: pd.DataFrame, probabilities: dict[str, np.ndarray]
) -> None:
    arrays = Arrays(trained.project.arrays)
    for case in cases.itertuples():
        mask = arrays.masks[str(case.masks)][arrays.rows([str(case.id)])[0]].ravel()
        rated = probabilities[str(case.id)].ravel()
        predicted = drawn(probabilities[str(case.id)]).ravel()
        tn, fp, fn, tp = sk.confusion_matrix(mask, predicted, labels=[0, 1]).ravel()
        assert [case.tp, case.fp, case.fn, case.tn] == [tp, fp, fn, tn]
        assert case.auc == pytest.approx(sk.roc_auc_score(mask, rated), abs=1e-4)
        assert case.dice == pytest.approx((2 * tp + 1) / (2 * tp + fp + fn + 1))
        assert case.recall == pytest.approx(sk.recall_score(mask, predicted))
        p = rated.astype(float)
        assert case.soft_dice == pytest.approx((2 * (p * mask).sum() + 1) / ((p * p).sum() + mask.sum() + 1))
        assert case.expected_dice == pytest.approx(2 * (p * predicted).sum() / (p.sum() + predicted.sum()))


def test_agreement_is_of_the_image_and_its_mirror_image(trained: Trained, cases: pd.DataFrame) -> None:
    arrays, predictor = Arrays(trained.project.arrays), Predictor.load(trained.project.model)
    test = cases[(cases["split"] == "test") & (cases["masks"] == "original")]
    images = np.stack([arrays.images[arrays.rows([id])[0]] for id in test["id"]])
    plain, mirrored = (predictor.probabilities(each) > SHIPPED["threshold"] for each in (images, images[:, :, ::-1]))
    for got, one, other in zip(test["mirror_agreement"], plain, mirrored[:, :, ::-1], strict=True):
        wanted = (2 * (one & other).sum() + 1) / (one.sum() + other.sum() + 1)
        assert got == pytest.approx(wanted, abs=0.02)  # batches of another size round otherwise


def test_stored_figures_are_those_of_a_mask_drawn_at_the_pictures_own_size(
    trained: Trained, cases: pd.DataFrame, probabilities: dict[str, np.ndarray]
) -> None:
    arrays = Arrays(trained.project.arrays)
    places = arrays.manifest.set_index("id")
    for case in cases[cases["split"] == "test"].itertuples():
        truth = read_mask(trained.project.raw / str(places.loc[str(case.id), "mask"]))
        height, width = truth.shape
        assert min(height, width) > 32
        if case.masks == "dilated":
            down, across = (2 * round((SHIPPED_DILATION * side / 512 - 1) / 2) + 1 for side in (height, width))
            wide = cv2.dilate(truth, np.ones((down, across), np.uint8))
            assert wide.sum() > truth.sum()
            truth = wide
        mask = drawn(cv2.resize(probabilities[str(case.id)], (width, height), interpolation=cv2.INTER_LINEAR))
        both = 2 * float((mask & truth).sum())
        assert case.stored_dice == pytest.approx((both + 1) / (float(mask.sum()) + float(truth.sum()) + 1))
        apart = gap(mask, truth)
        assert case.stored_hd95 == pytest.approx(apart.hd95())
        assert case.stored_assd == pytest.approx(apart.assd())
        assert case.nsd2 == pytest.approx(apart.nsd(tolerance_at(2, truth.shape)))
        assert case.nsd4 == pytest.approx(apart.nsd(tolerance_at(4, truth.shape)))


def test_rows_agree_with_the_cases(
    trained: Trained, rows: list[Row], cases: pd.DataFrame, probabilities: dict[str, np.ndarray]
) -> None:
    arrays = Arrays(trained.project.arrays)
    for row in rows:
        group = group_of(cases, row)
        assert row["n_images"] == len(group) > 0
        given: dict[str, Any] = dict(row)
        soft = [group["soft_overlap"], group["soft_square"], group["tp"] + group["fn"]]
        if row["reduction"] == "per_image":
            for name in METRICS:
                assert given[name] == pytest.approx(group[name].mean()), name
            batches = np.arange(len(group)) // 2
            overlap, square, area = (values.groupby(batches).sum() for values in soft)
            assert given["soft_dice_batch2"] == pytest.approx(((2 * overlap + 1) / (square + area + 1)).mean())
            continue
        tp, fp, fn, tn = (float(group[name].sum()) for name in COUNTS)
        masks = arrays.masks[row["masks"]][arrays.rows(list(group["id"]))]
        expected = {
            "dice": (2 * tp + 1) / (2 * tp + fp + fn + 1),
            "accuracy": (tp + tn) / (tp + fp + fn + tn),
            "jaccard": (tp + 1) / (tp + fp + fn + 1),
            "precision": tp / (tp + fp),
            "recall": tp / (tp + fn),
            "f1": 2 * tp / (2 * tp + fp + fn),
            "paper_iou": (1 + (tp + tn) / (tp + fp + fn + tn)) / 2,
            "soft_dice": (2 * soft[0].sum() + 1) / (soft[1].sum() + soft[2].sum() + 1),
        }
        for name, value in expected.items():
            assert given[name] == pytest.approx(value), name
        rated = np.stack([probabilities[i] for i in group["id"]])
        assert given["auc"] == pytest.approx(sk.roc_auc_score(masks.ravel(), rated.ravel()), abs=1e-4)
        assert {name for name in ROW_METRICS if given[name] is not None} == POOLED


def test_intervals_are_of_the_images_and_there_is_none_for_one(rows: list[Row], cases: pd.DataFrame) -> None:
    for row in rows:
        group = group_of(cases, row)
        if len(group) < 2:
            assert row["dice_ci95"] is None
            continue
        assert row["dice_ci95"] is not None
        assert row["dice"] is not None
        low, high = row["dice_ci95"]
        assert group["dice"].min() - 0.01 <= low <= high <= group["dice"].max() + 0.01
        if row["reduction"] == "per_image" and len(group) > 10:
            # Close to the interval that the central limit gives.
            half = 1.96 * stats.sem(group["dice"])
            assert [low, high] == pytest.approx([row["dice"] - half, row["dice"] + half], abs=0.6 * half)


def test_dilated_masks_are_scored_apart(rows: list[Row]) -> None:
    def recall(masks: str) -> float:
        (row,) = [r for r in rows if of_all(r, "pooled") and (r["split"], r["masks"]) == ("train", masks)]
        assert row["recall"] is not None
        return row["recall"]

    assert recall("dilated") < recall("original")


def test_summary_and_roc_are_the_test_figures(
    trained: Trained, rows: list[Row], probabilities: dict[str, np.ndarray]
) -> None:
    folder = trained.project.evaluation
    summary = json.loads((folder / SUMMARY).read_text())
    assert set(summary) == {"validation", "test"}
    for row in filter(of_all, rows):
        if row["split"] in summary:
            shown = summary[row["split"]][row["masks"]]
            assert {"dice", "stored_dice", "hd95", "recall"} <= set(shown)
            assert len(shown) <= 12
            for name, value in shown.items():
                assert name.startswith("aurc_") or value == dict(row)[name]
    curve = pd.read_csv(folder / ROC)
    assert curve["fpr"].is_monotonic_increasing
    assert curve["tpr"].is_monotonic_increasing
    assert curve["threshold"].is_monotonic_decreasing
    assert (curve["fpr"].iloc[-1], curve["tpr"].iloc[-1]) == (1, 1)
    (pooled,) = [r for r in rows if of_all(r, "pooled") and (r["split"], r["masks"]) == ("test", "original")]
    assert np.trapezoid(curve["tpr"], curve["fpr"]) == pytest.approx(pooled["auc"], abs=0.01)


def test_training_and_evaluation_agree_on_the_validation_dice(trained: Trained) -> None:
    history = pd.read_csv(trained.project.model / HISTORY)
    best = history.loc[history["validation_loss"].idxmin(), "validation_dice"]
    # Training scores what the network says at its own precision, neither mirrored nor cleaned of specks.
    arrays, predictor = Arrays(trained.project.arrays), Predictor.load(trained.project.model)
    rows = arrays.rows(read_split(trained.project.split)["validation"])
    precision = getattr(torch, json.loads((trained.project.model / RUN).read_text())["precision"])
    with autocast(predictor.device, precision):
        said = predictor.probabilities(arrays.images[rows])
    counts = confusion((said > 0.5).astype(np.uint8), arrays.masks["original"][rows])
    totals = {name: values.sum() for name, values in counts.items()}
    assert float(overlap_metrics(totals)["dice"]) == pytest.approx(best, abs=0.001)


def region(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Where a picture of regions has this colour."""
    return np.asarray((picture[..., 2::-1] == colour).all(axis=2) & (picture[..., 3] == 255))


def test_overlays_are_the_worst_the_best_and_the_first(trained: Trained, cases: pd.DataFrame) -> None:
    index = json.loads((trained.project.evaluation / OVERLAYS).read_text())
    test = cases[(cases["split"] == "test") & (cases["masks"] == "original")]
    ranked = list(test.sort_values("dice", kind="stable")["id"])
    by_kind = {kind: [e["id"] for e in index if e["kind"] == kind] for kind in ("worst", "best", "figure")}
    assert sum(map(len, by_kind.values())) == len(index)
    assert len(ranked) > 3
    assert by_kind["worst"] == ranked[:3]
    assert by_kind["best"] == ranked[:2:-1][:3], "none of the worst is one of the best, however few there are"
    assert by_kind["figure"] == [image for _, group in test.groupby("site") for image in sorted(group["id"])[:2]]
    found = {p.name for p in (trained.project.evaluation / "overlays").iterdir()}
    assert found == {Path(entry[name]).name for entry in index for name in ("file", "xray")}
    for entry in index:
        case = test[test["id"] == entry["id"]].iloc[0]
        assert all(entry[name] == case[name] for name in ("site", "label", "dice", "hd95"))


def test_overlays_show_what_the_network_says(trained: Trained, probabilities: dict[str, np.ndarray]) -> None:
    project = trained.project
    arrays = Arrays(project.arrays)
    for entry in json.loads((project.evaluation / OVERLAYS).read_text()):
        xray, picture = (
            cv2.imread(str(project.evaluation / entry[name]), cv2.IMREAD_UNCHANGED) for name in ("xray", "file")
        )
        assert xray is not None
        assert picture is not None
        assert picture.shape == (32, 32, 4)
        row = arrays.rows([entry["id"]])[0]
        assert (xray == arrays.images[row]).all()
        g, p = arrays.masks["original"][row] > 0, drawn(probabilities[entry["id"]]) > 0
        assert ((picture[..., 3] == 255) == (p | g)).all()
        assert set(np.unique(picture[..., 3])) == {0, 255}
        if entry["kind"] == "figure":
            inside = cv2.erode(g.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
            assert (region(picture, FIGURE_COLOURS["prediction"]) == (p & (inside | ~g))).all()
            assert (region(picture, FIGURE_COLOURS["ground truth"]) == (g & ~(p & inside))).all()
        else:
            wanted = {"true positive": p & g, "false positive": p & ~g, "false negative": g & ~p}
            for name, where in wanted.items():
                assert (region(picture, DIFFERENCE_COLOURS[name]) == where).all()


def test_blended_overlays_have_the_colours_over_the_x_ray() -> None:
    random = np.random.default_rng(0)
    grey = random.integers(0, 256, (32, 32), np.uint8)
    p, g = np.zeros((2, 32, 32), np.uint8)
    p[4:20, 4:20], g[8:24, 8:24] = 1, 1

    def under(picture: np.ndarray, where: np.ndarray, colour: tuple[int, int, int]) -> None:
        assert picture.shape == (256, 256, 3)
        expected = grey[where][:, None] * (1 - OPACITY) + np.array(colour) * OPACITY
        assert np.abs(picture[::8, ::8][where] - expected).max() <= 1

    worst, figure = worst_overlay(grey, p, g), blend(grey, figure_regions(p, g))
    for picture in (worst, figure):
        assert (picture[::8, ::8][(p | g) == 0] == grey[(p | g) == 0][:, None]).all()
    under(worst, (p & g) > 0, DIFFERENCE_COLOURS["true positive"])
    under(worst, (p & ~g) > 0, DIFFERENCE_COLOURS["false positive"])
    under(worst, (g & ~p) > 0, DIFFERENCE_COLOURS["false negative"])
    under(figure, (p & (1 - g)) > 0, FIGURE_COLOURS["prediction"])
    under(figure, (g & (1 - p)) > 0, FIGURE_COLOURS["ground truth"])


def test_reliability_is_of_the_test_pixels(trained: Trained, probabilities: dict[str, np.ndarray]) -> None:
    arrays, ids = Arrays(trained.project.arrays), read_split(trained.project.split)["test"]
    rated = np.stack([probabilities[image] for image in ids]).ravel()
    lung = arrays.masks["original"][arrays.rows(ids)].ravel()
    bins = pd.read_csv(trained.project.evaluation / RELIABILITY)
    assert bins["pixels"].sum() == len(lung)
    filled = bins[bins["pixels"] > 0]
    observed, predicted = calibration_curve(lung, rated, n_bins=len(bins))
    np.testing.assert_allclose(filled["observed"], observed, atol=1e-6)
    np.testing.assert_allclose(filled["predicted"], predicted, atol=1e-6)
    error = binary_calibration_error(torch.from_numpy(rated), torch.from_numpy(lung.astype(np.int64)), len(bins))
    assert expected_calibration_error(bins) == pytest.approx(float(error), abs=1e-6)


@given(
    hnp.arrays(np.float32, (3, 4, 5), elements=st.floats(0, 1, width=32)),
    hnp.arrays(np.uint8, (3, 4, 5), elements=st.integers(0, 1)),
    st.integers(1, 20),
)
def test_reliability_bins_hold_every_pixel_once(rated: np.ndarray, masks: np.ndarray, count: int) -> None:
    bins = reliability_of(reliability_sums(rated, masks, count))
    assert len(bins) == count
    assert bins["pixels"].sum() == rated.size
    filled = bins[bins["pixels"] > 0]
    assert (filled["pixels"] * filled["observed"]).sum() == pytest.approx(masks.sum())
    assert (filled["pixels"] * filled["predicted"]).sum() == pytest.approx(rated.sum(), rel=1e-4, abs=1e-6)
    assert (filled["predicted"] >= filled["low"] - 1e-6).all()
    assert (filled["predicted"] <= filled["high"] + 1e-6).all()
    assert bins[bins["pixels"] == 0][["predicted", "observed"]].isna().all(axis=None)
    assert 0 <= expected_calibration_error(bins) <= 1


def test_mlflow_run_has_the_figures_and_files(trained: Trained, rows: list[Row]) -> None:
    (run,) = trained.project.runs()
    assert run.info.status == "FINISHED"
    for row in rows:
        if of_all(row):
            for name in ROW_METRICS:
                logged = run.data.metrics[f"{row['split']}.{row['masks']}.{name}"]
                assert logged == pytest.approx(dict(row)[name])
    found = {Path(a.path).name for a in trained.project.client().list_artifacts(run.info.run_id, "evaluation")}
    assert found == {*FILES, "overlays"}


def test_again_it_is_the_same_to_the_byte(scored: Project, trained: Trained) -> None:
    (scored.evaluation / "left-over").touch()
    assert scored.do(scored.evaluate_line()) == trained.evaluate.stdout.replace(
        str(trained.project.root), str(scored.root)
    )
    names = [str(p.relative_to(scored.evaluation)) for p in scored.evaluation.rglob("*") if p.is_file()]
    pictures = [name for entry in json.loads((scored.evaluation / OVERLAYS).read_text()) for name in entry.values()]
    pictures = [name for name in pictures if str(name).endswith(".png")]
    assert set(names) == {*FILES, *pictures}
    same, *others = filecmp.cmpfiles(scored.evaluation, trained.project.evaluation, names, shallow=False)
    assert sorted(same) == sorted(names), others
    assert trained.evaluate.stderr == ""


def score(project: Project, cell: Cell = CELL, out: Path | None = None, **changes: Any) -> list[Row]:
    given = read_params(project.root / "params.yaml").evaluate.model_dump() | changes
    work = Work(cell, project.arrays, project.split, project.model, EvaluateParams(**given))
    return evaluate(work, project.raw, out or project.evaluation)


@pytest.fixture
def here(scored: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """The scored project with its evaluation removed, as the current folder and store of this process."""
    monkeypatch.chdir(scored.root)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", scored.store)
    shutil.rmtree(scored.evaluation)
    return scored


@pytest.mark.full
def test_an_unknown_run_is_said_and_no_error(here: Project, capsys: pytest.CaptureFixture[str]) -> None:
    run = json.loads((here.model / RUN).read_text())
    (here.model / RUN).write_text(json.dumps(run | {"mlflow_run_id": "0" * 32}))
    score(here)
    assert f"the run that trained {here.model} is not in this MLflow store" in capsys.readouterr().out
    assert (here.evaluation / ROWS).exists()


def test_a_model_without_a_record_of_its_training_is_scored_all_the_same(
    here: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    """As one that came by `dvc pull`."""
    (here.model / RUN).unlink()
    score(here)
    assert f"the run that trained {here.model} is not in this MLflow store" in capsys.readouterr().out


def test_a_deleted_run_is_an_unknown_one(here: Project, capsys: pytest.CaptureFixture[str]) -> None:
    here.client().delete_run(here.runs()[0].info.run_id)
    score(here)
    assert "is not in this MLflow store" in capsys.readouterr().out


def test_threshold_decides_what_is_lung(here: Project) -> None:
    def recall(threshold: float) -> float:
        chosen = [
            row["recall"]
            for row in score(here, threshold=threshold, splits=["test"])
            if of_all(row, "pooled") and row["masks"] == "original"
        ]
        assert chosen[0] is not None
        return chosen[0]

    assert recall(0.2) > recall(0.5) > recall(0.8)


def test_only_the_splits_that_are_asked_for_are_scored(here: Project) -> None:
    rows = score(here, splits=["test", "validation"])
    assert [row["split"] for row in rows] == sorted((row["split"] for row in rows), reverse=True)
    assert {row["split"] for row in rows} == {"validation", "test"}
    assert set(pd.read_csv(here.evaluation / CASES)["split"]) == {"validation", "test"}
    assert json.loads((here.evaluation / SPLIT).read_text()) == read_split(here.split), "who was trained on is known"


def test_figures_do_not_depend_on_how_images_are_batched(here: Project, cases: pd.DataFrame) -> None:
    score(here, batch_size=5)
    again = pd.read_csv(here.evaluation / CASES)
    numbers = [*METRICS, *COUNTS, *SOFT]
    assert again.drop(columns=numbers).equals(cases.drop(columns=numbers))
    assert (again["dice"] - cases["dice"]).abs().max() < 0.01  # a pixel at the threshold may fall on the other side
    assert again["soft_square"].to_numpy() == pytest.approx(cases["soft_square"].to_numpy(), rel=1e-4)


def test_risk_and_coverage_are_of_the_test_images(trained: Trained, cases: pd.DataFrame) -> None:
    curves = pd.read_csv(trained.project.evaluation / RISK)
    test = cases[(cases["split"] == "test") & (cases["masks"] == "original")]
    shown = json.loads((trained.project.evaluation / SUMMARY).read_text())["test"]["original"]
    assert list(curves["by"].unique()) == ["mirror_agreement", "expected_dice"]
    for by, curve in curves.groupby("by"):
        dice = test.sort_values(by, ascending=False, kind="stable")["stored_dice"].to_numpy()
        assert curve["images"].tolist() == list(range(1, len(test) + 1))
        assert curve["coverage"].iloc[-1] == 1
        means = [dice[:kept].mean() for kept in curve["images"]]
        assert curve["stored_dice"].tolist() == pytest.approx(means)
        assert shown[f"aurc_{by}"] == pytest.approx(1 - np.mean(means))


def test_a_split_of_one_image_is_scored(here: Project) -> None:
    split = json.loads(here.split.read_text())
    here.split.write_text(json.dumps(split | {"test": split["test"][:1], "validation": split["validation"][:1]}))
    here.record_again()
    rows = score(here)
    alone = [row for row in rows if row["split"] == "test"]
    assert {row["n_images"] for row in alone} == {1}
    assert all(row["dice_ci95"] is None for row in alone)


def test_a_network_that_sees_no_lung_looks_no_better_than_a_bad_one(here: Project) -> None:
    weights_with(here, lambda bias: bias - 1e4)
    for row in score(here):
        assert row["precision"] == row["recall"] == row["f1"] == 0
        assert row["dice"] is not None
        assert 0 < row["dice"] < 0.05
        if row["reduction"] == "per_image":
            assert row["hd95"] == row["assd"] == pytest.approx(np.hypot(32, 32)), "as far as can be"
            assert row["stored_hd95"] == row["stored_assd"] > 100
            assert row["nsd2"] == row["nsd4"] == 0
            assert row["mirror_agreement"] == row["expected_dice"] == 1, "it is sure that there is nothing"
    index = json.loads((here.evaluation / OVERLAYS).read_text())
    assert len(index) > 7
    assert [entry["hd95"] for entry in index] == pytest.approx([np.hypot(32, 32)] * len(index))


def config_with(project: Project, **changes: Any) -> None:
    config = json.loads((project.model / CONFIG).read_text())
    (project.model / CONFIG).write_text(json.dumps(config | changes))


def first_mask(project: Project) -> Path:
    """The stored mask of an image that is scored."""
    arrays, ids = Arrays(project.arrays), read_split(project.split)["train"]
    return project.raw / str(arrays.manifest["mask"][arrays.rows(ids[:1])[0]])


def weights_with(project: Project, change: Callable[[torch.Tensor], torch.Tensor], *, recorded: bool = True) -> None:
    """Change the last layer's bias, and what train says of its weights unless they are to be found out."""
    weights = Predictor.load(project.model).network.state_dict()
    *_, head = weights
    save_weights(project.model / WEIGHTS, weights | {head: change(weights[head])})
    if recorded:
        project.record_again()


def images_with(project: Project, grey: int) -> None:
    """Change one pixel of the arrays by so many grey levels."""
    images = np.load(project.arrays / "images.npy")
    images[0, 0, 0] ^= grey
    np.save(project.arrays / "images.npy", images)


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


BAD: dict[str, tuple[Callable[[Project], object], str]] = {
    "no model": (lambda p: shutil.rmtree(p.model), "not a trained model .*train step again"),
    "no weights": (lambda p: (p.model / WEIGHTS).unlink(), "not a trained model .*train step again"),
    "weights cut short": (lambda p: cut(p.model / WEIGHTS, 10_000), "weights.safetensors is damaged"),
    "empty weights": (lambda p: cut(p.model / WEIGHTS, 0), "weights.safetensors is damaged"),
    "config cut short": (lambda p: cut(p.model / CONFIG, 100), "not a trained model"),
    "config is a list": (lambda p: (p.model / CONFIG).write_text("[]"), "not a trained model"),
    "config lacks a key": (lambda p: (p.model / CONFIG).write_text('{"width": 1}'), "not a trained model .*'network'"),
    "another width": (lambda p: config_with(p, width=0.25), "does not fit config.json: size mismatch"),
    "another network": (lambda p: config_with(p, network="v_net"), "unknown network 'v_net'"),
    "another cell's": (lambda p: config_with(p, seed=3), "has the model of .*seed-3, not of .*seed-0"),
    "another size": (
        lambda p: config_with(p, input={"size": 64, "interpolation": "area", "intensity_percentiles": [0.5, 99.5]}),
        r"size is 64 for the network and 32 in the arrays",
    ),
    "other grey values": (
        lambda p: config_with(p, input={"size": 32, "interpolation": "area", "intensity_percentiles": [2.0, 98.0]}),
        r"intensity_percentiles is \(2.0, 98.0\) for the network and \(0.5, 99.5\) in the arrays",
    ),
    "no split": (lambda p: p.split.unlink(), "mixed.json: not found"),
    "no cohort": (lambda p: shutil.rmtree(p.raw), "raw/manifest.csv: not found"),
    "another cohort": (
        lambda p: (p.raw / MANIFEST).write_text((p.raw / MANIFEST).read_text() + " "),
        "raw: not the cohort that .*arrays was made from; run the preprocess step again",
    ),
    "a mask gone": (lambda p: first_mask(p).unlink(), "mask.*cannot be read"),
    "a mask cut short": (lambda p: cut(first_mask(p), 100), "mask.*truncated"),
    "weights of no number": (
        lambda p: weights_with(p, lambda weights: weights * float("nan")),
        "the network returns NaN or infinity",
    ),
    "other weights": (
        lambda p: weights_with(p, lambda weights: weights + 1, recorded=False),
        r"weights.safetensors: not what the training in .* recorded .*; run `dvc checkout`, or the train step again",
    ),
    "another split": (lambda p: p.split.write_bytes(p.split.read_bytes() + b" "), "mixed.json: not what the training"),
    "other images": (lambda p: images_with(p, 1), "images.npy: not what the training in .* recorded"),
    "no provenance": (lambda p: (p.model / PROVENANCE).unlink(), "provenance.json: not found"),
    "provenance is a list": (
        lambda p: (p.model / PROVENANCE).write_text("[]"),
        "provenance.json: not an output of the train step",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_does_not_belong_together_is_told(here: Project, name: str) -> None:
    spoil, message = BAD[name]
    spoil(here)
    with pytest.raises(UserError, match=message) as told:
        score(here)
    assert "\n" not in str(told.value)
    assert not here.evaluation.exists()


def test_the_command_refuses_in_one_line(scored: Project) -> None:
    (scored.model / WEIGHTS).write_bytes(b"")
    before = (scored.evaluation / ROWS).read_bytes()
    assert "weights.safetensors is damaged" in refused(scored.call(scored.evaluate_line()))
    assert (scored.evaluation / ROWS).read_bytes() == before
    line = scored.evaluate_line()
    line[line.index(str(scored.model))] = "models/somewhere"
    assert "models/somewhere: not a cell's folder; it must end in" in refused(scored.call(line))


def test_a_store_that_cannot_be_reached_is_told(scored: Project) -> None:
    message = refused(scored.call(scored.evaluate_line(), MLFLOW_TRACKING_URI="nonsense://here"))
    assert message.startswith("error: MLflow, nonsense://here: ")
