"""The images of a training run, in memory or read from memory-mapped files, and their order."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# A cohort is stored on the GPU if it takes at most this share of the free memory.
RESIDENT_SHARE = 0.25
REDUCED_AT_ONCE = 64  # images at a time, to limit the memory of float copies


class Rows:
    """Some rows of a memory-mapped array, read from the file when they are indexed.

    The system's page cache keeps rows that were read, in memory that no other program needs.

    Args:
        array: uint8 (M, H, W), memory-mapped, in C order.
        rows: row numbers, int64 (N,).
    """

    def __init__(self, array: np.memmap[tuple[int, ...], np.dtype[np.uint8]], rows: np.ndarray) -> None:
        self.array, self.rows = array, rows
        self.shape = (len(rows), *array.shape[1:])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, at: np.ndarray | slice) -> np.ndarray:
        """Return a copy of the rows at some positions, uint8 (n, H, W)."""
        found: np.ndarray = np.asarray(self.array[self.rows[at]])
        return found

    def expect(self, at: np.ndarray) -> None:
        """Ask the system to prefetch some rows, so that indexing them does not wait for the disk."""
        mapped: mmap.mmap | None = self.array._mmap  # type: ignore[attr-defined]
        if mapped is None or not hasattr(mmap, "MADV_WILLNEED"):
            return
        # numpy.memmap maps from an allocation boundary before the array; this is the array's offset in the map.
        before = self.array.offset % mmap.ALLOCATIONGRANULARITY
        length = int(np.prod(self.array.shape[1:]))
        for row in self.rows[at].tolist():
            start = before + row * length
            page = start - start % mmap.PAGESIZE
            mapped.madvise(mmap.MADV_WILLNEED, page, start + length - page)


@dataclass(frozen=True)
class Subset:
    """Some images of a cohort; equal runs need the same order.

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


@dataclass(frozen=True)
class MappedSubset:
    """A :class:`Subset` whose arrays stay in memory-mapped files."""

    images: Rows
    masks: Rows
    ids: list[str]

    def __len__(self) -> int:
        return len(self.ids)


class Pictures(Protocol):
    """A subset from which batches of one size are taken."""

    def __len__(self) -> int: ...

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return images and masks, uint8 (n, H, W) each on the training device, of ``rows``, int64 (n,) on the CPU."""

    def expect(self, rows: Tensor) -> None:
        """Prefetch the next batch, ``rows``, int64 (n,) on the CPU."""


def pictures(subset: Subset | MappedSubset, device: torch.device, size: int | None = None) -> Pictures:
    """Return a subset for batches of one size: :class:`Resident` or :class:`Mapped`."""
    return Mapped(subset, device, size) if isinstance(subset, MappedSubset) else Resident(subset, device, size)


class Mapped:
    """A memory-mapped subset; each batch is read and downscaled on request.

    Args:
        subset: images and masks of one size.
        device: the training device.
        size: side to downscale to in pixels; None, or the images' own side, does not resize.
    """

    def __init__(self, subset: MappedSubset, device: torch.device, size: int | None = None) -> None:
        self.images, self.masks, self.device = subset.images, subset.masks, device
        self.size = size if size is not None and size < self.images.shape[-1] else None

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return images and masks, uint8 (n, H, W) each, of ``rows``, int64 (n,) on the CPU."""
        images, masks = (torch.from_numpy(each[rows.numpy()]) for each in (self.images, self.masks))
        if self.device.type == "cuda":
            images, masks = (each.pin_memory().to(self.device, non_blocking=True) for each in (images, masks))
        if self.size is not None:
            return reduce(images, self.size, self.device), reduce(masks, self.size, self.device, mask=True)
        return images, masks

    def expect(self, rows: Tensor) -> None:
        """Prefetch the next batch while the network processes the current one."""
        for each in (self.images, self.masks):
            each.expect(rows.numpy())


class Resident:
    """A subset as tensors on the device, so that a batch is only an index operation.

    704 images of 512 x 512 with their masks are 370 MB. A cohort that does not fit on a GPU stays in host memory; each
    batch is gathered in pinned memory and copied asynchronously.

    Args:
        subset: images and masks of one size.
        device: the training device.
        size: side to downscale to in pixels; None, or the images' own side, does not resize.
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

    def expect(self, rows: Tensor) -> None:
        """Do nothing: all images are in memory."""


@torch.no_grad()
def reduce(pictures: Tensor, size: int, device: torch.device, *, mask: bool = False) -> Tensor:
    """Downscale images or masks by area averaging.

    Args:
        pictures: uint8 (N, H, W): 0 to 255, or 0 or 1 for masks.
        size: side of the result in pixels, at most H and W.
        device: device of the computation.
        mask: a pixel is 1 if at least half of its area is lung, as in :func:`model.preprocessing.resize_mask`.

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
