"""The Great Expectations suite of a cohort, and the table that it checks."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from core.params import ValidateParams

if TYPE_CHECKING:
    from great_expectations.expectations.expectation import Expectation

KNOWN = ("id", "site", "label", "image", "width", "height", "bit_depth", "pixel_sha256")
MASK_FACTS = ("mask_width", "mask_height", "mask_binary", "lung_fraction")


def table(raw: Path, manifest: pd.DataFrame, large_component: float) -> pd.DataFrame:
    """Return the manifest with the additional columns of the expectations; unknown values are ``None``.

    Additional columns: ``size`` and ``mask_size`` ("512x512"), ``pairing`` (``paired``, ``unpaired``, or ``incomplete``
    for a mask without measurements or measurements without a mask), ``large_components`` (number of the mask's
    components that cover at least the share ``large_component`` of the image), ``image_exists`` and ``mask_exists``.
    Great Expectations skips ``None`` in all per-row expectations except those about null.
    """
    frame = manifest.astype(object).where(manifest.notna() & (manifest != "").fillna(True), None)
    frame["size"] = _sizes(manifest["width"], manifest["height"])
    frame["mask_size"] = _sizes(manifest["mask_width"], manifest["mask_height"])
    has_mask = frame["mask"].notna()
    facts = frame[list(MASK_FACTS)].notna()
    paired, unpaired = has_mask & facts.all(axis=1), ~has_mask & ~facts.any(axis=1)
    frame["pairing"] = "incomplete"
    frame.loc[paired, "pairing"] = "paired"
    frame.loc[unpaired, "pairing"] = "unpaired"
    frame["large_components"] = [
        sum(float(share) >= large_component for share in shares.split()) if mask else None
        for mask, shares in zip(frame["mask"], manifest["component_fractions"], strict=True)
    ]
    for kind in ("image", "mask"):
        frame[f"{kind}_exists"] = [(raw / path).is_file() if path else None for path in frame[kind]]
    return frame.astype(object).where(frame.notna(), None)


def _sizes(widths: pd.Series[int], heights: pd.Series[int]) -> list[str | None]:
    return [
        None if pd.isna(width) or pd.isna(height) else f"{width}x{height}"
        for width, height in zip(widths, heights, strict=True)
    ]


def expectations(params: ValidateParams) -> list[Expectation]:
    """Return the expectations for :func:`table`; ``meta`` has their short name and site.

    All have severity ``critical``, because every failure stops the run.
    """
    import great_expectations.expectations as gxe
    from great_expectations.expectations.row_conditions import Column

    low, high = params.lung_fraction
    fewest, most = params.components

    def named(name: str, title: str, site: str | None = None) -> dict[str, Any]:
        return {"description": title, "severity": "critical", "meta": {"name": name, "site": site}}

    def one_of(column: str, values: Collection[Any], name: str, title: str) -> Expectation:
        return gxe.ExpectColumnValuesToBeInSet(column=column, value_set=[*values], **named(name, title))

    def between(column: str, least: float, most: float, title: str) -> Expectation:
        return gxe.ExpectColumnValuesToBeBetween(column=column, min_value=least, max_value=most, **named(column, title))

    suite: list[Expectation] = [
        gxe.ExpectTableRowCountToBeBetween(min_value=1, **named("not_empty", "the cohort has at least one image")),
        *(
            gxe.ExpectColumnValuesToNotBeNull(column=column, **named(f"known_{column}", f"{column} is known"))
            for column in KNOWN
        ),
        gxe.ExpectColumnValuesToBeUnique(column="id", **named("unique_id", "no two images have the same id")),
        gxe.ExpectColumnValuesToBeUnique(
            column="pixel_sha256", **named("no_duplicate_image", "no image occurs twice under two names")
        ),
        one_of("site", params.sites, "allowed_site", f"site is one of {', '.join(params.sites)}"),
        one_of("label", params.labels, "allowed_label", f"label is one of {', '.join(params.labels)}"),
        one_of(
            "bit_depth",
            params.bit_depths,
            "allowed_bit_depth",
            f"the image has {' or '.join(map(str, params.bit_depths))} bits",
        ),
        one_of(
            "pairing",
            ["paired", "unpaired"],
            "paired_or_unpaired",
            "the image has a mask and all values of a mask, or none of them",
        ),
        gxe.ExpectColumnPairValuesToBeEqual(
            column_A="size",
            column_B="mask_size",
            ignore_row_if="either_value_is_missing",
            **named("equal_size", "the mask has the size of its image"),
        ),
        one_of("mask_binary", [True], "binary_mask", "the mask holds two values, background 0"),
        between("lung_fraction", low, high, f"the mask covers {low:g} to {high:g} of the image"),
        between(
            "large_components",
            fewest,
            most,
            f"the mask has {fewest} to {most} components that cover {params.large_component:g} of it or more",
        ),
        *(
            one_of(f"{kind}_exists", [True], f"{kind}_exists", f"the {kind} that the manifest names is a file")
            for kind in ("image", "mask")
        ),
    ]
    for site, count in sorted(params.expected.items()):
        here = Column("site") == site
        suite += [
            gxe.ExpectTableRowCountToEqual(
                value=count.images,
                row_condition=here,
                **named(f"expected_images_{site}", f"{site} has {count.images} images", site),
            ),
            gxe.ExpectTableRowCountToEqual(
                value=count.masks,
                row_condition=here & Column("mask").is_not_null(),
                **named(f"expected_masks_{site}", f"{site} has {count.masks} masks", site),
            ),
        ]
    return suite
