"""The model package: a folder with a trained network and all it needs to segment an X-ray, without pickles."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from model.inference import golden
from model.inference.engine import Engine, Pictures, Probabilities
from model.inference.engines import start
from model.inference.input_config import InputConfig
from model.inference.postprocessing import at_size, to_masks
from model.inference.quality import Quality, doubts_of
from model.inference.view import Limits, View, Viewer
from model.preprocessing import Image, standardise

CONTRACT = "contract.json"
CARD = "card.json"
PERCENTILES = (0, 1, 5, 25, 50, 75, 95, 99, 100)
BINS = 16  # bins of the histogram of grey values 0 to 255


@dataclass(frozen=True)
class Training:
    """Statistics of the standardised training images at the network's size.

    Each list has the values at :data:`PERCENTILES` over the images: minimum, 1, 5, 25, 50, 75, 95, 99, maximum.

    Attributes:
        images: number of training images.
        histogram: :data:`BINS` lists: the share of an image's pixels, 0 to 1, in each sixteenth of 0 to 255.
        mean: mean of an image's grey values, 0 to 255.
        deviation: standard deviation of an image's grey values, 0 to 255.
        lung_area: area of the mask as a share of the image, 0 to 1.
        left_area: the same for the lung on the image's left side, the patient's right lung.
        right_area: the same for the lung on the image's right side.
        symmetry: smaller / larger of the two areas, 0 to 1.
        solidity: lung area / area of the two lungs' convex hulls, 0 to 1.
        uncertain: share of an image's pixels with a probability of 0.25 to 0.75, over the validation images.
        height: height of the stored images in pixels.
        width: width of the stored images in pixels.
        validated: number of validation images behind ``uncertain``; 0 in packages of earlier releases.
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
    validated: int = 0


@dataclass(frozen=True)
class Contract:
    """The package's preprocessing, post-processing and training statistics.

    Attributes:
        size: side of the network's square input in pixels.
        interpolation: a key of :data:`model.preprocessing.INTERPOLATION`.
        intensity_percentiles: percentiles of the grey values that become 0 and 255; the input may have any range.
        polarity: ``lungs dark``.
        minimum_size: pixels; the network's input size, or the shortest side of the training images if that is smaller.
        threshold: probability from which a pixel is lung.
        flip: whether probabilities are the mean with the mirrored prediction of the mirrored image.
        largest_components: components of a mask that are kept; 0 keeps all.
        least_component: share of the largest component's area, 0 to 1, below which another one is dropped.
        fill_holes: whether holes of a mask become lung.
        engines: the engines that ``auto`` may choose: when the package was built, their Dice on the validation images
            was within 0.001 of float32's.
        training: statistics of the training images.
        view: thresholds to recognise a frontal chest X-ray and its orientation; None in packages without them.
        quality: relation between doubt and error, for the expected Dice of a mask; None in packages without it.
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
    view: Limits | None = None
    quality: Quality | None = None

    @classmethod
    def read(cls, folder: Path) -> Contract:
        """Read a package's contract.

        Raises:
            OSError, ValueError, KeyError, TypeError: the file is missing or damaged.
        """
        values = json.loads((folder / CONTRACT).read_text())
        low, high = values["intensity_percentiles"]
        given = {"intensity_percentiles": (low, high), "engines": tuple(values["engines"])}
        view = Limits(**values["view"]) if values.get("view") else None
        quality = Quality(**values["quality"]) if values.get("quality") else None
        parts = {"training": Training(**values["training"]), "view": view, "quality": quality}
        return cls(**values | given | parts)

    @property
    def input_config(self) -> InputConfig:
        """The preprocessing of the network's input."""
        return InputConfig(self.size, self.interpolation, self.intensity_percentiles)


@dataclass(frozen=True)
class Segmentation:
    """The result for one X-ray, at its original size.

    Attributes:
        mask: uint8 (H, W), 1 is lung.
        probabilities: lung probabilities, float32 (H, W), 0 to 1.
        view: whether it is a frontal chest X-ray, and how it was corrected before prediction.
        expected_dice: the mask's Dice, estimated without ground truth, and its lower bound, 0 to 1
            (:mod:`model.inference.quality`); None if the package has no calibration, the image does not look like a
            frontal chest X-ray, or the threshold differs from the contract's.
    """

    mask: npt.NDArray[np.uint8]
    probabilities: npt.NDArray[np.float32]
    view: View
    expected_dice: tuple[float, float] | None = None


