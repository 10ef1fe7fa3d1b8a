"""The images of a training, kept whole where they are trained on, and the order in which they come."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# A cohort is kept on a GPU if it takes no more than this share of the memory that is free.
RESIDENT_SHARE = 0.25
REDUCED_AT_ONCE = 64  # pictures, so that their float copies stay small


@dataclass(frozen=True)
class Subset:
    """Some images of a cohort, in an order that is part of what makes a run repeatable.

    Attributes:
        images: uint8 (N, H, W), 0 to 255.
        masks: uint8 (N, H, W), 0 or 1.
        ids: N names, for messages.
    """

    images: np.ndarray
    masks: np.ndarray
    ids: list[str]

    def __len__(self) -> int:
        return len(self.ids)


class Resident:
    """A subset as tensors on the device, so that a batch is an index and nothing is loaded or waited for.

    704 images of 512 x 512 with their masks are 370 MB. A cohort that does not fit on a GPU stays in the host's memory;
    each batch is gathered there, page-locked, and sent while the host goes on.

    Args:
        subset: images and masks of one size.
        device: where they are trained on.
        size: the side to which they are reduced, pixels; None or their own side leaves them as they are.
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
        """Return images and masks, uint8 (n, H, W) each, of int64 (n,) rows given on the CPU."""
        at = rows.to(self.images.device, non_blocking=True)
        images, masks = self.images[at], self.masks[at]
        if images.device.type != self.device.type:
            images, masks = (a.pin_memory().to(self.device, non_blocking=True) for a in (images, masks))
        return images, masks


@torch.no_grad()
def reduce(pictures: Tensor, size: int, device: torch.device, *, mask: bool = False) -> Tensor:
    """Return pictures at a smaller size: each pixel is the mean over the area that it covers.

    Args:
        pictures: uint8 (N, H, W): 0 to 255, or of masks 0 or 1.
        size: side of the result, pixels, at most H and W.
        device: where to compute.
        mask: set a pixel where at least half of its area is, as :func:`model.preprocessing.resize_mask` does.

    Returns:
        uint8 (N, size, size) on ``device``.
    """
    result = torch.empty(len(pictures), size, size, dtype=torch.uint8, device=device)
    for rows in batches(len(pictures), REDUCED_AT_ONCE):
        mean = F.adaptive_avg_pool2d(pictures[rows].to(device).unsqueeze(1).float(), size)[:, 0]
        result[rows] = (mean >= 0.5 if mask else mean.round()).to(torch.uint8)
    return result


class Sampler:
    """An endless stream of rows in which each pass over the images is a new permutation.

    Batches are always full: one that begins at the end of a pass goes on into the next. So every step has one shape,
    and where a step stands in the stream follows from the images before it alone, whatever else happened.
    """

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed = count, seed
        self.passes: dict[int, Tensor] = {}

    def rows(self, first: int, size: int) -> Tensor:
        """Return the int64 (size,) rows that follow the first ``first`` of the stream."""
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
    """Yield int64 rows 0 .. count - 1 in order, ``size`` at a time; the last may be fewer."""
    for start in range(0, count, size):
        yield torch.arange(start, min(start + size, count))
