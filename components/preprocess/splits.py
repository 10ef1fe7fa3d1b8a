"""Train, validation and test splits, stratified by site and label and determined by the images' content."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence

import pandas as pd

from core.cohort import SPLITS
from core.errors import UserError
from core.params import Fold, Scenario

DECIMALS = 9  # rounds floating-point errors: 1000 * 0.142 must be 142, not 141.99999999999997


def totals(count: int, shares: Sequence[float]) -> list[int]:
    """Apportion ``count`` by largest remainder (Hamilton's method); the result adds up to exactly ``count``."""
    quotas = [round(count * share, DECIMALS) for share in shares]
    whole = [math.floor(quota) for quota in quotas]
    by_remainder = sorted(range(len(shares)), key=lambda split: (whole[split] - quotas[split], split))
    for split in by_remainder[: count - sum(whole)]:
        whole[split] += 1
    return whole


def apportion(strata: Mapping[tuple[str, str], int], shares: Sequence[float]) -> dict[tuple[str, str], list[int]]:
    """Apportion every stratum to the splits, with exact totals and proportional strata.

    Each count is its quota rounded down, or one more. The columns add up to :func:`totals`, the rows to the strata. The
    remainder is assigned split by split, to the strata that lack most, and among those to the largest remainders:
    Ryser's construction of a 0-1 matrix with given margins (Combinatorial properties of matrices of zeros and ones,
    1957). A solution exists, because there are three splits, no stratum lacks more than two, and the remainders of a
    split add up to at most the number of strata.

    Args:
        strata: number of images by site and label.
        shares: one share per split, above 0, adding up to 1.

    Returns:
        The counts per split by site and label.
    """
    names = sorted(strata)
    quotas = {name: [round(strata[name] * share, DECIMALS) for share in shares] for name in names}
    result = {name: [math.floor(quota) for quota in quotas[name]] for name in names}
    lacking = {name: strata[name] - sum(result[name]) for name in names}
    for split, total in enumerate(totals(sum(strata.values()), shares)):
        wanted = total - sum(row[split] for row in result.values())
        order = sorted(names, key=lambda name: (-lacking[name], result[name][split] - quotas[name][split], name))
        for name in order[:wanted]:
            result[name][split] += 1
            lacking[name] -= 1
    return result


def freeze(manifest: pd.DataFrame, shares: Mapping[str, float], seed: int) -> dict[str, str]:
    """Return the split of every image, stratified by site and label and independent of the order of the rows.

    Images within a stratum are sorted by the SHA-256 of the seed and the image's hash. So the split depends on the
    pixels and not on names, and duplicates of an image are in one split. Duplicates count once, in the stratum of their
    first id.

    Args:
        manifest: the images with a mask: ``id``, ``site``, ``label``, ``pixel_sha256``.
        shares: shares of ``train``, ``validation`` and ``test``.
        seed: seed of the order.

    Returns:
        ``train``, ``validation`` or ``test`` for each id, in the order of the ids.
    """
    return _by_id(manifest, _share_out(_strata(manifest, seed), {split: shares[split] for split in SPLITS}))


def freeze_fold(manifest: pd.DataFrame, shares: Mapping[str, float], seed: int, fold: Fold) -> dict[str, str]:
    """Return the split of every image in one fold of a cross-validation, stratified by site and label.

    The images of all strata are assigned to the folds in turn, in the order of :func:`freeze`. So the sizes of folds
    differ by at most one image, also within each stratum. The fold is the test split; the other images are split into
    train and validation in proportion to the shares.

    Args:
        manifest: as for :func:`freeze`.
        shares: shares of ``train`` and ``validation``; only their ratio counts.
        seed: seed of the order.
        fold: the fold to test on.

    Returns:
        ``train``, ``validation`` or ``test`` for each id, in the order of the ids.
    """
    rest: dict[tuple[str, str], list[str]] = {}
    split_of: dict[str, str] = {}
    dealt = 0
    for name, group in sorted(_strata(manifest, seed).items()):
        for sha in group:
            if dealt % fold.of == fold.number - 1:
                split_of[sha] = "test"
            else:
                rest.setdefault(name, []).append(sha)
            dealt += 1
    both = shares["train"] + shares["validation"]
    return _by_id(manifest, split_of | _share_out(rest, {name: shares[name] / both for name in SPLITS[:2]}))


def _strata(manifest: pd.DataFrame, seed: int) -> dict[tuple[str, str], list[str]]:
    """Return the hashes of the images by site and label, in the seed's order, without duplicates."""
    pictures = manifest.sort_values("id").drop_duplicates("pixel_sha256")
    return {
        (str(site), str(label)): sorted(
            (str(sha) for sha in group["pixel_sha256"]),
            key=lambda sha: hashlib.sha256(f"{seed}:{sha}".encode()).hexdigest(),
        )
        for (site, label), group in pictures.groupby(["site", "label"])
    }


def _share_out(strata: Mapping[tuple[str, str], list[str]], shares: Mapping[str, float]) -> dict[str, str]:
    """Return the split of every image: the first images of a stratum get the first split, and so on."""
    counts = apportion({name: len(group) for name, group in strata.items()}, list(shares.values()))
    return {
        sha: split
        for name, group in strata.items()
        for sha, split in zip(
            group,
            (split for split, count in zip(shares, counts[name], strict=True) for _ in range(count)),
            strict=True,
        )
    }


def _by_id(manifest: pd.DataFrame, split_of: Mapping[str, str]) -> dict[str, str]:
    rows = manifest.sort_values("id")
    return {str(row["id"]): split_of[str(row["pixel_sha256"])] for _, row in rows.iterrows()}


def scenario_split(manifest: pd.DataFrame, frozen: Mapping[str, str], scenario: Scenario) -> dict[str, list[str]]:
    """Return the ids of a scenario's train, validation and test images, in the manifest's order.

    If training and test sites are the same, the frozen split is used. Otherwise all images of the test sites are the
    test split, and the frozen test part of the training sites is added to train. A test image is never in train or
    validation, even if a training site has a duplicate of it.
    """
    split = manifest["id"].map(lambda image: frozen[image])
    here = manifest["site"].isin(scenario.train)
    if set(scenario.train) == set(scenario.test):
        chosen = {name: here & (split == name) for name in SPLITS}
    else:
        tested = manifest["site"].isin(scenario.test)
        own = here & ~manifest["pixel_sha256"].isin(manifest.loc[tested, "pixel_sha256"])
        chosen = {"train": own & (split != "validation"), "validation": own & (split == "validation"), "test": tested}
    return {name: [str(image) for image in manifest.loc[chosen[name], "id"]] for name in SPLITS}


def scenario_splits(
    manifest: pd.DataFrame,
    frozen: Mapping[str, str],
    scenarios: Mapping[str, Scenario],
    shares: Mapping[str, float],
    seed: int,
) -> dict[str, dict[str, list[str]]]:
    """Return :func:`scenario_split` of every scenario, from :func:`freeze_fold` for scenarios with a fold.

    Raises:
        UserError: a site of a scenario has no image with a mask, or a split would be empty; all such scenarios are
            listed.
    """
    present = set(manifest["site"])
    splits, problems = {}, []
    for name, scenario in scenarios.items():
        missing = sorted({*scenario.train, *scenario.test} - present)
        here = freeze_fold(manifest, shares, seed, scenario.fold) if scenario.fold else frozen
        splits[name] = scenario_split(manifest, here, scenario)
        empty = [split for split in SPLITS if not splits[name][split]]
        if missing:
            problems.append(f"{name}: the cohort has no image with a mask of {', '.join(missing)}")
        elif empty:
            problems.append(
                f"{name}: no images for {', '.join(empty)}; its sites need more images with masks, or larger "
                "shares under preprocess.splits"
            )
    if problems:
        raise UserError(
            "too few images for these scenarios; add images, or remove them from matrix.scenarios", problems
        )
    return splits
