"""Time to decode a PNG with Pillow, with OpenCV and with the pipeline: ``python -m benchmarks.decode [FILES]``.

All three decode the same bytes alternately within one run, on one thread: on a shared machine only ratios are
meaningful. For OpenCV and the pipeline the time includes the check of the file's checksums; Pillow does this itself.
Without files, two synthetic X-rays of the publishers' sizes are drawn, with adaptive row filters as in the sample
cohort. One of them is also measured with each filter alone: NumPy undoes some filters, Pillow the others.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import typer
from PIL import Image
from rich.table import Table

from benchmarks.training import spread
from core import cli, terminal
from core.errors import UserError
from core.files import write_json
from core.images import check_png, decode
from core.provenance import hardware, versions
from tools.sample import PNG, draw_xray

TARGET = 2.0
FILTERS = {
    "None": cv2.IMWRITE_PNG_FILTER_NONE,
    "Sub": cv2.IMWRITE_PNG_FILTER_SUB,
    "Up": cv2.IMWRITE_PNG_FILTER_UP,
    "Average": cv2.IMWRITE_PNG_FILTER_AVG,
    "Paeth": cv2.IMWRITE_PNG_FILTER_PAETH,
}
MODES = ("L", "I;16")  # Pillow's modes of grey images with 8 and 16 bits


@dataclass(frozen=True)
class Group:
    """PNGs that are measured together: the group's name and the files' bytes."""

    name: str
    files: list[bytes]


def by_pillow(data: bytes) -> np.ndarray:
    """Return the pixels as Pillow decodes them."""
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture)


def by_opencv(data: bytes) -> np.ndarray:
    """Return the pixels as OpenCV decodes them, after the check of the file."""
    check_png(data, "picture")
    return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED))


def by_us(data: bytes) -> np.ndarray:
    """Return the pixels as the pipeline decodes them, with the check of the file."""
    return decode(data, "picture")[0]


WAYS: dict[str, Callable[[bytes], np.ndarray]] = {"Pillow": by_pillow, "OpenCV": by_opencv, "now": by_us}


def read_groups(places: list[Path]) -> list[Group]:
    """Return the PNGs of files and folders, grouped by folder, size and bit depth.

    Raises:
        UserError: there is no PNG, or one is not a grey PNG of 8 or 16 bits.
    """
    found: dict[str, list[bytes]] = {}
    for place in places:
        for path in sorted(place.rglob("*.png")) if place.is_dir() else [place]:
            try:
                data = path.read_bytes()
            except OSError as error:
                raise UserError(f"{path}: cannot be read ({error.strerror})") from error
            header = check_png(data, str(path))
            with Image.open(io.BytesIO(data)) as picture:
                if picture.mode not in MODES:
                    raise UserError(f"{path}: not a grey PNG of 8 or 16 bits; leave it out")
            name = f"{path.parent.name}, {header.width} x {header.height}, {header.bit_depth} bits"
            found.setdefault(name, []).append(data)
    if not found:
        raise UserError(f"{', '.join(map(str, places))}: no PNG there; name PNGs, or a folder of them")
    return [Group(name, files) for name, files in found.items()]


def draw_groups(scale: float) -> list[Group]:
    """Return a synthetic X-ray of each site with adaptive filters, and the 16-bit one with each filter alone."""
    groups = []
    for site, bits in (("montgomery", 16), ("shenzhen", 8)):
        picture = draw_xray(site, 1, 0, scale).picture
        name = f"{picture.shape[1]} x {picture.shape[0]}, {bits} bits"
        groups.append(Group(f"{name}, adaptive", [_encode(picture, PNG)]))
        if bits == 16:
            for called, number in FILTERS.items():
                choice = (cv2.IMWRITE_PNG_FILTER, number, cv2.IMWRITE_PNG_COMPRESSION, 6)
                groups.append(Group(f"{name}, {called} alone", [_encode(picture, choice)]))
    return groups


def _encode(picture: np.ndarray, choice: tuple[int, ...]) -> bytes:
    done, data = cv2.imencode(".png", picture, choice)
    if not done:
        raise RuntimeError(f"OpenCV did not encode a picture of {picture.shape} {picture.dtype}")
    return bytes(data)


def measure(group: Group, rounds: int) -> dict[str, Any]:
    """Return the time per image of each decoder and round, and whether all decoders give equal pixels.

    The order changes between turns, so that drift favours no decoder.
    """
    equal = all(len({_told(way(data)) for way in WAYS.values()}) == 1 for data in group.files)  # also warms up
    taken: dict[str, dict[str, list[float]]] = {way: {"processor": [], "wall": []} for way in WAYS}
    for number in range(rounds):
        sums = {way: [0.0, 0.0] for way in WAYS}
        for place, data in enumerate(group.files):
            ways = list(WAYS)
            turn = (number + place) % len(ways)
            for way in ways[turn:] + ways[:turn]:
                began, own = time.perf_counter(), time.process_time()
                WAYS[way](data)
                sums[way][0] += time.process_time() - own
                sums[way][1] += time.perf_counter() - began
        for way, (own, wall) in sums.items():
            taken[way]["processor"].append(1e3 * own / len(group.files))
            taken[way]["wall"].append(1e3 * wall / len(group.files))
    ratios = {
        way: {
            clock: spread([old / new for old, new in zip(taken[way][clock], taken["now"][clock], strict=True)])
            for clock in ("processor", "wall")
        }
        for way in ("Pillow", "OpenCV")
    }
    times = {way: {clock: spread(values) for clock, values in clocks.items()} for way, clocks in taken.items()}
    size = sum(map(len, group.files)) / len(group.files)
    return {"files": len(group.files), "megabytes": size / 1e6, "ms": times, "ratio": ratios, "equal": equal}


def _told(pixels: np.ndarray) -> tuple[Any, ...]:
    return pixels.shape, pixels.dtype.name, pixels.tobytes()


def table(figures: dict[str, Any]) -> Table:
    """Return the figures of :func:`measure` for all groups as a table."""
    columns = ["number", "MB", *WAYS, "Pillow / now", "by the wall clock", "OpenCV / now", "equal"]
    title = "Decoding, ms of processor time a picture: medians over rounds"
    shown = terminal.table(title, ["pictures"], columns)
    for name, row in figures["groups"].items():
        cells = [str(row["files"]), f"{row['megabytes']:.1f}"]
        cells += [f"{row['ms'][way]['processor']['median']:.1f}" for way in WAYS]
        ratio = row["ratio"]
        for found in (ratio["Pillow"]["processor"], ratio["Pillow"]["wall"], ratio["OpenCV"]["processor"]):
            cells.append(f"{found['median']:.2f} ({found['least']:.2f} to {found['most']:.2f})")
        shown.add_row(name, *cells, "all" if row["equal"] else "NO")
    return shown


def main(
    files: Annotated[list[Path] | None, typer.Argument(help="PNGs or folders; else X-rays are drawn.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each way.")] = 7,
    scale: Annotated[float, typer.Option(min=0.1, max=12.5, help="Of drawn X-rays; 12.5 is full size.")] = 12.5,
    out: Annotated[Path, typer.Option("--out", "-o", help="The file of all figures.")] = Path(
        "build/benchmarks/decode.json"
    ),
) -> None:
    """Measure decoding with Pillow, with OpenCV and as the pipeline does it, on the same PNGs; compare all pixels."""
    groups = read_groups(files) if files else draw_groups(scale)
    measured = {group.name: measure(group, rounds) for group in groups}
    name, first = next(iter(measured.items()))
    ratio = first["ratio"]["Pillow"]["processor"]["median"]
    figures: dict[str, Any] = {
        "settings": {"files": [str(place) for place in files or []], "rounds": rounds, "scale": scale},
        "hardware": hardware(),
        "versions": versions(("Pillow", "opencv-python-headless", "deflate", "numpy")),
        "groups": measured,
        "verdict": {"of": name, "target": TARGET, "ratio": ratio, "met": ratio >= TARGET and first["equal"]},
    }
    console = terminal.console(160)
    console.print(f"{figures['hardware']['cpu']}, one thread; {rounds} rounds", table(figures), sep="\n")
    verdict = "met" if figures["verdict"]["met"] else "NOT met"
    console.print(f"{name}: {ratio:.2f} times Pillow's rate, target {TARGET:g}: {verdict}")
    write_json(out, figures)
    console.print(f"wrote {out}")
    if not all(row["equal"] for row in measured.values()):
        raise UserError(f"{out}: pixels differ between the ways")


if __name__ == "__main__":
    cli.run(main)
