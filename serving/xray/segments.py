"""Encode a mask as a DICOM Segmentation that refers to its X-ray (PS3.3, A.51; SNOMED CT codes as in PS3.16)."""

from __future__ import annotations

import hashlib
import io
from typing import Any

import numpy as np
from highdicom import AlgorithmIdentificationSequence
from highdicom.seg import Segmentation, SegmentDescription
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import UID, generate_uid

from core.images import ImageError
from model.inference.package import Segmentation as Found
from serving.xray.sides import known, lungs

LUNG, LEFT, RIGHT = (
    Code("39607008", "SCT", "Lung"),
    Code("44029006", "SCT", "Left lung"),
    Code("3341006", "SCT", "Right lung"),
)
STRUCTURE = Code("123037004", "SCT", "Anatomical Structure")
# Attributes that are required but may be empty (type 2; PS3.3, C.7.1.1 and C.7.2.1); some exports omit them.
MAY_BE_EMPTY = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName"),
)
SERIES = 9000  # series number, above those that a modality uses


def to_seg(found: Found, source: Dataset, name: str, model: dict[str, Any]) -> bytes:
    """Return a DICOM SEG with segments for the patient's left and right lung, or one segment if the side is unknown.

    The SEG has the patient, study, rows and columns of the X-ray.

    Args:
        found: the mask at the X-ray's size, the view of the chest, and the expected Dice, which goes into the
            segments' description.
        source: the X-ray's dataset; missing type 2 attributes are added to it, empty.
        name: name of the file in messages.
        model: ``name``, ``version`` and ``weights_sha256`` of the model.

    Raises:
        ImageError: the X-ray lacks an attribute that a SEG requires, such as its study.
    """
    mask, view = found.mask, found.view
    for keyword in MAY_BE_EMPTY:
        if keyword not in source:
            setattr(source, keyword, "")
    if known(view, source):
        planes, labels = [*lungs(mask, view, source)], [LEFT, RIGHT]
    else:
        planes, labels = [mask], [LUNG]
    algorithm = AlgorithmIdentificationSequence(
        name=model["name"], family=codes.DCM.ArtificialIntelligence, version=model["version"]
    )
    described = [
        SegmentDescription(
            segment_number=number,
            segment_label=label.meaning,
            segmented_property_category=STRUCTURE,
            segmented_property_type=label,
            algorithm_type="AUTOMATIC",
            algorithm_identification=algorithm,
        )
        for number, label in enumerate(labels, 1)
    ]
    if found.expected_dice is not None:
        expected, low = found.expected_dice
        for each in described:
            each.SegmentDescription = f"Expected Dice of the lungs {expected:.3f}, lower bound {low:.3f}"
    try:
        # The same X-ray and model give the same UIDs, so that a second run replaces the first in an archive.
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
            if not UID(str(getattr(source, keyword))).is_valid:
                raise ValueError(keyword)
        identity = [str(source.SOPInstanceUID), model["weights_sha256"], hashlib.sha256(mask.tobytes()).hexdigest()]
        seg = Segmentation(
            source_images=[source],
            pixel_array=np.stack(planes, axis=-1)[None],
            segmentation_type="BINARY",
            segment_descriptions=described,
            series_instance_uid=generate_uid(entropy_srcs=["series", *identity[:2]]),
            series_number=SERIES,
            sop_instance_uid=generate_uid(entropy_srcs=["instance", *identity]),
            instance_number=1,
            manufacturer="DEFU-Net pipeline",
            manufacturer_model_name=model["name"],
            software_versions=model["version"],
            device_serial_number=model["weights_sha256"][:16],
            omit_empty_frames=False,
        )
    except Exception as error:  # highdicom may raise anything on an unusual header
        # Omit the error's text, which may quote patient data.
        missing = getattr(error, "name", None)
        reason = type(error).__name__ + (f": {missing}" if missing else "")
        raise ImageError(f"{name}: no DICOM SEG can refer to it ({reason}); its mask is written as PNG") from error
    _drop_half_measures(seg)
    file = io.BytesIO()
    seg.save_as(file, enforce_file_format=True)
    return file.getvalue()


def _drop_half_measures(seg: Segmentation) -> None:
    """Remove pixel measures without a slice thickness: highdicom cannot read them, and an X-ray has no thickness.

    They are required only with a frame of reference (PS3.3, A.51.5.1). The X-ray keeps the spacing.
    """
    shared = seg.SharedFunctionalGroupsSequence[0]
    if any("SliceThickness" not in item for item in shared.get("PixelMeasuresSequence", [])):
        del shared.PixelMeasuresSequence
