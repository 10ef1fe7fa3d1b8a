"""Comparison charts: networks ranked by test Dice, and the Dice of every test image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import altair as alt
import numpy as np
import pandas as pd

from components.report import paper
from components.report.charts import MARKS, Chart, by_network, by_row, finish, table
from components.report.layout import Results, scenario_title
from components.report.load import Evaluated
from components.report.pictures import Places
from components.report.tables import Headline
from components.report.text import figure_text

STEP = 50  # height of a strip and its name, pixels
# Approximate maximum number of dots per strip, including the lowest, so that the page does not grow with the cohort.
MOST_DOTS, LOWEST = 600, 50
ABOVE, BELOW = 0.75, 0.35  # space above the middle of the first strip and below the middle of the last, in strips


@dataclass(frozen=True)
class _Strip:
    """The Dice of one network's test images of one site, ascending; an image's Dice is its mean over seeds."""

    network: str
    site: str
    cases: pd.DataFrame  # id, label, dice, hd95

    @property
    def name(self) -> str:
        return f"{paper.name(self.network)} · {self.site}"

    @property
    def dots(self) -> pd.DataFrame:
        """The images with a dot: all, or the lowest and an even sample by id, which is the same for every network."""
        if len(self.cases) <= MOST_DOTS:
            return self.cases
        ids = np.sort(self.cases["id"].to_numpy(str))
        even = ids[np.linspace(0, len(ids) - 1, MOST_DOTS - LOWEST).round().astype(int)]
        return self.cases[(self.cases.index < LOWEST) | self.cases["id"].isin(even)]


def best_first(found: Sequence[Headline]) -> list[Headline]:
    """Return the networks of a scenario by test Dice, highest first; networks without Dice are last."""
    return sorted(found, key=lambda item: math.inf if item.dice.value is None else -item.dice.value)


def ranking(scenario: str, ranked: Sequence[Headline], masks: str, results: Results, places: Places) -> Chart | None:
    """Return the chart of a scenario's networks, with the best first and marked; ``None`` for fewer than two with Dice.

    The line is the 95 % bootstrap interval or, for several seeds, mean plus and minus standard deviation. A dot links
    to the worst image of the network's first seed.

    Args:
        scenario: name of the scenario.
        ranked: its networks, see :func:`best_first`.
        masks: the masks of the Dice, original or dilated.
        results: all results.
        places: link targets of the images.
    """
    known = [item for item in ranked if item.dice.value is not None]
    if len(known) < 2:
        return None
    title = scenario_title(scenario)
    lines = [_ranked(number, item) for number, item in enumerate(known)]
    worst = [places.worst(results.seeds(item.key, scenario)[0]) for item in known]
    frame = pd.DataFrame(lines).assign(to=worst)
    colour = by_network([item.key for item in known], legend=False)
    x = alt.Scale(zero=False)
    axis = f"Dice against {masks} masks, mean over images"
    span = alt.Chart().mark_rule(strokeWidth=2.5, aria=False)
    span = span.encode(x=_across("low", axis, x), x2="high", y=_down("row", len(known)), color=colour)
    dots = _dots(110).transform_calculate(said="datum.head + '\\nDice ' + datum.figure")
    dots = dots.encode(x=_across("dice", axis, x), y=_down("row", len(known)), color=colour)
    names = _names(len(known)).encode(x=alt.value(2))
    chart = alt.LayerChart(layer=[span, dots, names], data=table(frame))
    words = "; ".join(f"{line['head']} {line['figure']}" for line in lines)
    return finish(title, f"{title}: networks by test Dice. {words}", chart, _height(len(known)))


def _ranked(number: int, item: Headline) -> dict[str, object]:
    dice, deviation = item.dice.value or 0.0, item.dice.deviation or 0.0
    low, high = item.dice.interval or (dice - deviation, dice + deviation)
    words = f"{figure_text(dice)}"
    if item.dice.interval:
        words += f" ({figure_text(low)} to {figure_text(high)})"
    elif item.dice.deviation is not None:
        words += f" ± {figure_text(deviation)}"
    return {
        "network": paper.name(item.key),
        "head": f"{number + 1}. {paper.name(item.key)}{'' if number else ' ★ best'}",
        "figure": words,
        "dice": dice,
        "low": low,
        "high": min(high, 1.0),
        "row": number,
    }


def dice_distributions(
    by_scenario: dict[str, list[Evaluated]], ranked: dict[str, list[Headline]], places: Places
) -> list[Chart]:
    """Return charts of the test images' Dice against original masks by scenario, one strip per network and site.

    An image's Dice is its mean over seeds. The bar is the interquartile range and the tick the median. All scenarios
    share the range of the axis; scenarios without images are omitted. A dot links to its X-ray. With more than
    :data:`MOST_DOTS` images, only a sample has dots.
    """
    strips = {name: found for name, cells in by_scenario.items() if (found := _strips(cells, ranked[name]))}
    lowest = min((float(strip.cases["dice"].iloc[0]) for found in strips.values() for strip in found), default=0.0)
    return [_distribution(name, found, lowest, by_scenario[name], places) for name, found in strips.items()]


def drawn(by_scenario: dict[str, list[Evaluated]], ranked: dict[str, list[Headline]]) -> tuple[list[str], bool]:
    """Return the sorted ids of all images with a dot, and whether some images have none."""
    strips = [strip for name, cells in by_scenario.items() for strip in _strips(cells, ranked[name])]
    ids = sorted({str(id) for strip in strips for id in strip.dots["id"]})
    return ids, any(len(strip.dots) < len(strip.cases) for strip in strips)


def _strips(cells: Sequence[Evaluated], ranked: Sequence[Headline]) -> list[_Strip]:
    strips = []
    for network in (item.key for item in ranked):
        cases = pd.concat([data.cases for data in cells if data.cell.network == network])
        chosen = cases[(cases["split"] == "test") & (cases["masks"] == "original")].dropna(subset=["dice"])
        of_image = chosen.groupby(["site", "id", "label"], sort=True)[["dice", "hd95"]].mean().reset_index()
        for site, found in of_image.groupby("site", sort=True):
            ordered = found.sort_values(["dice", "id"])[["id", "label", "dice", "hd95"]].reset_index(drop=True)
            strips.append(_Strip(network, str(site), ordered))
    return strips


def _distribution(
    scenario: str, strips: list[_Strip], lowest: float, cells: Sequence[Evaluated], places: Places
) -> Chart:
    parts, bars = [], []
    for row, strip in enumerate(strips):
        # Multiples of the golden ratio spread the points evenly and reproducibly.
        dots = strip.dots
        heights = row + 0.4 * ((np.arange(len(dots)) * 0.6180339887) % 1 - 0.5)
        seeds = [data.cell for data in cells if data.cell.network == strip.network]
        to = [places.of(seeds, id) for id in dots["id"]]
        network = paper.name(strip.network)
        parts.append(dots.assign(y=heights.round(2), row=row, to=to))
        low, middle, high = np.percentile(strip.cases["dice"], [25, 50, 75])
        line = {"network": network, "low": low, "middle": middle, "high": high, "row": row}
        line |= {"top": row - 0.26, "bottom": row + 0.26, "head": strip.name}
        bars.append(line | {"figure": f"median {figure_text(float(middle))}"})
    summary = table(pd.DataFrame(bars))
    points = table(pd.concat(parts, ignore_index=True))

    colour = by_network(list(dict.fromkeys(strip.network for strip in strips)), legend=False)
    margin, axis = 0.02 * (1 - lowest) + 0.001, "Dice of one image"
    x = alt.Scale(domain=[max(-0.01, lowest - margin), 1 + margin / 2], nice=False)
    count = len(strips)
    box = alt.Chart(summary).mark_rect(opacity=0.2, aria=False)
    box = box.encode(x=_across("low", axis, x), x2="high", y=_down("top", count), y2="bottom", color=colour)
    tick = alt.Chart(summary).mark_rule(strokeWidth=2.4, aria=False)
    tick = tick.encode(x=_across("middle", axis, x), y=_down("top", count), y2="bottom", color=colour)
    names = by_row([strip.name for strip in strips])
    layer = _dots(34).properties(data=points)
    layer = layer.transform_calculate(
        network=by_row([paper.name(strip.network) for strip in strips]),
        said=f"datum.id + ', ' + datum.label + ', ' + {names} + '\\nDice ' + format(datum.dice, '.4f')"
        " + (isValid(datum.hd95) ? ', HD95 ' + format(datum.hd95, '.2f') + ' px' : '')",
    ).encode(x=_across("dice", axis, x), y=_down("y", count), color=colour)
    chart = alt.LayerChart(layer=[box, tick, layer, _names(count).properties(data=summary).encode(x=alt.value(2))])
    title = scenario_title(scenario)
    words = "; ".join(
        f"{strip.name}: median {strip.cases['dice'].median():.4f}, lowest {strip.cases['dice'].iloc[0]:.4f}"
        for strip in strips
    )
    return finish(title, f"{title}: Dice of each test image against original masks. {words}", chart, _height(count))


def _across(name: str, title: str, scale: alt.Scale) -> alt.X:
    return alt.X(name, type="quantitative", title=title, scale=scale, axis=alt.Axis(format=".4~g", tickCount=6))


def _down(name: str, count: int) -> alt.Y:
    """Return the strips' y axis, top to bottom, without labels; a strip's name is above it."""
    scale = alt.Scale(domain=[-ABOVE, count - 1 + BELOW], reverse=True, nice=False, zero=False)
    return alt.Y(name, type="quantitative", axis=None, scale=scale)


def _height(count: int) -> int:
    return round(STEP * (count - 1 + ABOVE + BELOW))


def _dots(size: int) -> alt.Chart:
    """Return the layer of dots with links: column ``said`` has their title and value, column ``to`` the link target."""
    dots = alt.Chart().mark_point(filled=True, size=size, opacity=1, stroke="var(--surface)", strokeWidth=0.7)
    named: alt.Chart = dots.encode(tooltip="said:N", description="said:N").properties(name=MARKS)
    return named


def _names(count: int) -> alt.Chart:
    """Return the layer of the strips' names, above each strip at the left; the best network's is bold."""
    weight = alt.ExprRef("indexof(datum.head, '★') < 0 ? 400 : 700")
    text = alt.Chart().mark_text(
        align="left", baseline="bottom", dy=-15, fontSize=12, fill="var(--ink)", fontWeight=weight, aria=False
    )
    text = text.transform_calculate(words="datum.head + ': ' + datum.figure")
    placed: alt.Chart = text.encode(y=_down("row", count), text="words:N")
    return placed
