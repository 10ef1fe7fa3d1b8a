"""Measurements of a predicted mask, and quality flags."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from model.inference.package import BINS, PERCENTILES, Contract, Segmentation
from model.inference.view import NO_BORDER, View
from model.lungs import UNSURE, Mask, solidity
from model.preprocessing import standardise
from serving.xray.reading import Xray
from serving.xray.sides import known, lungs, mirrored

LEAST, P5, P95, MOST = (PERCENTILES.index(each) for each in (0, 5, 95, 100))
LUNGS = 2
# Key: the number of counter-clockwise quarter turns that make the image upright.
TURNED = {
    1: "it lies turned clockwise by 90 degrees",
    2: "it is upside down",
    3: "it lies turned counter-clockwise by 90 degrees",
}


FLAGS = (
    *("damaged", "spacing", "size", "aspect"),
    *("view", "turned", "inverted", "border", "mirrored"),
    *("intensity", "shape", "certainty", "polarity"),
)


@dataclass(frozen=True)
class Area:
    """A lung area: in pixels, as a share of the X-ray (0 to 1), and in cm2 (None if the spacing is unknown)."""

    pixels: int
    share: float
    cm2: float | None


@dataclass(frozen=True)
class Flag:
    """A warning about a mask: its name, one of :data:`FLAGS`, and the reason, with figures."""

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
        left: the patient's left lung, on the right side of a frontal X-ray. With the flag ``view`` the sides are
            unknown, and this is the part on the right of the upright image.
        right: the patient's right lung; with the flag ``view`` the part on the left of the upright image.
        symmetry: smaller area / larger area of the two lungs, 0 to 1; None without lung.
        components: number of 8-connected regions of the mask.
        solidity: lung area / area of the convex hulls of the two lungs, 0 to 1; None without lung.
        uncertain: share of the pixels with a lung probability of 0.25 to 0.75.
        expected_dice: the mask's Dice, estimated without a reference mask, 0 to 1; None if the package has no
            calibration, or the image does not look like a frontal chest X-ray.
        expected_dice_low: lower bound that the Dice exceeds on 90 % of images like the validation images.
        grey_mean: mean of the network's input, standardised grey values of 0 to 255.
        grey_deviation: standard deviation of the network's input.
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
    expected_dice: float | None
    expected_dice_low: float | None
    grey_mean: float
    grey_deviation: float
    flags: list[Flag]


def describe(found: Segmentation, xray: Xray, contract: Contract) -> Findings:
    """Measure a mask and compare mask and X-ray with the training images.

    Every limit comes from the percentiles of the training images in the contract.

    Args:
        found: the mask, the probabilities and the view of the chest.
        xray: the X-ray.
        contract: the contract of the model package.
    """
    mask, view = found.mask, found.view
    height, width = mask.shape
    left, right = lungs(mask, view, xray.dicom)
    of_both, of_left, of_right = (_area(each, xray.spacing) for each in (mask, left, right))
    larger = max(of_left.pixels, of_right.pixels)
    grey = _standardised(xray, view, contract)
    low, high = UNSURE
    expected, bound = found.expected_dice or (None, None)
    findings = Findings(
        height=height,
        width=width,
        spacing=xray.spacing,
        lungs=of_both,
        left=of_left,
        right=of_right,
        symmetry=min(of_left.pixels, of_right.pixels) / larger if larger else None,
        components=cv2.connectedComponents(mask, connectivity=8)[0] - 1,
        solidity=solidity(left, right),
        uncertain=float(np.mean((found.probabilities >= low) & (found.probabilities <= high))),
        expected_dice=expected,
        expected_dice_low=bound,
        grey_mean=float(grey.mean()),
        grey_deviation=float(grey.std()),
        flags=[],
    )
    findings.flags.extend(_flags(findings, xray, grey, contract, view))
    return findings


def _area(mask: Mask, spacing: tuple[float, float] | None) -> Area:
    pixels = cv2.countNonZero(mask)
    cm2 = None if spacing is None else pixels * spacing[0] * spacing[1] / 100
    return Area(pixels, pixels / mask.size, cm2)


def _flags(
    findings: Findings, xray: Xray, grey: npt.NDArray[np.uint8], contract: Contract, view: View
) -> Iterator[Flag]:
    turned, sides = mirrored(xray.dicom, view.change.turns), known(view, xray.dicom)
    yield from (Flag(name, reason) for name, reason in xray.doubts)
    yield from _picture_flags(findings, contract, turned, view)
    yield from _view_flags(view, contract, sides)
    histogram = np.histogram(grey, BINS, (0, 256))[0] / grey.size
    names = ("left", "right") if turned else ("right", "left")  # the patient's sides, from the image's left
    doubts = [*_intensity_flags(histogram, contract), *_mask_flags(findings, contract, names, sides, view)]
    yield from doubts
    # Some X-rays have similar histograms when inverted: require another flag, and trust a frontal view more.
    decided = contract.view is not None and view.frontal
    if doubts and not decided and _strangeness(histogram[::-1], contract) < _strangeness(histogram, contract):
        yield Flag("polarity", "inverted, its grey values would be more like those of the training images")


def _picture_flags(findings: Findings, contract: Contract, turned: bool | None, view: View) -> Iterator[Flag]:
    height, width = view.upright_shape((findings.height, findings.width))
    training = contract.training
    if min(height, width) < contract.minimum_size:
        yield Flag("size", f"{width} x {height} pixels; the tested minimum is {contract.minimum_size} a side")
    # Training images that all have one size were resized, and have lost their aspect ratios.
    if training.width[0] < training.width[-1] or training.height[0] < training.height[-1]:
        least, most = training.width[0] / training.height[-1], training.width[-1] / training.height[0]
        if not least <= width / height <= most:
            yield Flag("aspect", f"width over height is {width / height:.2f}; in training {least:.2f} to {most:.2f}")
    if turned is None:
        yield Flag("view", "the DICOM says that this is no upright frontal view")


def _view_flags(view: View, contract: Contract, sides: bool) -> Iterator[Flag]:
    if contract.view is not None and not view.frontal:
        yield Flag(
            "view",
            f"it does not look like a frontal chest X-ray: its likeness to those of the training is "
            f"{view.likeness:.2f}, below {contract.view.likeness:.2f}",
        )
    if view.change.turns:
        yield Flag("turned", f"{TURNED[view.change.turns]}; it was turned upright before its lungs were found")
    if view.change.inverted:
        yield Flag("inverted", "its lungs are bright; it was inverted before they were found")
    if view.border != NO_BORDER:
        yield Flag("border", f"{view.border.outside:.0%} of it is an empty border, which was cut off")
    if view.mirrored and view.frontal:
        check = "; check L and R" if sides else ""
        yield Flag("mirrored", f"it seems to be a mirror image, by the place of its heart{check}")


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


def _mask_flags(
    findings: Findings, contract: Contract, names: tuple[str, str], sides: bool, view: View
) -> Iterator[Flag]:
    if not findings.lungs.pixels:
        yield Flag("shape", "no lung was found")
        return
    training = contract.training
    said = [f"the patient's {name} lung" if sides else "one lung" for name in names]
    on_left, on_right = (getattr(findings, name) for name in names)
    seen = 1 - view.border.outside  # share of the X-ray without the empty border, as the network saw it
    # Symmetry and solidity have no upper limit.
    for text, value, row, most in (
        (
            "lungs cover {:.1%} of the image",
            findings.lungs.share / seen,
            training.lung_area,
            training.lung_area[MOST],
        ),
        (
            f"{said[0]} covers {{:.1%}} of the image",
            on_left.share / seen,
            training.left_area,
            training.left_area[MOST],
        ),
        (
            f"{said[1]} covers {{:.1%}} of the image",
            on_right.share / seen,
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
    if findings.uncertain / seen > _reach(training.uncertain)[1]:
        yield Flag(
            "certainty",
            f"{findings.uncertain / seen:.1%} of the image is uncertain; in validation at most "
            f"{training.uncertain[MOST]:.1%}",
        )


def _reach(row: Sequence[float]) -> tuple[float, float]:
    """Return the training range of a row of percentiles, extended at each end.

    The minimum is lowered by its distance to the 5th percentile, and the maximum raised by its distance to the 95th.
    With many values or few training images, some valid values are slightly outside the training range.
    """
    return row[LEAST] - (row[P5] - row[LEAST]), row[MOST] + (row[MOST] - row[P95])


def _standardised(xray: Xray, view: View, contract: Contract) -> npt.NDArray[np.uint8]:
    """Return the network's input, uint8 (S, S), where S is the contract's size."""
    pixels = xray.pixels if view.as_it_is else view.put_right(xray.pixels)
    return standardise(pixels, contract.size, contract.interpolation, contract.intensity_percentiles)


def _strangeness(histogram: np.ndarray, contract: Contract) -> float:
    """Return the share of pixels by which a histogram is outside the training images' 5th to 95th percentile."""
    rows = np.asarray(contract.training.histogram)
    above, below = histogram - rows[:, P95], rows[:, P5] - histogram
    return float(np.maximum(above, 0).sum() + np.maximum(below, 0).sum())
