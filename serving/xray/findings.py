"""Measurements of a predicted mask, and quality flags."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from model.inference.package import BINS, PERCENTILES, Contract
from model.lungs import UNSURE, Mask, halves, solidity
from model.preprocessing import standardise
from serving.xray.reading import Xray
from serving.xray.sides import mirrored

LEAST, P5, P95, MOST = (PERCENTILES.index(each) for each in (0, 5, 95, 100))
LUNGS = 2


FLAGS = ("damaged", "spacing", "size", "aspect", "view", "intensity", "shape", "certainty", "polarity")


@dataclass(frozen=True)
class Area:
    """An area of lung: in pixels, as a share of the X-ray (0 to 1), and in cm2, None if the spacing is unknown."""

    pixels: int
    share: float
    cm2: float | None


@dataclass(frozen=True)
class Flag:
    """A warning about a mask: its name, one of :data:`FLAGS`, and the reason with figures."""

    name: str
    reason: str


@dataclass(frozen=True)
class Findings:
    """Measurements of one X-ray and its mask.

    Attributes:
        height: height of the X-ray in pixels.
        width: width of the X-ray in pixels.
        spacing: distance between rows and between columns in mm; None if unknown.
        lungs: both lungs.
        left: the patient's left lung, on the right side of a frontal X-ray.
        right: the patient's right lung.
        symmetry: smaller area / larger area of the two lungs, 0 to 1; None without lung.
        components: number of 8-connected regions of the mask.
        solidity: lung area / area of the convex hulls of the two lungs, 0 to 1; None without lung.
        uncertain: share of the pixels with a lung probability of 0.25 to 0.75.
        flags: quality flags; empty if there are none.
    """

    height: int
    width: int
    spacing: tuple[float, float] | None
    lungs: Area
    left: Area
    right: Area
    symmetry: float | None
    components: int
    solidity: float | None
    uncertain: float
    flags: list[Flag]


def describe(mask: Mask, probabilities: npt.NDArray[np.float32], xray: Xray, contract: Contract) -> Findings:
    """Measure a mask and compare mask and X-ray with the training images.

    Every limit is from the percentiles of the training images in the contract.

    Args:
        mask: uint8 (H, W), 1 is lung.
        probabilities: lung probabilities, float32 (H, W), 0 to 1.
        xray: the X-ray.
        contract: the contract of the model package.
    """
    height, width = mask.shape
    on_left, on_right = halves(mask)
    turned = mirrored(xray.dicom)
    left, right = (on_left, on_right) if turned else (on_right, on_left)
    lungs, of_left, of_right = (_area(each, xray.spacing) for each in (mask, left, right))
    larger = max(of_left.pixels, of_right.pixels)
    low, high = UNSURE
    findings = Findings(
        height=height,
        width=width,
        spacing=xray.spacing,
        lungs=lungs,
        left=of_left,
        right=of_right,
        symmetry=min(of_left.pixels, of_right.pixels) / larger if larger else None,
        components=cv2.connectedComponents(mask, connectivity=8)[0] - 1,
        solidity=solidity(on_left, on_right),
        uncertain=float(np.mean((probabilities >= low) & (probabilities <= high))),
        flags=[],
    )
    findings.flags.extend(_flags(findings, xray, contract, turned))
    return findings


def _area(mask: Mask, spacing: tuple[float, float] | None) -> Area:
    pixels = cv2.countNonZero(mask)
    cm2 = None if spacing is None else pixels * spacing[0] * spacing[1] / 100
    return Area(pixels, pixels / mask.size, cm2)


def _flags(findings: Findings, xray: Xray, contract: Contract, turned: bool | None) -> Iterator[Flag]:
    yield from (Flag(name, reason) for name, reason in xray.doubts)
    yield from _picture_flags(findings, contract, turned)
    histogram = _histogram(xray, contract)
    doubts = [*_intensity_flags(histogram, contract), *_mask_flags(findings, contract, turned)]
    yield from doubts
    # Some X-rays have similar histograms when inverted, so this check alone is no evidence.
    if doubts and _strangeness(histogram[::-1], contract) < _strangeness(histogram, contract):
        yield Flag("polarity", "inverted, its grey values would be more like those of the training images")


def _picture_flags(findings: Findings, contract: Contract, turned: bool | None) -> Iterator[Flag]:
    height, width, training = findings.height, findings.width, contract.training
    if min(height, width) < contract.minimum_size:
        yield Flag("size", f"{width} x {height} pixels; the tested minimum is {contract.minimum_size} a side")
    # Training images of one size were resized to it, and have no information on the aspect ratio.
    if training.width[0] < training.width[-1] or training.height[0] < training.height[-1]:
        least, most = training.width[0] / training.height[-1], training.width[-1] / training.height[0]
        if not least <= width / height <= most:
            yield Flag("aspect", f"width over height is {width / height:.2f}; in training {least:.2f} to {most:.2f}")
    if turned is None:
        yield Flag("view", "the DICOM says that this is no upright frontal view")


def _intensity_flags(histogram: np.ndarray, contract: Contract) -> Iterator[Flag]:
    rows = np.asarray(contract.training.histogram)
    low, high = np.array([_reach(row) for row in contract.training.histogram]).T
    beyond = np.maximum(histogram - high, low - histogram)
    worst = int(np.argmax(beyond))
    if beyond[worst] > 0:
        step = 256 // BINS
        yield Flag(
            "intensity",
            f"{histogram[worst]:.1%} of the pixels have grey values {worst * step} to {worst * step + step - 1}; in "
            f"training {rows[worst, LEAST]:.1%} to {rows[worst, MOST]:.1%}",
        )


def _mask_flags(findings: Findings, contract: Contract, turned: bool | None) -> Iterator[Flag]:
    if not findings.lungs.pixels:
        yield Flag("shape", "no lung was found")
        return
    training = contract.training
    on_left, on_right = (findings.left, findings.right) if turned else (findings.right, findings.left)
    # Symmetry and solidity have no upper limit.
    for text, value, row, most in (
        ("lungs cover {:.1%} of the picture", findings.lungs.share, training.lung_area, training.lung_area[MOST]),
        (
            "the lung on the picture's left covers {:.1%} of it",
            on_left.share,
            training.left_area,
            training.left_area[MOST],
        ),
        (
            "the lung on the picture's right covers {:.1%} of it",
            on_right.share,
            training.right_area,
            training.right_area[MOST],
        ),
        ("the smaller lung has {:.1%} of the larger one's area", findings.symmetry, training.symmetry, 1.0),
        ("the lungs fill {:.1%} of their convex hulls", findings.solidity, training.solidity, 1.0),
    ):
        if value is not None and not row[LEAST] <= value <= most:
            yield Flag("shape", f"{text.format(value)}; in training {row[LEAST]:.1%} to {most:.1%}")
    if contract.largest_components == 0 and findings.components > LUNGS:
        yield Flag("shape", f"the mask has {findings.components} parts")
    if findings.uncertain > _reach(training.uncertain)[1]:
        yield Flag(
            "certainty",
            f"{findings.uncertain:.1%} of the picture is uncertain; in validation at most "
            f"{training.uncertain[MOST]:.1%}",
        )


def _reach(row: Sequence[float]) -> tuple[float, float]:
    """Return minimum and maximum of a row of percentiles, extended by min to 5th and 95th to max percentile.

    With many values or few training images, some valid values are slightly outside of the training range.
    """
    return row[LEAST] - (row[P5] - row[LEAST]), row[MOST] + (row[MOST] - row[P95])


def _histogram(xray: Xray, contract: Contract) -> np.ndarray:
    """Return the share of standardised pixels per bin of grey values, float64 (BINS,)."""
    grey = standardise(xray.pixels, contract.size, contract.interpolation, contract.intensity_percentiles)
    counts: np.ndarray = np.histogram(grey, BINS, (0, 256))[0] / grey.size
    return counts


def _strangeness(histogram: np.ndarray, contract: Contract) -> float:
    """Return the share of pixels by which a histogram is outside of the 5th to 95th percentile of training images."""
    rows = np.asarray(contract.training.histogram)
    above, below = histogram - rows[:, P95], rows[:, P5] - histogram
    return float(np.maximum(above, 0).sum() + np.maximum(below, 0).sum())
