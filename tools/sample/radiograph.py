"""The attenuation of X-rays in a synthetic chest, and the lung masks."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from tools.sample import anatomy
from tools.sample.anatomy import LEFT, RIGHT, Chest, Field, Frame, Points, curve, on_side

ZONES = {"upper": 0.24, "middle": 0.47, "lower": 0.70}  # v of the zones' centres
KINDS = ("infiltrate", "nodules", "cavity", "effusion")


@dataclass(frozen=True)
class Lesion:
    """An abnormality in a lung."""

    kind: str  # one of KINDS
    side: int
    zone: str  # one of ZONES
    seed: int  # seed of the shape

    @property
    def finding(self) -> str:
        """The finding in a radiologist's words."""
        side = "right" if self.side == RIGHT else "left"
        if self.kind == "effusion":
            return f"{side} pleural effusion"
        return f"{self.kind} in the {side} {self.zone} zone"


@dataclass(frozen=True)
class Radiograph:
    """The noise-free radiograph of a chest.

    Attributes:
        attenuation: float32 (height, width), 0 in air and about 1 to 1.6 behind the heart and the abdomen.
        right: mask of the patient's right lung, uint8 (height, width), 0 or 255, on the image's left.
        left: mask of the patient's left lung, in the same format.
    """

    attenuation: Field
    right: NDArray[np.uint8]
    left: NDArray[np.uint8]


def draw_lesions(rng: np.random.Generator) -> list[Lesion]:
    """Return one to three lesions, at most one of each kind per side."""
    lesions: dict[tuple[str, int], Lesion] = {}
    for _ in range(int(rng.integers(1, 4))):
        kind = str(rng.choice(KINDS, p=(0.45, 0.25, 0.12, 0.18)))
        side = int(rng.choice((RIGHT, LEFT)))
        zone = str(rng.choice(list(ZONES), p=(0.45, 0.3, 0.25)))
        lesions[kind, side] = Lesion(kind, side, zone, int(rng.integers(2**32)))
    return list(lesions.values())


def cloud(rng: np.random.Generator, shape: tuple[int, int], cells: int) -> Field:
    """Return smooth noise with mean 0, deviation about 1 and ``cells`` bumps across, independent of the size."""
    rows = max(2, round(cells * shape[0] / shape[1])) + 2
    # A separate generator, so that the number of bumps does not change later draws.
    grid = np.random.default_rng(int(rng.integers(2**32))).standard_normal((rows, cells + 2), dtype=np.float32)
    return np.asarray(cv2.resize(grid, shape[::-1], interpolation=cv2.INTER_CUBIC), np.float32) * np.float32(1.25)


def _bell(u: Field, v: Field, at: tuple[float, float], size: tuple[float, float]) -> Field:
    return np.asarray(np.exp(-0.5 * (((u - at[0]) / size[0]) ** 2 + ((v - at[1]) / size[1]) ** 2)), np.float32)


def _bones(chest: Chest, frame: Frame) -> Field:
    """Return the attenuation of ribs, clavicles, shoulders and spine."""
    total = np.zeros(frame.shape, np.float32)
    for side in (RIGHT, LEFT):
        # A long bone is a tube: its cortex shows as two bright edges.
        for lines, width, weight in (
            (anatomy.posterior_ribs(chest, side), 0.085, 0.19),
            (anatomy.anterior_ribs(chest, side), 0.10, 0.105),
            ([anatomy.clavicle(chest, side)], 0.10, 0.25),
        ):
            outer = frame.strokes([(line, width) for line in lines])
            inner = frame.strokes([(line, width * 0.62) for line in lines])
            total += np.float32(weight) * (frame.blur(outer, 0.010) - np.float32(0.42) * frame.blur(inner, 0.010))
        total += np.float32(0.085) * frame.blur(frame.area(anatomy.scapula(chest, side)), 0.015)
        joint = on_side(np.asarray([(1.27, chest.shoulder + 0.06)]), side)
        turn = np.linspace(0, 2 * np.pi, 40)
        head = joint + np.stack([0.14 * np.cos(turn), 0.10 * np.sin(turn)], axis=1)
        shaft = on_side(
            curve([(1.30, chest.shoulder + 0.08), (1.45 + 0.3 * chest.arm, 0.5), (1.5 + chest.arm, 1.1)]), side
        )
        total += np.float32(0.17) * frame.blur(np.maximum(frame.area(head), frame.strokes([(shaft, 0.15)])), 0.012)
    vertebrae = []
    for number in range(26):
        middle, tall, wide = -0.5 + number * 0.085, 0.034, 0.105 + 0.0012 * number
        vertebrae.append(
            np.asarray([(-wide, middle - tall), (wide, middle - tall), (wide, middle + tall), (-wide, middle + tall)])
        )
    total += np.float32(0.07) * frame.blur(frame.area(*vertebrae), 0.016)
    return total + np.float32(0.15) * frame.blur(frame.strokes([(np.asarray([(0.0, -0.6), (0.0, 2.0)]), 0.21)]), 0.035)


