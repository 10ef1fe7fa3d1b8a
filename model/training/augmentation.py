"""Data augmentation of batches of X-rays and masks, on their device.

:meth:`Augmenter.draw` draws the random parameters of a whole batch on the CPU, from a generator that depends only on
the seed and the step; :meth:`Augmenter.apply` then runs without synchronisation. So a resumed run is reproducible, and
several processes that share a batch get the same images as one process.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from model.inputs import channels_last
from model.training.recipe import Augmentation

Draw = dict[str, Tensor]
KNOTS = 5  # knots of the random tone curve
SHADE_GRID = 4  # cells per side of the random shading
LABELS = ("R", "L", "PA", "AP", "ERECT", "SUPINE", "PORTABLE")
FRAME = 0.3  # maximum width of a frame, share of the side
BLOBS = 3  # maximum number of local opacities
BLOB_SIDE = (0.03, 0.15)  # their standard deviations, share of the side
BLOB_GREY = 0.5  # maximum brightening at the centre of one, share of the grey range
VEIL_GREY = 0.6  # maximum brightening of the veil at the image's bottom, share of the grey range
VEIL_TOP = (0.3, 0.8)  # upper edge of the veil, share of the height
ARM_WIDTH = (0.03, 0.12)  # width of the air between arm and chest, and of the arm, share of the side
ARM_SLANT = 0.3  # maximum sideways shift of an arm from top to bottom, share of the width


def step_generator(seed: int, step: int) -> torch.Generator:
    """Return the random generator of one step; steps are counted from 0 over the whole run."""
    # A large odd factor separates the streams of neighbouring seeds.
    return torch.Generator().manual_seed((seed * 1_000_003 + step) % 2**63)


class Augmenter:
    """Draws random augmentations and applies them to images of one size.

    Geometric transforms apply to image and mask and fill with black, which is not lung. All others change only the
    image.

    Args:
        params: strengths and probabilities of the augmentations.
        size: height and width of the images.
        device: device of the images.
    """

    def __init__(self, params: Augmentation, size: tuple[int, int], device: torch.device) -> None:
        self.params, self.size, self.device = params, size, device
        # Noise is cropped from one field at random positions: drawing it for every batch costs more than all else.
        field = torch.randn(2 * size[0], 2 * size[1], generator=torch.Generator().manual_seed(0))
        self.noise = field.to(device)
        self.labels = [torch.from_numpy(picture).to(device) for picture in _labels(min(size))]

    def draw(self, count: int, generator: torch.Generator) -> Draw:
        """Draw the random parameters of ``count`` images on the CPU, one row per image."""
        p = self.params

        def uniform(low: float, high: float, *shape: int) -> Tensor:
            return torch.rand(count, *shape, generator=generator) * (high - low) + low

        def chance(probability: float) -> Tensor:
            return torch.rand(count, generator=generator) < probability

        gamma = math.log(1 + p.gamma)
        return {
            "theta": self._theta(count, generator),
            "gamma": uniform(-gamma, gamma).exp(),
            "contrast": 1 + uniform(-p.contrast, p.contrast),
            "brightness": uniform(-p.brightness, p.brightness),
            "curve": _rising_curves(uniform(0, 1, KNOTS)),
            "histogram": uniform(0, p.histogram),
            "shade": 1 + uniform(-p.shade, p.shade, SHADE_GRID, SHADE_GRID),
            "blur": uniform(0, p.blur * min(self.size)),
            "noise": uniform(0, p.noise),
            "noise_at": uniform(0, 1, 2),
            "blob_grey": uniform(0, BLOB_GREY, BLOBS) * (uniform(0, 1, BLOBS) < 0.5) * chance(p.opacity)[:, None],
            "blob_at": uniform(0.1, 0.9, BLOBS, 2),
            "blob_side": uniform(*BLOB_SIDE, BLOBS, 2),
            "veil": uniform(0, VEIL_GREY) * chance(p.veil),
            "veil_top": uniform(*VEIL_TOP),
            "veil_cut": uniform(0, FRAME) * chance(p.veil),
            "arm": chance(p.arm),
            "arm_left": uniform(0, 1) < 0.5,
            "arm_at": uniform(0.02, 0.3),
            "arm_slant": uniform(-ARM_SLANT, ARM_SLANT),
            "arm_widths": uniform(*ARM_WIDTH, 2),
            "arm_greys": uniform(0, 0.2, 1).repeat(1, 2) + torch.stack([uniform(0, 0), uniform(0.3, 0.6)], 1),
            "framed": chance(p.border),
            "frame": uniform(0, FRAME, 4) * (uniform(0, 1, 4) < 0.5),
            "frame_grey": (uniform(0, 1) < 0.1).float(),
            "labelled": chance(p.label),
            "label": torch.randint(len(self.labels), (count,), generator=generator),
            "label_at": uniform(0, 1, 2),
        }

    def _theta(self, count: int, generator: torch.Generator) -> Tensor:
        """Return float32 (count, 2, 3) for ``affine_grid``, from output to input coordinates."""
        p = self.params
        height, width = self.size
        r = torch.rand(count, 7, generator=generator, dtype=torch.float64)
        either = 2 * r - 1
        angle, shear = torch.deg2rad(either[:, 0] * p.rotation), torch.deg2rad(either[:, 1] * p.shear)
        scale, stretch = 1 + either[:, 2] * p.zoom, (1 + either[:, 3] * p.aspect).sqrt()
        flip = torch.where(r[:, 6] < p.flip, -1.0, 1.0)
        # In pixels, so that a rotation does not shear an image that is not square.
        forward = torch.zeros(count, 3, 3, dtype=torch.float64)
        cos, sin, tan = angle.cos(), angle.sin(), shear.tan()
        across, down = scale / stretch, scale * stretch
        forward[:, 0, 0], forward[:, 0, 1] = flip * cos * across, (cos * tan - sin) * down
        forward[:, 1, 0], forward[:, 1, 1] = flip * sin * across, (sin * tan + cos) * down
        forward[:, 0, 2], forward[:, 1, 2] = either[:, 4] * p.shift * width, either[:, 5] * p.shift * height
        forward[:, 2, 2] = 1
        to_pixels = torch.diag(torch.tensor([width / 2, height / 2, 1], dtype=torch.float64))
        backward = torch.linalg.inv(to_pixels) @ torch.linalg.inv(forward) @ to_pixels
        theta: Tensor = backward[:, :2].float()
        return theta

    def apply(self, images: Tensor, masks: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        """Augment a batch.

        Args:
            images: uint8 (N, H, W), 0 to 255.
            masks: uint8 (N, H, W), 0 or 1.
            draw: result of :meth:`draw`, N rows.

        Returns:
            Images, float32 (N, 1, H, W), 0 to 1, and masks, float32 (N, 1, H, W), 0 or 1.
        """
        p = self.params
        on = {name: value.to(self.device, non_blocking=True) for name, value in draw.items()}
        grey = self._tone(images, on)
        if p.shade:
            grey = grey * F.interpolate(on["shade"].unsqueeze(1), self.size, mode="bicubic")
        moved, drawn = self._move(grey, masks, on["theta"])
        if p.opacity:
            moved = moved + self._blobs(on)
        if p.veil:
            moved = self._veil(moved, drawn, on)
        if p.arm:
            moved = self._arm(moved, drawn, on)
        if p.blur:
            moved = _blur(moved, on["blur"], p.blur * min(self.size))
        if p.noise:
            moved = moved + on["noise"].view(-1, 1, 1, 1) * self._noise(draw["noise_at"])
        if p.border:
            moved = self._frame(moved, drawn, on)
        if p.label:
            self._label(moved, draw)
        return channels_last(moved.clamp(0, 1)), drawn

    def _tone(self, images: Tensor, on: Draw) -> Tensor:
        """Return float32 (N, 1, H, W): each image through its own lookup table of 256 grey values."""
        x = torch.linspace(0, 1, 256, device=self.device).expand(len(images), 256)
        column = {name: on[name].unsqueeze(1) for name in ("gamma", "contrast", "brightness", "histogram")}
        y = x ** column["gamma"]
        if self.params.histogram:
            curve = F.interpolate(on["curve"].unsqueeze(1), 256, mode="linear", align_corners=True)[:, 0]
            bent = curve.gather(1, (y * 255).long())
            y = y + column["histogram"] * (bent - y)
        table = (0.5 + column["contrast"] * (y - 0.5) + column["brightness"]).clamp(0, 1)
        flat = images.flatten(1).long()
        return table.gather(1, flat).view(len(images), 1, *self.size)

    def _move(self, grey: Tensor, masks: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        both = torch.cat([grey, masks.unsqueeze(1).float()], dim=1)
        grid = F.affine_grid(theta, list(both.shape), align_corners=False)
        moved = F.grid_sample(both, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        return moved[:, :1], (moved[:, 1:] > 0.5).float()

    def _noise(self, at: Tensor) -> Tensor:
        height, width = self.size
        places = (at * torch.tensor([height, width])).long().tolist()
        return torch.stack([self.noise[y : y + height, x : x + width] for y, x in places]).unsqueeze(1)

    def _places(self) -> tuple[Tensor, Tensor]:
        """Return the centres of the rows and of the columns, 0 to 1."""
        height, width = self.size
        ys = (torch.arange(height, device=self.device) + 0.5) / height
        xs = (torch.arange(width, device=self.device) + 0.5) / width
        return ys, xs

    def _blobs(self, on: Draw) -> Tensor:
        """Return local opacities to add, (N, 1, H, W): Gaussian spots, similar to an infiltrate or a nodule."""
        ys, xs = self._places()
        at, side = on["blob_at"][..., None], on["blob_side"][..., None]
        down = torch.exp(-(((ys - at[:, :, 0]) / side[:, :, 0]) ** 2) / 2)
        across = torch.exp(-(((xs - at[:, :, 1]) / side[:, :, 1]) ** 2) / 2)
        return torch.einsum("nb,nbh,nbw->nhw", on["blob_grey"], down, across).unsqueeze(1)

    def _veil(self, images: Tensor, masks: Tensor, on: Draw) -> Tensor:
        """Brighten the lower part of the image smoothly, and blacken its lower edge up to the lungs.

        Underexposed lower lungs are as bright as the abdomen; some films have a black strip at the bottom.
        """
        ys, _ = self._places()
        top = on["veil_top"][:, None]
        ramp = ((ys - top) / (1 - top)).clamp(0, 1)
        brightened = images + (on["veil"][:, None] * ramp * ramp * (3 - 2 * ramp))[:, None, :, None]
        lowest = torch.where(masks[:, 0].amax(2) > 0, ys, -1).amax(1)
        cut = (ys > torch.maximum(lowest, 1 - on["veil_cut"])[:, None]) & (on["veil_cut"] > 0)[:, None]
        return torch.where(cut[:, None, :, None], 0, brightened)

    def _arm(self, images: Tensor, masks: Tensor, on: Draw) -> Tensor:
        """Draw an arm at one side, with dark air between it and the chest, never over a lung."""
        ys, xs = self._places()
        columns = masks[:, 0].amax(1) > 0
        # Distance from the arm's side of the image.
        inward = torch.where(on["arm_left"][:, None], xs, 1 - xs)
        free = torch.where(columns, inward, 1).amin(1)[:, None, None]
        edge = on["arm_at"][:, None] + on["arm_slant"][:, None] * (ys - 0.5)
        behind = edge[:, :, None] - inward[:, None, :]  # from the chest's edge outwards
        air, arm = (on["arm_widths"][:, i, None, None] for i in range(2))
        here: Tensor = on["arm"][:, None, None] & (inward[:, None, :] < free) & (behind > 0)
        dark, bright = (on["arm_greys"][:, i, None, None] for i in range(2))
        grey = torch.where(behind < air, dark, bright)
        return torch.where((here & (behind < air + arm)).unsqueeze(1), grey.unsqueeze(1), images)

    def _frame(self, images: Tensor, masks: Tensor, on: Draw) -> Tensor:
        """Cover the image's edges up to a random width, but never a lung, as collimators do."""
        height, width = self.size
        ys, xs = torch.arange(height, device=self.device), torch.arange(width, device=self.device)
        rows, columns = masks[:, 0].amax(2) > 0, masks[:, 0].amax(1) > 0
        top = torch.where(rows, ys, height).amin(1)
        bottom = torch.where(rows, ys, -1).amax(1)
        left = torch.where(columns, xs, width).amin(1)
        right = torch.where(columns, xs, -1).amax(1)
        drawn = on["frame"]
        hidden_rows = (ys < torch.minimum(top, drawn[:, 0] * height)[:, None]) | (
            ys > torch.maximum(bottom, (1 - drawn[:, 1]) * height)[:, None]
        )
        hidden_columns = (xs < torch.minimum(left, drawn[:, 2] * width)[:, None]) | (
            xs > torch.maximum(right, (1 - drawn[:, 3]) * width)[:, None]
        )
        hidden = (hidden_rows[:, :, None] | hidden_columns[:, None, :]) & on["framed"][:, None, None]
        return torch.where(hidden.unsqueeze(1), on["frame_grey"].view(-1, 1, 1, 1), images)

    def _label(self, images: Tensor, draw: Draw) -> None:
        """Draw letters into the upper third of the selected images, in place."""
        height, width = self.size
        for row in draw["labelled"].nonzero()[:, 0].tolist():
            picture = self.labels[int(draw["label"][row])]
            h, w = min(picture.shape[0], height), min(picture.shape[1], width)
            y = int(draw["label_at"][row, 0] * max(0, height / 3 - h))
            x = int(draw["label_at"][row, 1] * (width - w))
            images[row, 0, y : y + h, x : x + w].clamp_(min=picture[:h, :w])


