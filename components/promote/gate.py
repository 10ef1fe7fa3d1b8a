"""The promotion gate: its rules, with values and verdicts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from components.promote.scoring import Scored
from core.params import PromotionParams, ShadowParams
from core.results import Row
from model.metrics import PairedDifference, paired_difference
from registry.shadow import Agreement
from registry.versions import Version


@dataclass(frozen=True)
class Rule:
    """One rule of the gate.

    Attributes:
        name: short name, as in the version's tags.
        asks: the condition, with its bound.
        found: the result, with its values.
        passed: whether the condition is met.
    """

    name: str
    asks: str
    found: str
    passed: bool


@dataclass(frozen=True)
class Group:
    """One line of the comparison: a site and a label, or ``all``; Dice against original masks.

    ``mean`` is over images, ``pooled`` over the pixels of all images. ``difference`` and ``interval`` (95 %, paired
    bootstrap over images) are challenger minus champion, means over images. Both are None without a champion;
    ``interval`` is also None for a single image.
    """

    site: str
    label: str
    images: int
    mean: float
    pooled: float
    champion_mean: float | None
    champion_pooled: float | None
    difference: float | None
    interval: tuple[float, float] | None

    @property
    def least(self) -> float | None:
        """The lower end of the interval, or the difference if there is no interval."""
        return self.interval[0] if self.interval else self.difference


@dataclass(frozen=True)
class Gate:
    """The result of the gate for a challenger.

    Attributes:
        challenger: the version to promote.
        champion: the current champion; None: no champion.
        about: facts of the comparison by name, such as test images and splits.
        rules: the evaluated rules.
        groups: the comparison, all images first.
    """

    challenger: Version
    champion: Version | None
    about: dict[str, str]
    rules: list[Rule]
    groups: list[Group]

    @property
    def passed(self) -> bool:
        """Whether every rule is met."""
        return all(rule.passed for rule in self.rules)

    @property
    def failed(self) -> list[str]:
        """Names of the rules that are not met."""
        return [rule.name for rule in self.rules if not rule.passed]

    @property
    def figures(self) -> dict[str, float]:
        """The main Dice values, as MLflow metrics."""
        every = self.groups[0]
        named = {"challenger_dice": every.mean, "champion_dice": every.champion_mean, "difference": every.difference}
        if every.interval:
            named |= {"difference_low": every.interval[0], "difference_high": every.interval[1]}
        return {name: value for name, value in named.items() if value is not None}


def judge(
    challenger: Scored,
    champion: Scored | None,
    rival: Version | None,
    doubts: list[str],
    rolled_back: str,
    params: PromotionParams,
    shadow: Agreement | None = None,
) -> tuple[list[Rule], list[Group]]:
    """Evaluate all rules for a challenger.

    Args:
        challenger: the challenger's scores.
        champion: the champion's scores on the same images; None if there is no champion or it cannot be scored.
        rival: the champion's version, scored or not; None: no champion.
        doubts: reasons against a fair comparison with the champion; empty for none.
        rolled_back: when, by whom and why the challenger was rolled back and not promoted since; else empty.
        params: the bounds.
        shadow: the challenger's agreement with the champion in shadow, from the services; None: no counts.

    Returns:
        The rules, and the comparison with all images first.
    """
    groups = list(_groups(challenger, champion, params))
    rules = [
        Rule(
            "floor",
            f"mean Dice of the challenger at least {params.floor:.4f}",
            f"{challenger.dice:.4f}",
            challenger.dice >= params.floor,
        ),
        Rule(
            "rolled-back",
            "it was not rolled back when it was champion",
            f"rolled back {rolled_back}" if rolled_back else "it was not",
            not rolled_back,
        ),
    ]
    if rival is None:
        return rules, groups
    rules.append(
        Rule(
            "comparable",
            "the champion loads, takes the same arrays, and was not trained on the test images",
            "; ".join(doubts) or f"{rival} does",
            not doubts,
        )
    )
    if params.shadow:
        rules.append(_in_shadow(shadow or Agreement(against=rival.number), params.shadow))
    if champion is None:
        return rules, groups
    every = groups[0]
    rules.append(
        Rule(
            "gain",
            f"lower end of the difference's 95 % interval above {params.gain:+.4f}, all images",
            _found(every),
            every.least is not None and every.least > params.gain,
        )
    )
    rules += [
        Rule(
            f"margin.{group.site}.{group.label}",
            f"lower end of the difference's 95 % interval at least {-params.margin:+.4f}, {group.site} {group.label}",
            _found(group),
            group.least is not None and group.least >= -params.margin,
        )
        for group in groups
        if group.site != "all" and group.label != "all"
    ]
    return rules, groups


def _in_shadow(seen: Agreement, asked: ShadowParams) -> Rule:
    """Return the rule on a challenger's agreement with the champion in production."""
    found = f"{seen.mean:.4f} on {seen.pictures} X-rays" if seen.mean is not None else "no X-ray"
    found += f", {seen.errors} errors" if seen.errors else ""
    found += f"; canary taken back: {seen.withdrawn}" if seen.withdrawn else ""
    enough = seen.mean is not None and seen.pictures >= asked.at_least and seen.mean >= asked.agreement
    return Rule(
        "shadow",
        f"mean Dice with the champion's masks at least {asked.agreement:.4f} on at least {asked.at_least} X-rays "
        "of production (defunet serve --shadow), canary not taken back",
        found,
        enough and not seen.withdrawn,
    )


def _found(group: Group) -> str:
    if group.interval is None:
        return f"{group.difference:+.4f} (a single image, no interval)"
    return f"{group.interval[0]:+.4f} (difference {group.difference:+.4f}, up to {group.interval[1]:+.4f})"


def _groups(challenger: Scored, champion: Scored | None, params: PromotionParams) -> Iterator[Group]:
    ours, theirs = _rows(challenger), _rows(champion) if champion else {}
    for (site, label), (pooled, mean) in ours.items():
        chosen = np.ones(len(challenger.cases), bool)
        for column, wanted in (("site", site), ("label", label)):
            if wanted != "all":
                chosen &= (challenger.cases[column] == wanted).to_numpy(bool)
        paired = PairedDifference(float("nan"), None)
        if champion:
            dice = [each.cases["dice"].to_numpy(float)[chosen] for each in (challenger, champion)]
            paired = paired_difference(*dice, resamples=params.bootstrap, seed=params.seed)
        before: Any = theirs.get((site, label), (None, None))
        yield Group(
            site,
            label,
            int(chosen.sum()),
            mean,
            pooled,
            before[1],
            before[0],
            paired.difference if champion else None,
            paired.interval,
        )


def _rows(scored: Scored) -> dict[tuple[str, str], tuple[float, float]]:
    """Return pooled and mean Dice by site and label, in the order of the rows."""
    found: dict[tuple[str, str], dict[str, Row]] = {}
    for row in scored.rows:
        if row["sex"] != "all" or row["age"] != "all":
            continue
        found.setdefault((row["site"], row["label"]), {})[row["reduction"]] = row
    # Dice is defined for every image, also for two empty masks.
    return {
        key: (float(rows["pooled"]["dice"] or 0.0), float(rows["per_image"]["dice"] or 0.0))
        for key, rows in found.items()
    }
