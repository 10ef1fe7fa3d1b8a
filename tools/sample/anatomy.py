"""The shapes of a synthetic chest.

Shapes are in chest coordinates, independent of the image's size and aspect ratio: ``u`` is horizontal, 0 at the midline
and -1 and +1 at the lungs' outermost edges; ``v`` is vertical, 0 at the lung apices and 1 at the costophrenic angles.
The shapes of one side use the distance from the midline, ``s >= 0``, and the side's sign: -1 is the patient's right, on
the image's left, and +1 the patient's left.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

Points = NDArray[np.float64]  # (n, 2): chest coordinates, or s and v of one side
Field = NDArray[np.float32]  # (height, width)

RIGHT, LEFT = -1, 1  # the patient's sides
SUBPIXEL_BITS = 6  # fractional bits of OpenCV's fixed-point coordinates


def curve(points: Any, samples: int = 64) -> Points:
    """Return a smooth open curve through ``points`` (n, 2): a cubic spline over the chord length, (samples, 2)."""
    knots = np.asarray(points, dtype=np.float64)
    chord = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(knots, axis=0).T))])
    return np.asarray(CubicSpline(chord, knots)(np.linspace(0.0, chord[-1], samples)))


def on_side(points: Points, side: int) -> Points:
    """Return the points (s, v) of one side as chest coordinates (u, v)."""
    return points * (side, 1.0)


@dataclass(frozen=True)
class Frame:
    """Position of the chest in an image of ``height`` x ``width`` pixels, and methods to draw shapes there."""

    height: int
    width: int
    centre: float  # x of the midline at the apices, pixels
    top: float  # y of the apices, pixels
    half_width: float  # pixels of one unit of u
    length: float  # pixels of one unit of v
    tilt: float  # rotation of the patient, radians

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width, in NumPy's order."""
        return self.height, self.width

    def pixels(self, points: Points) -> Points:
        """Return chest coordinates (n, 2) as pixels x, y (n, 2)."""
        x, y = points[:, 0] * self.half_width, points[:, 1] * self.length
        cos, sin = np.cos(self.tilt), np.sin(self.tilt)
        return np.stack([self.centre + cos * x - sin * y, self.top + sin * x + cos * y], axis=1)

    def grid(self) -> tuple[Field, Field]:
        """Return u and v of every pixel."""
        x = np.arange(self.width, dtype=np.float32)[None, :] - np.float32(self.centre)
        y = np.arange(self.height, dtype=np.float32)[:, None] - np.float32(self.top)
        cos, sin = np.float32(np.cos(self.tilt)), np.float32(np.sin(self.tilt))
        u, v = (cos * x + sin * y) / np.float32(self.half_width), (cos * y - sin * x) / np.float32(self.length)
        return u.astype(np.float32), v.astype(np.float32)

    def _fixed_point(self, points: Points) -> NDArray[np.int32]:
        return np.rint(self.pixels(points) * (1 << SUBPIXEL_BITS)).astype(np.int32)

    def region(self, *polygons: Points) -> NDArray[np.uint8]:
        """Return the union of closed polygons as a mask, 0 or 255."""
        canvas = np.zeros(self.shape, np.uint8)
        for polygon in polygons:
            cv2.fillPoly(canvas, [self._fixed_point(polygon)], 255, cv2.LINE_8, SUBPIXEL_BITS)
        return canvas

    def area(self, *polygons: Points) -> Field:
        """Return the union of closed polygons, 0 to 1, with antialiased edges."""
        canvas = np.zeros(self.shape, np.uint8)
        for polygon in polygons:
            cv2.fillPoly(canvas, [self._fixed_point(polygon)], 255, cv2.LINE_AA, SUBPIXEL_BITS)
        return canvas.astype(np.float32) / np.float32(255)

    def strokes(self, lines: list[tuple[Points, float]]) -> Field:
        """Return lines with a width in units of u, as an area from 0 to 1."""
        canvas = np.zeros(self.shape, np.uint8)
        for points, width in lines:
            pixels = width * self.half_width
            # Draw a line thinner than a pixel one pixel wide, but paler.
            value = int(255 * min(1.0, pixels))
            thickness = max(1, round(pixels))
            cv2.polylines(canvas, [self._fixed_point(points)], False, value, thickness, cv2.LINE_AA, SUBPIXEL_BITS)
        return canvas.astype(np.float32) / np.float32(255)

    def blur(self, image: Field, sigma: float) -> Field:
        """Return ``image`` blurred by a Gaussian of ``sigma`` in units of u."""
        return np.asarray(cv2.GaussianBlur(image, (0, 0), max(sigma * self.half_width, 0.3)), np.float32)

    def roundness(self, area: Field, depth: float) -> Field:
        """Return the thickness (0 to 1) of a rounded body with this outline; it is 1 from ``depth`` (in u) inwards."""
        inside = cv2.distanceTransform((area > 0.5).astype(np.uint8), cv2.DIST_L2, 5)
        rest = 1 - np.clip(inside / np.float32(depth * self.half_width), 0, 1)
        return np.asarray(np.sqrt(1 - rest * rest), np.float32)