def _rising_curves(steps: Tensor) -> Tensor:
    """Return monotonic curves from 0 to 1, float (N, KNOTS + 1), from uniform numbers (N, KNOTS)."""
    # Normalised exponential steps are uniform over all partitions of 1 (Dirichlet distribution).
    steps = -torch.log(steps.clamp(min=1e-6)) + 1e-3
    total = steps.cumsum(1) / steps.sum(1, keepdim=True)
    return F.pad(total, (1, 0))


def _blur(images: Tensor, sigma: Tensor, largest: float) -> Tensor:
    """Blur image ``n`` of (N, 1, H, W) with a Gaussian of standard deviation ``sigma[n]`` pixels, up to ``largest``."""
    radius = max(1, math.ceil(2 * largest))
    offsets = torch.arange(-radius, radius + 1, device=images.device)
    # A deviation near 0 does not change the image.
    kernel = torch.exp(-(offsets**2) / (2 * sigma.clamp(min=1e-2) ** 2).unsqueeze(1))
    kernel = kernel / kernel.sum(1, keepdim=True)
    count = len(images)
    spread = F.pad(images, (radius,) * 4, mode="replicate").transpose(0, 1)
    spread = F.conv2d(spread, kernel.view(count, 1, 1, -1), groups=count)
    return F.conv2d(spread, kernel.view(count, 1, -1, 1), groups=count).transpose(0, 1)


def _labels(side: int) -> list[np.ndarray]:
    """Return images of letters, float32 (h, w), 0 to 1, with a height of about ``side`` / 20, bright or inverted."""
    pictures = []
    for number, text in enumerate(LABELS):
        scale = side / 400
        (width, height), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
        canvas = np.zeros((height + below + 1, width + 1), np.uint8)
        cv2.putText(canvas, text, (0, height), cv2.FONT_HERSHEY_SIMPLEX, scale, (255,), 1, cv2.LINE_AA)
        picture = canvas.astype(np.float32) / 255
        pictures.append(1 - picture if number % 2 else picture)
    return pictures
