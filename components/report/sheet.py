"""The contact sheet: thumbnails of test X-rays in one image, for dots whose case is in no gallery."""

from __future__ import annotations

import base64
import math

import cv2
import numpy as np
from markupsafe import Markup

SIDES = (128, 96, 64, 48)  # side of one X-ray in pixels; the largest that fits is used
QUALITY = 75  # WebP quality in percent
LONGEST = 16_383  # largest side of a WebP image, pixels


def sheet_rules(images: np.ndarray, most: int) -> Markup:
    """Return the CSS rules of the contact sheet, class ``sheet``; empty if even the smallest X-rays are too large.

    The sheet is as square as possible and filled row by row; ``--tile-columns`` and ``--tile-rows`` give its shape.

    Args:
        images: uint8 (N, side, side), grey.
        most: maximum length of the rules in bytes.
    """
    if not len(images):
        return Markup()
    columns = math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    own = images.shape[1]
    for side in dict.fromkeys(min(side, own) for side in SIDES):
        if columns * side > LONGEST:
            continue
        picture = np.zeros((rows * side, columns * side), np.uint8)
        for number, image in enumerate(images):
            top, left = side * (number // columns), side * (number % columns)
            small = image if side == own else cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
            picture[top : top + side, left : left + side] = small
        data = cv2.imencode(".webp", picture, [cv2.IMWRITE_WEBP_QUALITY, QUALITY])[1].tobytes()
        rules = (
            f":root{{--tile-columns:{columns};--tile-rows:{rows}}}\n"
            f".sheet{{background-image:url(data:image/webp;base64,{base64.b64encode(data).decode('ascii')});"
            f"background-size:{100 * columns}% {100 * rows}%}}"
        )
        if len(rules) <= most:
            return Markup(rules)  # noqa: S704 - only numbers and base64
    return Markup()
