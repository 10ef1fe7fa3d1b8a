"""Check from the registry's records that versions were not trained on the test images or on other data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import UserError
from registry.versions import TrainedOn, Version, splits_digest

if TYPE_CHECKING:
    from components.promote.scoring import TestSet


def require_same_data(challenger: Version, known: TrainedOn, test: TestSet, arrays: Path) -> None:
    """Check that a challenger was trained on the cohort of the arrays, and on none of its test images.

    Args:
        challenger: the version.
        known: the registry's record of its training data.
        test: the test split.
        arrays: folder of the arrays, for the message.

    Raises:
        UserError: it was trained on other data or on test images, or its training data are not recorded.
    """
    pinned, manifest = test.cohort.info.get("data_md5"), str(test.cohort.info["manifest_sha256"])
    for what, theirs, ours in (("data md5", known.data_md5, pinned), ("manifest", known.manifest_sha256, manifest)):
        if theirs and ours and theirs != ours:
            raise UserError(
                f"{challenger}: trained on other data ({what} {theirs}) than {arrays} ({ours}); pass the arrays and "
                "splits of its data, or train on these and register again"
            )
    if not known.manifest_sha256 and not (known.data_md5 and pinned):
        raise UserError(
            f"{challenger}: the registry has no record of its training data, so it cannot be scored fairly; "
            "train and register it again with this store"
        )
    if problem := _leak(known, test):
        raise UserError(f"{challenger}: {problem}; pass the splits it was trained with, or train on these")


def doubts_about(champion: Version, known: TrainedOn, test: TestSet) -> list[str]:
    """Return the reasons against a fair comparison with a champion on a test split; empty if there are none.

    A champion may have been trained on other data, but not on the test images.
    """
    problem = _leak(known, test)
    return [f"{champion}: {problem}"] if problem else []


def _leak(known: TrainedOn, test: TestSet) -> str | None:
    if known.ids is not None:
        seen = [image for image in test.split["test"] if image in known.ids]
        if seen:
            return f"trained on {len(seen)} of the {len(test.split['test'])} test images, the first {seen[0]}"
        return None
    if known.splits_sha256 is None:
        return "the registry has no record of its training images, which may include test images"
    if known.splits_sha256 != splits_digest(test.split):
        return f"trained with other splits (sha256 {known.splits_sha256[:12]}) than these"
    return None
