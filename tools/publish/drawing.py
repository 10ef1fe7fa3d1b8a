"""Style of the page's figures: reproducible SVG files in a colour-blind-safe palette."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.report import paper

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, RULE = "#222222", "#5c5c5c", "#dddddd"
PAPER_COLOUR = "#d55e00"
# Okabe and Ito, Color Universal Design, 2008; DEFU-Net is black.
_COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#b8a800", "#0072b2", "#cc79a7", "#000000", "#d55e00", "#999999")
_MARKERS = "^vsDP<oXp"


def colour(network: str) -> str:
    """Return the colour of a network, the same in every figure."""
    return _COLOURS[paper.order(network)[0] % len(_COLOURS)]


def marker(network: str) -> str:
    """Return the marker of a network, the same in every figure."""
    return _MARKERS[paper.order(network)[0] % len(_MARKERS)]


def draw(path: Path, inches: tuple[float, float], fill: Callable[[Figure], None]) -> None:
    """Write a reproducible SVG of a figure, with text as outlines and without a date.

    Args:
        path: the output file; its name is the seed of the SVG's ids.
        inches: width and height.
        fill: draws into an empty figure.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {
        "svg.fonttype": "path",
        "svg.hashsalt": path.stem,
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans"],
        "font.size": 9,
        "text.color": INK,
        "text.parse_math": False,
        "axes.labelcolor": INK,
        "axes.edgecolor": MUTED,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.titlesize": 10,
        "grid.color": RULE,
        "grid.linewidth": 0.6,
        "xtick.color": INK,
        "ytick.color": INK,
        "legend.frameon": False,
    }
    with mpl.rc_context(style):
        figure = Figure(figsize=inches, facecolor="white", layout="constrained")
        FigureCanvasSVG(figure)
        fill(figure)
        metadata: dict[Any, Any] = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(path, format="svg", metadata=metadata)
    path.write_text(re.sub(r"<metadata>.*?</metadata>\s*", "", path.read_text(encoding="utf-8"), flags=re.DOTALL))


def plain(axes: Axes) -> None:
    """Remove spines, ticks and grid lines that a category axis does not need."""
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
