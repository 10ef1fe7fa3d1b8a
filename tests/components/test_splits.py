"""Splits are the paper's, proportional for every site and label, and nothing leaks across them."""

from __future__ import annotations

import math
from collections import Counter

import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from components.preprocess.splits import apportion, freeze, freeze_fold, scenario_split, scenario_splits, totals
from core.cohort import SPLITS
from core.params import Fold, Scenario
from tests.components.tiny_cohort import PREPROCESS, SCENARIOS

PAPER = {"train": 0.75, "validation": 0.108, "test": 0.142}
MIXED, ACROSS = SCENARIOS["mixed"], SCENARIOS["montgomery-to-shenzhen"]


def table(counts: dict[tuple[str, str], int]) -> pd.DataFrame:
    rows = [(f"{site}-{label}-{n}", site, label) for (site, label), count in counts.items() for n in range(count)]
    frame = pd.DataFrame(rows, columns=["id", "site", "label"])
    return frame.assign(pixel_sha256="sha of " + frame["id"])


PAPERS_COHORT = table(
    {
        ("montgomery", "normal"): 80,
        ("montgomery", "abnormal"): 58,
        ("shenzhen", "normal"): 279,
        ("shenzhen", "abnormal"): 287,
    }
)
STRATA = st.dictionaries(
    st.tuples(st.sampled_from("abc"), st.sampled_from(["normal", "abnormal"])), st.integers(0, 60), min_size=1
)
SHARES = st.tuples(st.integers(1, 50), st.integers(1, 50), st.integers(1, 50)).map(
    lambda parts: [part / sum(parts) for part in parts]
)


def test_the_papers_cohort_is_split_as_in_the_paper() -> None:
    frozen = freeze(PAPERS_COHORT, PAPER, seed=0)
    assert Counter(frozen.values()) == {"train": 528, "validation": 76, "test": 100}
    by_stratum = PAPERS_COHORT.assign(split=PAPERS_COHORT["id"].map(frozen)).groupby(["site", "label", "split"]).size()
    for (site, label), count in PAPERS_COHORT.groupby(["site", "label"]).size().items():
        for split in SPLITS:
            assert abs(by_stratum[site, label, split] - count * PAPER[split]) <= 1


@given(strata=STRATA, shares=SHARES)
def test_totals_are_exact_and_every_stratum_is_proportional(
    strata: dict[tuple[str, str], int], shares: list[float]
) -> None:
    rows = apportion(strata, shares)
    assert {name: sum(row) for name, row in rows.items()} == strata
    assert [sum(column) for column in zip(*rows.values(), strict=True)] == totals(sum(strata.values()), shares)
    for name, row in rows.items():
        for count, share in zip(row, shares, strict=True):
            exact = round(strata[name] * share, 9)
            assert math.floor(exact) <= count <= exact + 1


@given(count=st.integers(0, 5000), shares=SHARES)
def test_totals_differ_from_the_shares_by_less_than_one(count: int, shares: list[float]) -> None:
    assert sum(totals(count, shares)) == count
    for total, share in zip(totals(count, shares), shares, strict=True):
        assert abs(total - count * share) < 1


@given(order=st.permutations(range(40)), seed=st.integers(0, 5))
def test_neither_the_order_of_rows_nor_names_decide(order: list[int], seed: int) -> None:
    frame = table({("a", "normal"): 22, ("b", "abnormal"): 18})
    frozen = freeze(frame, PAPER, seed)
    assert list(freeze(frame.iloc[order], PAPER, seed).items()) == list(frozen.items())
    renamed = frame.assign(id=[f"x{number}" for number in order])
    assert Counter(zip(renamed["pixel_sha256"], renamed["id"].map(freeze(renamed, PAPER, seed)), strict=True)) == (
        Counter(zip(frame["pixel_sha256"], frame["id"].map(frozen), strict=True))
    )


def test_another_seed_is_another_split() -> None:
    assert freeze(PAPERS_COHORT, PAPER, 0) != freeze(PAPERS_COHORT, PAPER, 1)


