"""The images of the page: Figures 5 and 6 and the worst and best cases, embedded as data URIs."""

from __future__ import annotations

import base64
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
from markupsafe import Markup

from components.report import paper
from components.report.cases import Overlay
from components.report.layout import Results, scenario_title
from components.report.load import Evaluated
from core.cell import Cell
from core.files import sha256

XRAY_QUALITY = 85  # WebP quality in percent, only for the grey X-ray and never for a region

FIGURE_NUMBERS = {"shenzhen": "Figure 5", "montgomery": "Figure 6"}


@dataclass(frozen=True)
class Comparison:
    """Figure 5 or 6: one row per X-ray of a site, with the predictions of all networks side by side."""

    title: str
    site: str
    networks: list[str]
    seeds: list[int]
    rows: list[tuple[Overlay, list[Overlay | None]]]


@dataclass(frozen=True)
class Gallery:
    """The worst (worst first) and best (best first) test images of one cell."""

    cell: Cell
    title: str
    worst: list[Overlay]
    best: list[Overlay]


def within(found: dict[str, list[Gallery]], most: int) -> dict[str, list[Gallery]]:
    """Return the galleries with as many images as fit into ``most`` bytes of a page, at least one of each."""
    every = [gallery for part in found.values() for gallery in part]
    for count in range(max((len(gallery.worst + gallery.best) for gallery in every), default=0), 0, -1):
        shown = [item for gallery in every for item in gallery.worst[:count] + gallery.best[:count]]
        # The X-rays are embedded as WebP, about a third of their PNG.
        xrays = {sha256(item.xray): item.xray.stat().st_size // 3 for item in shown}
        if (sum(item.path.stat().st_size for item in shown) + sum(xrays.values())) * 4 // 3 <= most or count == 1:
            return {
                scenario: [replace(one, worst=one.worst[:count], best=one.best[:count]) for one in part]
                for scenario, part in found.items()
            }
    return found


class Places:
    """Link targets on the page for test images, for the dots of the charts.

    A target is ``case-<number>``, a gallery image with the prediction, or ``tile-<number>``, an X-ray of the contact
    sheet (:mod:`components.report.sheet`). Without galleries the page has no viewer, and no targets.

    Args:
        galleries: the galleries of all cells.
        tiles: ids of the contact sheet's X-rays, in the order of the sheet.
    """

    def __init__(self, galleries: list[Gallery], tiles: list[str]) -> None:
        self._numbers: dict[Path, int] = {}
        self._cases: dict[tuple[Cell, str], str] = {}
        self._worst: dict[Cell, str] = {}
        for gallery in galleries:
            for item in gallery.worst + gallery.best:
                number = self._numbers.setdefault(item.path, len(self._numbers))
                self._cases[gallery.cell, item.id] = f"case-{number}"
                self._worst.setdefault(gallery.cell, f"case-{number}")
        self._tiles = {id: f"tile-{number}" for number, id in enumerate(tiles)} if galleries else {}

    def number(self, overlay: Overlay) -> int:
        """Return the number of a gallery image."""
        return self._numbers[overlay.path]

    def of(self, cells: list[Cell], id: str) -> str:
        """Return a test image's target: in the gallery of the first cell that has it, else in the sheet, else empty."""
        found = (self._cases[cell, id] for cell in cells if (cell, id) in self._cases)
        return next(found, self._tiles.get(id, ""))

    def worst(self, cell: Cell) -> str:
        """Return the target of a cell's worst image; empty if it has no gallery."""
        return self._worst.get(cell, "")


class XRays:
    """The X-rays of a page, each embedded only once."""

    def __init__(self, overlays: list[Overlay]) -> None:
        self._keys = {item.xray: sha256(item.xray) for item in overlays}
        files = {key: path for path, key in self._keys.items()}
        self._numbers = {key: number for number, key in enumerate(files)}
        self._addresses = [_webp(path) for path in files.values()]

    def number(self, path: Path) -> int:
        """Return the number of an X-ray; files with equal content have equal numbers."""
        return self._numbers[self._keys[path]]

    def rules(self) -> Markup:
        """Return the CSS rules with the X-rays as background images: class ``x0``, ``x1`` ..."""
        rules = (f".x{number}{{background-image:url({uri})}}" for number, uri in enumerate(self._addresses))
        return Markup("\n".join(rules))  # noqa: S704 - only numbers and base64


def picture(overlay: Overlay) -> str:
    """Return the regions as the data URI of a PNG, because a lossy format would change their colours."""
    return f"data:image/png;base64,{base64.b64encode(overlay.path.read_bytes()).decode('ascii')}"


def _webp(path: Path) -> str:
    pixels = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if pixels is None:
        raise ValueError(f"{path}: was changed while the report was made; run it again")
    data = cv2.imencode(".webp", pixels, [cv2.IMWRITE_WEBP_QUALITY, XRAY_QUALITY])[1].tobytes()
    return f"data:image/webp;base64,{base64.b64encode(data).decode('ascii')}"


def comparisons(cells: list[Evaluated], results: Results) -> list[Comparison]:
    """Return Figures 5 and 6 from the mixed scenario, as in the paper, for the first seed."""
    shown = [data for data in cells if data.cell.scenario == "mixed"]
    shown = [data for data in shown if data.cell == results.seeds(data.cell.network, "mixed")[0]]
    by_cell = [{(item.site, item.id): item for item in data.overlays if item.kind == "figure"} for data in shown]
    places = list(dict.fromkeys(place for found in by_cell for place in found))
    sites = sorted({site for site, _ in places}, key=lambda site: (FIGURE_NUMBERS.get(site, "Further site"), site))
    found_all = []
    for site in sites:
        rows = []
        for place in places:
            if place[0] == site:
                drawn = [found.get(place) for found in by_cell]
                rows.append((next(item for item in drawn if item), drawn))
        networks = [paper.name(data.cell.network) for data in shown]
        seeds = sorted({data.cell.seed for data in shown}) if results.several_seeds else []
        found_all.append(Comparison(FIGURE_NUMBERS.get(site, "Further site"), site, networks, seeds, rows))
    return found_all


def galleries(cells: list[Evaluated], results: Results) -> dict[str, list[Gallery]]:
    """Return the galleries by scenario title."""
    found: dict[str, list[Gallery]] = {}
    for data in cells:
        # Images with undefined Dice are last.
        ranked = sorted(data.overlays, key=lambda item: (item.dice is None, item.dice or 0.0, item.id))
        worst = [item for item in ranked if item.kind == "worst"]
        best = [item for item in reversed(ranked) if item.kind == "best"]
        images = len({item.id for item in worst + best})
        if images < len(worst) + len(best):  # a small split: show each image in only one of the two rows
            worst, best = worst[: images - images // 2], best[: images // 2]
        if worst or best:
            scenario = scenario_title(data.cell.scenario)
            title = f"{results.named(data.cell)}, {scenario}"
            found.setdefault(scenario, []).append(Gallery(data.cell, title, worst, best))
    return found
