"""Line charts: learning, ROC and reliability curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import altair as alt
import pandas as pd

from components.report import paper
from components.report.charts import MARKS, Chart, by_network, by_row, finish, table
from components.report.layout import Results, scenario_title
from components.report.load import Evaluated
from components.report.reliability import expected_calibration_error

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
KINDS = {"train_loss": "training", "train_dice": "training", "learning_rate": ""}
KINDS |= {"validation_loss": "validation", "validation_dice": "validation"}
HEIGHT = 230  # pixels
APART, RISE = 0.05, 0.005  # least distance of two points of a ROC curve, shares of the chart's width and height


@dataclass(frozen=True)
class _Line:
    """One line of a chart: its network, name and points; the points have the columns of the encodings."""

    network: str
    name: str
    points: pd.DataFrame
    dashed: bool = False


def learning_curves(scenario: str, cells: Sequence[Evaluated], results: Results) -> list[Chart]:
    """Return charts of loss, Dice and learning rate per epoch, one line per cell: training dashed, validation solid.

    With more than :data:`TOGETHER` cells, training and validation have separate charts with solid lines.
    """
    charts = []
    for title, columns in _SPLIT_CURVES if len(cells) > TOGETHER else _CURVES:
        both = len(columns) > 1
        lines = [
            _Line(
                data.cell.network,
                results.named(data.cell) + (f", {KINDS[column]}" if both else ""),
                data.history[["epoch"]].assign(value=data.history[column]),
                dashed=both and KINDS[column] == "training",
            )
            for data in cells
            for column in columns
        ]
        rates = pd.concat([line.points["value"] for line in lines])
        wide = title == "Learning rate" and rates.min() > 0 and rates.max() / rates.min() > 20
        scale = alt.Scale(type="log") if wide else alt.Scale(zero=False)
        epochs = alt.Axis(tickMinStep=1, format="d")
        chart = _lines(
            lines,
            alt.X("epoch", type="quantitative", title="epoch", axis=epochs, scale=alt.Scale(nice=False, zero=False)),
            alt.Y("value", type="quantitative", title=None, scale=scale),
            "datum.name + '\\nEpoch ' + datum.epoch + ': ' + format(datum.value, '.4~g')",
        )
        what = "over the epochs, training dashed and validation solid" if both else "over the epochs"
        charts.append(finish(title, f"{scenario_title(scenario)}: {title.lower()} {what}", chart, HEIGHT))
    return charts


def roc_curves(scenario: str, cells: Sequence[Evaluated], results: Results) -> list[Chart]:
    """Return the ROC curves of the test pixels against original masks, and the upper left corner enlarged."""
    title = scenario_title(scenario)
    charts = []
    for what, right, bottom in ((title, 1.0, 0.0), (f"{title}, upper left corner", 0.1, 0.9)):
        lines = [
            _Line(data.cell.network, results.named(data.cell), _thinned(data.roc, right, bottom)) for data in cells
        ]
        chart = _lines(
            lines,
            alt.X("x", type="quantitative", title="false-positive rate").scale(domain=[0, right], nice=False),
            alt.Y("y", type="quantitative", title="true-positive rate").scale(domain=[bottom, 1], nice=False),
            "datum.name + '\\nFalse-positive rate ' + format(datum.x, '.3~f')"
            " + ', true-positive rate ' + format(datum.y, '.4~f')",
            diagonal=bottom == 0,
            reached=f"datum.y >= {bottom}",
        )
        text = f"{what}: ROC curves of the test pixels, true-positive rate over false-positive rate"
        charts.append(finish(what, text, chart, HEIGHT))
    return charts


def _thinned(roc: pd.DataFrame, right: float, bottom: float) -> pd.DataFrame:
    """Return the points of a ROC curve up to ``right``, without points that almost coincide with the previous one."""
    curve = roc.dropna().rename(columns={"fpr": "x", "tpr": "y"})
    curve = curve[curve["x"] <= right]
    points = list(zip(curve["x"], curve["y"], strict=True))
    kept: list[int] = []
    for number, (x, y) in enumerate(points):
        far = not kept or x - points[kept[-1]][0] >= right * APART or y - points[kept[-1]][1] >= (1 - bottom) * RISE
        if far or number == len(points) - 1:
            kept.append(number)
    return curve.iloc[kept]


def reliability_curve(scenario: str, cells: Sequence[Evaluated], results: Results) -> Chart:
    """Return the chart of observed over predicted probability, one line per cell."""
    known = [(data, data.reliability) for data in cells if data.reliability is not None]
    lines = []
    for data, bins in known:
        filled = bins[bins["pixels"] > 0].rename(columns={"predicted": "x", "observed": "y"})
        lines.append(_Line(data.cell.network, results.named(data.cell), filled[["x", "y", "pixels"]]))
    chart = _lines(
        lines,
        alt.X("x", type="quantitative", title="predicted probability").scale(domain=[0, 1]),
        alt.Y("y", type="quantitative", title="share that is lung").scale(domain=[0, 1]),
        "datum.name + '\\nPredicted ' + format(datum.x, '.3f') + ', lung ' + format(datum.y, '.3f')"
        " + ', ' + format(datum.pixels, ',') + ' pixels'",
        diagonal=True,
        dots=True,
    )
    title = scenario_title(scenario)
    words = "; ".join(f"{paper.name(data.cell.network)} {expected_calibration_error(bins):.4f}" for data, bins in known)
    text = f"{title}: share of test pixels that are lung over their predicted probability. Calibration error: {words}"
    return finish(title, text, chart, HEIGHT)


def _lines(
    lines: Sequence[_Line],
    x: alt.X,
    y: alt.Y,
    said: str,
    *,
    diagonal: bool = False,
    dots: bool = False,
    reached: str = "true",
) -> alt.LayerChart:
    """Return a chart of lines.

    Args:
        lines: the lines.
        x: encoding of the x axis.
        y: encoding of the y axis.
        said: Vega expression of a point's title and value, in two lines; ``datum.name`` is the line's name.
        diagonal: True adds a dotted line from (0, 0) to (1, 1).
        dots: True draws the points.
        reached: Vega expression, true for points that respond to hover and focus.
    """
    frame = pd.concat([line.points.assign(row=row) for row, line in enumerate(lines)], ignore_index=True)
    colour = by_network(list(dict.fromkeys(line.network for line in lines)))
    curve = alt.Chart().mark_line(strokeWidth=1.8, clip=True, aria=False).encode(x=x, y=y, color=colour, detail="row:N")
    if any(line.dashed for line in lines):
        dash = alt.StrokeDash("of", type="nominal").scale(domain=["training", "validation"], range=[[4, 3], [1, 0]])
        curve = curve.encode(
            strokeDash=dash.legend(title=None, orient="bottom", symbolType="stroke", symbolStrokeWidth=2)
        )
    # Without dots a point is a large invisible mark, which the style sheet shows on hover and focus.
    points = alt.Chart().mark_point(
        filled=True, size=45 if dots else 110, opacity=1 if dots else 0, clip=not dots, strokeWidth=0
    )
    points = points.encode(x=x, y=y, color=colour, tooltip="said:N", description="said:N")
    points = points.transform_filter(reached).transform_calculate(said=said).properties(name=MARKS)
    layers: list[alt.Chart] = [curve, points]
    if diagonal:
        ends = alt.InlineData(values=[{"x": 0, "y": 0}, {"x": 1, "y": 1}])
        equal = alt.Chart(ends).mark_line(stroke="var(--muted)", strokeWidth=1, strokeDash=[1, 3], aria=False)
        layers.insert(0, equal.encode(x=x, y=y))
    chart = alt.LayerChart(layer=layers, data=table(frame))
    return chart.transform_calculate(
        network=by_row([paper.name(line.network) for line in lines]),
        name=by_row([line.name for line in lines]),
        of=by_row(["training" if line.dashed else "validation" for line in lines]),
    )
