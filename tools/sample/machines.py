"""Two X-ray machines with different format, field of view, contrast, sharpness, noise and labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from tools.sample.anatomy import Field, Frame
from tools.sample.radiograph import Radiograph, cloud

Picture = NDArray[Any]  # uint8 or uint16, (height, width)


@dataclass(frozen=True)
class Machine:
    """One manufacturer's machine.

    Attributes:
        frame: draws the image's size in pixels (at a scale) and the position of the chest.
        develop: converts a radiograph to the stored grey values.
    """

    frame: Callable[[np.random.Generator, float], Frame]
    develop: Callable[[np.random.Generator, Radiograph, Frame], Picture]


def _place(
    rng: np.random.Generator,
    height: int,
    width: int,
    half_share: tuple[float, float],
    length_share: tuple[float, float],
    top_share: tuple[float, float],
) -> Frame:
    centre, length = width * rng.uniform(0.48, 0.52), height * rng.uniform(*length_share)
    tilt = float(np.clip(rng.normal(0, 0.022), -0.05, 0.05))
    # Both lungs must be in the image: a tilt moves the midline towards one edge, and a lung extends to at most 1.07.
    low = centre - np.sin(tilt) * length
    room = (min(centre, low, width - centre, width - low) - 0.008 * width - 1) / 1.07
    half_width = min(width * rng.uniform(*half_share), room)
    return Frame(height, width, centre, height * rng.uniform(*top_share), half_width, length, tilt)


def _stamp(
    picture: Field,
    text: str,
    at: tuple[float, float],
    size: float,
    value: float,
    *,
    boxed: bool = False,
    bold: bool = True,
) -> None:
    """Draw ``text`` into ``picture`` in place; ``at`` and ``size`` (height of a capital) are shares of the image."""
    height, width = picture.shape
    font, pixels = cv2.FONT_HERSHEY_SIMPLEX, size * height
    scale = pixels / 22  # a capital of this font is 22 pixels high at scale 1
    thickness = max(1, round(pixels / (5 if bold else 9)))
    x, y = round(at[0] * width), round(at[1] * height)
    canvas = np.zeros(picture.shape, np.uint8)
    cv2.putText(canvas, text, (x, y), font, scale, 255, thickness, cv2.LINE_AA)
    letters = canvas.astype(np.float32) / np.float32(255)
    if boxed:
        (wide, tall), _ = cv2.getTextSize(text, font, scale, thickness)
        pad = round(0.35 * pixels)
        box = np.zeros(picture.shape, np.float32)
        cv2.rectangle(box, (x - pad, y - tall - pad), (x + wide + pad, y + pad), 1.0, -1)
        picture[...] = picture * (1 - box) + np.float32(value) * (box - letters).clip(0, 1)
    else:
        picture[...] = picture * (1 - letters) + np.float32(value) * letters


def _half_plane(shape: tuple[int, int], through: tuple[float, float], normal: float) -> Field:
    """Return 1 on one side of a line through a point (x, y; pixels), 0 on the other, with an antialiased edge."""
    y, x = np.arange(shape[0], dtype=np.float32)[:, None], np.arange(shape[1], dtype=np.float32)[None, :]
    distance = (x - np.float32(through[0])) * np.float32(np.cos(normal)) + (y - np.float32(through[1])) * np.float32(
        np.sin(normal)
    )
    return np.asarray(np.clip(distance + np.float32(0.5), 0, 1), np.float32)


def _lowest_lung(radiograph: Radiograph) -> int:
    return int(np.flatnonzero((radiograph.right | radiograph.left).any(axis=1))[-1])


# The publisher's images have 4020 x 4892 pixels of 12 bits, portrait or landscape; scale 12.5 gives this size.
FILM = (4020 * 0.08, 4892 * 0.08)


def _film_frame(rng: np.random.Generator, scale: float) -> Frame:
    short, long = (round(side * scale) for side in FILM)
    if rng.random() < 0.65:
        return _place(rng, short, long, half_share=(0.34, 0.41), length_share=(0.58, 0.73), top_share=(0.08, 0.14))
    return _place(rng, long, short, half_share=(0.37, 0.44), length_share=(0.50, 0.64), top_share=(0.07, 0.13))


def _film(rng: np.random.Generator, radiograph: Radiograph, frame: Frame) -> NDArray[np.uint16]:
    """Return a scanned film, uint16, 0 to 4095: hard contrast, white abdomen, black surround, shutter edge below."""
    height, width = frame.shape
    across = np.linspace(-1, 1, width, dtype=np.float32)[None, :] * np.float32(rng.uniform(-0.06, 0.06))
    steep, middle = rng.uniform(4.2, 5.6), rng.uniform(0.66, 0.80)
    density = 1 / (1 + np.exp(-steep * (radiograph.attenuation + across - middle)))
    floor = 1 / (1 + np.exp(steep * middle))
    picture = np.asarray((density - floor) / (1 - floor), np.float32).clip(0, 1)
    picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), max(0.0022 * height, 0.3)), np.float32)
    # Film grain depends on the exposure; fully black or white film has none.
    grain = rng.standard_normal(frame.shape, dtype=np.float32)
    picture += np.float32(rng.uniform(0.003, 0.007)) * grain * np.sqrt(np.clip(picture * (1 - picture) * 4, 0.01, 1))
    _stamp(picture, "R", (rng.uniform(0.03, 0.06), rng.uniform(0.08, 0.11)), 0.038, 0.97)
    _stamp(
        picture,
        str(rng.choice(("PA", "PA ERECT"))),
        (rng.uniform(0.78, 0.81), rng.uniform(0.06, 0.09)),
        0.022,
        1.0,
        boxed=True,
    )
    shutter = max(height * rng.uniform(0.74, 1.08), _lowest_lung(radiograph) + 0.03 * height)
    picture *= _half_plane(frame.shape, (width / 2, shutter), -np.pi / 2 + rng.normal(0, 0.012))
    for through, normal in (((0.0, 0.0), 0.0), ((width, 0.0), np.pi)):
        if rng.random() < 0.3:
            inwards = rng.uniform(0.004, 0.012) * width
            at = (through[0] + np.cos(normal) * inwards, height / 2)
            picture *= _half_plane(frame.shape, at, normal + rng.normal(0, 0.006))
    # A scanner's last three bits are noise, which PNG cannot compress: set them to 0, except for full white.
    steps = np.rint(picture.clip(0, 1) * 511).astype(np.uint16)
    return np.where(steps == 511, 4095, steps * 8).astype(np.uint16)


def _digital_frame(rng: np.random.Generator, scale: float) -> Frame:
    height, width = (round(scale * float(side)) for side in rng.uniform((300, 300), (345, 352)))
    return _place(rng, height, width, half_share=(0.31, 0.40), length_share=(0.56, 0.71), top_share=(0.10, 0.17))


def _digital(rng: np.random.Generator, radiograph: Radiograph, frame: Frame) -> NDArray[np.uint8]:
    """Return a digital image, uint8: flat curve, bright lungs, sharpened edges, grain, dim surround, small labels."""
    height, width = frame.shape
    down = np.linspace(-1, 1, height, dtype=np.float32)[:, None] * np.float32(rng.uniform(-0.04, 0.08))
    gamma, white = rng.uniform(0.55, 0.85), rng.uniform(1.45, 1.75)
    dim = np.float32(rng.uniform(0.02, 0.10)) + np.float32(0.01) * cloud(rng, frame.shape, 4)
    picture = np.asarray(((radiograph.attenuation + down).clip(0, None) / white) ** gamma, np.float32)
    picture = dim + (1 - dim) * picture
    wide = cv2.GaussianBlur(picture, (0, 0), 0.02 * height)
    picture = picture + np.float32(rng.uniform(0.4, 0.9)) * (picture - wide)
    grain = rng.standard_normal(frame.shape, dtype=np.float32)
    picture += np.float32(rng.uniform(0.007, 0.014)) * grain
    side, x = (("L", rng.uniform(0.86, 0.93)), ("R", rng.uniform(0.05, 0.12)))[int(rng.random() < 0.4)]
    y = rng.uniform(0.05, 0.09)
    _stamp(picture, side, (x, y), 0.030, 0.92, bold=False)
    if rng.random() < 0.7:
        _stamp(picture, str(rng.choice(("ap", "pa"))), (x - 0.01, y + 0.045), 0.016, 0.85, bold=False)
    if rng.random() < 0.5:  # the detector is slightly rotated in the stored square: a bright edge, then black
        askew = rng.normal(0, 0.012)
        lowest = max(height * rng.uniform(0.955, 0.985), _lowest_lung(radiograph) + 0.02 * height)
        for line, value in ((lowest, 0.97), (lowest + max(1.0, 0.008 * height), 0.02)):
            keep = _half_plane(frame.shape, (width / 2, line), -np.pi / 2 + askew)
            picture = picture * keep + np.float32(value) * (1 - keep)
    grey: NDArray[np.uint8] = np.rint(picture.clip(0, 1) * 255).astype(np.uint8)
    return grey


MACHINES = {"montgomery": Machine(_film_frame, _film), "shenzhen": Machine(_digital_frame, _digital)}
