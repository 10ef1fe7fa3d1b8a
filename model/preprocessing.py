"""From an X-ray of any size and depth to what a network reads: the same code before training and at inference."""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt

# Only "area" averages over all the pixels that a smaller one covers. OpenCV's other kernels keep their width in pixels
# of the input, so they alias where an image is made much smaller.
INTERPOLATION: dict[str, int] = {
    "area": cv2.INTER_AREA,
    "linear": cv2.INTER_LINEAR,
    "cubic": cv2.INTER_CUBIC,
    "lanczos": cv2.INTER_LANCZOS4,
}
REFERENCE_SIZE = 512  # pixels; the paper's side, for which the dilation kernel is given
FLAT = 1e-5  # share of an image's range below which a difference is rounding, not contrast

Image = npt.NDArray[np.uint8] | npt.NDArray[np.uint16] | npt.NDArray[np.floating]


def standardise(image: Image, size: int, interpolation: str, percentiles: tuple[float, float]) -> npt.NDArray[np.uint8]:
    """Return an X-ray as a square of ``size`` pixels whose grey values use the whole of 0 to 255.

    The image is squashed to the square without padding, as in the paper, in float32; then the grey values at the two
    percentiles become 0 and 255 and what lies beyond them is clipped. The result is the same for ``image`` and
    ``a * image + b`` with ``a > 0``, to within one grey level.

    Args:
        image: uint8, uint16 or float, (H, W), any range.
        size: side of the result, pixels, at least 1.
        interpolation: a key of :data:`INTERPOLATION`; all but ``area`` alias where they make an image much smaller.
        percentiles: the lower and the higher, 0 to 100, of the resized image.

    Returns:
        uint8 (size, size); all 0 where the image, or all of it between the percentiles, has one grey value.

    Raises:
        ValueError: the image is not a plane of pixels, is empty, or holds a value that is not finite.
    """
    if image.ndim != 2 or image.size == 0:
        raise ValueError(f"a grey image has two dimensions and at least one pixel, not shape {image.shape}")
    darkest, brightest = float(image.min()), float(image.max())
    if not (math.isfinite(darkest) and math.isfinite(brightest)):
        raise ValueError("the image holds values that are not finite")
    if darkest == brightest:
        return np.zeros((size, size), np.uint8)
    # Brought to 0..1 before the resize, float32 rounds every image alike, whatever offset its scanner adds. 16-bit
    # integers are exact in float32; floats keep their own precision until the offset is gone.
    unit = np.subtract(image, darkest, dtype=np.float64 if image.dtype == np.float64 else np.float32)
    unit /= brightest - darkest
    resized = cv2.resize(unit.astype(np.float32, copy=False), (size, size), interpolation=INTERPOLATION[interpolation])
    low, high = np.percentile(resized, percentiles)
    if high - low < FLAT:
        return np.zeros((size, size), np.uint8)
    stretched: npt.NDArray[np.uint8] = np.rint((resized - low) * (255 / (high - low))).clip(0, 255).astype(np.uint8)
    return stretched


def resize_mask(mask: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    """Return a mask as a square of ``size`` pixels: a pixel is set where at least half of its area is.

    Args:
        mask: uint8 (H, W), 0 or 1.
        size: side of the result, pixels.

    Returns:
        uint8 (size, size), 0 or 1.
    """
    share = cv2.resize(mask.astype(np.float32), (size, size), interpolation=cv2.INTER_AREA)
    half: npt.NDArray[np.uint8] = (share >= 0.5).astype(np.uint8)
    return half


def kernel_size(kernel_at_512: int, size: int) -> int:
    """Return the side of the dilation kernel, pixels, for images of side ``size``.

    It is ``kernel_at_512 * size / 512`` brought to the nearest odd number (a kernel needs a centre), the smaller of two
    equally near ones, and at least 1: 15 at 512 pixels is 15, at 256 it is 7, at 128 it is 3, at 64 it is 1. 1 dilates
    nothing.
    """
    return max(1, 2 * math.ceil(kernel_at_512 * size / (2 * REFERENCE_SIZE) - 1) + 1)


def dilate(mask: npt.NDArray[np.uint8], kernel_at_512: int, size: int) -> npt.NDArray[np.uint8]:
    """Return a mask dilated once with a square kernel.

    The paper (section III-A) dilates all masks and gives no kernel; 15 x 15 at 512 pixels is the public notebook's that
    its set-up follows.

    Args:
        mask: uint8 (H, W), 0 or 1.
        kernel_at_512: side of the kernel for a 512-pixel image, scaled by :func:`kernel_size`; 0 dilates nothing.
        size: side of the mask, pixels; of one that is no square, of the square of its area.

    Returns:
        uint8 (H, W), 0 or 1.
    """
    side = kernel_size(kernel_at_512, size)
    dilated: npt.NDArray[np.uint8] = cv2.dilate(mask, np.ones((side, side), np.uint8)).astype(np.uint8, copy=False)
    return dilated