@dataclass(frozen=True)
class Lung:
    """One lung's outline in (s, v): medial border upwards, apex, chest wall downwards, then the diaphragm."""

    side: int
    border: Points
    diaphragm: Points  # from the costophrenic to the cardiophrenic angle
    medial: Points  # the border at the heart, from the base to the apex

    @property
    def outline(self) -> Points:
        """The closed polygon in chest coordinates."""
        return on_side(np.concatenate([self.border, self.diaphragm[1:-1]]), self.side)


@dataclass(frozen=True)
class Chest:
    """The random shapes of one patient."""

    female: bool
    lungs: tuple[Lung, Lung]  # the patient's right, left
    torso: float  # half-width of the trunk below the arms, units of u
    shoulder: float  # v of the shoulders
    arm: float  # distance of the arms from the trunk, units of u
    ribs: float  # v of the first posterior rib at the spine
    rib_distance: float  # v between neighbouring ribs
    rib_slope: float  # fall of a posterior rib towards the side, units of v
    trachea: Points = field(repr=False)  # (u, v)


def _lung(rng: np.random.Generator, side: int, heart: float) -> Lung:
    def jitter(points: list[tuple[float, float]], spread: float) -> Points:
        return np.asarray(points) + rng.normal(0.0, spread, (len(points), 2))

    dome = rng.normal(0.0, 0.025) + (0.035 if side == LEFT else 0.0)
    angle = 1.0 + rng.normal(0.0, 0.02)
    if side == RIGHT:
        foot = (0.22 + 0.10 * heart, 0.93 + dome)
        medial = [(0.23 + 0.12 * heart, 0.78), (0.19 + 0.06 * heart, 0.62), (0.19, 0.46), (0.17, 0.30), (0.155, 0.15)]
    else:
        foot = (0.50 + 0.32 * heart, 0.94 + dome)
        medial = [(0.47 + 0.33 * heart, 0.80), (0.36 + 0.26 * heart, 0.66), (0.26 + 0.12 * heart, 0.52)]
        medial += [(0.205, 0.40), (0.235 + 0.04 * rng.uniform(-1, 1), 0.29), (0.16, 0.15)]
    wall = [(0.70, 0.075), (0.845, 0.22), (0.925, 0.42), (0.97, 0.62), (0.995, 0.82)]
    medial_points, wall_points = jitter(medial, 0.008), jitter(wall, 0.008)
    narrow = rng.normal(0.0, 0.02)  # the whole wall of this side
    wall_points[:, 0] += narrow
    apex = np.asarray([(0.24, 0.045), (0.43, 0.0), (0.58, 0.018)])
    apex[:, 0] += rng.normal(0.0, 0.015)
    corner = np.asarray([(min(1.0 + narrow, 1.04), angle)])
    border = curve(np.concatenate([[foot], medial_points, apex, wall_points, corner]), 160)
    middle = (foot[0] + corner[0, 0]) / 2
    # A narrow base next to a large heart has a flatter dome.
    top = min(foot[1], angle) - rng.uniform(0.05, 0.10) * (corner[0, 0] - foot[0]) / 0.7
    diaphragm = curve([corner[0], (0.5 * (middle + corner[0, 0]) + 0.02, top + 0.035), (middle - 0.03, top), foot])
    return Lung(side, border, diaphragm, curve(np.concatenate([[foot], medial_points, apex[:1]])))


def draw_chest(rng: np.random.Generator) -> Chest:
    """Return a chest drawn from ``rng``."""
    heart = float(np.clip(rng.normal(0.3, 0.22), -0.1, 0.85))
    lungs = (_lung(rng, RIGHT, heart), _lung(rng, LEFT, heart))
    bend = rng.uniform(-0.03, 0.03)
    trachea = curve([(0.0, -0.45), (0.01 - bend / 2, -0.1), (-0.015 + bend, 0.15), (-0.02, 0.30)])
    return Chest(
        female=bool(rng.random() < 0.5),
        lungs=lungs,
        torso=rng.uniform(1.12, 1.24),
        shoulder=rng.uniform(-0.08, 0.06),
        arm=rng.uniform(0.0, 1.0),
        ribs=rng.uniform(0.05, 0.09),
        rib_distance=rng.uniform(0.092, 0.108),
        rib_slope=rng.uniform(0.12, 0.22),
        trachea=trachea,
    )


