"""A trained network with all it needs to segment an X-ray, as one folder that is read without unpickling anything."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from model.inference.engine import Engine, Pictures, Probabilities
from model.inference.engines import start
from model.inference.postprocessing import at_size, to_masks
from model.preprocessing import Image, standardise

CONTRACT = "contract.json"
CARD = "card.json"
PERCENTILES = (0, 1, 5, 25, 50, 75, 95, 99, 100)
BINS = 16  # of the histogram of grey values 0 to 255


@dataclass(frozen=True)
class Training:
    """What the images that the network was trained on look like, once standardised, at the network's size.

    Every row of figures stands at :data:`PERCENTILES` over the training images: least, 1, 5, 25, 50, 75, 95, 99, most.

    Attributes:
        images: how many there were.
        histogram: :data:`BINS` rows: the share of an image's pixels, 0 to 1, in each sixteenth of 0 to 255.
        mean: of an image's grey values, 0 to 255.
        deviation: standard deviation of an image's grey values, 0 to 255.
        lung_area: share of the image that the mask covers, 0 to 1.
        left_area: the same of the lung on the picture's left side, which is the patient's right one.
        right_area: the same of the lung on the picture's right side.
        symmetry: the smaller of the two over the larger, 0 to 1.
        solidity: share of the two lungs' convex hulls that is lung, 0 to 1.
        uncertain: share of an image to which the network gives a probability from 0.25 to 0.75; of the validation
            images, which it was not trained on.
        height: of the stored images, pixels.
        width: of the stored images, pixels.
    """

    images: int
    histogram: list[list[float]]
    mean: list[float]
    deviation: list[float]
    lung_area: list[float]
    left_area: list[float]
    right_area: list[float]
    symmetry: list[float]
    solidity: list[float]
    uncertain: list[float]
    height: list[float]
    width: list[float]


@dataclass(frozen=True)
class Contract:
    """What goes in, what comes out, and how the one becomes the other.

    Attributes:
        size: side of the square that an image is brought to, pixels.
        interpolation: with which: a key of :data:`model.preprocessing.INTERPOLATION`.
        intensity_percentiles: grey values stretched to 0 and 255: any range goes in, 8 or 16 bits or float.
        polarity: ``lungs dark``.
        minimum_size: pixels; an image with a shorter side than this is smaller than what the network takes, or than all
            that it was trained on.
        threshold: probability from which a pixel is lung.
        flip: whether probabilities are the mean with the mirrored prediction of the mirrored image.
        largest_components: components of a mask that are kept; 0 keeps all.
        least_component: share of the largest component's area, 0 to 1, below which another one is dropped.
        fill_holes: whether holes of a mask become lung.
        engines: what ``auto`` chooses from: those whose Dice on the validation images lay within 0.001
            of float32's when the package was built.
        training: what the training images look like.
    """

    size: int
    interpolation: str
    intensity_percentiles: tuple[float, float]
    polarity: str
    minimum_size: int
    threshold: float
    flip: bool
    largest_components: int
    least_component: float
    fill_holes: bool
    engines: tuple[str, ...]
    training: Training

    @classmethod
    def read(cls, folder: Path) -> Contract:
        """Read a package's contract.

        Raises:
            OSError, ValueError, KeyError, TypeError: it is missing or damaged.
        """
        values = json.loads((folder / CONTRACT).read_text())
        low, high = values["intensity_percentiles"]
        given = {"intensity_percentiles": (low, high), "engines": tuple(values["engines"])}
        return cls(**values | given | {"training": Training(**values["training"])})


@dataclass(frozen=True)
class Segmentation:
    """The lungs of one X-ray, at its own size.

    Attributes:
        mask: uint8 (H, W), 1 where there is lung, else 0.
        probabilities: of lung, float32 (H, W), 0 to 1.
    """

    mask: npt.NDArray[np.uint8]
    probabilities: npt.NDArray[np.float32]


class Package:
    """A function from X-rays to lungs; several threads may call one at the same time.

    Attributes:
        folder: where it lies.
        contract: see :class:`Contract`.
        card: what the model card was written from; empty where there is none.
        engine: what computes.
    """

    def __init__(self, folder: Path, engine: str = "auto", threads: int | None = None) -> None:
        self.folder = folder
        self.contract = Contract.read(folder)
        card = folder / CARD
        self.card: dict[str, Any] = json.loads(card.read_text()) if card.exists() else {}
        self.engine: Engine = start(folder, engine, threads, self.contract.engines)

    def segment(self, images: Sequence[Image], threshold: float | None = None) -> list[Segmentation]:
        """Find the lungs in some X-rays; they go through the engine in batches.

        Args:
            images: uint8, uint16 or float (H, W) each, any size and range, lungs dark.
            threshold: probability from which a pixel is lung; None is the contract's.

        Raises:
            ValueError: an image is not two-dimensional, is empty, or holds values that are not finite.
        """
        if not images:
            return []
        contract = self.contract
        limit = contract.threshold if threshold is None else threshold
        squares = [
            standardise(image, contract.size, contract.interpolation, contract.intensity_percentiles)
            for image in images
        ]
        found = probabilities(self.engine, np.stack(squares), flip=contract.flip)
        return [self._at_own_size(p, image.shape, limit) for p, image in zip(found, images, strict=True)]

    def _at_own_size(self, square: Probabilities, shape: tuple[int, ...], threshold: float) -> Segmentation:
        full = at_size(square, shape)
        contract = self.contract
        rule = (contract.largest_components, contract.least_component, contract.fill_holes)
        return Segmentation(to_masks(full[None], threshold, *rule)[0], full)


def probabilities(engine: Engine, images: Pictures, *, flip: bool) -> Probabilities:
    """Return an engine's probabilities, float32 (N, S, S), 0 to 1, of standardised images, uint8 (N, S, S).

    Args:
        engine: what computes.
        images: as :func:`model.preprocessing.standardise` returns them.
        flip: take the mean with the mirrored prediction of the mirrored image, for twice the time.
    """
    if not flip:
        return engine.probabilities(images)
    both = engine.probabilities(np.concatenate([images, images[..., ::-1]]))
    mean: Probabilities = (both[: len(images)] + both[len(images) :, :, ::-1]) * np.float32(0.5)
    return mean


def load(folder: Path | str, engine: str = "auto", threads: int | None = None) -> Package:
    """Open a package.

    Args:
        folder: with ``weights.safetensors``, ``config.json``, ``contract.json`` and ``model.onnx``.
        engine: ``auto`` or a key of :data:`model.inference.engines.ENGINES`.
        threads: that it may compute with at most; None: those of :mod:`model.threads`.

    Raises:
        OSError, ValueError, KeyError, TypeError, RuntimeError: a file is missing or damaged, or the engine is unknown
            or not installed.
    """
    return Package(Path(folder), engine, threads)
