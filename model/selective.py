"""What a network is worth on the images that it is most sure of: the risk-coverage curve."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def risk_coverage(confidence: Floats, quality: Floats) -> dict[str, Floats]:
    """Return the mean quality of the most confident images, for every number of images kept.

    Source: Geifman and El-Yaniv, "Selective Classification for Deep Neural Networks", NeurIPS 2017, with 1 - quality as
    the risk of an image.

    Args:
        confidence: float64 (N,), higher for images that are kept longer; of equal ones the first is.
        quality: float64 (N,), 0 to 1.

    Returns:
        float64 (N,): ``coverage``, the share of the images that is kept, above 0 to 1, and ``quality``, their mean.
    """
    order = np.argsort(-confidence, kind="stable")
    kept = np.arange(1, len(order) + 1)
    return {"coverage": kept / max(1, len(order)), "quality": np.cumsum(quality[order]) / kept}


def aurc(confidence: Floats, quality: Floats) -> float:
    """Return the area under the risk-coverage curve: the mean of 1 - quality over all coverages, 0 (best) to 1.

    NaN without images. Source and arguments: :func:`risk_coverage`.
    """
    curve = risk_coverage(confidence, quality)["quality"]
    return float((1 - curve).mean()) if len(curve) else float("nan")
