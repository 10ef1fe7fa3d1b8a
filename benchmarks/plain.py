"""A typical hand-written training loop, the baseline for the shipped one.

It uses float32, PyTorch's default memory format, no compilation, an unfused Adam, a ``DataLoader`` over a ``Dataset``
that augments each image with OpenCV on the CPU, and ``loss.item()`` after every step. Nothing is slow on purpose. The
recipe determines everything else: network, loss, batch size, learning rate and its schedule, and the augmentations.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, get_worker_info

from benchmarks.clock import own_seconds
from model.training.batches import Subset
from model.training.losses import compound_loss
from model.training.optimisation import Schedule
from model.training.recipe import Augmentation, TrainParams

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

PREFETCH = 2  # PyTorch's default number of batches that a worker prefetches
LABELS = ("R", "L", "PA", "AP", "ERECT", "SUPINE", "PORTABLE")


class Xrays(Dataset[tuple[Tensor, Tensor]]):
    """Images and masks, float32 (1, H, W) each, augmented anew at every access."""

    def __init__(self, subset: Subset, augmentation: Augmentation, seed: int) -> None:
        self.images, self.masks, self.augmentation = subset.images, subset.masks, augmentation
        self.random = np.random.default_rng(seed)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, mask = augment(self.images[index], self.masks[index], self.augmentation, self.random)
        return torch.from_numpy(image).unsqueeze(0), torch.from_numpy(mask).unsqueeze(0)


def _start_worker(_: int) -> None:
    info = get_worker_info()
    assert info is not None
    assert isinstance(info.dataset, Xrays)
    # Each worker has a copy of the data set: with the same generator all would draw the same augmentations.
    info.dataset.random = np.random.default_rng(info.seed)
    cv2.setNumThreads(0)


def augment(image: Bytes, mask: Bytes, p: Augmentation, random: np.random.Generator) -> tuple[Floats, Floats]:
    """Augment one image and its mask at random.

    Args:
        image: uint8 (H, W), 0 to 255.
        mask: uint8 (H, W), 0 or 1.
        p: kinds and strengths of the augmentations.
        random: the random generator.

    Returns:
        The image, 0 to 1, and the mask, 0 or 1, both float32 (H, W).
    """
    height, width = image.shape
    grey: Floats = cv2.LUT(image, _tone(p, random)).astype(np.float32, copy=False)
    if p.shade:
        grid = random.uniform(1 - p.shade, 1 + p.shade, (4, 4)).astype(np.float32)
        grey *= cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    matrix = _geometry(height, width, p, random)
    grey = cv2.warpAffine(grey, matrix, (width, height)).astype(np.float32, copy=False)
    mask = cv2.warpAffine(mask, matrix, (width, height), flags=cv2.INTER_NEAREST).astype(np.uint8, copy=False)
    if p.blur:
        sigma = max(0.01, random.uniform(0, p.blur * min(height, width)))
        grey = cv2.GaussianBlur(grey, (0, 0), sigma).astype(np.float32, copy=False)
    if p.noise:
        grey += np.float32(random.uniform(0, p.noise)) * random.standard_normal(grey.shape, dtype=np.float32)
    if random.random() < p.border:
        _frame(grey, mask, random)
    if random.random() < p.label:
        text, value = LABELS[random.integers(len(LABELS))], float(random.uniform(0.7, 1))
        at = int(random.uniform(0, 0.8) * width), int(random.uniform(0.05, 0.33) * height)
        canvas = np.zeros(mask.shape, np.uint8)  # OpenCV draws text only on bytes
        cv2.putText(canvas, text, at, cv2.FONT_HERSHEY_SIMPLEX, min(height, width) / 400, (255,), 1, cv2.LINE_AA)
        np.maximum(grey, canvas * np.float32(value / 255), out=grey)
    return np.clip(grey, 0, 1, out=grey), mask.astype(np.float32)


def _tone(p: Augmentation, random: np.random.Generator) -> Floats:
    """Return a lookup table of 256 grey values, 0 to 1: gamma, a random rising curve, contrast and brightness."""
    gamma = math.log(1 + p.gamma)
    y = np.linspace(0, 1, 256) ** math.exp(random.uniform(-gamma, gamma))
    if p.histogram:
        curve = np.concatenate([[0], np.cumsum(random.dirichlet(np.ones(5)))])
        y += random.uniform(0, p.histogram) * (np.interp(y, np.linspace(0, 1, 6), curve) - y)
    y = 0.5 + random.uniform(1 - p.contrast, 1 + p.contrast) * (y - 0.5)
    y += random.uniform(-p.brightness, p.brightness)
    return y.clip(0, 1).astype(np.float32)


def _geometry(height: int, width: int, p: Augmentation, random: np.random.Generator) -> npt.NDArray[np.float64]:
    """Return the 2 x 3 affine matrix of a rotation, shear, zoom, stretch, flip and shift about the image's centre."""
    angle = math.radians(random.uniform(-p.rotation, p.rotation))
    shear = math.tan(math.radians(random.uniform(-p.shear, p.shear)))
    scale, stretch = random.uniform(1 - p.zoom, 1 + p.zoom), math.sqrt(random.uniform(1 - p.aspect, 1 + p.aspect))
    flip = -1 if random.random() < p.flip else 1
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    linear = turn @ np.array([[1, shear], [0, 1]]) @ np.diag([scale / stretch, scale * stretch])
    linear = np.diag([flip, 1]) @ linear
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    shift = random.uniform(-p.shift, p.shift, 2) * (width, height)
    return np.column_stack([linear, centre - linear @ centre + shift])


