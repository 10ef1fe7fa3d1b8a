"""Risk-coverage curve: quality on the images with the highest confidence."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def risk_coverage(confidence: Floats, quality: Floats) -> dict[str, Floats]:
    """Return the mean quality of the k most confident images, for every k.

    Source: Geifman and El-Yaniv, "Selective Classification for Deep Neural Networks", NeurIPS 2017, with 1 - quality as
    the risk of an image.

    Args:
        confidence: float64 (N,), higher is more confident; ties keep their order.
        quality: float64 (N,), 0 to 1.

    Returns:
        float64 (N,): ``coverage``, k / N, above 0 to 1, and ``quality``, the mean of the k images.
    """
    order = np.argsort(-confidence, kind="stable")
    count = np.arange(1, len(order) + 1)
    return {"coverage": count / max(1, len(order)), "quality": np.cumsum(quality[order]) / count}


def aurc(confidence: Floats, quality: Floats) -> float:
    """Return the area under the risk-coverage curve: the mean of 1 - quality over all coverages, 0 (best) to 1.

    NaN without images. Source and arguments: :func:`risk_coverage`.
    """
    curve = risk_coverage(confidence, quality)["quality"]
    return float((1 - curve).mean()) if len(curve) else float("nan")
