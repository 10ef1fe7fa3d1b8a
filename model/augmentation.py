"""Random geometry for batches of X-rays and masks (the paper, section III-A), on the device that holds them."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from model.recipe import Augmentation

Augment = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def augmenter(params: Augmentation) -> Augment:
    """Return a function that moves images (N, 1, H, W) and masks (N, 1, H, W) alike; masks stay 0 or 1.

    What comes in from outside the picture is black and not lung. Random numbers come from torch's default generator.
    """
    import kornia.augmentation as K

    parts = [
        K.RandomHorizontalFlip(p=params.flip),
        K.RandomAffine(
            degrees=params.rotation,
            translate=(params.shift, params.shift),
            scale=(1 - params.zoom, 1 + params.zoom),
            shear=params.shear,
            p=1.0,
        ),
    ]
    sequence = K.AugmentationSequential(*parts, data_keys=["input", "mask"])

    def augment(images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        moved, moved_masks = sequence(images, masks)
        return moved, moved_masks

    return augment
