"""Compare a stream of predictions with the images that the model was trained on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from core.errors import UserError
from model.inference.package import PERCENTILES, Training
from model.inference.quality import Quality

Floats = npt.NDArray[np.float64]
# Each figure of a prediction, and the field of the contract's training statistics that it is compared with. The
# contract names the areas by the image's sides, a prediction by the patient's. Solidity is omitted: predicted outlines
# are smoother than those of the training masks.
TRAINING = {
    "grey_mean": "mean",
    "grey_deviation": "deviation",
    "lung_area": "lung_area",
    "right_area": "left_area",
    "left_area": "right_area",
    "symmetry": "symmetry",
    "uncertain": "uncertain",
    "height": "height",
    "width": "width",
}
EXPECTED_DICE = "expected_dice"  # compared with the validation images, not the training images
FIGURES = (*TRAINING, EXPECTED_DICE)
UNKNOWN = "unknown"  # device or day
RECENT = 100  # the stability index of a device covers its last images, this many
FEW = 50  # with fewer images the index is large by chance


@dataclass(frozen=True)
class Reference:
    """The reference of a figure: its values at :data:`PERCENTILES`, and the number of images they are computed from."""

    percentiles: Sequence[float]
    images: int

    def sample(self) -> Floats:
        """Return float64 (images,): one value per image, interpolated linearly between the percentiles."""
        shares = (np.arange(self.images) + 0.5) / self.images * 100
        values: Floats = np.interp(shares, PERCENTILES, self.percentiles)
        return values


def references(training: Training, quality: Quality | None = None) -> dict[str, Reference]:
    """Return the reference of each of :data:`FIGURES`, from a package's contract.

    Omits figures that packages of earlier releases lack, and figures with the same value for all images, such as the
    size of images that were resized beforehand.
    """
    found = {
        name: Reference(getattr(training, field), training.validated if field == "uncertain" else training.images)
        for name, field in TRAINING.items()
    }
    if quality is not None and quality.expected:
        found[EXPECTED_DICE] = Reference(quality.expected, quality.images)
    return {name: each for name, each in found.items() if each.images and each.percentiles[0] < each.percentiles[-1]}


@dataclass(frozen=True)
class Observed:
    """A prediction: its day, device and figures (NaN if unknown), and whether it has flags."""

    day: str
    device: str
    flagged: bool
    figures: dict[str, float]


@dataclass(frozen=True)
class Alarm:
    """The first window of a device in which a figure differs from its reference.

    Attributes:
        device: the device.
        day: day of the window's last image.
        picture: number of that image in the device's stream, from 1.
        figure: a key of :data:`FIGURES`.
        p: p-value of the test.
        level: significance level of this test, see :func:`watch`.
        expected: the reference's median.
        seen: the window's median.
    """

    device: str
    day: str
    picture: int
    figure: str
    p: float
    level: float
    expected: float
    seen: float


@dataclass(frozen=True)
class Group:
    """The predictions of one device on one day.

    Attributes:
        device: the device.
        day: the day.
        pictures: number of images.
        flagged: share of images with a flag, 0 to 1.
        medians: medians of the figures.
    """

    device: str
    day: str
    pictures: int
    flagged: float
    medians: dict[str, float]


@dataclass(frozen=True)
class Drift:
    """The result of :func:`watch`.

    Attributes:
        alarms: at most one per device.
        groups: the predictions by device and day.
        psi: population stability index by device and figure, over the device's last :data:`RECENT` images; empty for
            a device with fewer than :data:`FEW`.
    """

    alarms: list[Alarm]
    groups: list[Group]
    psi: dict[str, dict[str, float]]


def read(paths: Iterable[Path]) -> list[Observed]:
    """Read predictions: ``results.json`` of predict, its folder, or what ``serve --record`` wrote.

    Omits failed inputs.

    Raises:
        UserError: a file is missing or has no predictions.
    """
    return [_observed(row, path) for path in paths for row in _rows(path) if row.get("status", "ok") == "ok"]


def require_model(paths: Iterable[Path], weights: str) -> None:
    """Check that the predictions of ``predict`` were made with these weights.

    The record of a service is not checked: it has only the model's name and version.

    Args:
        paths: as for :func:`read`, which must have accepted them.
        weights: SHA-256 of the model's weights.

    Raises:
        UserError: predictions are from another model.
    """
    for path in paths:
        file = path / "results.json" if path.is_dir() else path
        made = {} if file.suffix == ".jsonl" else json.loads(file.read_text(encoding="utf-8")).get("model", {})
        if made.get("weights_sha256", weights) != weights:
            raise UserError(
                f"{file}: predictions of {made.get('name')} version {made.get('version')}, which is another model; "
                "name it with --model"
            )


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    file = path / "results.json" if path.is_dir() else path
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    try:
        if file.suffix == ".jsonl":
            yield from map(json.loads, text.splitlines())
        else:
            yield from sorted(json.loads(text)["results"], key=lambda row: (row.get("day", ""), row["file"]))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}: no results.json of predict and no record of serve") from error


def _observed(row: dict[str, Any], path: Path) -> Observed:
    try:
        values = {
            **{name: row[name] for name in ("grey_mean", "grey_deviation", "uncertain", "height", "width")},
            "symmetry": row["symmetry"],
            "lung_area": row["lungs"]["share"],
            "left_area": row["left"]["share"],
            "right_area": row["right"]["share"],
            EXPECTED_DICE: row.get(EXPECTED_DICE),  # None where the package has no calibration
        }
        figures = {name: np.nan if value is None else float(value) for name, value in values.items()}
        return Observed(str(row["day"]) or UNKNOWN, str(row["device"]) or UNKNOWN, bool(row["flags"]), figures)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: predictions without {error}: made by an earlier release; predict again") from error


def watch(
    observed: Sequence[Observed], reference: Mapping[str, Reference], window: int = 25, level: float = 0.01
) -> Drift:
    """Test each device's predictions for drift from the reference.

    Each device is one stream, in the order of the predictions. After every ``window`` images, the two-sample
    Kolmogorov-Smirnov test compares each figure of these images with its reference. The level is divided among
    devices, figures and tests (Bonferroni). Test k of a stream gets 1 / (k (k + 1)) of the stream's share. These
    fractions sum to 1, so the probability of any false alarm is at most ``level``, however long the streams are.

    Args:
        observed: the predictions.
        reference: the reference of each figure, from :func:`references`.
        window: images per test.
        level: probability of a false alarm, 0 to 1.
    """
    samples = {name: each.sample() for name, each in reference.items()}
    streams: dict[str, list[Observed]] = {}
    for each in observed:
        streams.setdefault(each.device, []).append(each)
    alarms = [
        alarm
        for device, stream in sorted(streams.items())
        if (alarm := _first_alarm(device, stream, samples, window, level / len(streams))) is not None
    ]
    indices = {
        device: _indices(stream[-RECENT:], reference) if len(stream) >= FEW else {}
        for device, stream in sorted(streams.items())
    }
    return Drift(alarms, list(_groups(observed)), indices)


def _indices(part: Sequence[Observed], reference: Mapping[str, Reference]) -> dict[str, float]:
    known = {name: _known(part, name) for name in reference}
    return {name: psi(values, reference[name].percentiles) for name, values in known.items() if len(values)}


def _first_alarm(
    device: str, stream: Sequence[Observed], samples: dict[str, Floats], window: int, level: float
) -> Alarm | None:
    from scipy.stats import ks_2samp

    for look, end in enumerate(range(window, len(stream) + 1, window), 1):
        share = level / (look * (look + 1) * max(1, len(samples)))
        part = stream[end - window : end]
        tested = []
        for name, expected in samples.items():
            values = _known(part, name)
            if len(values):
                tested.append((float(ks_2samp(values, expected).pvalue), name, values))
        p, name, values = min(tested, key=lambda each: each[0], default=(1.0, "", np.zeros(0)))
        if p < share:
            medians = float(np.median(samples[name])), float(np.median(values))
            return Alarm(device, part[-1].day, end, name, p, share, *medians)
    return None


def _known(part: Sequence[Observed], name: str) -> Floats:
    values: Floats = np.array([each.figures[name] for each in part])
    known: Floats = values[np.isfinite(values)]
    return known


def _groups(observed: Sequence[Observed]) -> Iterator[Group]:
    groups: dict[tuple[str, str], list[Observed]] = {}
    for each in observed:
        groups.setdefault((each.device, each.day), []).append(each)
    for (device, day), part in sorted(groups.items()):
        known = {name: _known(part, name) for name in FIGURES}
        yield Group(
            device,
            day,
            len(part),
            float(np.mean([each.flagged for each in part])),
            {name: float(np.median(values)) for name, values in known.items() if len(values)},
        )


def psi(values: Floats, percentiles: Sequence[float]) -> float:
    """Return the population stability index of values against the training images' percentiles.

    The index is the sum over bins of (seen - expected) ln(seen / expected). The training images' quartiles separate the
    bins. Below 0.1 is usually taken as no change, above 0.25 as a large one. An empty bin counts as half a value.
    Source: Siddiqi, "Credit Risk Scorecards", 2006.

    Args:
        values: float64 (N,).
        percentiles: the training images' values at :data:`model.inference.package.PERCENTILES`.
    """
    edges = [percentiles[PERCENTILES.index(each)] for each in (25, 50, 75)]
    counted = np.maximum(np.bincount(np.searchsorted(edges, values), minlength=4), 0.5)
    seen = counted / counted.sum()
    return float(np.sum((seen - 0.25) * np.log(seen / 0.25)))
