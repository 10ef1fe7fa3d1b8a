"""Preprocess an X-ray of any size and bit depth to network input, with the same code for training and inference."""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt

# Only "area" averages over all input pixels of an output pixel. OpenCV's other kernels have a fixed width in input
# pixels, so they alias when an image is strongly downscaled.
INTERPOLATION: dict[str, int] = {
    "area": cv2.INTER_AREA,
    "linear": cv2.INTER_LINEAR,
    "cubic": cv2.INTER_CUBIC,
    "lanczos": cv2.INTER_LANCZOS4,
}
REFERENCE_SIZE = 512  # pixels; the paper's image size, for which the dilation kernel is defined
FLAT = 1e-5  # share of an image's range below which a difference is rounding error

Image = npt.NDArray[np.uint8] | npt.NDArray[np.uint16] | npt.NDArray[np.floating]


def standardise(image: Image, size: int, interpolation: str, percentiles: tuple[float, float]) -> npt.NDArray[np.uint8]:
    """Resize an X-ray to a square of ``size`` pixels and stretch its grey values to 0 to 255.

    The image is resized in float32 without padding, as in the paper, so its aspect ratio changes. Then the grey values
    at the two percentiles become 0 and 255, and values outside are clipped. ``image`` and ``a * image + b`` with
    ``a > 0`` give the same result up to one grey level.

    Args:
        image: uint8, uint16 or float, (H, W), any range.
        size: side of the result in pixels, at least 1.
        interpolation: a key of :data:`INTERPOLATION`; all except ``area`` alias on strong downscaling.
        percentiles: lower and upper percentile of the resized image, 0 to 100.

    Returns:
        uint8 (size, size); all 0 if the image, or its part between the percentiles, is constant.

    Raises:
        ValueError: the image is not two-dimensional, is empty, or has a value that is not finite.
    """
    if image.ndim != 2 or image.size == 0:
        raise ValueError(f"a grey image has two dimensions and at least one pixel, not shape {image.shape}")
    darkest, brightest = float(image.min()), float(image.max())
    if not (math.isfinite(darkest) and math.isfinite(brightest)):
        raise ValueError("the image holds values that are not finite")
    if darkest == brightest:
        return np.zeros((size, size), np.uint8)
    # Scale to 0..1 before resizing, so that float32 rounding does not depend on the scanner's offset. 16-bit integers
    # are exact in float32; float64 stays float64 until the offset is subtracted.
    unit = np.subtract(image, darkest, dtype=np.float64 if image.dtype == np.float64 else np.float32)
    unit /= brightest - darkest
    resized = cv2.resize(unit.astype(np.float32, copy=False), (size, size), interpolation=INTERPOLATION[interpolation])
    low, high = np.percentile(resized, percentiles)
    if high - low < FLAT:
        return np.zeros((size, size), np.uint8)
    stretched: npt.NDArray[np.uint8] = np.rint((resized - low) * (255 / (high - low))).clip(0, 255).astype(np.uint8)
    return stretched


def resize_mask(mask: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    """Resize a mask to a square of ``size`` pixels; a pixel is 1 if at least half of its area is lung.

    Args:
        mask: uint8 (H, W), 0 or 1.
        size: side of the result in pixels.

    Returns:
        uint8 (size, size), 0 or 1.
    """
    share = cv2.resize(mask.astype(np.float32), (size, size), interpolation=cv2.INTER_AREA)
    half: npt.NDArray[np.uint8] = (share >= 0.5).astype(np.uint8)
    return half


def kernel_size(kernel_at_512: int, size: int) -> int:
    """Return the side of the dilation kernel in pixels for images of side ``size``.

    It is ``kernel_at_512 * size / 512``, rounded to the nearest odd number (ties down), and at least 1: 15 at 512
    pixels is 7 at 256, 3 at 128 and 1 at 64. A kernel of 1 is no dilation.
    """
    return max(1, 2 * math.ceil(kernel_at_512 * size / (2 * REFERENCE_SIZE) - 1) + 1)


def dilate(mask: npt.NDArray[np.uint8], kernel_at_512: int) -> npt.NDArray[np.uint8]:
    """Dilate a mask once with a rectangular kernel, at the mask's own size.

    The paper (section III-A) dilates all masks but does not give the kernel; 15 x 15 at 512 pixels is from the public
    notebook that its setup follows. :func:`kernel_size` scales the kernel's height and width separately, so that the
    dilation is equal in both directions after the mask is resized to a square.

    Args:
        mask: uint8 (H, W), 0 or 1, at the stored size. On a downscaled mask, dilation by whole pixels gives another
            outline at every size.
        kernel_at_512: side of the kernel for a 512-pixel image; 0 is no dilation.

    Returns:
        uint8 (H, W), 0 or 1.
    """
    height, width = mask.shape
    kernel = np.ones((kernel_size(kernel_at_512, height), kernel_size(kernel_at_512, width)), np.uint8)
    dilated: npt.NDArray[np.uint8] = cv2.dilate(mask, kernel).astype(np.uint8, copy=False)
    return dilated