def _below(chest: Chest, frame: Frame) -> Field:
    """Return the area below the diaphragm, 0 to 1."""
    right, left = (on_side(lung.diaphragm, lung.side) for lung in chest.lungs)
    return frame.blur(frame.area(np.concatenate([right, left[::-1], [(1.5, 2.4), (-1.5, 2.4)]])), 0.014)


def _abdomen(rng: np.random.Generator, chest: Chest, frame: Frame, u: Field, v: Field) -> Field:
    """Return the attenuation of the organs below the diaphragm, less the gas in stomach and bowel."""
    organs = np.float32(0.30) * _below(chest, frame) * np.clip(1.25 - np.abs(u), 0, 1)
    if rng.random() < 0.75:
        at = (rng.uniform(0.45, 0.66), 1.02 + rng.uniform(0.0, 0.08))
        size = (rng.uniform(0.08, 0.17), rng.uniform(0.03, 0.06))
        bubble = np.clip(1.6 * (1.35 - ((u - at[0]) / size[0]) ** 2 - ((v - at[1]) / size[1]) ** 2), 0, 1)
        organs -= np.float32(rng.uniform(0.25, 0.5)) * frame.blur(np.asarray(bubble, np.float32), 0.015)
    for _ in range(int(rng.integers(0, 5))):
        at = (rng.uniform(-0.3, 0.9), rng.uniform(1.2, 1.6))
        organs -= np.float32(rng.uniform(0.1, 0.3)) * _bell(u, v, at, (rng.uniform(0.04, 0.1), rng.uniform(0.03, 0.06)))
    return np.asarray(organs, np.float32)


def _breasts(rng: np.random.Generator, u: Field, v: Field) -> Field:
    """Return the attenuation of two breasts: they thicken downwards to a sharp lower edge."""
    across, low, radius = rng.uniform(0.5, 0.66), rng.uniform(0.86, 1.06), rng.uniform(0.34, 0.48)
    weight = np.float32(rng.uniform(0.14, 0.34))
    total = np.zeros_like(u)
    for side in (RIGHT, LEFT):
        far = np.hypot(u - side * across, (v - low + radius * 0.75) / 0.8) / radius
        total += weight * np.sqrt(np.clip(1 - far**2, 0, 1)) * np.clip(0.75 + (v - low) / 0.6, 0.2, 1.2)
    return np.asarray(total, np.float32)


def _lesion(lesion: Lesion, frame: Frame, u: Field, v: Field) -> Field:
    """Return the attenuation of one lesion, before it is clipped to its lung."""
    rng = np.random.default_rng(lesion.seed)
    at = (lesion.side * rng.uniform(0.42, 0.75), ZONES[lesion.zone] + rng.uniform(-0.06, 0.06))
    if lesion.kind == "infiltrate":
        patchy = np.clip(0.75 + 0.55 * cloud(rng, frame.shape, 26) + 0.35 * cloud(rng, frame.shape, 60), 0, 2)
        size = (rng.uniform(0.10, 0.22), rng.uniform(0.08, 0.17))
        return np.asarray(rng.uniform(0.20, 0.36) * patchy * _bell(u, v, at, size), np.float32)
    if lesion.kind == "nodules":
        total = np.zeros_like(u)
        for _ in range(int(rng.integers(1, 6))):
            radius = rng.uniform(0.018, 0.05)
            where = (at[0] + rng.normal(0, 0.1), at[1] + rng.normal(0, 0.07))
            far = np.hypot((u - where[0]) / radius, (v - where[1]) * frame.length / frame.half_width / radius)
            total += np.float32(rng.uniform(0.16, 0.30)) * np.clip(1.8 - far, 0, 1)
        return np.asarray(frame.blur(total, 0.008), np.float32)
    if lesion.kind == "cavity":
        radius = rng.uniform(0.08, 0.14)
        far = np.hypot(u - at[0], (v - at[1]) * frame.length / frame.half_width) + 0.012 * cloud(rng, frame.shape, 14)
        return np.asarray(
            0.28 * np.exp(-0.5 * ((far - radius) / 0.022) ** 2) + 0.12 * _bell(u, v, at, (0.16, 0.12)), np.float32
        )
    # Free fluid is at the lung's base and rises at the chest wall: the meniscus.
    level = rng.uniform(0.78, 0.90)
    surface = level - 0.16 * np.clip((np.abs(u) - 0.55) / 0.45, 0, 1) ** 2
    return np.asarray(rng.uniform(0.26, 0.42) / (1 + np.exp(-(v - surface) / 0.022)), np.float32)