def _rib_end(chest: Chest, side: int, number: int) -> tuple[float, float, float]:
    """Return the start of posterior rib ``number`` (v) and its end at the chest wall (s, v)."""
    start = chest.ribs + number * chest.rib_distance
    end = start + chest.rib_slope * (0.45 + 0.08 * number)
    border = chest.lungs[0 if side == RIGHT else 1].border
    outside = border[np.argmin(border[:, 1]) :]  # from the apex down the chest wall
    return start, float(np.interp(end, outside[:, 1], outside[:, 0])) + 0.025, end


def posterior_ribs(chest: Chest, side: int) -> list[Points]:
    """Return the posterior ribs' centre lines (u, v), from the spine to the side of the chest."""
    lines = []
    for number in range(9):
        start, reach, end = _rib_end(chest, side, number)
        fall = end - start
        knots = [(0.1, start), (0.3 * reach, start - 0.02), (0.65 * reach, start + 0.25 * fall), (reach, end)]
        lines.append(on_side(curve(knots, 32), side))
    return lines


def anterior_ribs(chest: Chest, side: int) -> list[Points]:
    """Return the anterior ribs' centre lines (u, v): they start at the side, fall steeply, and end in the lung."""
    lines = []
    for number in range(6):
        _, reach, begin = _rib_end(chest, side, number)
        foot = (0.36 + 0.035 * number, begin + 0.17 + 0.012 * number)
        knots = [(reach, begin), (0.94 * reach, begin + 0.06), (0.5 * (reach + foot[0]), begin + 0.14), foot]
        lines.append(on_side(curve(knots, 32), side))
    return lines


def trunk(chest: Chest) -> Points:
    """Return the outline of neck, shoulders and trunk (u, v)."""
    half = [(0.30, -0.9), (0.32, -0.25), (0.55, -0.14), (1.0, chest.shoulder - 0.06), (1.32, chest.shoulder + 0.04)]
    half += [(1.40, chest.shoulder + 0.22), (chest.torso + 0.05, 0.48), (chest.torso, 0.75), (chest.torso - 0.03, 1.1)]
    half += [(chest.torso - 0.02, 2.2)]
    right = curve(half, 128)
    return np.concatenate([on_side(right, RIGHT), on_side(right[::-1], LEFT)])


def arm(chest: Chest, side: int) -> Points:
    """Return the outline of one arm (u, v): from the shoulder down and away from the trunk."""
    out = 0.25 + 0.75 * chest.arm
    knots = [(1.05, chest.shoulder), (1.38, chest.shoulder + 0.02), (1.55 + 0.2 * out, 0.3), (1.62 + out, 1.0)]
    inner = [(1.25 + out, 1.0), (1.30 + 0.3 * out, 0.55), (1.15, 0.42)]
    return on_side(np.concatenate([curve(knots), curve(inner, 32)]), side)


def clavicle(chest: Chest, side: int) -> Points:
    """Return a clavicle's centre line (u, v), from the sternum to the shoulder."""
    rise = 0.55 * chest.shoulder
    return on_side(curve([(0.10, 0.135), (0.35, 0.10), (0.70, 0.02 + rise), (1.08, chest.shoulder)], 48), side)


def scapula(chest: Chest, side: int) -> Points:
    """Return a shoulder blade's outline (u, v)."""
    high = chest.shoulder
    return on_side(curve([(1.20, high + 0.05), (0.92, high + 0.10), (0.90, 0.30), (0.99, 0.47), (1.12, 0.27)]), side)


def vessels(rng: np.random.Generator, side: int) -> list[tuple[Points, float]]:
    """Return a lung's vessels as (centre line (u, v), width in units of u), branching from the hilum."""
    lines: list[tuple[Points, float]] = []
    hilum = np.asarray((0.20, 0.44))
    for angle in np.linspace(-1.35, 1.35, 8) + rng.normal(0.0, 0.1, 8):
        stack = [(hilum, float(angle), 0.034, 0)]
        while stack:
            start, heading, width, depth = stack.pop()
            step = rng.uniform(0.10, 0.19) * 0.9**depth
            end = start + step * np.asarray((np.cos(heading), np.sin(heading)))
            sway = rng.normal(0.0, 0.012, 2)
            lines.append((on_side(np.stack([start, (start + end) / 2 + sway, end]), side), width))
            if depth < 4:
                for turn in (rng.normal(0.35, 0.15), rng.normal(-0.35, 0.15)):
                    stack.append((end, heading + float(turn), width * rng.uniform(0.55, 0.75), depth + 1))
    return lines
