"""Outputs of ``defunet drift``: printed lines, a page, JSON, and gauges for Prometheus."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

from core.errors import UserError
from core.files import write_file, write_json
from core.templating import environment
from core.terminal import counted, printable
from model.inference.package import PERCENTILES
from serving.drift import RECENT, UNKNOWN, Alarm, Drift, Reference

P5, MEDIAN, P95 = (PERCENTILES.index(each) for each in (5, 50, 95))
CHANGED, MUCH = 0.1, 0.25  # population stability index
PAGE, DOCUMENT = "drift.html", "drift.json"
TITLES = {
    "grey_mean": "mean grey value",
    "grey_deviation": "deviation of grey values",
    "lung_area": "lungs, share of the image",
    "right_area": "right lung, share of the image",
    "left_area": "left lung, share of the image",
    "symmetry": "smaller lung / larger lung",
    "uncertain": "uncertain share of the image",
    "height": "height, pixels",
    "width": "width, pixels",
    "expected_dice": "expected Dice",
}


def _device(name: str) -> str:
    return "unknown device" if name == UNKNOWN else printable(name)


def _day(name: str) -> str:
    return "unknown day" if name == UNKNOWN else printable(name)


def sentence(alarm: Alarm) -> str:
    """Return one sentence that describes an alarm."""
    return (
        f"{_device(alarm.device)}: {TITLES[alarm.figure]} is {alarm.seen:.4g}, in training {alarm.expected:.4g} "
        f"(medians), after {alarm.picture} X-rays ({_day(alarm.day)}); p = {alarm.p:.1g}, below {alarm.level:.1g}"
    )


def lines(found: Drift, count: int, window: int) -> Iterator[str]:
    """Yield the lines to print: one per device and day, one per alarm, and a summary."""
    for group in found.groups:
        place = f"{_device(group.device)}, {_day(group.day)}"
        yield f"{place}: {counted(group.pictures, 'X-ray')}, {group.flagged:.0%} with flags"
    for device, indices in found.psi.items():
        for name, value in sorted(indices.items(), key=lambda each: -each[1])[:1]:
            yield f"{_device(device)}, last {RECENT} X-rays: PSI at most {value:.2f} ({TITLES[name]})"
    for alarm in found.alarms:
        yield f"alarm: {sentence(alarm)}"
    counts = Counter[str]()
    for group in found.groups:
        counts[group.device] += group.pictures
    devices = len(counts)
    for device, count_of in counts.items():
        if count_of < window:
            yield f"not tested: {_device(device)}, {count_of} of the {window} X-rays of a window"
    alarms = f"{len(found.alarms)} of {devices} devices with an alarm" if found.alarms else "no alarm"
    yield f"{count} predictions, tested in windows of {window}: {alarms}"


def write_page(found: Drift, reference: Mapping[str, Reference], window: int, level: float, out: Path) -> Path:
    """Write ``drift.html``, one file that needs no network, and ``drift.json``; return the page's path.

    Raises:
        UserError: the folder cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out}: the folder cannot be made ({error.strerror}); choose another --out") from error
    write_json(out / DOCUMENT, asdict(found) | {"window": window, "level": level})
    template = environment(Path(__file__).with_name("templates"), html=True).get_template("drift.html.j2")
    text = template.render(
        alarms=[sentence(alarm) for alarm in found.alarms],
        groups=found.groups,
        psi={_device(name): indices for name, indices in found.psi.items()},
        titles=TITLES,
        recent=RECENT,
        charts=[(TITLES[name], _chart(found, each, name)) for name, each in reference.items()],
        window=window,
        level=level,
        changed=CHANGED,
        much=MUCH,
    )
    with write_file(out / PAGE) as partial:
        partial.write_text(text, encoding="utf-8")
    return out / PAGE


def _chart(found: Drift, reference: Reference, name: str) -> str:
    """Return an SVG of a figure's median per day, one line per device, with the reference's 5th to 95th percentile."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    days = sorted({group.day for group in found.groups})
    expected = reference.percentiles
    # Keep text as text, and make the bytes reproducible.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.size": 9}):
        figure = Figure(figsize=(5, 2.2), layout="constrained")
        axes = figure.subplots()
        axes.axhspan(expected[P5], expected[P95], color="0.88", label="training, 5 to 95 %")
        axes.axhline(expected[MEDIAN], color="0.6", linewidth=1)
        for device in sorted({group.device for group in found.groups}):
            points = [group for group in found.groups if group.device == device and name in group.medians]
            places = [days.index(group.day) for group in points]
            label = _device(device).replace("$", r"\$")  # else Matplotlib reads it as the start of a formula
            axes.plot(places, [group.medians[name] for group in points], marker="o", markersize=3, label=label)
        for alarm in found.alarms:
            if alarm.figure == name:
                axes.axvline(days.index(alarm.day), color="crimson", linewidth=1, linestyle="--")
        shown = range(0, len(days), max(1, len(days) // 4))
        axes.set_xticks(list(shown), [printable(days[number]) for number in shown])
        axes.legend(fontsize=7)
        drawn = io.StringIO()
        figure.savefig(drawn, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = drawn.getvalue()
    return text[text.index("<svg") :]


def write_gauges(found: Drift, file: Path) -> None:
    """Write gauges in Prometheus' text format: each device's alarm, number of images and stability indices.

    Raises:
        UserError: the file cannot be written.
    """
    from prometheus_client import CollectorRegistry, Gauge
    from prometheus_client.exposition import generate_latest

    registry = CollectorRegistry()
    alarm = Gauge("defunet_drift_alarm", "Whether a device has an alarm.", ["device"], registry=registry)
    pictures = Gauge("defunet_drift_pictures", "Predictions of a device.", ["device"], registry=registry)
    psi = Gauge(
        "defunet_drift_psi", "Population stability index of the last X-rays.", ["device", "figure"], registry=registry
    )
    alarmed = {each.device for each in found.alarms}
    for device, indices in found.psi.items():
        for name, value in indices.items():
            psi.labels(device, name).set(value)
    for group in found.groups:
        pictures.labels(group.device).inc(group.pictures)
        alarm.labels(group.device).set(group.device in alarmed)
    with write_file(file) as partial:
        partial.write_bytes(generate_latest(registry))
