"""Recognise a frontal chest X-ray, and the rotation and inversion that make it upright with dark lungs.

An image's features are histograms of oriented gradients (Dalal and Triggs, "Histograms of Oriented Gradients for Human
Detection", CVPR 2005) with signed gradients, and a reduced image. Quarter turns, inversion and mirroring only permute
or negate features, so they are computed once per image. The register step fits the weights
(:mod:`components.register.view`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file

VIEW = "view.safetensors"
SIDE, CELL, BINS = 64, 8, 12  # pixels, pixels, orientations: a quarter turn is BINS / 4 orientations
REDUCED = 16  # pixels
GRADIENTS, GREY = 4.0, 0.3  # weights of the two kinds of features, so that both have about the same variance
EPSILON = 1e-2  # added to the gradients' energy, so that noise is not amplified
FLAT = 6  # grey levels, of 255, by which a border may vary
QUARTERS = 4
TINY = 1e-6  # pixels
DISTANT = 2.0  # weight of the distance in the likeness

# The cell number of each pixel, int64 (SIDE, SIDE).
CELLS = np.add.outer(np.arange(SIDE) // CELL * (SIDE // CELL), np.arange(SIDE) // CELL)

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
Picture = npt.NDArray[np.uint8]


class Variant(NamedTuple):
    """A change of an image: quarter turns counter-clockwise, as in :func:`numpy.rot90`, then inversion."""

    turns: int
    inverted: bool


VARIANTS = tuple(Variant(turns, inverted) for inverted in (False, True) for turns in range(QUARTERS))


class Features(NamedTuple):
    """Features of a square image.

    Attributes:
        gradients: float32 (SIDE / CELL, SIDE / CELL, BINS), normalised over each cell's neighbourhood.
        grey: float32 (REDUCED, REDUCED), of mean 0 and standard deviation 1.
    """

    gradients: Floats
    grey: Floats

    def changed(self, variant: Variant) -> Features:
        """Return the features of the changed image."""
        shift = -variant.turns * BINS // QUARTERS + (BINS // 2 if variant.inverted else 0)
        gradients = np.roll(np.rot90(self.gradients, variant.turns), shift, axis=-1)
        grey = np.rot90(self.grey, variant.turns)
        return Features(gradients, -grey if variant.inverted else grey)

    def mirrored(self) -> Features:
        """Return the features of the mirrored image."""
        order = (BINS // 2 - np.arange(BINS)) % BINS
        return Features(self.gradients[:, ::-1, order], self.grey[:, ::-1])

    def vector(self) -> Floats:
        """Return the weighted features, float32 (:data:`LENGTH`,)."""
        return np.concatenate([self.gradients.ravel() * GRADIENTS, self.grey.ravel() * GREY]).astype(np.float32)


LENGTH = (SIDE // CELL) ** 2 * BINS + REDUCED**2


def features(picture: Picture) -> Features:
    """Return the features of a standardised image, uint8 (S, S)."""
    values = picture.astype(np.float32)  # with rounding, an image and its inverse would differ
    small = cv2.resize(values, (SIDE, SIDE), interpolation=cv2.INTER_AREA) / 255
    across, down = cv2.Sobel(small, cv2.CV_32F, 1, 0), cv2.Sobel(small, cv2.CV_32F, 0, 1)
    size, angle = cv2.cartToPolar(across, down)
    # A gradient between two orientations counts for both, weighted by its distance from each.
    below, share = np.divmod(angle * (BINS / (2 * np.pi)), 1)
    first = below.astype(np.intp) % BINS
    histogram = _histogram(first, size * (1 - share)) + _histogram((first + 1) % BINS, size * share)
    energy = cv2.boxFilter((histogram**2).sum(-1), -1, (3, 3), normalize=False, borderType=cv2.BORDER_CONSTANT)
    grey = cv2.resize(values, (REDUCED, REDUCED), interpolation=cv2.INTER_AREA)
    return Features(
        histogram / np.sqrt(energy + EPSILON)[..., None],
        (grey - grey.mean()) / (grey.std() + 1),
    )


def _histogram(orientation: npt.NDArray[np.intp], weight: Floats) -> Floats:
    """Return the summed weights by cell and orientation, float32 (SIDE / CELL, SIDE / CELL, BINS)."""
    cells = SIDE // CELL
    counted = np.bincount((CELLS * BINS + orientation).ravel(), weight.ravel(), cells * cells * BINS)
    return counted.reshape(cells, cells, BINS).astype(np.float32)


class Border(NamedTuple):
    """The flat border of an image, of one grey value: shares of its height or width, 0 to 1."""

    top: float
    bottom: float
    left: float
    right: float

    @property
    def outside(self) -> float:
        """The border's share of the image's area, 0 to 1."""
        return 1 - (1 - self.top - self.bottom) * (1 - self.left - self.right)

    def box(self, shape: tuple[int, ...]) -> tuple[slice, slice]:
        """Return the rows and columns inside the border of an image of this shape."""
        height, width = shape
        # Rounded down, so that at least one row and column remain; TINY absorbs the rounding error of the shares.
        top, bottom = (int(share * height + TINY) for share in (self.top, self.bottom))
        left, right = (int(share * width + TINY) for share in (self.left, self.right))
        return slice(top, height - bottom), slice(left, width - right)


NO_BORDER = Border(0, 0, 0, 0)


def border_of(picture: Picture) -> Border:
    """Return the flat border of a standardised image, uint8 (S, S); no border if the whole image is flat."""
    low, high = picture.astype(np.int16).min, picture.astype(np.int16).max
    flat = [high(axis=axis) - low(axis=axis) <= FLAT for axis in (1, 0)]
    if flat[0].all() or flat[1].all():
        return NO_BORDER
    return Border(*(float(np.argmin(line)) / len(line) for each in flat for line in (each, each[::-1])))


@dataclass(frozen=True)
class Limits:
    """Thresholds for views, in a package's contract.

    Attributes:
        likeness: least likeness of a frontal chest X-ray.
        margin: an image is changed only if its score rises by at least this much.
        mirrored: least score of a mirrored image.
        border: largest share of flat border in a training image's area, 0 to 1.
    """

    likeness: float
    margin: float
    mirrored: float
    border: float


@dataclass(frozen=True)
class View:
    """The framing, orientation and type of an image.

    Attributes:
        border: the border that is cropped first; :data:`NO_BORDER` if it is no larger than in training.
        change: the change that makes the image upright with dark lungs.
        frontal: whether the changed image is a frontal chest X-ray.
        mirrored: whether the heart is on the left side of the changed image.
        likeness: likeness to the training images: score minus :data:`DISTANT` times distance, about -3 to 1.
    """

    border: Border = NO_BORDER
    change: Variant = VARIANTS[0]
    frontal: bool = True
    mirrored: bool = False
    likeness: float = 1.0

    @property
    def as_it_is(self) -> bool:
        """Whether the image needs no correction."""
        return self.border == NO_BORDER and self.change == VARIANTS[0]

    def put_right(self, image: Array) -> Array:
        """Return an image, (H, W), without its border, upright and with dark lungs."""
        upright = self.upright(image)
        # Unsigned integers cannot be negated.
        return upright.max() - upright if self.change.inverted else upright

    def upright(self, plane: Array) -> Array:
        """Crop and rotate a mask or probabilities of the image, (H, W), as :meth:`put_right` does."""
        return np.ascontiguousarray(np.rot90(plane[self.border.box(plane.shape)], self.change.turns))

    def upright_shape(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Return height and width of an image of this shape after :meth:`put_right`."""
        rows, columns = self.border.box(shape)
        height, width = rows.stop - rows.start, columns.stop - columns.start
        return (width, height) if self.change.turns % 2 else (height, width)

    def put_back(self, plane: Array, shape: tuple[int, ...]) -> Array:
        """Map a mask or probabilities of the corrected image back to the original image; the border is 0.

        Args:
            plane: mask or probabilities, (h, w).
            shape: height and width of the original image.
        """
        back = np.rot90(plane, -self.change.turns)
        if self.border == NO_BORDER:
            return np.ascontiguousarray(back)
        whole = np.zeros(shape, plane.dtype)
        whole[self.border.box(shape)] = back
        return whole


