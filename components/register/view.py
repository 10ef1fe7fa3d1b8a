"""Fit the weights that recognise a frontal chest X-ray and its orientation, by ridge regression."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from model.inference.view import (
    LENGTH,
    SIDE,
    VARIANTS,
    Floats,
    Limits,
    Picture,
    Viewer,
    border_of,
    features,
)

Values = npt.NDArray[np.float32]
PICTURES = 640  # images drawn from the training images, with augmentation
OTHERS = 1280  # images without a chest
AXES = 32  # principal components
RIDGE = 1e-2
FOLDS = 3
SHARES = (0.5, 0.3, 0.2)  # weights of upright images, of their other changes, and of images without a chest
WORK = 2 * SIDE  # side of the augmented images, pixels
MARGIN = 0.2
UNUSUAL, BEYOND = 5.0, 0.65  # percentile of the training images' likeness, and how far below it the limit is
MIRRORED, CLEARLY = 95.0, 0.6  # percentile of their mirrored scores, and how far above it the limit is

NO_LIMIT = 9.0  # above all scores and likenesses; used for a single training image, of which none can be held out


def fit_view(images: npt.NDArray[np.uint8], seed: int = 0) -> Viewer:
    """Fit the weights and limits of :class:`model.inference.view.Viewer`.

    The first score separates upright images with dark lungs from their seven other changes and from images without a
    chest: ridge regression on +1 and -1, with the classes weighted by :data:`SHARES`. The second score separates images
    from their mirror images. Limits come from training images that were held out of a fit, in :data:`FOLDS` folds.

    Args:
        images: the training images, standardised, uint8 (N, S, S).
        seed: seed of the augmentation and of the images without a chest.
    """
    chance = np.random.default_rng(seed)
    small = [cv2.resize(image, (WORK, WORK), interpolation=cv2.INTER_AREA) for image in images]
    rows = np.resize(chance.permutation(len(small)), max(PICTURES, len(small)))
    # The first row of each image is the image without augmentation.
    seen = [
        features(small[row] if number < len(small) else augmented(small[row], chance))
        for number, row in enumerate(rows)
    ]
    drawn = _Drawn(
        np.stack([[each.changed(variant).vector() for variant in VARIANTS] for each in seen]),
        np.stack([each.mirrored().vector() for each in seen]),
        np.stack([features(each).vector() for each in no_chests(small, OTHERS, chance)]),
        chance.random(len(seen)) < 0.5,
    )
    likeness, mirrored = [], []
    whole = np.arange(len(rows)) < len(small)
    for number in range(FOLDS):
        held = rows % FOLDS == number
        if held.all() or not held.any():
            continue  # there is only one training image
        viewer = Viewer(_weights(drawn.of(~held)), Limits(0, 0, 0, 0))
        for vector in drawn.changes[held & whole, 0]:
            likeness.append(viewer.likeness(vector))
            mirrored.append(viewer.score(vector, "mirrored"))
    limits = Limits(
        likeness=round(float(np.percentile(likeness, UNUSUAL)) - BEYOND, 4) if likeness else -NO_LIMIT,
        margin=MARGIN,
        mirrored=round(float(np.percentile(mirrored, MIRRORED)) + CLEARLY, 4) if mirrored else NO_LIMIT,
        border=round(max(border_of(image).outside for image in images), 4),
    )
    return Viewer(_weights(drawn), limits)


class _Drawn(NamedTuple):
    """Features of the images for a fit.

    Attributes:
        changes: float32 (N, 8, LENGTH), of the images in each variant.
        mirrored: float32 (N, LENGTH), of their mirror images.
        others: float32 (M, LENGTH), of images without a chest.
        swapped: bool (N,), whether the mirror image is used where sides do not matter.
    """

    changes: Floats
    mirrored: Floats
    others: Floats
    swapped: npt.NDArray[np.bool_]

    def of(self, chosen: npt.NDArray[np.bool_]) -> _Drawn:
        return _Drawn(self.changes[chosen], self.mirrored[chosen], self.others, self.swapped[chosen])


def _weights(drawn: _Drawn) -> dict[str, Floats]:
    upright = drawn.changes[:, 0]
    # Mirroring changes neither the type nor the orientation of an image, so both sides are used.
    either = np.where(drawn.swapped[:, None], drawn.mirrored, upright)
    parts = [either, drawn.changes[:, 1:].reshape(-1, LENGTH), drawn.others]
    means = [part.mean(0) for part in parts]
    mean = sum((share * each for share, each in zip(SHARES, means, strict=True)), np.zeros(LENGTH, np.float32))
    centre = means[0]
    axes = np.linalg.svd(either - centre, full_matrices=False)[2][:AXES]
    return {
        "mean": mean.astype(np.float32),
        "upright": _ridge([part - mean for part in parts], (1, -1, -1), SHARES),
        "mirrored": _ridge([drawn.mirrored - mean, upright - mean], (1, -1), (0.5, 0.5)),
        "centre": centre,
        "axes": _signed(axes),
    }


def _ridge(parts: list[Floats], targets: tuple[int, ...], shares: tuple[float, ...]) -> Floats:
    products, sums = RIDGE * np.eye(LENGTH), np.zeros(LENGTH)
    for part, target, share in zip(parts, targets, shares, strict=True):
        products += share / len(part) * (part.T @ part)
        sums += share * target * part.mean(0)
    weights: Floats = np.linalg.solve(products, sums).astype(np.float32)
    return weights


def _signed(axes: Floats) -> Floats:
    """Return the components with their largest value positive, because their sign is arbitrary."""
    largest = np.abs(axes).argmax(1)
    signs: Floats = np.sign(axes[np.arange(len(axes)), largest])
    return axes * signs[:, None]


def augmented(picture: Picture, chance: np.random.Generator) -> Picture:
    """Return an image, uint8 (S, S), as from another machine or pose: rotated a little, framed, brighter."""
    side = picture.shape[0]
    middle = (side - 1) / 2
    scale, aspect = chance.uniform(0.75, 1.25), chance.uniform(0.9, 1.1)
    turn = cv2.getRotationMatrix2D((middle, middle), chance.uniform(-12, 12), scale)
    turn[0] *= aspect
    turn[:, 2] += [middle * (1 - aspect), 0] + chance.uniform(-0.1, 0.1, 2) * side
    border = cv2.BORDER_CONSTANT if chance.random() < 0.6 else cv2.BORDER_REPLICATE
    fill = float(chance.choice([0, 0, 0, 128, 255]))
    moved = cv2.warpAffine(picture, turn, (side, side), borderMode=border, borderValue=(fill,)).astype(np.float32)
    bright = 255 * (moved / 255) ** np.exp(chance.uniform(-0.5, 0.5))
    if chance.random() < 0.3:
        bright = bright + chance.normal(0, chance.uniform(2, 15), bright.shape)
    if chance.random() < 0.3:
        bright = cv2.GaussianBlur(bright, (0, 0), chance.uniform(0.5, 1.5))
    return stretched(bright)


def stretched(values: Values) -> Picture:
    """Return values with their 1st and 99th percentile at 0 and 255, uint8."""
    low, high = np.percentile(values, (1, 99))
    picture: Picture = np.rint((values - low) * (255 / max(high - low, 1e-6))).clip(0, 255).astype(np.uint8)
    return picture


def no_chests(pictures: list[Picture], count: int, chance: np.random.Generator) -> Iterator[Picture]:
    """Yield images without an upright chest, uint8: clouds, shapes, lines, parts and tiles of the training images."""
    kinds: list[Callable[[Values, np.random.Generator], Values]] = [_clouds, _tiles, _part, _shapes, _lines, _between]
    for number in range(count):
        picture = pictures[chance.integers(len(pictures))]
        yield stretched(kinds[number % len(kinds)](picture.astype(np.float32), chance))


def _clouds(picture: Values, chance: np.random.Generator) -> Values:
    noise = chance.normal(size=picture.shape).astype(np.float32)
    return _array(cv2.GaussianBlur(noise, (0, 0), np.exp(chance.uniform(0, 4))))


def _tiles(picture: Values, chance: np.random.Generator) -> Values:
    count = int(chance.choice([2, 4]))
    side = picture.shape[0] // count
    tiles = picture.reshape(count, side, count, side).swapaxes(1, 2).reshape(-1, side, side)
    mixed = chance.permutation(tiles).reshape(count, count, side, side).swapaxes(1, 2)
    return _array(mixed.reshape(picture.shape))


def _part(picture: Values, chance: np.random.Generator) -> Values:
    side = int(picture.shape[0] * chance.uniform(0.2, 0.55))
    top, left = chance.integers(0, picture.shape[0] - side, 2)
    part = picture[top : top + side, left : left + side]
    return _array(cv2.resize(part, picture.shape[::-1], interpolation=cv2.INTER_CUBIC))


def _shapes(picture: Values, chance: np.random.Generator) -> Values:
    side = picture.shape[0]
    drawn = np.full(picture.shape, chance.uniform(0, 255), np.float32)
    for _ in range(chance.integers(1, 9)):
        centre, axes = chance.integers(0, side, 2).tolist(), chance.integers(side // 32, side // 2, 2).tolist()
        cv2.ellipse(drawn, centre, axes, chance.uniform(0, 180), 0, 360, (chance.uniform(0, 255),), -1)
    return _as_taken(drawn, chance)


def _lines(picture: Values, chance: np.random.Generator) -> Values:
    side = picture.shape[0]
    drawn = np.full(picture.shape, chance.uniform(0, 255), np.float32)
    for _ in range(chance.integers(2, 14)):
        start, end = chance.integers(0, side, (2, 2)).tolist()
        cv2.line(drawn, start, end, (chance.uniform(0, 255),), int(chance.integers(1, side // 5)))
    return _as_taken(drawn, chance)


def _as_taken(drawn: Values, chance: np.random.Generator) -> Values:
    """Return a drawing with soft edges and noise."""
    soft = cv2.GaussianBlur(drawn, (0, 0), chance.uniform(0.5, 4))
    return _array(soft + chance.normal(0, chance.uniform(0, 10), soft.shape))


def _between(picture: Values, chance: np.random.Generator) -> Values:
    """Return an image rotated by about 45 degrees, or one half of it, stretched."""
    side = picture.shape[0]
    if chance.random() < 0.5:
        half = picture[:, : side // 2] if chance.random() < 0.5 else picture[:, side // 2 :]
        return _array(cv2.resize(half, (side, side), interpolation=cv2.INTER_LINEAR))
    degrees = 45 + 90 * int(chance.integers(4)) + chance.uniform(-15, 15)
    turn = cv2.getRotationMatrix2D((side / 2, side / 2), degrees, 1.2)
    return _array(cv2.warpAffine(picture, turn, (side, side), borderMode=cv2.BORDER_REFLECT))


def _array(values: np.ndarray) -> Values:
    return values.astype(np.float32, copy=False)
