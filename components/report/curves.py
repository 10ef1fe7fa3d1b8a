"""Charts of lines: learning, ROC and reliability curves."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import pandas as pd

from components.report import paper
from components.report.charts import MARKS, Chart, by_network, finish, table
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
HEIGHT = 230  # pixels
POINTS = 40  # of a ROC curve, for the mouse and the keyboard; the line has all


def learning_curves(scenario: str, cells: Sequence[Evaluated], results: Results) -> list[Chart]:
    """Return charts of loss, Dice and learning rate per epoch, one line per cell: training dashed, validation solid.

    With more than :data:`TOGETHER` cells, training and validation have separate charts with solid lines.
    """
    charts = []
    for title, columns in _SPLIT_CURVES if len(cells) > TOGETHER else _CURVES:
        parts = []
        for data in cells:
            for column in columns:
                part = data.history[["epoch"]].assign(value=data.history[column], of=column.partition("_")[0])
                parts.append(_named(part, data, results))
        frame = pd.concat(parts, ignore_index=True)
        rates = frame["value"]
        wide = title == "Learning rate" and rates.min() > 0 and rates.max() / rates.min() > 20
        both = len(columns) > 1
        said = "datum.name + (datum.of == 'train' ? ', training' : ', validation')" if both else "datum.name"
        chart = _lines(
            frame,
            alt.X("epoch", type="quantitative", title="epoch", axis=alt.Axis(tickMinStep=1, format="d"))
            .scale(nice=False, zero=False),
            alt.Y("value", type="quantitative", title=None, scale=alt.Scale(type="log") if wide else alt.Scale(zero=False)),
            f"{said} + '\\nEpoch ' + datum.epoch + ': ' + format(datum.value, '.4~g')",
            dashes=both,
        )  # fmt: skip
        what = "over the epochs, training dashed and validation solid" if both else "over the epochs"
        charts.append(finish(title, f"{scenario_title(scenario)}: {title.lower()} {what}", chart, HEIGHT))
    return charts


def roc_curves(scenario: str, cells: Sequence[Evaluated], results: Results) -> list[Chart]:
    """Return the ROC curves of the test pixels against original masks, and the upper left corner enlarged."""
    title = scenario_title(scenario)
    charts = []
    for what, right, bottom in ((title, 1.0, 0.0), (f"{title}, upper left corner", 0.1, 0.9)):
        parts = []
        for data in cells:
            curve = data.roc.dropna().rename(columns={"fpr": "x", "tpr": "y"})
            inside = curve.index[(curve["x"] <= right) & (curve["y"] >= bottom)]
            chosen = inside[:: max(1, len(inside) // POINTS)]
            parts.append(_named(curve.assign(at=curve.index.isin(chosen).astype(int)), data, results))
        chart = _lines(
            pd.concat(parts, ignore_index=True),
            alt.X("x", type="quantitative", title="false-positive rate").scale(domain=[0, right], nice=False),
            alt.Y("y", type="quantitative", title="true-positive rate").scale(domain=[bottom, 1], nice=False),
            "datum.name + '\\nFalse-positive rate ' + format(datum.x, '.3~f')"
            " + ', true-positive rate ' + format(datum.y, '.4~f')",
            diagonal=bottom == 0,
        )
        text = f"{what}: ROC curves of the test pixels, true-positive rate over false-positive rate"
        charts.append(finish(what, text, chart, HEIGHT))
    return charts


def reliability_curve(scenario: str, cells: Sequence[Evaluated], results: Results) -> Chart:
    """Return observed over predicted probability, one line a cell."""
    known = [(data, data.reliability) for data in cells if data.reliability is not None]
    parts = []
    for data, bins in known:
        filled = bins[bins["pixels"] > 0].rename(columns={"predicted": "x", "observed": "y"})
        parts.append(_named(filled[["x", "y", "pixels"]], data, results))
    chart = _lines(
        pd.concat(parts, ignore_index=True),
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


def _named(frame: pd.DataFrame, data: Evaluated, results: Results) -> pd.DataFrame:
    return frame.assign(network=paper.name(data.cell.network), name=results.named(data.cell), key=data.cell.network)


def _lines(
    frame: pd.DataFrame,
    x: alt.X,
    y: alt.Y,
    said: str,
    *,
    dashes: bool = False,
    diagonal: bool = False,
    dots: bool = False,
) -> alt.LayerChart:
    """Return lines by network and seed.

    Args:
        frame: the points; ``network``, ``name`` and ``key`` are those of the cell, ``of`` is train or validation,
            ``at`` is 1 for the points that the mouse and the keyboard reach (without it, all).
        x: encoding.
        y: encoding.
        said: a point's title and value, in two lines, as an expression.
        dashes: training is dashed, with a legend.
        diagonal: a dotted line from 0, 0 to 1, 1.
        dots: points are drawn.
    """
    networks = list(dict.fromkeys(frame["key"]))
    frame = frame.drop(columns="key").assign(row=frame.groupby(["name", "of"] if dashes else ["name"]).ngroup())
    colour = by_network(networks)
    line = alt.Chart().mark_line(strokeWidth=1.8, clip=True, aria=False).encode(x=x, y=y, color=colour, detail="row:N")
    if dashes:
        line = line.encode(
            strokeDash=alt.StrokeDash("of", type="nominal", title=None)
            .scale(domain=["train", "validation"], range=[[4, 3], [1, 0]])
            .legend(
                orient="bottom",
                symbolType="stroke",
                symbolStrokeWidth=2,
                labelExpr="datum.label == 'train' ? 'training' : datum.label",
            )
        )
    # Without a mark of its own a point is a large one, which the style sheet shows under the mouse and the focus.
    points = alt.Chart().mark_point(
        filled=True, size=45 if dots else 110, opacity=1 if dots else 0, clip=not dots, strokeWidth=0
    )  # fmt: skip
    points = points.encode(x=x, y=y, color=colour, tooltip="said:N", description="said:N")
    if "at" in frame:
        points = points.transform_filter("datum.at == 1")
    points = points.transform_calculate(said=said).properties(name=MARKS)
    layers: list[alt.Chart] = [line, points]
    if diagonal:
        ends = alt.InlineData(values=[{"x": 0, "y": 0}, {"x": 1, "y": 1}])
        equal = alt.Chart(ends).mark_line(stroke="var(--muted)", strokeWidth=1, strokeDash=[1, 3], aria=False)
        layers.insert(0, equal.encode(x=x, y=y))
    return alt.layer(*layers, data=table(frame))

