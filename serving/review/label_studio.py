"""Label Studio: write tasks with the proposed lungs as polygons, and read the export of the annotations."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from core.errors import UserError
from model.lungs import Mask
from serving.review.folder import Picture
from serving.review.polygons import Polygon, to_mask, to_polygons

KIND, NAME, IMAGE, LUNG = "polygonlabels", "lungs", "xray", "Lung"
CONFIGURATION = f"""<View>
  <Header value="$reasons"/>
  <Image name="{IMAGE}" value="$image" zoom="true" zoomControl="true" brightnessControl="true" contrastControl="true"/>
  <PolygonLabels name="{NAME}" toName="{IMAGE}" strokeWidth="2" pointSize="small" opacity="0.3">
    <Label value="{LUNG}" background="#50aaff"/>
  </PolygonLabels>
</View>
"""


def task(picture: Picture, proposed: Mask, folder: str, model: str) -> dict[str, Any]:
    """Return a task with the proposed mask as a prediction.

    Args:
        picture: the X-ray.
        proposed: uint8 (H, W), nonzero is lung.
        folder: the review's folder, relative to Label Studio's document root.
        model: name and version of the model.
    """
    place = quote(f"{folder}/{picture.png}")
    return {
        "data": {
            "image": f"/data/local-files/?d={place}",
            "picture": picture.id,
            "file": picture.file,
            "reasons": "; ".join(picture.reasons) or "not flagged",
        },
        "predictions": [{"model_version": model, "result": [*_regions(picture, proposed)]}],
    }


def _regions(picture: Picture, proposed: Mask) -> Iterator[dict[str, Any]]:
    for number, points in enumerate(to_polygons(proposed)):
        yield {
            "id": uuid.uuid5(uuid.NAMESPACE_OID, f"{picture.id} {number}").hex[:10],
            "type": KIND,
            "from_name": NAME,
            "to_name": IMAGE,
            "original_width": picture.width,
            "original_height": picture.height,
            "image_rotation": 0,
            "value": {"points": points, "closed": True, KIND: [LUNG]},
        }


@dataclass(frozen=True)
class Annotation:
    """An annotator's submission for one X-ray.

    Attributes:
        mask: uint8 (H, W), 0 or 1.
        by: the annotator's id or e-mail address in Label Studio; empty if the export has none.
    """

    mask: Mask
    by: str


def read_export(path: Path, pictures: Sequence[Picture]) -> tuple[dict[str, Annotation], list[str]]:
    """Read an export in Label Studio's JSON format.

    Skipped tasks and tasks without an annotation are left out.

    Returns:
        The annotations by the X-ray's id, and one line for each unusable annotation.

    Raises:
        UserError: the file is not such an export.
    """
    try:
        tasks = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if not isinstance(tasks, list) or not all(isinstance(each, dict) and "annotations" in each for each in tasks):
        raise UserError(f"{path}: no export of Label Studio with annotations; export as JSON, not as JSON-MIN or COCO")
    known = {picture.id: picture for picture in pictures}
    found: dict[str, Annotation] = {}
    problems: list[str] = []
    for number, each in enumerate(tasks, 1):
        place = f"{path}: task {each.get('id', number)}"
        picture = known.get(str((each.get("data") or {}).get("picture")))
        if picture is None:
            problems.append(f"{place}: not a picture of this review; remove it from the export")
            continue
        submitted = [one for one in each["annotations"] if not one.get("was_cancelled")]
        if len(submitted) > 1 or (submitted and picture.id in found):
            problems.append(f"{place}, {picture.id}: has several annotations; delete all but one and export again")
        elif submitted:
            try:
                polygons = [*_polygons(submitted[0]["result"])]
            except (KeyError, TypeError, ValueError) as error:
                problems.append(f"{place}, {picture.id}: {error}; draw the lungs as closed polygons and export again")
                continue
            by = submitted[0].get("completed_by") or ""
            by = by.get("email") or by.get("id") or "" if isinstance(by, dict) else by
            found[picture.id] = Annotation(to_mask(polygons, picture.height, picture.width), str(by))
    return found, problems


def _polygons(result: list[dict[str, Any]]) -> Iterator[Polygon]:
    for region in result:
        if region["type"] != KIND:
            raise ValueError(f"a region of type {region['type']}")
        if region.get("image_rotation"):
            raise ValueError("the picture was rotated in Label Studio")
        points = [[float(x), float(y)] for x, y in region["value"]["points"]]
        if len(points) < 3:
            raise ValueError("a polygon of fewer than 3 points")
        yield points
