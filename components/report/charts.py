"""Shared parts of the page's charts: Vega-Lite specifications, colours by network, and JavaScript libraries."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd
from markupsafe import Markup

from components.report import paper

SERIES = 9  # number of colours in the page's style sheet, --s0, --s1 ...
# Name of the layer whose marks show a title and a value on hover and focus; templates/charts.js uses it.
MARKS = "marks"
VENDOR = Path(__file__).parent / "vendor"
# vega-interpreter is only published as an ES module, but the page uses plain scripts. So two lines are replaced.
_IMPORT = "import { ascending, isString, DisallowedObjectProperties } from 'vega-util';"
_EXPORT = "export { expression as expressionInterpreter };"


@dataclass(frozen=True)
class Chart:
    """A chart: ``alt`` is its text alternative, ``spec`` its specification in Vega-Lite."""

    title: str
    alt: str
    spec: dict[str, Any]


def libraries() -> Markup:
    """Return the JavaScript of Vega, Vega-Lite and vega-interpreter, with their licences.

    Raises:
        ValueError: vega-interpreter is of an unknown version.
    """
    licences = (VENDOR / "LICENSES.txt").read_text(encoding="utf-8")
    vega, lite, interpreter = (
        (VENDOR / name).read_text(encoding="utf-8")
        for name in ("vega.min.js", "vega-lite.min.js", "vega-interpreter.js")
    )
    for line in (_IMPORT, _EXPORT):
        if interpreter.count(line) != 1:
            raise ValueError(f"vega-interpreter.js: not the version that this code knows, it lacks the line {line!r}")
    interpreter = interpreter.replace(_IMPORT, "const { ascending, isString, DisallowedObjectProperties } = vega;")
    interpreter = interpreter.replace(_EXPORT, "return expression;")
    parts = (f"/*\n{licences}*/", vega, lite, f"const expressionInterpreter = (() => {{\n{interpreter}\n}})();")
    # Browsers would request the source maps.
    lines = (line for line in "\n".join(parts).splitlines() if not line.startswith("//# sourceMappingURL="))
    return Markup("\n".join(lines))  # noqa: S704 - files of this repository


def colour_number(network: str) -> int:
    """Return the number of a network's series colour, the same in every chart of every report."""
    return paper.order(network)[0] % SERIES


def table(frame: pd.DataFrame) -> alt.InlineData:
    """Return a frame as a chart's data by columns, the shortest form, with numbers of five significant digits.

    The page's script converts it to rows. Vega can also read CSV, but uses ``eval`` for it.
    """
    columns: dict[str, Any] = {}
    for name in frame:
        values = frame[name]
        if pd.api.types.is_float_dtype(values):
            columns[str(name)] = [None if math.isnan(value) else float(f"{value:.5g}") for value in values]
        else:
            columns[str(name)] = values.tolist()
    return alt.InlineData(values=columns)


def by_row(values: Sequence[str]) -> str:
    """Return a Vega expression that selects from ``values`` by column ``row``; a long table need not repeat them."""
    return f"{json.dumps(values, ensure_ascii=False)}[datum.row]"


def by_network(networks: Sequence[str], *, legend: bool = True) -> alt.Color:
    """Return the encoding of column ``network`` as colour; ``legend`` adds a legend if there are several networks."""
    scale = alt.Scale(
        domain=[paper.name(name) for name in networks],
        range=[f"var(--s{colour_number(name)})" for name in networks],
    )
    names = alt.Legend(title=None, orient="bottom", columns=2, symbolType="stroke", symbolStrokeWidth=3)
    return alt.Color("network", type="nominal", scale=scale, legend=names if legend and len(networks) > 1 else None)


def finish(title: str, text: str, chart: alt.LayerChart, height: int) -> Chart:
    """Return the chart with its text alternative, as wide as its container and ``height`` pixels high."""
    sized = chart.properties(width="container", height=height, description=text)
    with alt.data_transformers.enable(consolidate_datasets=False):
        spec: dict[str, Any] = sized.to_dict()
    # The page's script has one configuration for all charts.
    return Chart(title, text, {key: value for key, value in spec.items() if key not in ("$schema", "config")})
