"""Charts as reproducible inline SVG with the page's CSS colours, for light and dark mode."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from components.report import paper
from components.report.layout import scenario_title
from components.report.load import Evaluated

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# matplotlib draws with these placeholder colours; CSS variables replace them afterwards.
_STANDINS = {"#a1b2f0": "var(--ink)", "#a1b2f1": "var(--muted)", "#a1b2f2": "var(--rule)", "#a1b2f3": "var(--surface)"}
_INK, MUTED, _RULE, _SURFACE = _STANDINS
SERIES = 9  # number of colours in the page's style sheet, --s0, --s1 ...
_SERIES = {f"#a1b2{number:02x}": f"var(--s{number})" for number in range(SERIES)}
_FONT = "system-ui, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif"
# Unused ids of groups, which would repeat in every drawing of a page.
_GROUP_ID = re.compile(r' id="[A-Za-z.]+_\d+"')


# Up to this number of cells, training and validation curves share one chart.
TOGETHER = 3
_CURVES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Loss", ("train_loss", "validation_loss")),
    ("Dice", ("train_dice", "validation_dice")),
    ("Learning rate", ("learning_rate",)),
)
_SPLIT_CURVES = (
    ("Training loss", ("train_loss",)),
    ("Training Dice", ("train_dice",)),
    ("Learning rate", ("learning_rate",)),
    ("Validation loss", ("validation_loss",)),
    ("Validation Dice", ("validation_dice",)),
)


@dataclass(frozen=True)
class Chart:
    """A chart: ``svg`` is the markup of an ``<svg>`` element, ``alt`` its text alternative."""

    title: str
    alt: str
    svg: str


def colour_number(network: str) -> int:
    """Return the number of a network's series colour, the same in every chart of every report."""
    return paper.order(network)[0] % SERIES


def colour_of(network: str) -> str:
    """Return the placeholder colour of a network."""
    return list(_SERIES)[colour_number(network)]


def draw(name: str, inches: tuple[float, float], fill: Callable[[Axes], None]) -> str:
    """Return the SVG of one set of axes that ``fill`` draws into, without date, conflicting ids or external fonts."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans"],
        "font.size": 9,
        "text.color": _INK,
        "axes.labelcolor": MUTED,
        "axes.edgecolor": _RULE,
        "axes.facecolor": "none",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": _RULE,
        "grid.linewidth": 0.6,
        "xtick.color": _RULE,
        "ytick.color": _RULE,
        "xtick.labelcolor": MUTED,
        "ytick.labelcolor": MUTED,
        "axes.unicode_minus": False,
        "text.parse_math": False,
    }
    with mpl.rc_context(style):
        figure = Figure(figsize=inches, facecolor="none", layout="constrained")
        FigureCanvasSVG(figure)
        fill(figure.add_subplot())
        buffer = io.StringIO()
        # None omits a metadata entry, including the date.
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return _for_a_page(buffer.getvalue())


def _for_a_page(text: str) -> str:
    """Turn matplotlib's SVG document into an element for an HTML page."""
    text = text[text.index("<svg") :].strip()
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = _GROUP_ID.sub("", text)
    head, rest = text.split(">", 1)
    box = re.search(r'viewBox="[^"]*"', head)
    if box is None:
        raise ValueError("matplotlib wrote an SVG without a viewBox")
    text = f'<svg {box.group()} aria-hidden="true" focusable="false">{rest}'
    for standin, colour in {**_STANDINS, **_SERIES}.items():
        text = text.replace(standin, colour)
    return text.replace("'DejaVu Sans', sans-serif", _FONT).replace("'DejaVu Sans'", _FONT)


def learning_curves(scenario: str, cells: Sequence[Evaluated]) -> list[Chart]:
    """Return charts of loss, Dice and learning rate per epoch, one line per cell: training dashed, validation solid.

    With more than :data:`TOGETHER` cells, training and validation have separate charts with solid lines.
    """
    charts = []
    crowded = len(cells) > TOGETHER
    for title, columns in _SPLIT_CURVES if crowded else _CURVES:

        def fill(axes: Axes, title: str = title, columns: tuple[str, ...] = columns) -> None:
            from matplotlib.ticker import MaxNLocator

            for data in cells:
                for column in columns:
                    dashed = column.startswith("train") and not crowded
                    axes.plot(
                        data.history["epoch"],
                        data.history[column],
                        color=colour_of(data.cell.network),
                        linestyle=(0, (3, 2)) if dashed else "-",
                        linewidth=1.1 if dashed or crowded else 1.7,
                        marker="o" if len(data.history) == 1 else None,
                    )
            rates = pd.concat([data.history["learning_rate"] for data in cells])
            if title == "Learning rate" and rates.min() > 0 and rates.max() / rates.min() > 20:
                axes.set_yscale("log")
            axes.yaxis.set_major_formatter(plain_number)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
            axes.set_xlabel("epoch")

        svg = draw(f"{scenario}-{title}", (3.7, 2.6), fill)
        what = "over the epochs, training dashed and validation solid" if len(columns) > 1 else "over the epochs"
        charts.append(Chart(title, f"{scenario_title(scenario)}: {title.lower()} {what}", svg))
    return charts


