"""Facts of the model that a page shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class About:
    """Facts of the model that predicted a page's masks, from its card.

    Attributes:
        name: name of the model.
        version: version in the registry, or the first digits of the weights' SHA-256.
        engine: name of the inference engine.
        cohort: name of the training cohort; empty if the package has no card.
        drawings: whether the training images are drawings and not X-rays of patients; None if unknown.
        trained: number of training images; None if unknown.
        dice: mean Dice of the test images, 0 to 1, against masks of the same kind as in training; None if unknown.
        dice_ci95: 95 % confidence interval of ``dice``.
        tested: number of test images; None if unknown.
        licence: licence of the weights; empty if unknown.
    """

    name: str
    version: str
    engine: str
    cohort: str = ""
    drawings: bool | None = None
    trained: int | None = None
    dice: float | None = None
    dice_ci95: tuple[float, float] | None = None
    tested: int | None = None
    licence: str = ""


def about(card: Mapping[str, Any], name: str, version: str, engine: str) -> About:
    """Return the facts of a package's card; a card in another format leaves the figures unknown.

    Args:
        card: the content of ``card.json``; empty if there is none.
        name: see :class:`About`.
        version: see :class:`About`.
        engine: see :class:`About`.
    """
    try:
        return _read(card, name, version, engine) if card else About(name, version, engine)
    except (KeyError, TypeError, ValueError, AttributeError):
        return About(name, version, engine)


def _read(card: Mapping[str, Any], name: str, version: str, engine: str) -> About:
    masks = card["train"]["masks"]
    scores = [row for row in card["metrics"] if (row["masks"], row["site"], row["label"]) == (masks, "all", "all")]
    low, high = scores[0]["dice_ci95"] if scores and scores[0]["dice_ci95"] else (None, None)
    synthetic = card["data"].get("synthetic")
    return About(
        name,
        version,
        engine,
        cohort=str(card["data"].get("name") or ""),
        drawings=synthetic if isinstance(synthetic, bool) else None,
        trained=sum(int(row["images"]) for row in card["data"]["images"] if row["split"] == "train"),
        dice=float(scores[0]["dice"]) if scores else None,
        dice_ci95=None if low is None or high is None else (float(low), float(high)),
        tested=int(scores[0]["n_images"]) if scores else None,
        licence=str(card.get("licence") or ""),
    )