class Package:
    """An opened model package; thread-safe.

    Attributes:
        folder: the package's folder.
        contract: see :class:`Contract`.
        card: data of the model card; empty if there is none.
        engine: the inference engine.
    """

    def __init__(self, folder: Path, engine: str = "auto", threads: int | None = None) -> None:
        self.folder = folder
        self.contract = Contract.read(folder)
        card = folder / CARD
        self.card: dict[str, Any] = json.loads(card.read_text()) if card.exists() else {}
        self.viewer = Viewer.read(folder, self.contract.view)
        self.engine: Engine = start(folder, engine, threads, self.contract.engines)
        golden.check(folder, self.engine)

    def segment(self, images: Sequence[Image], threshold: float | None = None) -> list[Segmentation]:
        """Segment X-rays in batches.

        An image that is rotated, inverted or has a wide border is corrected before prediction. Its mask and
        probabilities match the original image.

        Args:
            images: uint8, uint16 or float (H, W) each, any size and range, lungs dark.
            threshold: least probability of a lung pixel; None: the contract's.

        Raises:
            ValueError: an image is not two-dimensional, is empty, or has values that are not finite.
        """
        if not images:
            return []
        contract = self.contract
        limit = contract.threshold if threshold is None else threshold
        squares, views = zip(*map(self._seen, images), strict=True)
        plain, mirrored = both_ways(self.engine, np.stack(squares), flip=contract.flip)
        found = mean_of_both(plain, mirrored)
        expected = self._expected_dice(plain, mirrored, found) if limit == contract.threshold else [None] * len(found)
        return [
            self._at_own_size(square, image.shape, view, limit, dice if view.frontal else None)
            for square, image, view, dice in zip(found, images, views, expected, strict=True)
        ]

    def _expected_dice(
        self, plain: Probabilities, mirrored: Probabilities | None, found: Probabilities
    ) -> list[tuple[float, float] | None]:
        contract = self.contract
        if contract.quality is None:
            return [None] * len(found)
        masks = to_masks(found, contract.threshold, *self._rule)
        doubts = doubts_of(plain, mirrored, masks, contract.threshold)
        # A frontal chest X-ray has lungs: an empty mask is wrong, however confident it is.
        return [
            contract.quality.estimate(float(doubt)) if mask.any() else (0.0, 0.0)
            for mask, doubt in zip(masks, doubts, strict=True)
        ]

    @property
    def _rule(self) -> tuple[int, float, bool]:
        contract = self.contract
        return contract.largest_components, contract.least_component, contract.fill_holes

    def _seen(self, image: Image) -> tuple[Pictures, View]:
        """Return the network's input, uint8 (S, S), for the corrected image, and the image's view."""
        picture, view = self._standardised(image), View()
        if self.viewer is None:
            return picture, view
        border = self.viewer.border(picture)
        if border != view.border:
            view = View(border)
            picture = self._standardised(view.put_right(image))
        view = replace(self.viewer.look(picture), border=border)
        return (picture if view.change == View().change else self._standardised(view.put_right(image))), view

    def _standardised(self, image: Image) -> Pictures:
        contract = self.contract
        return standardise(image, contract.size, contract.interpolation, contract.intensity_percentiles)

    def _at_own_size(
        self,
        square: Probabilities,
        shape: tuple[int, ...],
        view: View,
        threshold: float,
        expected_dice: tuple[float, float] | None,
    ) -> Segmentation:
        upright = at_size(square, view.upright_shape(shape))
        mask = to_masks(upright[None], threshold, *self._rule)[0]
        return Segmentation(view.put_back(mask, shape), view.put_back(upright, shape), view, expected_dice)


def both_ways(engine: Engine, images: Pictures, *, flip: bool) -> tuple[Probabilities, Probabilities | None]:
    """Return the probabilities of images, and those of their mirror images, mirrored back (None without ``flip``).

    Args:
        engine: the engine.
        images: images from :func:`model.preprocessing.standardise`, uint8 (N, S, S).
        flip: also predict the mirrored images, for twice the time.

    Returns:
        float32 (N, S, S) each, 0 to 1.
    """
    if not flip:
        return engine.probabilities(images), None
    both = engine.probabilities(np.concatenate([images, images[..., ::-1]]))
    return both[: len(images)], both[len(images) :, :, ::-1]


def mean_of_both(plain: Probabilities, mirrored: Probabilities | None) -> Probabilities:
    """Return the mean of the results of :func:`both_ways`, float32 (N, S, S)."""
    if mirrored is None:
        return plain
    mean: Probabilities = (plain + mirrored) * np.float32(0.5)
    return mean


def probabilities(engine: Engine, images: Pictures, *, flip: bool) -> Probabilities:
    """Return an engine's lung probabilities, float32 (N, S, S), 0 to 1, for standardised images, uint8 (N, S, S).

    Args:
        engine: the engine.
        images: images from :func:`model.preprocessing.standardise`.
        flip: average with the mirrored prediction of the mirrored image, for twice the time.
    """
    return mean_of_both(*both_ways(engine, images, flip=flip))


def load(folder: Path | str, engine: str = "auto", threads: int | None = None) -> Package:
    """Open a package.

    Args:
        folder: folder with ``weights.safetensors``, ``config.json``, ``contract.json`` and ``model.onnx``.
        engine: ``auto`` or a key of :data:`model.inference.engines.ENGINES`.
        threads: maximum number of threads of the engine; None: as set by :mod:`model.threads`.

    Raises:
        OSError, ValueError, KeyError, TypeError, RuntimeError: a file is missing or damaged, or the engine is unknown
            or not installed.
    """
    return Package(Path(folder), engine, threads)