def _lung_field(rng: np.random.Generator, chest: Chest, frame: Frame, masks: list[NDArray[np.uint8]]) -> Field:
    """Return the reduction of attenuation by the air in the lungs, less vessels and texture."""
    total = np.zeros(frame.shape, np.float32)
    u, v = frame.grid()
    filled = np.float32(rng.uniform(0.74, 1.08))  # amount of inhaled air
    grain = np.float32(0.018) * cloud(rng, frame.shape, 70) + np.float32(0.030) * cloud(rng, frame.shape, 12)
    for lung, mask in zip(chest.lungs, masks, strict=True):
        inside = frame.blur(mask.astype(np.float32) / np.float32(255), 0.012)
        depth = np.float32(0.30) + np.float32(0.26) * frame.roundness(inside, 0.34)
        tree = frame.strokes(anatomy.vessels(rng, lung.side))
        hilum = np.float32(0.12) * _bell(u, v, (0.24 * lung.side, 0.45), (0.07, 0.10))
        total += inside * (filled * depth - np.float32(0.085) * frame.blur(tree, 0.008) - hilum + grain)
    return total


def expose(rng: np.random.Generator, chest: Chest, frame: Frame, lesions: list[Lesion]) -> Radiograph:
    """Return the radiograph of ``chest`` with ``lesions`` in ``frame``; ``rng`` draws the textures."""
    u, v = frame.grid()
    right, left = (frame.region(lung.outline) for lung in chest.lungs)
    body = frame.area(anatomy.trunk(chest))
    arms = frame.area(anatomy.arm(chest, RIGHT), anatomy.arm(chest, LEFT))
    stout = rng.uniform(0.74, 0.92)
    tissue = np.maximum(np.float32(stout) * frame.roundness(body, 0.42), np.float32(0.62) * frame.roundness(arms, 0.20))
    tissue += np.float32(0.035) * cloud(rng, frame.shape, 7) * (tissue > 0.1)
    tissue = frame.blur(tissue, 0.008)
    lung_right, lung_left = chest.lungs
    between = np.concatenate([on_side(lung_right.medial, RIGHT), on_side(lung_left.medial[::-1], LEFT)])
    heart = np.float32(0.30) * frame.roundness(frame.area(between), 0.16)
    attenuation = tissue + frame.blur(heart, 0.015) + _abdomen(rng, chest, frame, u, v) * body
    if chest.female:
        attenuation += _breasts(rng, u, v) * body
    attenuation -= _lung_field(rng, chest, frame, [right, left])
    # Scatter reduces the contrast of bones below the diaphragm.
    attenuation += _bones(chest, frame) * np.maximum(body, arms) * (1 - np.float32(0.55) * _below(chest, frame))
    windpipe: list[tuple[Points, float]] = [(chest.trachea, 0.13)]
    attenuation -= np.float32(0.16) * frame.blur(frame.strokes(windpipe), 0.015)
    for lesion in lesions:
        lung = right if lesion.side == RIGHT else left
        confined = frame.blur(lung.astype(np.float32) / np.float32(255), 0.012)
        attenuation += confined * _lesion(lesion, frame, u, v)
    return Radiograph(np.maximum(frame.blur(attenuation, 0.004), 0), right, left)