@given(picture=st.lists(st.integers(0, 12), min_size=30, max_size=30), train=st.sampled_from(["a", "b"]))
def test_no_picture_is_in_two_splits_of_any_scenario(picture: list[int], train: str) -> None:
    """Even where two names, labels or sites share it, which validate would have refused."""
    frame = table({("a", "normal"): 10, ("a", "abnormal"): 8, ("b", "normal"): 12})
    frame = frame.assign(pixel_sha256=[f"picture {number}" for number in picture])
    frozen = freeze(frame, PREPROCESS["splits"], seed=0)
    sha = dict(zip(frame["id"], frame["pixel_sha256"], strict=True))
    other = {"a": "b", "b": "a"}[train]
    for scenario in (Scenario(train=["a", "b"], test=["b", "a"]), Scenario(train=[train], test=[other])):
        parts = [{sha[image] for image in ids} for ids in scenario_split(frame, frozen, scenario).values()]
        assert sum(map(len, parts)) == len(set.union(*parts))


def test_across_sites_all_of_the_other_site_is_tested_and_nothing_of_it_seen() -> None:
    frozen = freeze(PAPERS_COHORT, PAPER, seed=0)
    own = PAPERS_COHORT[PAPERS_COHORT["site"] == "montgomery"]["id"]
    split = scenario_split(PAPERS_COHORT, frozen, ACROSS)
    assert split["validation"] == [image for image in own if frozen[image] == "validation"]
    assert split["train"] == [image for image in own if frozen[image] != "validation"]
    assert split["test"] == list(PAPERS_COHORT[PAPERS_COHORT["site"] == "shenzhen"]["id"])


def test_within_sites_the_frozen_splits_are_kept() -> None:
    frozen = freeze(PAPERS_COHORT, PAPER, seed=0)
    mixed = scenario_split(PAPERS_COHORT, frozen, MIXED)
    assert {image: name for name, ids in mixed.items() for image in ids} == frozen
    one = scenario_split(PAPERS_COHORT, frozen, Scenario(train=["shenzhen"], test=["shenzhen"]))
    assert all(ids == [image for image in mixed[name] if image.startswith("shenzhen")] for name, ids in one.items())


@given(strata=STRATA, of=st.integers(2, 7), seed=st.integers(0, 3))
def test_folds_test_every_picture_once_and_are_even(strata: dict[tuple[str, str], int], of: int, seed: int) -> None:
    frame = table(strata)
    folds = [freeze_fold(frame, PAPER, seed, Fold(number=number, of=of)) for number in range(1, of + 1)]
    tested = Counter(image for fold in folds for image, split in fold.items() if split == "test")
    assert tested == Counter(frame["id"])
    for (site, label), count in strata.items():
        names = [f"{site}-{label}-{n}" for n in range(count)]
        sizes = [sum(fold[name] == "test" for name in names) for fold in folds]
        assert max(sizes) - min(sizes) <= 1
    totals_ = [sum(split == "test" for split in fold.values()) for fold in folds]
    assert max(totals_) - min(totals_) <= 1


def test_a_fold_is_trained_and_tuned_on_in_the_papers_proportion() -> None:
    fold = freeze_fold(PAPERS_COHORT, PAPER, 0, Fold(number=2, of=5))
    counts = Counter(fold.values())
    assert counts["test"] == 141
    assert counts["validation"] == round(563 * 0.108 / 0.858)
    scenario = Scenario(train=["montgomery", "shenzhen"], test=["montgomery", "shenzhen"], fold=Fold(number=2, of=5))
    frozen = freeze(PAPERS_COHORT, PAPER, 0)
    (split,) = scenario_splits(PAPERS_COHORT, frozen, {"fold": scenario}, PAPER, 0).values()
    assert {image: name for name, ids in split.items() for image in ids} == fold


def test_equal_pictures_lie_in_one_fold() -> None:
    frame = table({("a", "normal"): 12, ("b", "normal"): 12})
    frame["pixel_sha256"] = [f"picture {number // 2}" for number in range(24)]
    fold = freeze_fold(frame, PAPER, 0, Fold(number=1, of=3))
    of_picture = frame.assign(split=frame["id"].map(fold)).groupby("pixel_sha256")["split"].nunique()
    assert (of_picture == 1).all()