def _frame(grey: Floats, mask: Bytes, random: np.random.Generator) -> None:
    """Cover some of the image's edges in black or white, in place, without covering a lung."""
    height, width = grey.shape
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    drawn = random.uniform(0, 0.3, 4) * (random.random(4) < 0.5) * (height, height, width, width)
    if len(rows):
        free = (rows[0], height - 1 - rows[-1], columns[0], width - 1 - columns[-1])
        drawn = np.minimum(drawn, free)
    top, bottom, left, right = (int(edge) for edge in drawn)
    value = float(random.random() < 0.1)
    grey[:top], grey[height - bottom :], grey[:, :left], grey[:, width - right :] = (value,) * 4


def hand_made_optimizer(network: nn.Module, params: TrainParams) -> torch.optim.Optimizer:
    """Return the recipe's kind of Adam with PyTorch's defaults."""
    kind = torch.optim.AdamW if params.optimizer == "adamw" else torch.optim.Adam
    return kind(network.parameters(), lr=params.learning_rate, weight_decay=params.weight_decay, eps=1e-7)


class Plain:
    """The plain loop; each :meth:`run` continues where the last one ended.

    Attributes:
        untimed: number of steps to run before a measurement, to use up prefetched batches.
        waited: seconds of :func:`benchmarks.clock.own_seconds` that the loop has spent in its loader so far.
    """

    def __init__(
        self, network: nn.Module, train: Subset, params: TrainParams, device: torch.device, seed: int, workers: int = 0
    ) -> None:
        self.network, self.params, self.device = network.to(device), params, device
        self.batch_size = params.batch_size
        self.loader = DataLoader(
            Xrays(train, params.augmentation, seed),
            batch_size=params.batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=workers,
            persistent_workers=workers > 0,
            prefetch_factor=PREFETCH if workers else None,
            pin_memory=device.type == "cuda",
            worker_init_fn=_start_worker,
            generator=torch.Generator().manual_seed(seed),
        )
        self.optimizer = hand_made_optimizer(self.network, params)
        steps = math.ceil((params.images_per_epoch or len(train)) / params.batch_size)
        self.schedule = Schedule(self.optimizer, params, params.epochs * steps)
        self.batches, self.waited, self.untimed = self._endless(), 0.0, workers * PREFETCH

    def _endless(self) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield from self.loader

    def run(self, steps: int) -> list[float]:
        """Train for some steps; return the loss of each."""
        # The shipped loop enables this for the whole process; a hand-written loop seldom does.
        torch.backends.cudnn.benchmark = False
        self.network.train()
        losses = []
        for _ in range(steps):
            start = own_seconds(self.device)
            images, masks = next(self.batches)
            self.waited += own_seconds(self.device) - start
            images, masks = images.to(self.device), masks.to(self.device)
            self.optimizer.zero_grad()
            logits = self.network(images)
            loss = compound_loss(logits, masks, self.params.loss)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            self.schedule.after_step()
            losses.append(loss.item())
        return losses
