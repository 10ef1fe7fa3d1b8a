"""The images of a training run: in memory, or read from the arrays' files if they are too large."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil

from core.cohort import Arrays

if TYPE_CHECKING:
    from model.training.batches import MappedSubset, Subset

# Maximum share of the free memory for images in memory; the network needs the rest.
SHARE = 1 / 16
GROUP = Path("/sys/fs/cgroup")  # cgroup v2 of a container


def load_images(
    cohort: Arrays, ids: dict[str, list[str]], masks: str, resident: str
) -> dict[str, Subset | MappedSubset]:
    """Return the images and masks of some splits. In memory or mapped, the weights are the same.

    Args:
        cohort: the arrays, one byte per pixel: 704 images of 512 x 512 with their masks are 370 MB.
        ids: image ids of each split.
        masks: kind of the masks, original or dilated.
        resident: ``always`` in memory, ``never``, or ``auto``: if all of them take at most :data:`SHARE` of
            :func:`free_memory`.

    Returns:
        A subset per split: copies in memory, or rows of the mapped files.
    """
    from model.training.batches import MappedSubset, Rows, Subset

    rows = {name: cohort.rows(names) for name, names in ids.items()}
    images, truth = cohort.images, cohort.masks[masks]
    size = 2 * sum(len(each) for each in rows.values()) * int(np.prod(images.shape[1:]))
    if resident == "always" or (resident == "auto" and size <= SHARE * free_memory()):
        return {name: Subset(images[at], truth[at], ids[name]) for name, at in rows.items()}
    return {name: MappedSubset(Rows(images, at), Rows(truth, at), ids[name]) for name, at in rows.items()}


def free_memory() -> int:
    """Return the free memory of the machine or of the container, whichever is less, in bytes.

    Source: ``memory.max`` and ``memory.current`` in the Linux kernel's documentation of cgroup v2.
    """
    free = int(psutil.virtual_memory().available)
    try:
        most, used = ((GROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return free
    return free if most == "max" else min(free, max(0, int(most) - int(used)))
