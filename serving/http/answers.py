"""Responses: the mask, an overlay, or JSON with the findings; 413 or 422 for an unusable image."""

from __future__ import annotations

import base64
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from fastapi import HTTPException
from pydantic import BaseModel, Field

from core.images import ImageError, TooLargeError, encode
from serving.viewer.shapes import Shapes
from serving.xray.findings import Findings

if TYPE_CHECKING:
    from pydicom import Dataset

    from model.inference.package import Segmentation
    from serving.http.model_loader import Loaded
    from serving.http.shadow import Answered
    from serving.xray.reading import Xray

Form = Literal["json", "mask", "overlay"]
Picture = Literal["mask", "image", "overlay", "shapes", "seg"]
LARGEST_SIDE = 1600  # pixels; size limit of images for display


class ModelUsed(BaseModel):
    """The model that found the lungs."""

    name: str
    version: str
    engine: str
    canary: bool = Field(False, description="whether it is the challenger, which answers a share of the requests")


class PictureRead(BaseModel):
    """The X-ray as it was read."""

    kind: str
    width: int
    height: int


class Prediction(BaseModel):
    """The JSON answer; pictures and files are in base64, and null unless asked for with ``include``."""

    model: ModelUsed
    picture: PictureRead
    findings: Findings
    mask: str | None = Field(None, description="0 and 255, at the X-ray's own size")
    image: str | None = Field(None, description=f"8 bits, for looking at: at most {LARGEST_SIDE} pixels a side")
    overlay: str | None = None
    shapes: Shapes | None = Field(None, description="outlines of the lungs, and of what is uncertain, as SVG paths")
    seg: str | None = Field(None, description="DICOM SEG of a DICOM; with the patient's name, id and study")
    note: str | None = Field(None, description="why there is no DICOM SEG")


class Problem(BaseModel):
    """What went wrong."""

    detail: str


@dataclass(frozen=True)
class Answer:
    """A body and its media type."""

    body: bytes
    media_type: str


def choose(form: Form | None, accept: str) -> Form:
    """Return the response format: ``form`` if it is set, else the preferred type of the Accept header.

    Raises:
        HTTPException: 406, no accepted type is supported.
    """
    if form is not None:
        return form
    known: dict[str, Form] = {"application/json": "json", "image/png": "mask", "image/*": "mask"}
    known |= {"application/*": "json", "*/*": "json"}
    best: tuple[float, Form | None] = (0.0, None)
    for each in (accept or "*/*").split(","):
        kind, *parameters = (part.strip().lower() for part in each.split(";"))
        quality = next((_quality(p[2:]) for p in parameters if p.startswith("q=")), 1.0)
        if kind in known and quality > best[0]:
            best = (quality, known[kind])
    if best[1] is None:
        raise HTTPException(406, "responses are application/json or image/png; set Accept or ?format=")
    return best[1]


def _quality(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def mask_png(segmentation: Segmentation) -> bytes:
    """Return the mask as an 8-bit PNG with values 0 and 255, at the X-ray's size."""
    return encode(segmentation.mask * np.uint8(255))


def make(form: Form, include: Collection[Picture], xray: Xray, answered: Answered) -> Answer:
    """Build the response in the given format; ``include`` adds images and files to JSON."""
    from serving.viewer.shapes import shapes
    from serving.xray.drawing import overlay, visible

    model, segmentation = answered.model, answered.segmentation
    if form == "mask":
        return Answer(mask_png(segmentation), "image/png")
    if form == "overlay":
        return Answer(overlay(xray, segmentation.mask, segmentation.view), "image/png")
    makers: dict[str, Callable[[], bytes]] = {
        "mask": lambda: mask_png(segmentation),
        "image": lambda: encode(visible(xray.pixels, LARGEST_SIDE, model.package.contract.intensity_percentiles)),
        "overlay": lambda: overlay(xray, segmentation.mask, segmentation.view),
    }
    asked: dict[str, Any] = {name: base64.b64encode(makers[name]()).decode() for name in set(include) & makers.keys()}
    if "shapes" in include:
        asked["shapes"] = shapes(segmentation, xray)
    if "seg" in include and xray.dicom is not None:
        asked |= _seg(xray.dicom, segmentation, model)
    height, width = xray.pixels.shape
    prediction = Prediction(
        model=ModelUsed(name=model.name, version=model.version, engine=model.engine, canary=answered.canary),
        picture=PictureRead(kind=xray.kind, width=width, height=height),
        findings=answered.findings,
        **asked,
    )
    return Answer(prediction.model_dump_json().encode(), "application/json")


def _seg(dataset: Dataset, segmentation: Segmentation, model: Loaded) -> dict[str, str]:
    from serving.xray.segments import to_seg

    used = {"name": model.name, "version": model.version, "weights_sha256": model.weights}
    try:
        data = to_seg(segmentation, dataset, "the file", used)
    except ImageError as error:
        return {"note": str(error)}
    return {"seg": base64.b64encode(data).decode()}


def refusal(error: ImageError) -> HTTPException:
    """Return the response to an unusable image: 413 if it has too many pixels, else 422."""
    if isinstance(error, TooLargeError):
        return HTTPException(413, str(error).partition(";")[0])
    return HTTPException(422, str(error))
