"""The images of a training run, resident on the training device, and their order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# A cohort is stored on the GPU if it takes at most this share of the free memory.
RESIDENT_SHARE = 0.25
REDUCED_AT_ONCE = 64  # pictures per batch, to limit the memory of float copies


@dataclass(frozen=True)
class Subset:
    """Some images of a cohort; a reproducible run needs the same order.

    Attributes:
        images: uint8 (N, H, W), 0 to 255.
        masks: uint8 (N, H, W), 0 or 1.
        ids: N ids, for messages.
    """

    images: np.ndarray
    masks: np.ndarray
    ids: list[str]

    def __len__(self) -> int:
        return len(self.ids)


class Resident:
    """A subset as tensors on the device, so that a batch is only an index operation.

    704 images of 512 x 512 with their masks are 370 MB. A cohort that does not fit on a GPU stays in host memory; each
    batch is gathered in pinned memory and copied asynchronously.

    Args:
        subset: images and masks of one size.
        device: the training device.
        size: side to downscale to in pixels; None or their own side does not resize.
    """

    def __init__(self, subset: Subset, device: torch.device, size: int | None = None) -> None:
        images, masks = (torch.from_numpy(np.ascontiguousarray(a)) for a in (subset.images, subset.masks))
        if size is not None and size < images.shape[-1]:
            images, masks = reduce(images, size, device).cpu(), reduce(masks, size, device, mask=True).cpu()
        self.device = device
        if device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            if images.nbytes + masks.nbytes <= RESIDENT_SHARE * free:
                images, masks = images.to(device), masks.to(device)
        self.images, self.masks = images, masks

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return images and masks, uint8 (n, H, W) each, of ``rows``, int64 (n,) on the CPU."""
        at = rows.to(self.images.device, non_blocking=True)
        images, masks = self.images[at], self.masks[at]
        if images.device.type != self.device.type:
            images, masks = (a.pin_memory().to(self.device, non_blocking=True) for a in (images, masks))
        return images, masks


@torch.no_grad()
def reduce(pictures: Tensor, size: int, device: torch.device, *, mask: bool = False) -> Tensor:
    """Downscale pictures by area averaging.

    Args:
        pictures: uint8 (N, H, W): 0 to 255, or 0 or 1 for masks.
        size: side of the result in pixels, at most H and W.
        device: device of the computation.
        mask: a pixel is 1 if at least half of its area is, as in :func:`model.preprocessing.resize_mask`.

    Returns:
        uint8 (N, size, size) on ``device``.
    """
    result = torch.empty(len(pictures), size, size, dtype=torch.uint8, device=device)
    for rows in batches(len(pictures), REDUCED_AT_ONCE):
        mean = F.adaptive_avg_pool2d(pictures[rows].to(device).unsqueeze(1).float(), size)[:, 0]
        result[rows] = (mean >= 0.5 if mask else mean.round()).to(torch.uint8)
    return result


class Sampler:
    """An infinite stream of rows; each pass over the images is a new permutation.

    Batches are always full: a batch at the end of a pass continues into the next. So all steps have the same shape, and
    a step's position depends only on the number of images before it.
    """

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed = count, seed
        self.passes: dict[int, Tensor] = {}

    def rows(self, first: int, size: int) -> Tensor:
        """Return ``size`` rows from position ``first`` of the stream, int64 (size,)."""
        begin, end = first // self.count, (first + size - 1) // self.count
        self.passes = {number: self._pass(number) for number in range(begin, end + 1)}
        stream = torch.cat([self.passes[number] for number in range(begin, end + 1)])
        start = first - begin * self.count
        return stream[start : start + size]

    def _pass(self, number: int) -> Tensor:
        if number in self.passes:
            return self.passes[number]
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + number) % 2**63)
        return torch.randperm(self.count, generator=generator)


def batches(count: int, size: int) -> Iterator[Tensor]:
    """Yield rows 0 .. count - 1 in order, int64, ``size`` at a time; the last batch may be smaller."""
    for start in range(0, count, size):
        yield torch.arange(start, min(start + size, count))
