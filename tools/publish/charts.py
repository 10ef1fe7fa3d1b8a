"""Draw the figures of the main page: forest plot, ablations, robustness and cost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import pandas as pd

from components.report import paper
from components.report.layout import scenario_title
from components.report.load import scenario_order
from tools.publish.differences import Difference
from tools.publish.drawing import INK, MUTED, PAPER_COLOUR, colour, draw, marker, plain
from tools.publish.measured import CORRUPTIONS, SEVERITIES
from tools.publish.scores import ALL, OVER_BOTH, Score

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DIGITS = 6  # decimals of drawn values; more would differ between CPUs
EDGE = 0.002  # minimum distance of a mark from the edge, so that it is not cut off


def forest(found: Sequence[Score], path: Path) -> None:
    """Draw the Dice of every network in every scenario with its 95 % interval, and the paper's Dice.

    A Dice of the paper far below ours is drawn as a number with an arrow at the edge.
    """
    scenarios = list(dict.fromkeys(score.scenario for score in found))
    networks = sorted({score.network for score in found}, key=paper.order)
    place = {network: len(networks) - 1 - row for row, network in enumerate(networks)}
    least = min(min(score.dice, *(score.interval or ())) for score in found)
    most = max(max(score.dice, score.paper or 0, *(score.interval or ())) for score in found)
    low, high = least - 0.01, most + 0.004

    def fill(figure: Figure) -> None:
        axes = figure.subplots(1, len(scenarios), sharex=True, sharey=True, squeeze=False)[0]
        for axis, scenario in zip(axes, scenarios, strict=True):
            axis.set_title(scenario_title(scenario))
            for score in (item for item in found if item.scenario == scenario):
                y = place[score.network]
                ends = score.interval or (score.dice, score.dice)
                axis.plot([round(end, DIGITS) for end in ends], [y, y], color=INK, linewidth=1.8, zorder=2)
                face = INK if score.over == OVER_BOTH else "white"
                axis.plot(round(score.dice, DIGITS), y, "o", color=INK, markerfacecolor=face, markersize=6, zorder=3)
                if score.paper is None:
                    continue
                if score.paper >= low + EDGE:
                    axis.plot(score.paper, y - 0.28, "D", color=PAPER_COLOUR, markersize=5)
                else:
                    axis.text(low, y - 0.28, f" ◂ {score.paper:.3f}", color=PAPER_COLOUR, va="center", fontsize=8)
            axis.set(xlim=(low, high), ylim=(-0.7, len(networks) - 0.5), xlabel="test Dice")
            axis.set_yticks(list(place.values()), [paper.name(network) for network in place])
            plain(axis)
        _legend_of_scores(figure, found)

    draw(path, (max(4.0, 3.2 * len(scenarios)), 1.3 + 0.42 * len(networks)), fill)


def _legend_of_scores(figure: Figure, found: Sequence[Score]) -> None:
    from matplotlib.lines import Line2D

    marks = [
        Line2D([], [], color=INK, marker="o", linewidth=1.8, markerfacecolor=face, label=f"ours, 95 % over {over}")
        for over, face in ((OVER_BOTH, INK), ("images (fewer than three runs)", "white"))
        if any((score.over == OVER_BOTH) == (over == OVER_BOTH) for score in found)
    ]
    if any(score.paper is not None for score in found):
        marks.append(
            Line2D(
                [], [], color=PAPER_COLOUR, marker="D", linewidth=0, markersize=5, label="paper (◂: lower than shown)"
            )
        )
    figure.legend(handles=marks, loc="outside lower center", ncols=3)


def ablations(found: Sequence[Difference], titles: dict[str, str], path: Path) -> None:
    """Draw the change in Dice of each ablation with its 95 % interval, one panel per scenario.

    Args:
        found: result of :func:`tools.publish.differences.dropped`.
        titles: titles of the ablations by name, in the order of the figure.
        path: the output file.
    """
    from matplotlib.ticker import FixedLocator, NullLocator

    scenarios = sorted({item.scenario for item in found}, key=scenario_order)
    rows = [name for name in titles if any(item.other == name for item in found)]
    marks = [-0.5, -0.1, -0.03, -0.01, -0.003, 0.0, 0.003, 0.01]

    def fill(figure: Figure) -> None:
        axes = figure.subplots(1, len(scenarios), sharex=True, sharey=True, squeeze=False)[0]
        for axis, scenario in zip(axes, scenarios, strict=True):
            axis.set_title(scenario_title(scenario))
            axis.axvline(0, color=MUTED, linewidth=1)
            for item in (item for item in found if item.scenario == scenario):
                y = len(rows) - 1 - rows.index(item.other)
                ends = [round(end, DIGITS) for end in item.interval or (item.value, item.value)]
                face = INK if item.over == OVER_BOTH else "white"
                axis.plot(ends, [y, y], color=INK, linewidth=1.8, zorder=2)
                axis.plot(round(item.value, DIGITS), y, "o", color=INK, markerfacecolor=face, markersize=6, zorder=3)
            axis.set_xscale("symlog", linthresh=0.003, linscale=0.8)
            axis.xaxis.set_major_locator(FixedLocator(marks))
            axis.xaxis.set_minor_locator(NullLocator())
            axis.set_xticklabels([f"{mark:+g}".replace("-", "−") if mark else "0" for mark in marks], fontsize=7)
            axis.set_ylim(-0.6, len(rows) - 0.4)
            axis.set_yticks(range(len(rows)), [titles[name].partition(" (")[0] for name in reversed(rows)])
            axis.set_xlabel("change of test Dice (linear within ±0.003)")
            plain(axis)

    draw(path, (max(5.0, 2.2 + 4.2 * len(scenarios)), 1.2 + 0.32 * len(rows)), fill)


def robustness(frame: pd.DataFrame, path: Path) -> None:
    """Draw test Dice against severity, one panel per corruption and scenario, one line per network and site.

    The band is the interval over images for one training run, and the range of the runs for several.

    Args:
        frame: result of :func:`tools.publish.measured.read_robustness`.
        path: the output file.
    """
    whole = frame.groupby(["network", "scenario", "seed"])["site"].transform(lambda sites: ALL in set(sites))
    frame = frame[~whole | (frame["site"] == ALL)]
    scenarios = sorted(frame["scenario"].unique(), key=scenario_order)
    columns = [name for name in CORRUPTIONS if name in set(frame["corruption"])]
    sites = sorted(frame["site"].unique())

    def fill(figure: Figure) -> None:
        grid = figure.subplots(len(scenarios), len(columns), sharex=True, sharey="row", squeeze=False)
        for line, scenario in zip(grid, scenarios, strict=True):
            for axis, corruption in zip(line, columns, strict=True):
                here = frame[(frame["scenario"] == scenario) & (frame["corruption"] == corruption)]
                for (network, site), part in here.groupby(["network", "site"]):
                    means, low, high = _band(part)
                    style = ("-", "--", ":")[sites.index(site) % 3]
                    axis.plot(means.index, means, style, color=colour(network), marker=marker(network), markersize=4)
                    axis.fill_between(means.index, low, high, color=colour(network), alpha=0.15, linewidth=0)
                axis.set_xticks(range(SEVERITIES + 1))
                if scenario == scenarios[0]:
                    axis.set_title(CORRUPTIONS[corruption])
                if scenario == scenarios[-1]:
                    axis.set_xlabel("severity")
            line[0].set_ylabel(f"{scenario_title(scenario)}\ntest Dice")
        _legend_of_lines(figure, sorted(frame["network"].unique(), key=paper.order), sites)

    draw(path, (1.2 + 1.75 * len(columns), 0.9 + 1.8 * len(scenarios)), fill)


def _band(part: pd.DataFrame) -> tuple[pd.Series[float], pd.Series[float], pd.Series[float]]:
    by_severity = part.round(DIGITS).groupby("severity")
    columns = ("dice", "dice") if part["seed"].nunique() > 1 else ("low", "high")
    return by_severity["dice"].mean(), by_severity[columns[0]].min(), by_severity[columns[1]].max()


def _legend_of_lines(figure: Figure, networks: list[str], sites: list[str]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=colour(name), marker=marker(name), markersize=4, label=paper.name(name))
        for name in networks
    ]
    if sites != [ALL]:
        handles += [
            Line2D([], [], color=MUTED, linestyle=("-", "--", ":")[number % 3], label=f"{site.capitalize()} images")
            for number, site in enumerate(sites)
        ]
    figure.legend(handles=handles, loc="outside lower center", ncols=5)


def cost(frame: pd.DataFrame, found: Sequence[Score], path: Path) -> None:
    """Draw mean Dice over the scenarios against the cost of a prediction.

    Args:
        frame: result of :func:`tools.publish.measured.read_cost`, at the size and width of the scores.
        found: the scores; networks without a score in every scenario are omitted.
        path: the output file.
    """
    dice = mean_dice(found)
    lines = [row for row in frame.to_dict("records") if row["network"] in dice]
    axes_of = (("gmac", "GMAC a picture", 1.0), ("parameters", "parameters, thousands", 1e-3),
               ("milliseconds", "milliseconds a picture", 1.0))  # fmt: skip

    def fill(figure: Figure) -> None:
        axes = figure.subplots(1, len(axes_of), sharey=True)
        for axis, (column, label, factor) in zip(axes, axes_of, strict=True):
            for row in lines:
                name, x = str(row["network"]), factor * float(row[column])
                spread = (float(row["least"]), float(row["most"])) if column == "milliseconds" else (x, x)
                y = round(dice[name], DIGITS)
                axis.plot(spread, (y, y), color=colour(name), linewidth=1.2)
                axis.plot(x, y, marker(name), color=colour(name), markersize=8, label=paper.name(name))
            axis.set(xlabel=label, xlim=(0, 1.08 * axis.get_xlim()[1]))
        axes[0].set_ylabel("test Dice, mean of scenarios")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=7, handletextpad=0.2, columnspacing=1.2)

    draw(path, (9.6, 3.3), fill)


def mean_dice(found: Sequence[Score]) -> dict[str, float]:
    """Return the mean Dice over the scenarios, for networks with a score in all scenarios."""
    scenarios = {score.scenario for score in found}
    by_network = {score.network: [item.dice for item in found if item.network == score.network] for score in found}
    return {network: fmean(dice) for network, dice in by_network.items() if len(dice) == len(scenarios)}