def plain_number(value: float, _position: float) -> str:
    """Return a tick's label: at most four digits, without trailing zeros."""
    return f"{value:.4g}"


def roc_curve(scenario: str, cells: Sequence[Evaluated]) -> Chart:
    """Return the ROC curves of the test pixels against original masks, with an inset of the upper left corner."""

    def fill(axes: Axes) -> None:
        corner = axes.inset_axes((0.34, 0.12, 0.62, 0.62), facecolor=_SURFACE)
        axes.plot([0, 1], [0, 1], color=_RULE, linewidth=1, linestyle=(0, (1, 2)))
        for data in cells:
            curve = data.roc.dropna()
            for place in (axes, corner):
                place.plot(curve["fpr"], curve["tpr"], color=colour_of(data.cell.network), linewidth=1.6)
        corner.set(xlim=(0, 0.1), ylim=(0.9, 1.0))
        corner.set_xticks([0, 0.05, 0.1])
        corner.set_yticks([0.9, 0.95, 1.0])
        corner.tick_params(labelsize=8)
        for place in (axes, corner):
            place.xaxis.set_major_formatter(plain_number)
            place.yaxis.set_major_formatter(plain_number)
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel="false-positive rate", ylabel="true-positive rate")

    svg = draw(f"{scenario}-roc", (3.7, 3.4), fill)
    title = scenario_title(scenario)
    return Chart(title, f"{title}: ROC curves of the test pixels; the inset enlarges the upper left corner", svg)


Strip = tuple[str, str, np.ndarray]  # its name, the network, the Dice of its images in ascending order


def _strips(cells: Sequence[Evaluated]) -> list[Strip]:
    strips: list[Strip] = []
    for network in dict.fromkeys(data.cell.network for data in cells):
        cases = pd.concat([data.cases for data in cells if data.cell.network == network])
        chosen = cases[(cases["split"] == "test") & (cases["masks"] == "original")].dropna(subset=["dice"])
        over_seeds = chosen.groupby(["site", "id"], sort=True)["dice"].mean()
        for site, dice in over_seeds.groupby("site", sort=True):
            strips.append((f"{paper.name(network)} · {site}", network, np.sort(dice.to_numpy(float))))
    return strips


def dice_distributions(by_scenario: dict[str, list[Evaluated]]) -> dict[str, Chart]:
    """Return charts of the test images' Dice against original masks by scenario, one strip per network and site.

    An image's Dice is its mean over seeds. The bar is the interquartile range and the tick the median. All scenarios
    share the range of the axis; scenarios without images are omitted.
    """
    strips = {name: found for name, cells in by_scenario.items() if (found := _strips(cells))}
    every = [strip for found in strips.values() for strip in found]
    lowest = min((float(dice[0]) for _, _, dice in every), default=0.0)
    labels = max((len(name) for name, _, _ in every), default=0)
    return {name: _dice_distribution(name, found, lowest, labels) for name, found in strips.items()}


def _dice_distribution(scenario: str, strips: list[Strip], lowest: float, labels: int) -> Chart:
    width, height = 11.0, 0.75 + 0.42 * len(strips)

    def fill(axes: Axes) -> None:
        for row, (_, network, dice) in enumerate(strips):
            # Multiples of the golden ratio spread the points evenly and reproducibly.
            heights = row + 0.46 * ((np.arange(len(dice)) * 0.6180339887) % 1 - 0.5)
            low, middle, high = np.percentile(dice, [25, 50, 75])
            axes.barh(row, high - low, left=low, height=0.66, color=colour_of(network), alpha=0.2, linewidth=0)
            axes.plot([middle, middle], [row - 0.33, row + 0.33], color=colour_of(network), linewidth=2.2)
            axes.plot(
                dice, heights, linestyle="none", marker="o", markersize=3.6,
                markerfacecolor=colour_of(network), markeredgecolor=_SURFACE, markeredgewidth=0.5,
            )  # fmt: skip
        axes.set_yticks(range(len(strips)), [name for name, _, _ in strips])
        axes.tick_params(axis="y", length=0, labelcolor=_INK)
        axes.grid(axis="y", visible=False)
        axes.spines["left"].set_visible(False)
        axes.set_ylim(len(strips) - 0.45, -0.55)
        margin = 0.02 * (1 - lowest) + 0.001
        axes.set_xlim(max(-0.01, lowest - margin), 1.0 + margin / 2)
        axes.xaxis.set_major_formatter(plain_number)
        axes.set_xlabel("Dice of one image")
        # Set explicitly, so that the axes of all scenarios are aligned: inches, then shares of the figure.
        left, bottom = 0.2 + 0.082 * labels, 0.5
        axes.set_position(
            (left / width, bottom / height, (width - left - 0.15) / width, (height - bottom - 0.1) / height)
        )

    svg = draw(f"{scenario}-dice", (width, height), fill)
    title = scenario_title(scenario)
    words = "; ".join(f"{name}: median {np.median(dice):.4f}, lowest {dice[0]:.4f}" for name, _, dice in strips)
    return Chart(title, f"{title}: Dice of each test image against original masks. {words}", svg)