class Viewer:
    """Recognises the view of images.

    Args:
        weights: ``mean``, ``upright`` and ``mirrored``, float32 (:data:`LENGTH`,) each; ``centre``, the mean features
            of upright training images, and ``axes``, their (K, :data:`LENGTH`) principal components.
        limits: see :class:`Limits`.

    Raises:
        ValueError: a weight is missing or has another shape.
    """

    def __init__(self, weights: dict[str, Floats], limits: Limits) -> None:
        self.weights = {name: values.astype(np.float32) for name, values in weights.items()}
        self.limits = limits
        shapes = {name: values.shape[-1:] for name, values in self.weights.items()}
        if shapes != dict.fromkeys(("mean", "upright", "mirrored", "centre", "axes"), (LENGTH,)):
            raise ValueError(f"{VIEW} does not fit this program")

    @classmethod
    def read(cls, folder: Path, limits: Limits | None) -> Viewer | None:
        """Read a package's weights; None for a package without them.

        Raises:
            OSError, ValueError, KeyError: the file is missing or damaged.
        """
        if limits is None:
            return None
        try:
            return cls(load_file(folder / VIEW), limits)
        except SafetensorError as error:
            raise ValueError(f"{VIEW} is damaged: {error}") from error

    def score(self, vector: Floats, of: str = "upright") -> float:
        """Return the score of features; ``of`` is ``upright`` or ``mirrored``."""
        return float((vector - self.weights["mean"]) @ self.weights[of])

    def distance(self, vector: Floats) -> float:
        """Return the share of the features' norm, 0 to 1, that the training images' components do not explain."""
        beyond = vector - self.weights["centre"]
        within = self.weights["axes"] @ beyond
        return float(np.sqrt(max(0.0, float(beyond @ beyond - within @ within)) / max(1e-6, float(vector @ vector))))

    def likeness(self, vector: Floats) -> float:
        """Return the likeness of features to those of upright frontal chest X-rays with dark lungs."""
        return self.score(vector) - DISTANT * self.distance(vector)

    def border(self, picture: Picture) -> Border:
        """Return the border to crop: the flat border if its share of the area exceeds that of all training images."""
        found = border_of(picture)
        return found if found.outside > self.limits.border else NO_BORDER

    def look(self, picture: Picture) -> View:
        """Return the view of a standardised image, uint8 (S, S), whose border has been cropped."""
        seen = features(picture)
        vectors = [seen.changed(variant).vector() for variant in VARIANTS]
        scores = [self.score(vector) for vector in vectors]
        best = int(np.argmax(scores))
        limits = self.limits
        if scores[best] < scores[0] + limits.margin or self.likeness(vectors[best]) < limits.likeness:
            best = 0  # without enough evidence, do not change the image
        likeness = self.likeness(vectors[best])
        return View(
            change=VARIANTS[best],
            frontal=likeness >= limits.likeness,
            mirrored=self.score(vectors[best], "mirrored") >= limits.mirrored,
            likeness=likeness,
        )
